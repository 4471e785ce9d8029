//! The rows of a step that attend together: where their keys and values come from and go to.

use std::{cell::RefCell, collections::HashMap, ops::Range};

use mlx_rs::{
    Array,
    error::Exception,
    ops::{
        indexing::{TryIndexOp, scatter_single},
        zeros_dtype,
    },
};

use super::{
    super::attention::{AttentionSpec, KvSource},
    array_blocks::{ArrayBlocks, TOKENS},
    attention::{attend_alone, attend_together, seen_by},
    between::{Copy, NewPlaces, Stamp},
};

/// A row of a step.
#[derive(Clone, Copy)]
pub(super) struct Row<'a> {
    /// Tokens that the sequence has.
    pub(super) position: i32,
    /// Tokens that the step appends.
    pub(super) new: i32,
    /// With those for the new tokens.
    pub(super) blocks: &'a [i32],
    /// What the sequence has before the step, and after it.
    pub(super) stamps: (Stamp, Stamp),
}

/// Rows that are computed by the same kernels.
pub(super) struct Group {
    /// Its tokens among those of all groups.
    tokens: Range<i32>,
    rows: i32,
    /// Tokens that the step appends to each.
    new: i32,
    /// Tokens of each in the array where keys and values are gathered.
    room: i32,
    /// Tokens that the longest has after the step.
    longest: i32,
    /// Of each new token.
    positions: Vec<i32>,
    /// Whether keys and values are padded; else there is one row.
    together: bool,
    source: Source,
    /// Places of the new tokens' keys and values there.
    places: NewPlaces,
    /// One for all layers whose queries see the same.
    masks: RefCell<Vec<Mask>>,
    /// What layers have lent, by their numbers.
    lent: RefCell<HashMap<usize, KeysAndValues>>,
}

/// A layer's keys and values, with those of the step's tokens: `[1, rows * kv, tokens, dim]` each, where a row may have room
/// for more tokens than it has.
#[derive(Clone)]
pub(super) struct KeysAndValues {
    keys: Array,
    values: Array,
}

/// What queries see in layers with such a window.
struct Mask {
    window: Option<i32>,
    chunked: bool,
    seen: Array,
}

/// Where the keys and values are that the rows have.
enum Source {
    /// There are none.
    Nowhere,
    /// In the copy that the last step has left.
    Copy,
    Blocks {
        /// Of each row's heads: int32 `[2 * rows * kv * room / TOKENS]`.
        pages: Array,
        /// Places in these pages that are a sequence's, but have none of its tokens.
        empty: Option<Array>,
    },
}

