#![allow(clippy::unwrap_used)]

use mlx_rs::error::Exception;
use proptest::prelude::*;

use super::*;

const WINDOW: i32 = 40;

/// Blocks whose content is a number.
struct Numbers(Mutex<Vec<u64>>);

impl BlockMemory for Numbers {
    fn block_bytes(&self) -> usize {
        8
    }

    fn copy_block(&self, from: i32, to: i32) -> Result<(), Exception> {
        let mut numbers = self.0.lock().unwrap();
        numbers[to as usize] = numbers[from as usize];
        Ok(())
    }

    fn read_blocks(&self, blocks: &[i32]) -> Result<Vec<u8>, Exception> {
        let numbers = self.0.lock().unwrap();
        Ok(blocks.iter().flat_map(|&block| numbers[block as usize].to_le_bytes()).collect())
    }

    fn write_blocks(&self, blocks: &[i32], bytes: &[u8]) -> Result<(), Exception> {
        let mut numbers = self.0.lock().unwrap();
        for (&block, bytes) in blocks.iter().zip(bytes.chunks_exact(8)) {
            numbers[block as usize] = u64::from_le_bytes(bytes.try_into().unwrap());
        }
        Ok(())
    }
}

fn shared(blocks: i32, reach: Reach) -> Arc<WindowBlocks<Numbers>> {
    WindowBlocks::new(Numbers(Mutex::new(vec![0; blocks as usize])), blocks, reach)
}

/// A table and what it is to have.
struct Sequence {
    table: WindowTable<Numbers>,
    tokens: Vec<u64>,
    /// What was written to each block last.
    blocks: Vec<u64>,
}

impl Sequence {
    fn new(shared: &Arc<WindowBlocks<Numbers>>) -> Self {
        Self { table: WindowTable::new(shared), tokens: Vec::new(), blocks: Vec::new() }
    }

    /// A step: each block that it writes to gets a number that says what its tokens are.
    fn step(&mut self, new: usize, next: &mut u64) -> Result<(), KvError> {
        let len = self.tokens.len();
        let blocks = self.table.reserve(len, new)?.to_vec();
        self.check(&blocks);
        for position in len..len + new {
            *next += 1;
            self.tokens.push(*next);
            self.blocks.resize(position / BLOCK_TOKENS + 1, *next);
            self.blocks[position / BLOCK_TOKENS] = *next;
            self.table.shared.memory.0.lock().unwrap()[blocks[position / BLOCK_TOKENS] as usize] = *next;
        }
        Ok(())
    }

    /// Every block that a query from here on sees is there and has what was written to it last.
    fn check(&self, blocks: &[i32]) {
        let len = self.tokens.len();
        let numbers = self.table.shared.memory.0.lock().unwrap();
        let first = self.table.shared.reach.first_seen(len as i32) as usize;
        for index in first / BLOCK_TOKENS..len.div_ceil(BLOCK_TOKENS) {
            assert_eq!(numbers[blocks[index] as usize], self.blocks[index], "block {index} of {len} tokens");
        }
    }

    fn fork(&self, len: usize) -> Self {
        self.with(self.table.fork(len), len)
    }

    /// Its first `len` tokens.
    fn with(&self, table: WindowTable<Numbers>, len: usize) -> Self {
        let blocks = self.blocks[..len.div_ceil(BLOCK_TOKENS)].to_vec();
        Self { table, tokens: self.tokens[..len].to_vec(), blocks }
    }

    fn truncate(&mut self, len: usize) {
        self.table.truncate(len);
        self.tokens.truncate(len);
        self.blocks.truncate(len.div_ceil(BLOCK_TOKENS));
    }
}

#[derive(Clone, Debug)]
enum Act {
    Step(usize, usize),
    /// Keeps the whole blocks of a sequence.
    Keep(usize),
    /// Begins a sequence behind what is kept, as far as can be.
    Resume(usize, usize),
    Adopt(usize, usize),
    /// Takes tokens of the last step back.
    TakeBack(usize, usize),
    End(usize),
    Forget(usize),
}

