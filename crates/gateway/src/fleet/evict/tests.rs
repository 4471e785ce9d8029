#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;

const TTL: Duration = Duration::from_secs(100);

/// A moment that is `seconds` after the start.
fn at(start: Instant, seconds: u64) -> Instant {
    start + Duration::from_secs(seconds)
}

fn resident(stage: Stage, in_use: usize, last_used: Instant, pinned: bool) -> Resident {
    Resident { stage, in_use, last_used, pinned, reserved: 1 }
}

/// Of models of equal size.
fn room(residents: &[Resident], max_loaded: usize) -> Room {
    super::room(residents, Most { models: max_loaded, bytes: u64::MAX }, 1)
}

#[test]
fn the_least_recently_used_idle_model_makes_room_and_a_pinned_one_last() {
    let start = Instant::now();
    let serving = |in_use, seconds, pinned| resident(Stage::Serving, in_use, at(start, seconds), pinned);
    let full = [serving(1, 0, false), serving(0, 1, true), serving(0, 3, false), serving(0, 2, false)];
    assert_eq!(room(&full, 5), Room::Free);
    assert_eq!(room(&full, 4), Room::Evict(3));
    assert_eq!(room(&full[..2], 2), Room::Evict(1), "nothing else is idle");
    assert_eq!(room(&full[..1], 1), Room::Full);
    let loading = resident(Stage::Loading, 0, start, false);
    assert_eq!(room(&[loading], 1), Room::Full, "somebody asked for it");
    let leaving = resident(Stage::Leaving, 0, start, false);
    assert_eq!(room(&[full[2], leaving], 2), Room::Soon(1), "one is enough");
    let finishing = resident(Stage::Leaving, 2, start, false);
    assert_eq!(room(&[finishing, full[2]], 2), Room::Evict(1), "its streams may take long");
    assert_eq!(room(&[finishing], 1), Room::Full);
}

#[test]
fn memory_is_made_room_in_like_places_and_nothing_leaves_in_vain() {
    let start = Instant::now();
    let with = |stage, in_use, seconds, reserved| Resident {
        reserved,
        ..resident(stage, in_use, at(start, seconds), false)
    };
    let room = |residents: &[Resident], least| super::room(residents, Most { models: 9, bytes: 10 }, least);
    let (busy, old) = (with(Stage::Serving, 1, 0, 4), with(Stage::Serving, 0, 1, 2));
    let (new, loading) = (with(Stage::Serving, 0, 2, 3), with(Stage::Loading, 0, 0, 6));
    assert_eq!(room(&[busy, old, new], 1), Room::Free);
    assert_eq!(room(&[busy, old, new], 2), Room::Evict(1));
    assert_eq!(room(&[busy, old, new], 6), Room::Evict(1), "and then the other one");
    assert_eq!(room(&[busy, old, new], 7), Room::Full, "even without both of them");
    assert_eq!(room(&[loading, new], 5), Room::Full, "what loads is not given up");
    let leaving = with(Stage::Leaving, 0, 3, 4);
    assert_eq!(room(&[busy, leaving], 3), Room::Soon(1));
}

#[test]
fn a_model_is_idle_for_as_long_as_nobody_used_it() {
    let start = Instant::now();
    let serving = |in_use, pinned| resident(Stage::Serving, in_use, start, pinned);
    assert_eq!(idle(&serving(0, false), TTL, at(start, 99)), Idle::Until(at(start, 100)));
    assert_eq!(idle(&serving(0, false), TTL, at(start, 100)), Idle::Unload);
    assert_eq!(idle(&serving(1, false), TTL, at(start, 500)), Idle::Until(at(start, 600)));
    assert_eq!(idle(&serving(0, true), TTL, at(start, 500)), Idle::Never);
    let loading = resident(Stage::Loading, 0, start, false);
    assert_eq!(idle(&loading, TTL, at(start, 500)), Idle::Until(at(start, 600)));
    assert_eq!(idle(&resident(Stage::Leaving, 0, start, false), TTL, at(start, 500)), Idle::Never);
}

/// What happens in a small world of models.
#[derive(Clone, Debug)]
enum Step {
    /// A request for the model of this number, which stays until it is ended.
    Ask(usize),
    /// The oldest request for the model ends.
    End(usize),
    /// The model is loaded, or its workers are gone.
    Settle(usize),
    /// Time passes.
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..6usize).prop_map(Step::Ask),
        3 => (0..6usize).prop_map(Step::End),
        4 => (0..6usize).prop_map(Step::Settle),
        2 => (0..90u64).prop_map(Step::Wait),
    ]
}

