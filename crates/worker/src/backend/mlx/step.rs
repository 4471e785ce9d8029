//! The rows of a step, for the attention of each layer in turn.

use std::{marker::PhantomData, ops::Range, sync::Arc};

use mlx_rs::{
    Array,
    error::Exception,
    ops::{concatenate, indexing::take_axis},
};

use super::{
    super::{attention::AttentionSpec, kind_blocks::KindBlocks},
    array_blocks::{ArrayBlocks, TOKENS},
    attention::{queries_of, rotate, split},
    between::{Between, Copy, Pending, State},
    group::{Group, Row, indices},
    grouping::{Grouped, RowShape, grouped},
};

/// The rows of a step, in groups.
pub(crate) struct GatheredStep<'a> {
    blocks: KindBlocks<ArrayBlocks>,
    between: Arc<Between>,
    groups: Vec<Group>,
    /// Position of each token, group by group: int32 `[tokens]`.
    positions: Array,
    /// `None`: the groups' tokens are in the step's order.
    order: Option<Order>,
    /// Nothing else changes the rows' sequences meanwhile.
    rows: PhantomData<&'a mut ()>,
}

/// int32 `[tokens]` each.
struct Order {
    /// Which of the step's tokens the groups' are.
    groups: Array,
    /// Which of the groups' tokens the step's are.
    step: Array,
}

impl GatheredStep<'_> {
    /// The blocks have room for the new tokens.
    pub(super) fn new(
        blocks: &KindBlocks<ArrayBlocks>,
        between: &Arc<Between>,
        rows: &[Row<'_>],
        groups: Groups,
    ) -> Self {
        let Groups { grouped, places, ahead } = groups;
        let in_order: Vec<Row<'_>> =
            grouped.iter().flat_map(|group| group.rows.iter().map(|&row| rows[row])).collect();
        let mut state = between.state();
        let memory = blocks.memory();
        let mut plan = Plan { state: &mut state, blocks: memory, ahead, first: 0 };
        let mut rest = &in_order[..];
        let mut groups = Vec::new();
        for (group, place) in grouped.iter().zip(places) {
            let (rows, behind) = rest.split_at(group.rows.len());
            rest = behind;
            groups.push(plan.group(group, place, rows));
        }
        // Before the step takes memory.
        state.forget();
        let (groups, copies) = groups.into_iter().unzip();
        let new = vec![None; memory.layers()];
        state.pending = Some(Pending { slots: indices(&slots(&in_order, memory)), new, copies });
        let positions: Vec<i32> = in_order.iter().flat_map(positions).collect();
        Self {
            blocks: blocks.clone(),
            between: Arc::clone(between),
            groups,
            positions: indices(&positions),
            order: Order::of(&grouped, rows),
            rows: PhantomData,
        }
    }

    /// Whether it reads blocks.
    pub(crate) fn reads_blocks(&self) -> bool {
        self.groups.iter().any(Group::gathers)
    }

    pub(crate) fn attend(&self, spec: &AttentionSpec, layer: usize, qkv: &Array) -> Result<Array, Exception> {
        let qkv = match &self.order {
            Some(order) => &take_axis(qkv, &order.groups, 0)?,
            None => qkv,
        };
        let (queries, new) = self.rotated(spec, qkv)?;
        let mut state = self.between.state();
        let State { pending: Some(pending), .. } = &mut *state else {
            return Err(Exception::custom("another step has begun"));
        };
        let mut attended = Vec::with_capacity(self.groups.len());
        for (group, copy) in self.groups.iter().zip(&mut pending.copies) {
            let queries = group.part(&queries)?;
            let keys_and_values = match &new {
                Some(new) => {
                    let (new, blocks) = (group.part(new)?, (self.blocks.memory(), layer));
                    group.append(spec, &new, blocks, copy.as_mut())?
                }
                None => group.borrow(layer)?,
            };
            attended.push(group.attend(spec, &queries, &keys_and_values)?);
        }
        if let (Some(place), Some(new)) = (pending.new.get_mut(layer), new) {
            *place = Some(new);
        }
        let attended = match &attended[..] {
            [one] => one.clone(),
            several => concatenate(several, 0)?,
        };
        self.order.as_ref().map_or(Ok(attended.clone()), |order| take_axis(&attended, &order.step, 0))
    }

    /// Rotated queries `[tokens, queries, 1, dim]`, and keys and values `[tokens, 2 * kv, 1, dim]` if the layer has its own.
    fn rotated(&self, spec: &AttentionSpec, qkv: &Array) -> Result<(Array, Option<Array>), Exception> {
        let rotated = |x: Array| match &spec.rope {
            Some(rope) => rotate(rope, &x, &self.positions),
            None => Ok(x),
        };
        let (queries, new) = if spec.borrows() {
            (queries_of(spec.heads, qkv)?, None)
        } else {
            let (queries, keys, values) = split(spec.heads, qkv)?;
            (queries, Some(concatenate(&[&rotated(keys)?, &values], 1)?))
        };
        let queries = rotated(queries)?;
        let queries = match &spec.query_scale {
            Some(scale) => queries.multiply(scale.of(&self.positions, queries.dtype())?)?,
            None => queries,
        };
        Ok((queries, new))
    }
}