impl Group {
    /// `first` is the place of its first token among those of all groups. With room for `room` tokens of each row, or for
    /// as many as `copy` has.
    pub(super) fn new(
        rows: &[Row<'_>],
        together: bool,
        first: i32,
        room: i32,
        copy: Option<&Copy>,
        blocks: &ArrayBlocks,
    ) -> Self {
        let new = rows[0].new;
        let room = copy.map_or(room, |copy| copy.room);
        let places = Places { rows, room, kv: blocks.heads().kv };
        let source = if copy.is_some() {
            Source::Copy
        } else if !together && rows[0].position == 0 {
            Source::Nowhere
        } else {
            // Without padding nothing of them is read.
            let empty = if together { places.empty() } else { Vec::new() };
            let empty = (!empty.is_empty()).then(|| indices(&empty));
            Source::Blocks { pages: indices(&places.pages(blocks)), empty }
        };
        let positions = rows.iter().flat_map(|row| row.position..row.position + new).collect();
        Self {
            tokens: first..first + rows.len() as i32 * new,
            rows: rows.len() as i32,
            new,
            room,
            longest: rows.iter().map(|row| row.position + new).max().unwrap_or(0),
            positions,
            together,
            source,
            places: places.new_tokens(copy),
            masks: RefCell::default(),
            lent: RefCell::default(),
        }
    }

    /// Whether its keys and values come from blocks.
    pub(super) fn gathers(&self) -> bool {
        matches!(self.source, Source::Blocks { .. })
    }

    /// Its part of what there is of each token.
    pub(super) fn part(&self, x: &Array) -> Result<Array, Exception> {
        if self.tokens == (0..x.dim(0)) {
            return Ok(x.clone());
        }
        x.try_index(self.tokens.clone())
    }

    /// What the rows have of a layer with `new`, the keys and values of the new tokens, `[rows * new, 2 * kv, 1, dim]`. `copy`
    /// is where those of all tokens are left, if they are to be kept.
    pub(super) fn append(
        &self,
        spec: &AttentionSpec,
        new: &Array,
        (blocks, layer): (&ArrayBlocks, usize),
        copy: Option<&mut Copy>,
    ) -> Result<KeysAndValues, Exception> {
        let all = self.appended(spec, new, (blocks, layer), copy)?;
        if spec.kv == KvSource::Lent {
            self.lent.borrow_mut().insert(layer, all.clone());
        }
        Ok(all)
    }

    /// What the layer has appended in this step, which lends it.
    pub(super) fn borrow(&self, layer: usize) -> Result<KeysAndValues, Exception> {
        let none = || Exception::custom(format!("layer {layer} has lent no keys and values in this step"));
        self.lent.borrow().get(&layer).cloned().ok_or_else(none)
    }

    fn appended(
        &self,
        spec: &AttentionSpec,
        new: &Array,
        (blocks, layer): (&ArrayBlocks, usize),
        copy: Option<&mut Copy>,
    ) -> Result<KeysAndValues, Exception> {
        let kv = spec.heads.kv;
        if matches!(self.source, Source::Nowhere) {
            let heads = new.swap_axes(0, 2)?;
            let (keys, values) = (heads.try_index((.., ..kv))?, heads.try_index((.., kv..))?);
            return Ok(KeysAndValues { keys, values });
        }
        let new = new.reshape(&[-1, 1, spec.heads.dim])?;
        let all = match (copy, self.gathered(blocks, layer)?) {
            (Some(copy), gathered) => copy.add(layer, gathered, &self.places, new)?,
            // Nothing else refers to it: it is written in place.
            (None, Some(gathered)) => scatter_single(gathered, &self.places.of_step, new, 0)?,
            (None, None) => return Err(Exception::custom("a copy was taken that is not kept")),
        };
        let heads = all.reshape(&[2, self.rows * kv, self.room, spec.heads.dim])?;
        Ok(KeysAndValues { keys: heads.try_index(0..1)?, values: heads.try_index(1..2)? })
    }

    /// `[rows * new, heads * dim]` of `queries` `[rows * new, heads, 1, dim]`.
    pub(super) fn attend(
        &self,
        spec: &AttentionSpec,
        queries: &Array,
        KeysAndValues { keys, values }: &KeysAndValues,
    ) -> Result<Array, Exception> {
        let part = |of: &Array, tokens: Range<i32>| of.try_index((.., .., tokens));
        if !self.together {
            let (keys, values) = (part(keys, 0..self.longest)?, part(values, 0..self.longest)?);
            return attend_alone(spec, queries, (&keys, &values));
        }
        let seen = self.seen(spec);
        let mask = self.mask(spec, (seen.start, seen.end))?;
        let (keys, values) = (part(keys, seen.clone())?, part(values, seen)?);
        attend_together(spec, self.new, queries, (&keys, &values), &mask)
    }

    /// `[2 * rows * kv * room, dim]`: keys and values of the tokens that the rows have, if they are not in a copy.
    fn gathered(&self, blocks: &ArrayBlocks, layer: usize) -> Result<Option<Array>, Exception> {
        let Source::Blocks { pages, empty } = &self.source else { return Ok(None) };
        let dim = blocks.heads().dim;
        let gathered = blocks.gather(layer, pages)?.reshape(&[-1, dim])?;
        let Some(empty) = empty else { return Ok(Some(gathered)) };
        // What earlier holders of a block have left there could be no number. The mask's zero times that would not be zero.
        let zeros = zeros_dtype(&[empty.dim(0), 1, dim], blocks.dtype())?;
        scatter_single(gathered, empty, zeros, 0).map(Some)
    }

    /// Positions of keys that some query sees.
    fn seen(&self, spec: &AttentionSpec) -> Range<i32> {
        let earliest = self.positions.iter().copied().min().unwrap_or(0);
        spec.first_seen(earliest)..self.longest
    }

    fn mask(&self, spec: &AttentionSpec, seen: (i32, i32)) -> Result<Array, Exception> {
        let mut masks = self.masks.borrow_mut();
        let (window, chunked) = (spec.window, spec.chunked);
        if let Some(mask) = masks.iter().find(|mask| (mask.window, mask.chunked) == (window, chunked)) {
            return Ok(mask.seen.clone());
        }
        let seen = seen_by(spec, self.new, &self.positions, seen)?;
        masks.push(Mask { window, chunked, seen: seen.clone() });
        Ok(seen)
    }
}

/// Places in an array of keys' heads of each row, then values' heads of each row, `room` tokens each.
struct Places<'a> {
    rows: &'a [Row<'a>],
    room: i32,
    kv: i32,
}