/// Models that come and go as the functions here decide, the even ones pinned.
struct World {
    models: Vec<(usize, Resident)>,
    max_loaded: usize,
    max_bytes: u64,
    now: Instant,
}

impl World {
    fn residents(&self) -> Vec<Resident> {
        self.models.iter().map(|(_, resident)| *resident).collect()
    }

    fn find(&mut self, id: usize) -> Option<&mut Resident> {
        self.models.iter_mut().find(|(it, _)| *it == id).map(|(_, resident)| resident)
    }

    /// A request comes, and gives up if there is no room.
    fn ask(&mut self, id: usize) -> Result<(), TestCaseError> {
        let now = self.now;
        if let Some(model) = self.find(id) {
            if model.stage != Stage::Leaving {
                model.in_use += 1;
                model.last_used = now;
            }
            return Ok(());
        }
        // The larger its number, the larger it is.
        let reserved = id as u64 + 1;
        let most = Most { models: self.max_loaded, bytes: self.max_bytes };
        match super::room(&self.residents(), most, reserved) {
            Room::Free => {
                let loading = resident(Stage::Loading, 1, now, id.is_multiple_of(2));
                self.models.push((id, Resident { reserved, ..loading }));
            }
            Room::Evict(index) => self.evict(index)?,
            Room::Soon(index) => prop_assert_eq!(self.models[index].1.stage, Stage::Leaving),
            Room::Full => {
                let idle = |it: &Resident| it.in_use == 0 && it.stage != Stage::Loading;
                let busy: u64 = self.residents().iter().filter(|it| !idle(it)).map(|it| it.reserved).sum();
                prop_assert!(!self.residents().iter().any(idle) || busy + reserved > self.max_bytes);
            }
        }
        Ok(())
    }

    fn evict(&mut self, index: usize) -> Result<(), TestCaseError> {
        let chosen = self.models[index].1;
        prop_assert_eq!((chosen.stage, chosen.in_use), (Stage::Serving, 0), "a busy model is never chosen");
        let idle = self.residents().into_iter().filter(|it| (it.stage, it.in_use) == (Stage::Serving, 0));
        for other in idle {
            prop_assert!(!chosen.pinned || other.pinned, "what is pinned is chosen last");
            let alike = other.pinned == chosen.pinned;
            prop_assert!(
                !alike || chosen.last_used <= other.last_used,
                "the one that was used longest ago goes"
            );
        }
        self.models[index].1.stage = Stage::Leaving;
        Ok(())
    }

    fn unload_idle(&mut self) -> Result<(), TestCaseError> {
        for (_, model) in &mut self.models {
            match idle(model, TTL, self.now) {
                Idle::Unload => {
                    prop_assert!(model.in_use == 0 && !model.pinned && model.stage == Stage::Serving);
                    prop_assert!(self.now >= model.last_used + TTL);
                    model.stage = Stage::Leaving;
                }
                Idle::Until(then) => prop_assert!(then > self.now && then <= self.now + TTL),
                Idle::Never => prop_assert!(model.pinned || model.stage == Stage::Leaving),
            }
        }
        Ok(())
    }

    fn settle(&mut self, id: usize) {
        if let Some(model) = self.find(id)
            && model.stage == Stage::Loading
        {
            model.stage = Stage::Serving;
        }
        self.models.retain(|(it, model)| *it != id || model.stage != Stage::Leaving || model.in_use > 0);
    }
}

proptest! {
    #[test]
    fn there_are_never_more_than_may_be_and_only_idle_ones_go(
        steps in prop::collection::vec(step(), 0..200),
        max_loaded in 1..4usize,
        max_bytes in 6..20_u64,
    ) {
        let mut world = World { models: Vec::new(), max_loaded, max_bytes, now: Instant::now() };
        for step in steps {
            match step {
                Step::Ask(id) => world.ask(id)?,
                Step::End(id) => {
                    let now = world.now;
                    if let Some(model) = world.find(id).filter(|model| model.in_use > 0) {
                        model.in_use -= 1;
                        model.last_used = now;
                    }
                }
                Step::Settle(id) => world.settle(id),
                Step::Wait(seconds) => world.now = at(world.now, seconds),
            }
            world.unload_idle()?;
            prop_assert!(world.models.len() <= max_loaded);
            prop_assert!(world.residents().iter().map(|it| it.reserved).sum::<u64>() <= max_bytes);
        }
    }
}
