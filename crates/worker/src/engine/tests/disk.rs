//! Prefixes that are kept on disk, and workers that start anew.

use std::path::Path;

use protocol::message::Usage;
use tempfile::TempDir;

use super::*;
use crate::prefix_store::{PrefixStoreConfig, SEGMENT_TOKENS};

const KEEPING: Limits = Limits { keep_prefixes: true, kv_tokens: 2000, ..LIMITS };

/// A worker with this folder.
fn world(dir: &Path, limits: Limits) -> World {
    let mut world = World::with_limits(FakeModel::random(VOCAB).sharing(4), limits);
    let config = PrefixStoreConfig { dir, max_bytes: 1 << 20, identity: "fake", token_bytes: 4 };
    let messages = world.messages.clone();
    let store = PrefixStore::open(config, move || drop(messages.send(EngineMessage::Wake))).unwrap();
    world.engine = world.engine.with_prefix_store(store);
    world
}

fn prompt(len: usize, last: u32) -> Vec<u32> {
    (0..len as u32 - 1).map(|n| (n * n + n / 7) % VOCAB).chain([last]).collect()
}

/// Runs until all have ended, and waits for the disk where nothing else can go on.
fn settle(world: &mut World) {
    while world.settle() == Turn::Idle && !world.requests.is_empty() {
        let message = world.engine.messages.recv().unwrap();
        world.engine.handle(message);
    }
}

fn usage(world: &World, id: u64) -> Usage {
    match world.stream(id).end {
        Some(StreamEventKind::Finished { usage, .. }) => usage,
        other => panic!("not finished: {other:?}"),
    }
}

fn cached(world: &World, id: u64) -> usize {
    usage(world, id).cached_tokens as usize
}

/// What a worker says to a prompt, which keeps what it has computed. It is gone afterwards.
fn first(dir: &Path, prompt: Vec<u32>) -> String {
    let mut world = world(dir, KEEPING);
    world.ask(0, Ask { prompt, ..Ask::default() });
    settle(&mut world);
    assert_eq!(cached(&world, 0), 0);
    world.stream(0).text
}

#[test]
fn another_worker_goes_on_behind_what_one_has_kept() {
    let dir = TempDir::new().unwrap();
    let text = first(dir.path(), prompt(300, 1));
    let mut world = world(dir.path(), KEEPING);
    world.ask(0, Ask { prompt: prompt(300, 1), ..Ask::default() });
    settle(&mut world);
    assert_eq!((world.stream(0).text, cached(&world, 0)), (text, 2 * SEGMENT_TOKENS));
    world.assert_empty();
    let disk = || world.engine.stats.heartbeat().disk;
    assert_eq!((disk().reads, disk().tokens), (1, 2 * SEGMENT_TOKENS as u64));
    let files = std::fs::read_dir(dir.path()).unwrap().map(|file| file.unwrap().metadata().unwrap().len());
    assert_eq!(disk().bytes, files.sum::<u64>());
    // From now on it is in memory.
    world.ask(1, Ask { prompt: prompt(300, 1), ..Ask::default() });
    assert_eq!(world.settle(), Turn::Idle);
    assert!(cached(&world, 1) > 2 * SEGMENT_TOKENS);
    assert_eq!(world.engine.stats.heartbeat().disk.reads, 1);
}

#[test]
fn what_a_sequence_has_generated_is_kept_when_it_ends() {
    let dir = TempDir::new().unwrap();
    let mut before = world(dir.path(), KEEPING);
    before.ask(0, Ask { prompt: prompt(100, 1), max_tokens: 40, ..Ask::default() });
    settle(&mut before);
    let all = [prompt(100, 1), before.stream(0).tokens].concat();
    drop(before);
    let mut world = world(dir.path(), KEEPING);
    world.ask(0, Ask { prompt: all, ..Ask::default() });
    settle(&mut world);
    assert_eq!(cached(&world, 0), SEGMENT_TOKENS);
}

#[test]
fn what_several_need_is_read_once_and_others_go_on_meanwhile() {
    let dir = TempDir::new().unwrap();
    first(dir.path(), prompt(300, 1));
    let mut world = world(dir.path(), KEEPING);
    for id in 0..4 {
        world.ask(id, Ask { prompt: prompt(300, id as u32), ..Ask::default() });
    }
    world.ask(4, Ask { prompt: vec![5], ..Ask::default() });
    settle(&mut world);
    assert!((0..4).all(|id| cached(&world, id) >= 2 * SEGMENT_TOKENS));
    let computed: usize = world.steps().iter().flatten().sum();
    assert!(computed < 300, "{computed}");
    world.assert_empty();
}

#[test]
fn a_request_that_is_cancelled_while_it_is_read_leaves_nothing() {
    let dir = TempDir::new().unwrap();
    first(dir.path(), prompt(300, 1));
    let mut world = world(dir.path(), KEEPING);
    world.ask(0, Ask { prompt: prompt(300, 1), ..Ask::default() });
    world.turn();
    world.cancel(0);
    settle(&mut world);
    world.assert_empty();
}

#[test]
fn without_room_the_rest_is_computed() {
    let dir = TempDir::new().unwrap();
    let text = first(dir.path(), prompt(300, 1));
    // Others hold most of the memory.
    let mut world = world(dir.path(), Limits { kv_tokens: 400, ..KEEPING });
    world.ask(0, Ask { prompt: prompt(80, 3), max_tokens: 20, credit: 1, ..Ask::default() });
    assert_eq!(world.settle(), Turn::Idle);
    world.ask(1, Ask { prompt: prompt(300, 1), ..Ask::default() });
    while world.stream(1).end.is_none() {
        settle_once(&mut world);
    }
    assert_eq!(world.stream(1).text, text);
    world.credit(0, 100);
    settle(&mut world);
    world.assert_empty();
}

fn settle_once(world: &mut World) {
    if world.settle() == Turn::Idle && world.stream(1).end.is_none() {
        let message = world.engine.messages.recv().unwrap();
        world.engine.handle(message);
    }
}

#[test]
fn a_folder_that_was_emptied_or_damaged_costs_no_stream() {
    let dir = TempDir::new().unwrap();
    let text = first(dir.path(), prompt(400, 1));
    for (n, file) in std::fs::read_dir(dir.path()).unwrap().enumerate() {
        let path = file.unwrap().path();
        if n % 2 == 0 {
            std::fs::write(path, b"damaged").unwrap()
        } else {
            std::fs::remove_file(path).unwrap()
        }
    }
    let mut world = world(dir.path(), KEEPING);
    world.ask(0, Ask { prompt: prompt(400, 1), ..Ask::default() });
    settle(&mut world);
    assert_eq!((world.stream(0).text, cached(&world, 0)), (text, 0));
}
