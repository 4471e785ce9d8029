#![allow(clippy::unwrap_used)]

use protocol::{memory::Bytes, options::WorkerOptions};

use super::*;
use crate::fleet::{
    fixtures::{failure, stored},
    memory::MemoryBudget,
};

/// Begins to load `id`: `Ok` has whether it is new, and in how many workers.
fn load(table: &mut Table, id: &str, workers: Option<usize>) -> Result<(bool, usize), ModelError> {
    let memory = MemoryBudget::fixed(u64::MAX, WorkerOptions::default());
    let small = ["a", "b", "c", "d", "failed"].map(|name| stored(name, 1));
    load_within(table, id, workers, &memory, &Listing::of(&small))
}

fn load_within(
    table: &mut Table,
    id: &str,
    workers: Option<usize>,
    memory: &MemoryBudget,
    stored: &Listing,
) -> Result<(bool, usize), ModelError> {
    let limits = Limits { default_workers: 2, max_loaded: 3, memory, stored };
    let begun = begin(table, id, workers, &limits)?;
    Ok(match begun {
        Begun::New { orders, .. } => (true, orders.len()),
        Begun::Already { name, .. } => (false, table.find_loaded(&name).unwrap().worker_count()),
        Begun::After(_) => panic!("{id} comes after another one"),
    })
}

#[test]
fn a_model_is_loaded_once_in_the_asked_or_the_configured_number_of_workers() {
    let mut table = Table::default();
    assert_eq!(load(&mut table, "a", None), Ok((true, 2)));
    assert_eq!(load(&mut table, "b", Some(5)), Ok((true, 5)));
    assert_eq!(load(&mut table, "a", None), Ok((false, 2)));
    assert_eq!(load(&mut table, "b", Some(5)), Ok((false, 5)));
    let other = ModelError::OtherWorkers { model: "b".into(), workers: 5 };
    assert_eq!(load(&mut table, "b", Some(2)), Err(other));
}

#[test]
fn only_models_with_workers_count_for_the_limit() {
    let mut table = Table::default();
    for id in ["c", "failed", "a", "b"] {
        load(&mut table, id, None).unwrap();
        if id == "failed" {
            table.end(id, Some(failure("no")));
        }
    }
    let loaded = ["`a`", "`b`", "`c`"].map(str::to_owned).to_vec();
    assert_eq!(load(&mut table, "d", None), Err(ModelError::TooMany { max: 3, loaded }));
    assert_eq!(load(&mut table, "a", None), Ok((false, 2)), "it is there already");
    table.drain("a");
    assert_eq!(load(&mut table, "a", None), Err(ModelError::Unloading("a".into())));
    assert!(
        matches!(load(&mut table, "d", None), Err(ModelError::TooMany { .. })),
        "its workers are there still"
    );
    table.end("a", None);
    assert_eq!(load(&mut table, "failed", None), Ok((true, 2)), "it may be tried again");
}

#[test]
fn names_with_control_characters_are_unknown() {
    let mut table = Table::default();
    assert!(matches!(load(&mut table, "a\nb", None), Err(ModelError::NotLoaded(_))));
    assert_eq!(table.loaded().count(), 0);
}

#[test]
fn nothing_is_loaded_once_the_gateway_shuts_down() {
    let mut table = Table::default();
    load(&mut table, "a", None).unwrap();
    table.close();
    for id in ["a", "b"] {
        assert_eq!(load(&mut table, id, None), Err(ModelError::ShuttingDown));
    }
}

const GIB: u64 = 1 << 30;

#[test]
fn a_model_that_does_not_fit_beside_the_others_is_refused_and_one_that_never_fits_in_other_words() {
    let memory = MemoryBudget::fixed(8 * GIB, WorkerOptions::default());
    let stored =
        Listing::of(&[stored("a", 5 * GIB), stored("b", 4 * GIB), stored("c", 8 * GIB), stored("d", 1)]);
    let mut table = Table::default();
    let mut load = |id| load_within(&mut table, id, Some(1), &memory, &stored);
    assert_eq!(load("a"), Ok((true, 1)));
    let error = load("b").unwrap_err();
    let ModelError::NoMemory { shortage, loaded, .. } = &error else { panic!("{error}") };
    assert!(shortage.is_temporary() && shortage.left_bytes < 4 * GIB, "{shortage}");
    assert_eq!(loaded[..], [format!("`a` ({})", Bytes(8 * GIB - shortage.left_bytes))]);
    assert!(matches!(load("c"), Err(ModelError::TooLarge { .. })), "even with nothing beside it");
    assert_eq!(load("d"), Ok((true, 1)), "the first has left room");
}

#[tokio::test]
async fn a_model_of_which_nothing_is_known_has_all_that_is_left_until_it_is() {
    let memory = MemoryBudget::fixed(8 * GIB, WorkerOptions::default());
    let mut table = Table::default();
    let limits = |stored| Limits { default_workers: 1, max_loaded: 3, memory: &memory, stored };
    let (nothing, both) = (Listing::default(), Listing::of(&[stored("a", 3 * GIB), stored("b", GIB)]));
    assert!(matches!(begin(&mut table, "a", None, &limits(&nothing)), Ok(Begun::New { .. })));
    assert_eq!(table.reserved(), 8 * GIB);
    assert!(matches!(begin(&mut table, "b", None, &limits(&nothing)), Ok(Begun::After(_))));
    table.learn(&memory, &both);
    assert!((3 * GIB..7 * GIB).contains(&table.reserved()), "{}", table.reserved());
    assert!(matches!(begin(&mut table, "b", None, &limits(&both)), Ok(Begun::New { .. })));
    assert!(table.reserved() <= 8 * GIB);
}
