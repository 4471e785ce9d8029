#![allow(clippy::unwrap_used)]

use super::*;
use crate::cache::OutOfBlocks;

/// Blocks whose content is a byte.
struct Bytes(Mutex<Vec<u8>>);

impl Bytes {
    fn shared(blocks: i32) -> Arc<SharedBlocks<Self>> {
        SharedBlocks::new(Self(Mutex::new(vec![0; blocks as usize])), blocks)
    }
}

impl BlockMemory for Bytes {
    fn block_bytes(&self) -> usize {
        1
    }

    fn copy_block(&self, from: i32, to: i32) -> Result<(), Exception> {
        let mut bytes = self.0.lock().unwrap();
        bytes[to as usize] = bytes[from as usize];
        Ok(())
    }

    fn read_blocks(&self, blocks: &[i32]) -> Result<Vec<u8>, Exception> {
        let bytes = self.0.lock().unwrap();
        Ok(blocks.iter().map(|&block| bytes[block as usize]).collect())
    }

    fn write_blocks(&self, blocks: &[i32], bytes: &[u8]) -> Result<(), Exception> {
        if blocks.len() != bytes.len() {
            return Err(other_bytes());
        }
        let mut all = self.0.lock().unwrap();
        blocks.iter().zip(bytes).for_each(|(&block, &byte)| all[block as usize] = byte);
        Ok(())
    }
}

#[test]
fn blocks_go_round() {
    let shared = Bytes::shared(16);
    let mut first = BlockTable::new(&shared);
    assert_eq!(first.reserve(0, 33).unwrap(), [0, 1]);
    let mut second = BlockTable::new(&shared);
    assert_eq!(second.reserve(0, 1).unwrap(), [2]);
    assert_eq!(first.reserve(33, 31).unwrap(), [0, 1], "the second block has room");
    first.truncate(32);
    assert_eq!(second.reserve(1, 63).unwrap(), [2, 1]);
    drop(first);
    let mut third = BlockTable::new(&shared);
    assert!(matches!(third.reserve(0, 16 * 32), Err(KvError::Full(OutOfBlocks))));
    drop(third);
    assert_eq!(BlockTable::new(&shared).reserve(0, 14 * 32).unwrap().len(), 14);
}

#[test]
fn a_fork_shares_blocks_until_one_of_the_two_writes_to_them() {
    let shared = Bytes::shared(16);
    let available = || shared.pool().available();
    let mut first = BlockTable::new(&shared);
    assert_eq!(first.reserve(0, 40).unwrap(), [0, 1]);
    shared.memory.write_blocks(first.blocks(), &[7, 8]).unwrap();
    let mut second = first.fork(40);
    let mut third = first.fork(32);
    assert_eq!((second.blocks(), third.blocks(), available()), (&[0, 1][..], &[0][..], 14));

    // The second block is partly filled, and whoever goes on first gets a copy; the last holder of the old one needs none.
    assert_eq!(second.reserve(40, 1).unwrap(), [0, 2]);
    assert_eq!(shared.memory.read_blocks(second.blocks()).unwrap(), [7, 8]);
    assert_eq!(first.reserve(40, 1).unwrap(), [0, 1]);
    assert_eq!(third.reserve(32, 1).unwrap(), [0, 3], "behind full blocks nothing is copied");
    drop(first);
    assert_eq!(available(), 13, "the first block is others', too");
    drop((second, third));
    assert_eq!(available(), 16);
}

#[test]
fn a_shared_block_that_cannot_be_copied_stays_as_it_is() {
    let shared = Bytes::shared(16);
    let mut first = BlockTable::new(&shared);
    first.reserve(0, 16 * 32).unwrap();
    let mut second = first.fork(16);
    assert!(matches!(second.reserve(16, 1), Err(KvError::Full(OutOfBlocks))));
    assert_eq!(second.blocks, first.blocks[..1]);
    first.truncate(15 * 32);
    assert_eq!(second.reserve(16, 1).unwrap(), [15]);
}

#[test]
fn whole_blocks_come_back_and_others_are_refused() {
    let shared = Bytes::shared(8);
    let mut first = BlockTable::new(&shared);
    first.reserve(0, 96).unwrap();
    shared.memory.write_blocks(first.blocks(), &[1, 2, 3]).unwrap();
    assert_eq!(first.export(32..96).unwrap(), [2, 3]);
    let mut second = first.fork(32);
    second.import(32..96, &[4, 5]).unwrap();
    assert_eq!((second.export(0..96).unwrap(), first.export(0..96).unwrap()), (vec![1, 4, 5], vec![1, 2, 3]));
    assert!(first.export(0..33).is_err() && first.export(64..128).is_err());
    assert!(second.import(96..128, &[]).is_err());
}