fn act() -> impl Strategy<Value = Act> {
    let which = || 0..8_usize;
    prop_oneof![
        8 => (which(), prop_oneof![Just(1_usize), 1..70_usize]).prop_map(|(which, new)| Act::Step(which, new)),
        3 => which().prop_map(Act::Keep),
        3 => (which(), 0..300_usize).prop_map(|(which, len)| Act::Resume(which, len)),
        1 => (which(), which()).prop_map(|(one, other)| Act::Adopt(one, other)),
        3 => (which(), 1..9_usize).prop_map(|(which, tokens)| Act::TakeBack(which, tokens)),
        1 => which().prop_map(Act::End),
        1 => which().prop_map(Act::Forget),
    ]
}

fn at<T>(list: &mut [T], index: usize) -> Option<&mut T> {
    let len = list.len();
    list.get_mut(index % len.max(1))
}

/// Of two sequences how many tokens they have in common.
fn common(one: &Sequence, other: &Sequence) -> usize {
    one.tokens.iter().zip(&other.tokens).take_while(|(one, other)| one == other).count()
}

proptest! {
    /// Sequences that share and drop beginnings, with little memory: what a query may see stays as it was written, whoever
    /// else goes on, is kept or ends; no sequence has more than its stretch; and in the end every block is free.
    #[test]
    fn what_a_query_may_see_is_there_and_nothing_is_lost(
        acts in prop::collection::vec(act(), 1..120),
        chunked in any::<bool>(),
        blocks in 12..40_i32,
    ) {
        let reach = if chunked { Reach::Chunk(WINDOW) } else { Reach::Window(WINDOW) };
        let shared = shared(blocks, reach);
        let (mut sequences, mut kept) = (vec![Sequence::new(&shared)], Vec::<Sequence>::new());
        let mut next = 0;
        for act in acts {
            match act {
                Act::Step(which, new) => {
                    let Some(sequence) = at(&mut sequences, which) else { continue };
                    match sequence.step(new, &mut next) {
                        Ok(()) => {}
                        Err(KvError::Full(_)) => {
                            // As who is preempted: it loses everything.
                            *sequence = Sequence::new(&shared);
                        }
                        Err(error) => prop_assert!(false, "{error}"),
                    }
                }
                Act::Keep(which) => {
                    let Some(sequence) = at(&mut sequences, which) else { continue };
                    let len = sequence.tokens.len() / BLOCK_TOKENS * BLOCK_TOKENS;
                    kept.push(sequence.fork(len));
                }
                Act::Resume(which, len) => {
                    let Some(kept) = at(&mut kept, which) else { continue };
                    let point = kept.table.fork_point(len.min(kept.tokens.len()));
                    prop_assert!(point <= len);
                    let table = kept.table.resume(point).expect("it can be gone on behind a fork point");
                    sequences.push(kept.with(table, point));
                }
                Act::Adopt(one, other) => {
                    let (Some(kept), Some(other)) = (at(&mut kept, one), at(&mut sequences, other)) else {
                        continue;
                    };
                    let len = common(kept, other) / BLOCK_TOKENS * BLOCK_TOKENS;
                    let before = kept.table.fork_point(len);
                    kept.table.adopt(&other.table, len);
                    prop_assert!(kept.table.fork_point(len) >= before);
                }
                Act::TakeBack(which, tokens) => {
                    let Some(sequence) = at(&mut sequences, which) else { continue };
                    // Guesses behind its next token.
                    if sequence.step(tokens + 1, &mut next).is_ok() {
                        sequence.truncate(sequence.tokens.len() - tokens);
                    } else {
                        *sequence = Sequence::new(&shared);
                    }
                }
                Act::End(which) => {
                    if !sequences.is_empty() {
                        sequences.swap_remove(which % sequences.len());
                    }
                }
                Act::Forget(which) => {
                    if !kept.is_empty() {
                        kept.swap_remove(which % kept.len());
                    }
                }
            }
            for sequence in &sequences {
                let held = sequence.table.blocks().iter().filter(|&&block| block != NO_BLOCK).count();
                let stretch = super::super::kv_division::stretch(reach, Some(70)).unwrap();
                prop_assert!(held * BLOCK_TOKENS <= stretch, "{held} blocks");
            }
        }
        drop((sequences, kept));
        prop_assert_eq!(shared.used()(), 0);
    }
}

