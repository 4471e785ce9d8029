#![allow(clippy::unwrap_used)]

use super::*;
use crate::fleet::fixtures::failure;

/// Begins to load `id`: `Ok` has whether it is new, and in how many workers.
fn load(table: &mut Table, id: &str, workers: Option<usize>) -> Result<(bool, usize), ModelError> {
    begin(table, id, workers, 2, 3).map(|begun| match begun {
        Begun::New { orders, .. } => (true, orders.len()),
        Begun::Already { name, .. } => (false, table.find_loaded(&name).unwrap().worker_count()),
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
