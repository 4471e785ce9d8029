#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

/// What holders of references do.
#[derive(Debug, Clone)]
enum Action {
    /// A holder gets one more block.
    Allocate { holder: usize },
    /// A holder gets a share of another's blocks, up to some number of them.
    Fork { from: usize, to: usize, blocks: usize },
    /// A holder writes to one of its blocks.
    Write { holder: usize, place: usize },
    /// A holder gives up its blocks from some place on.
    Truncate { holder: usize, len: usize },
}

const HOLDERS: usize = 4;

fn actions() -> impl Strategy<Value = Action> {
    let holder = 0..HOLDERS;
    prop_oneof![
        3 => holder.clone().prop_map(|holder| Action::Allocate { holder }),
        2 => (holder.clone(), holder.clone(), 0..8_usize)
            .prop_map(|(from, to, blocks)| Action::Fork { from, to, blocks }),
        3 => (holder.clone(), 0..8_usize).prop_map(|(holder, place)| Action::Write { holder, place }),
        2 => (holder, 0..8_usize).prop_map(|(holder, len)| Action::Truncate { holder, len }),
    ]
}

/// A pool beside the plainest model of it: tables of blocks, and what was written to each place of a table.
struct World {
    pool: BlockPool,
    blocks: usize,
    tables: Vec<Vec<i32>>,
    /// What each holder expects in its blocks.
    expected: Vec<Vec<u32>>,
    /// What is in the blocks.
    memory: Vec<u32>,
    writes: u32,
}

impl World {
    fn new(blocks: i32) -> Self {
        let count = blocks as usize;
        Self {
            pool: BlockPool::new(blocks),
            blocks: count,
            tables: vec![vec![]; HOLDERS],
            expected: vec![vec![]; HOLDERS],
            memory: vec![0; count],
            writes: 0,
        }
    }

    fn act(&mut self, action: &Action) {
        match *action {
            Action::Allocate { holder } => match self.pool.allocate() {
                Ok(block) => {
                    self.tables[holder].push(block);
                    let value = self.write(block);
                    self.expected[holder].push(value);
                }
                Err(OutOfBlocks) => assert_eq!(self.pool.available(), 0),
            },
            Action::Fork { from, to, blocks } if from != to => {
                self.truncate(to, 0);
                let blocks = blocks.min(self.tables[from].len());
                let shared = self.tables[from][..blocks].to_vec();
                shared.iter().for_each(|&block| self.pool.share(block));
                self.tables[to] = shared;
                self.expected[to] = self.expected[from][..blocks].to_vec();
            }
            Action::Write { holder, place } if place < self.tables[holder].len() => {
                let block = self.tables[holder][place];
                let target = match self.pool.copy_target(block) {
                    Err(OutOfBlocks) => {
                        return assert!(self.pool.available() == 0 && self.pool.is_shared(block));
                    }
                    Ok(None) => block,
                    Ok(Some(target)) => {
                        assert!(!self.pool.release(block), "others hold it");
                        self.tables[holder][place] = target;
                        target
                    }
                };
                self.expected[holder][place] = self.write(target);
            }
            Action::Truncate { holder, len } => self.truncate(holder, len),
            Action::Fork { .. } | Action::Write { .. } => {}
        }
    }

    fn write(&mut self, block: i32) -> u32 {
        self.writes += 1;
        self.memory[block as usize] = self.writes;
        self.writes
    }

    fn truncate(&mut self, holder: usize, len: usize) {
        let len = len.min(self.tables[holder].len());
        for block in self.tables[holder].split_off(len) {
            self.pool.release(block);
        }
        self.expected[holder].truncate(len);
    }

    fn check(&self) {
        let mut holders: BTreeMap<i32, u32> = BTreeMap::new();
        self.tables.iter().flatten().for_each(|&block| *holders.entry(block).or_default() += 1);
        // Conserved: a block is free or held, never both, and none is lost.
        assert_eq!(self.pool.available() + holders.len(), self.blocks);
        let mut free = self.pool.free.clone();
        free.sort_unstable();
        free.dedup();
        assert_eq!(free.len(), self.pool.available(), "a block is free twice");
        assert!(free.iter().all(|block| !holders.contains_key(block)), "a block in use is free");
        for block in 0..self.blocks as i32 {
            let held = holders.get(&block).copied().unwrap_or_default();
            assert_eq!(self.pool.references[block as usize], held, "references of block {block}");
            assert_eq!(self.pool.is_shared(block), held > 1);
        }
        // Nobody wrote to a block that others hold.
        for (table, expected) in self.tables.iter().zip(&self.expected) {
            let found: Vec<u32> = table.iter().map(|&block| self.memory[block as usize]).collect();
            assert_eq!(&found, expected);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn blocks_are_conserved_and_shared_ones_are_never_written(
        blocks in 0..12_i32,
        actions in prop::collection::vec(actions(), 0..120),
    ) {
        let mut world = World::new(blocks);
        for action in &actions {
            world.act(action);
            world.check();
        }
        for holder in 0..HOLDERS {
            world.truncate(holder, 0);
        }
        prop_assert_eq!(world.pool.available(), world.blocks);
    }
}

#[test]
fn the_block_freed_last_is_allocated_first() {
    let mut pool = BlockPool::new(3);
    let blocks: Vec<i32> = (0..3).map(|_| pool.allocate().unwrap()).collect();
    assert_eq!((blocks, pool.allocate()), (vec![0, 1, 2], Err(OutOfBlocks)));
    pool.share(1);
    assert!(pool.release(2) && !pool.release(1) && pool.release(1));
    assert_eq!((pool.allocate(), pool.allocate()), (Ok(1), Ok(2)));
}

#[test]
#[should_panic(expected = "is free")]
fn a_free_block_cannot_be_released() {
    BlockPool::new(1).release(0);
}

#[test]
#[should_panic(expected = "is free")]
fn a_free_block_cannot_be_shared() {
    BlockPool::new(1).share(0);
}