impl Places<'_> {
    /// Of a row's token at a position: the keys' heads, then the values'.
    fn of(&self, row: usize, position: i32) -> impl Iterator<Item = i32> {
        let (rows, row, kv, room) = (self.rows.len() as i32, row as i32, self.kv, self.room);
        (0..2 * kv).map(move |head| ((head / kv * rows + row) * kv + head % kv) * room + position)
    }

    /// Of the new tokens, one after the other, and before them of those that the copy's spare lacks.
    fn new_tokens(&self, copy: Option<&Copy>) -> NewPlaces {
        let tokens = |before: i32, behind: fn(&Row<'_>) -> i32| -> Vec<i32> {
            let row = |(row, it): (usize, &Row<'_>)| {
                (it.position - before..it.position + behind(it))
                    .flat_map(move |position| self.of(row, position))
            };
            self.rows.iter().enumerate().flat_map(row).collect()
        };
        let of_step = tokens(0, |row| row.new);
        let of_both = copy.and_then(|copy| copy.spare.as_ref()).map(|spare| {
            let mut places = tokens(spare.tokens, |_| 0);
            places.extend(&of_step);
            indices(&places)
        });
        NewPlaces { of_step: indices(&of_step), of_both }
    }

    /// Behind the new tokens, in pages that have earlier ones.
    fn empty(&self) -> Vec<i32> {
        let row = |(row, it): (usize, &Row<'_>)| {
            let held = it.position.unsigned_abs().next_multiple_of(TOKENS.unsigned_abs()) as i32;
            (it.position + it.new..held).flat_map(move |position| self.of(row, position))
        };
        self.rows.iter().enumerate().flat_map(row).collect()
    }

    /// The pages of `blocks` that belong to these places.
    fn pages(&self, blocks: &ArrayBlocks) -> Vec<i32> {
        let mut pages = Vec::with_capacity((2 * self.kv * self.room / TOKENS) as usize * self.rows.len());
        for part in 0..2 {
            for row in self.rows {
                let held = row.position.unsigned_abs().div_ceil(TOKENS.unsigned_abs()) as usize;
                for head in part * self.kv..(part + 1) * self.kv {
                    let held = row.blocks[..held].iter().map(|&block| blocks.first_page(block) + head);
                    let padded = held.chain(std::iter::repeat(ArrayBlocks::ZERO_PAGE));
                    pages.extend(padded.take((self.room / TOKENS) as usize));
                }
            }
        }
        pages
    }
}

/// int32 `[indices]`.
pub(super) fn indices(indices: &[i32]) -> Array {
    Array::from_slice(indices, &[indices.len() as i32])
}