#[test]
fn a_window_keeps_no_more_than_it_reaches() {
    let shared = shared(16, Reach::Window(WINDOW));
    let mut sequence = WindowTable::new(&shared);
    let mut len = 0;
    for new in [100, 1, 1, 50, 1] {
        sequence.reserve(len, new).unwrap();
        len += new;
    }
    // The query at 120 sees what is behind 80, which is in the third block. The one at 152 does not.
    assert_eq!((sequence.blocks().len(), &sequence.blocks()[..2]), (5, &[NO_BLOCK; 2][..]));
    assert_eq!(shared.used()(), 3);
}

#[test]
fn nobody_goes_on_where_a_window_reaches_what_was_given_back() {
    let shared = shared(16, Reach::Window(WINDOW));
    let mut sequence = WindowTable::new(&shared);
    sequence.reserve(0, 200).unwrap();
    sequence.reserve(200, 1).unwrap();
    sequence.truncate(150);
    assert!(matches!(sequence.reserve(150, 1), Err(KvError::Returned { len: 150 })));
    assert!(sequence.resume(150).is_none() && sequence.export(96..128).is_err());
}

/// Of two steps that are launched one behind the other, the first one's window begins in a block that the second one's has left.
#[test]
fn a_step_and_the_one_behind_it_can_be_taken_back() {
    let shared = shared(16, Reach::Window(WINDOW));
    let mut sequence = WindowTable::new(&shared);
    for (len, new) in [(0, 166), (166, 1), (167, 1)] {
        sequence.reserve(len, new).unwrap();
    }
    sequence.truncate(166);
    let blocks = sequence.reserve(166, 1).unwrap();
    assert!(blocks[..3] == [NO_BLOCK; 3] && blocks[3] != NO_BLOCK, "the query at 166 sees the token at 127");
}

/// Wherever a sequence stops, what is kept of it can be gone on behind: that is where the next turn of a conversation begins.
#[test]
fn the_last_whole_block_of_a_sequence_can_be_gone_on_behind() {
    for reach in [Reach::Window(WINDOW), Reach::Chunk(WINDOW)] {
        let shared = shared(16, reach);
        let mut sequence = WindowTable::new(&shared);
        sequence.reserve(0, 50).unwrap();
        for len in 50..300 {
            // As many tokens as are guessed right.
            sequence.reserve(len, 9).unwrap();
            for computed in len + 1..len + 10 {
                let whole = computed / BLOCK_TOKENS * BLOCK_TOKENS;
                assert_eq!(sequence.fork_point(whole), whole, "{computed} tokens of {reach:?}");
            }
            sequence.truncate(len + 1);
        }
    }
}

#[test]
fn a_prefix_gives_its_blocks_up_for_sequences_and_can_be_passed_then() {
    let shared = shared(8, Reach::Window(WINDOW));
    let mut first = WindowTable::new(&shared);
    first.reserve(0, 128).unwrap();
    let mut kept = first.fork(128);
    drop(first);
    assert_eq!((kept.fork_point(128), kept.fork_point(75), shared.used()()), (128, 75, 4));
    // Six of eight blocks: the two that were used least recently are taken away.
    let mut second = WindowTable::new(&shared);
    second.reserve(0, 6 * 32).unwrap();
    assert_eq!((kept.fork_point(128), kept.fork_point(75), shared.used()()), (128, 0, 8));
    drop(second);
    // Another sequence has computed the same tokens.
    let mut again = WindowTable::new(&shared);
    again.reserve(0, 128).unwrap();
    kept.adopt(&again, 128);
    drop(again);
    assert_eq!((kept.fork_point(128), kept.fork_point(75)), (128, 75));
}

#[test]
fn exported_bytes_are_imported_behind_what_is_there() {
    let shared = shared(16, Reach::Window(WINDOW));
    let bytes = |numbers: [u64; 2]| numbers.map(u64::to_le_bytes).concat();
    let mut first = WindowTable::new(&shared);
    first.import(0..64, &bytes([7, 8])).unwrap();
    first.import(64..128, &bytes([9, 10])).unwrap();
    assert_eq!(first.export(64..128).unwrap(), bytes([9, 10]));
    first.import(128..192, &bytes([11, 12])).unwrap();
    assert!(first.export(0..64).is_err(), "the window has left them");
    assert_eq!(first.export(96..192).unwrap(), [bytes([10, 11]), 12_u64.to_le_bytes().to_vec()].concat());
    assert!(first.export(128..224).is_err() && first.import(194..258, &bytes([1, 2])).is_err());
}