/// Which rows of a step attend together, and where their keys and values are. Nothing has changed yet.
pub(super) struct Groups {
    grouped: Vec<Grouped>,
    /// Of each group.
    places: Vec<Place>,
    /// Whether copies need a spare, since the step before may still be computed.
    ahead: bool,
}

/// Where a group's keys and values are, and stay.
#[derive(Clone, Copy)]
struct Place {
    /// Tokens of a row there.
    room: i32,
    /// They are in a copy.
    is_copied: bool,
    /// They are kept for the next step.
    is_kept: bool,
}

impl Groups {
    /// Rows may attend `together`, or each is alone.
    pub(super) fn new(rows: &[Row<'_>], together: bool, ahead: bool, between: &Between) -> Self {
        let shape = |row: &Row<'_>| RowShape {
            new_tokens: row.new as usize,
            blocks: (row.position + row.new).unsigned_abs().div_ceil(TOKENS.unsigned_abs()) as usize,
        };
        let shapes: Vec<RowShape> = rows.iter().map(shape).collect();
        let grouped = grouped(&shapes, together);
        let (state, mut left) = (between.state(), between.limit());
        let place = |group: &Grouped| {
            let longest = group.blocks as i32;
            let before: Vec<_> = group.rows.iter().map(|&row| rows[row].stamps.0).collect();
            let copied = state.room(&before, longest * TOKENS);
            // An eighth more than is needed: so what is gathered anew is, for each new token, a few others.
            let room = copied.unwrap_or((longest + longest / 8 + 1) * TOKENS);
            let size = group.rows.len() * room as usize * if ahead { 2 } else { 1 };
            let is_kept = group.together && size <= left;
            if !is_kept {
                return Place { room: longest * TOKENS, is_copied: false, is_kept };
            }
            left -= size;
            Place { room, is_copied: copied.is_some(), is_kept }
        };
        let places = grouped.iter().map(place).collect();
        Self { grouped, places, ahead }
    }

    /// Whether something has to be gathered. A prompt's first tokens are not told apart.
    pub(super) fn read_blocks(&self) -> bool {
        self.places.iter().any(|place| !place.is_copied)
    }
}

/// What groups are made of.
struct Plan<'a> {
    state: &'a mut State,
    blocks: &'a ArrayBlocks,
    ahead: bool,
    /// Tokens of the groups made so far.
    first: i32,
}

impl Plan<'_> {
    /// A group, and where its keys and values are kept, if they are.
    fn group(&mut self, grouped: &Grouped, place: Place, rows: &[Row<'_>]) -> (Group, Option<Copy>) {
        let before: Vec<_> = rows.iter().map(|row| row.stamps.0).collect();
        let least = grouped.blocks as i32 * TOKENS;
        let taken = self.state.take(&before, least).filter(|_| place.is_copied);
        let group = Group::new(rows, grouped.together, self.first, place.room, taken.as_ref(), self.blocks);
        self.first += rows.iter().map(|row| row.new).sum::<i32>();
        if !place.is_kept {
            return (group, None);
        }
        let stamps = rows.iter().map(|row| row.stamps.1).collect();
        let mut copy = Copy::new(stamps, place.room, self.blocks.layers(), self.ahead);
        if let Some(taken) = taken {
            copy.layers = taken.layers;
            copy.spare = copy.spare.map(|none| taken.spare.unwrap_or(none));
        }
        if let Some(spare) = &mut copy.spare {
            spare.tokens = rows[0].new;
        }
        (group, Some(copy))
    }
}

impl Order {
    /// `None` if the groups' tokens are in the step's order.
    fn of(groups: &[Grouped], rows: &[Row<'_>]) -> Option<Self> {
        let firsts: Vec<i32> = rows
            .iter()
            .scan(0, |next, row| {
                let first = *next;
                *next += row.new;
                Some(first)
            })
            .collect();
        let tokens = |&row: &usize| firsts[row]..firsts[row] + rows[row].new;
        let of_groups: Vec<i32> =
            groups.iter().flat_map(|group| group.rows.iter().flat_map(tokens)).collect();
        if of_groups.is_sorted() {
            return None;
        }
        let mut of_step = vec![0; of_groups.len()];
        for (index, &token) in of_groups.iter().enumerate() {
            of_step[token as usize] = index as i32;
        }
        Some(Self { groups: indices(&of_groups), step: indices(&of_step) })
    }
}

/// Places of the rows' new tokens in the blocks: of each token the keys' heads, then the values'.
fn slots(rows: &[Row<'_>], blocks: &ArrayBlocks) -> Vec<i32> {
    let token = |row: Row<'_>, position: i32| {
        let first = blocks.first_page(row.blocks[(position / TOKENS) as usize]);
        (first..first + blocks.pages_of_block()).map(move |page| page * TOKENS + position % TOKENS)
    };
    let row = |&row: &_| positions(&row).flat_map(move |position| token(row, position));
    rows.iter().flat_map(row).collect()
}

/// Of a row's new tokens.
fn positions(row: &Row<'_>) -> Range<i32> {
    row.position..row.position + row.new
}
