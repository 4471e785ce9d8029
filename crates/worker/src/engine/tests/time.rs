//! What the heartbeat says of where the time went.

use std::time::{Duration, Instant};

use protocol::message::StepTime;

use super::*;

#[test]
fn the_time_of_steps_is_that_of_their_stages() {
    let took = Duration::from_millis(2);
    // It computes as long as a model would.
    let computing = move |_: &[Vec<u32>]| {
        let began = Instant::now();
        while began.elapsed() < took {}
        Ok(())
    };
    let mut world = World::new(alphabet().hooked(computing));
    let began = Instant::now();
    world.engine.stats.time.spend(Stage::Idle);
    world.ask(1, Ask { max_tokens: 5, ..Ask::default() });
    assert_eq!(world.settle(), Turn::Idle);
    world.engine.stats.time.rest(Stage::Schedule);
    let time = world.engine.stats.heartbeat().time;
    let all = began.elapsed();
    let StepTime { schedule_micros, build_micros, evaluate_micros, sample_micros, emit_micros, idle_micros } =
        time;
    assert!(evaluate_micros >= 5 * 2000, "{time:?}");
    assert_eq!(build_micros, 0, "this model does not say");
    let sum = schedule_micros + evaluate_micros + sample_micros + emit_micros + idle_micros;
    assert!(u128::from(sum) <= all.as_micros(), "{time:?} within {all:?}");
}

#[test]
fn waiting_is_seen_while_it_lasts() {
    let world = World::new(alphabet());
    world.engine.stats.time.spend(Stage::Idle);
    world.engine.stats.time.rest(Stage::Schedule);
    let idle = || world.engine.stats.heartbeat().time.idle_micros;
    let (before, began) = (idle(), Instant::now());
    while idle() == before {
        assert!(began.elapsed() < Duration::from_secs(10), "nothing is seen");
    }
}
