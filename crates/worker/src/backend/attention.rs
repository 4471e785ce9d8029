//! What one layer's attention is like.

use std::rc::Rc;

use mlx_rs::Array;

use super::{QueryScale, Rope};

/// Heads of a layer's attention.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Heads {
    /// Of queries.
    pub(crate) queries: i32,
    /// Of keys and values; divides the former.
    pub(crate) kv: i32,
    /// Components of each.
    pub(crate) dim: i32,
}

/// Which of the tokens before it a query sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reach {
    /// All of them.
    All,
    /// So many of the latest, itself included.
    Window(i32),
    /// Those since the last position that this number divides.
    Chunk(i32),
}

/// Where a layer's keys and values come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum KvSource {
    /// They are its own, appended to what the sequences have of the layer.
    Own,
    /// The same, and layers behind it attend to them as well.
    Lent,
    /// They are those that the model's layer of this index has appended in the same step. The layer has queries alone.
    Borrowed(usize),
}

/// Everything that distinguishes one layer's attention from another's, apart from its weights.
///
/// [`Backend::unsupported`](super::Backend::unsupported) says what the kernels can't compute; a model that asks for it is
/// refused when it is loaded.
#[derive(Debug, Clone)]
pub(crate) struct AttentionSpec {
    pub(crate) heads: Heads,
    pub(crate) kv: KvSource,
    /// Factor of the scores.
    pub(crate) scale: f32,
    /// Another factor of them, which grows with the query's position. Layers may share it.
    pub(crate) query_scale: Option<Rc<QueryScale>>,
    /// Rotation of queries and keys, which layers may share. `None`: they are not rotated.
    pub(crate) rope: Option<Rc<Rope>>,
    /// How many of the latest tokens a query sees, itself included. `None`: all.
    pub(crate) window: Option<i32>,
    /// The window begins at the last position that its length divides: a query sees its own chunk of the sequence.
    pub(crate) chunked: bool,
    /// A query sees as far ahead as it sees back. That takes inputs that are computed as a whole
    /// ([`PackedInputs`](super::PackedInputs)): keys and values that are kept know of no later token.
    pub(crate) bidirectional: bool,
    /// Scores become `cap * tanh(score / cap)`.
    pub(crate) soft_cap: Option<f32>,
    /// A score of each head of queries that takes its part of the softmax and has no value: float32 `[queries]`.
    pub(crate) sinks: Option<Array>,
}

impl AttentionSpec {
    /// Plain causal attention: every query sees itself and all tokens before it.
    pub(crate) fn causal(heads: Heads, rope: Option<Rc<Rope>>) -> Self {
        Self {
            heads,
            kv: KvSource::Own,
            scale: 1.0 / (heads.dim as f32).sqrt(),
            query_scale: None,
            rope,
            window: None,
            chunked: false,
            bidirectional: false,
            soft_cap: None,
            sinks: None,
        }
    }

    /// Which of the tokens before it a query sees.
    pub(crate) fn reach(&self) -> Reach {
        match self.window {
            None => Reach::All,
            Some(chunk) if self.chunked => Reach::Chunk(chunk),
            Some(window) => Reach::Window(window),
        }
    }

    /// Whether the layer has no keys and values of its own.
    pub(crate) fn borrows(&self) -> bool {
        matches!(self.kv, KvSource::Borrowed(_))
    }

    /// Every query sees all tokens.
    pub(crate) fn bidirectional(heads: Heads, rope: Option<Rc<Rope>>) -> Self {
        Self { bidirectional: true, ..Self::causal(heads, rope) }
    }

    /// The last position that the query at a position sees.
    pub(super) fn last_seen(&self, position: i32) -> i32 {
        match self.window {
            _ if !self.bidirectional => position,
            None => i32::MAX,
            Some(window) => position.saturating_add(window - 1),
        }
    }

    /// The first position that the query at a position sees.
    pub(super) fn first_seen(&self, position: i32) -> i32 {
        self.reach().first_seen(position)
    }
}

impl Reach {
    /// The first position that the query at a position sees.
    pub(crate) fn first_seen(self, position: i32) -> i32 {
        match self {
            Self::All => 0,
            Self::Chunk(chunk) => position - position % chunk,
            Self::Window(window) => position.saturating_add(1).saturating_sub(window).max(0),
        }
    }

    /// How many tokens a query sees at most, itself included. `None`: however many there are.
    pub(crate) fn len(self) -> Option<usize> {
        match self {
            Self::All => None,
            Self::Chunk(len) | Self::Window(len) => Some(len.unsigned_abs() as usize),
        }
    }
}
