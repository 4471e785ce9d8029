//! Keys and values that outlive the sequences that computed them: a tree of prefixes.
//!
//! ```text
//! root ─┬─ "You are a helpful …" ─┬─ "… first question"  ─── "… answer, second question"
//!       │      (in use by 2)      └─ "… another question"      (in use by 1)
//!       └─ "Translate: …"          the least recently used leaf that is not in use goes first
//! ```
//!
//! Each [`Variant`] has roots of its own: equal tokens have other keys and values with an adapter than without.
//!
//! A node has the tokens of a part of a prefix, and keys and values of all tokens up to its end; what it has in common
//! with its parent is shared, not held twice. Parts end at multiples of a block, the unit in which memory is shared.
//! Tokens are compared, not hashes of them, so there are no false hits. This is RadixAttention's tree (Zheng et al.,
//! "SGLang: Efficient Execution of Structured Language Model Programs", 2024).

use std::{collections::HashMap, ops::Range};

use artifact_store::Digest;

/// Keys and values of a sequence's tokens.
pub trait Fork {
    /// Those of the first `len` tokens, to be kept.
    #[must_use]
    fn fork(&self, len: usize) -> Self;

    /// How many of the first `len` tokens a sequence can go on behind.
    fn fork_point(&self, len: usize) -> usize {
        len
    }

    /// Those of the first `len` tokens, for a sequence that goes on behind them; `None` if none can.
    fn resume(&self, len: usize) -> Option<Self>
    where
        Self: Sized,
    {
        Some(self.fork(len))
    }

    /// Takes over from another sequence with the same first `len` tokens behind what of them one can go on.
    fn adopt(&mut self, _other: &Self, _len: usize) {}
}

/// What keys and values depend on, beside the model and the tokens: the adapter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Variant(pub Option<Digest>);

/// Names a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(u64);

/// The tree.
#[derive(Debug)]
pub struct Prefixes<K> {
    nodes: HashMap<NodeId, Node<K>>,
    /// Nodes without a parent.
    roots: HashMap<Variant, Vec<NodeId>>,
    next_id: u64,
    /// Tokens of a block.
    block: usize,
    /// Tokens that all nodes have memory for.
    held: usize,
    /// Those of nodes that are in use.
    used: usize,
    /// Counts lookups and insertions.
    clock: u64,
}

#[derive(Debug)]
struct Node<K> {
    variant: Variant,
    parent: Option<NodeId>,
    children: Vec<NodeId>,
    /// Where its part begins, in tokens.
    start: usize,
    /// Its part: at least one block, and whole ones.
    tokens: Vec<u32>,
    /// Of all tokens up to its end.
    kv: K,
    /// Sequences that hold it or one below it.
    users: usize,
    last_used: u64,
}

/// A prefix of a sequence that is in the tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Match {
    /// The last node that has a part of it.
    pub node: NodeId,
    /// Its length in tokens, which may end inside of the node's part.
    pub len: usize,
}

impl<K: Fork> Prefixes<K> {
    /// An empty tree of which parts end at multiples of `block` tokens.
    pub fn new(block: usize) -> Self {
        let (nodes, roots) = (HashMap::new(), HashMap::new());
        Self { nodes, roots, next_id: 0, block: block.max(1), held: 0, used: 0, clock: 0 }
    }

    /// Tokens that there is memory for.
    pub fn held_tokens(&self) -> usize {
        self.held
    }

    /// Those of them that some sequence holds.
    pub fn used_tokens(&self) -> usize {
        self.used
    }

    /// The part of `len` tokens that whole blocks make up.
    pub fn whole_blocks(&self, len: usize) -> usize {
        len / self.block * self.block
    }

    /// The longest prefix of `tokens` in the tree that a sequence can go on behind, if there is any. It counts as used now.
    pub fn find(&mut self, variant: Variant, tokens: &[u32]) -> Option<Match> {
        let found = self.fork_point(self.longest(variant, tokens)?)?;
        self.touch(found.node);
        Some(found)
    }

    /// How many of `tokens` are in the tree.
    pub fn known(&self, variant: Variant, tokens: &[u32]) -> usize {
        self.longest(variant, tokens).map_or(0, |found| found.len)
    }

    /// Keys and values of a match, for a sequence that goes on behind it.
    pub fn resume(&self, found: Match) -> Option<K> {
        self.nodes.get(&found.node)?.kv.resume(found.len)
    }

    /// The longest part of a match that a sequence can go on behind, and the uppermost node that has it.
    fn fork_point(&self, Match { node, len }: Match) -> Option<Match> {
        let mut best: Option<Match> = None;
        let mut next = Some(node);
        while let Some((id, node)) = next.and_then(|id| Some((id, self.nodes.get(&id)?))) {
            let len = node.kv.fork_point(len.min(node.end()));
            if len > 0 && best.is_none_or(|best| len >= best.len) {
                best = Some(Match { node: id, len });
            }
            if best.is_some_and(|best| best.len > node.start) {
                break;
            }
            next = node.parent;
        }
        best
    }

    /// Keeps the whole blocks of `tokens`, of which `kv` has the keys and values. Returns the node that ends with them, if
    /// there is at least one, and how many of the tokens were in the tree before.
    pub fn insert(&mut self, variant: Variant, tokens: &[u32], kv: &K) -> Option<(NodeId, usize)> {
        let tokens = &tokens[..self.whole_blocks(tokens.len())];
        let last = tokens.len().checked_sub(1)?;
        let found = self.longest(variant, tokens);
        let known = found.map_or(0, |found| self.whole_blocks(found.len));
        if let Some(found) = found
            && let Some(node) = self.nodes.get_mut(&found.node)
        {
            node.kv.adopt(kv, known);
        }
        let parent = found.and_then(|found| self.node_up_to(found.node, known));
        let node =
            if known > last { parent? } else { self.add(variant, parent, known..tokens.len(), (tokens, kv)) };
        self.touch(node);
        Some((node, known))
    }

    /// A sequence uses the node's prefix from now on: it is not evicted.
    pub fn hold(&mut self, node: NodeId) {
        self.each_up_from(node, |node, used| {
            node.users += 1;
            if node.users == 1 {
                *used += node.tokens.len();
            }
        });
    }

    /// The end of a [`hold`](Self::hold).
    pub fn release(&mut self, node: NodeId) {
        self.each_up_from(node, |node, used| {
            node.users = node.users.saturating_sub(1);
            if node.users == 0 {
                *used -= node.tokens.len();
            }
        });
    }

    /// Forgets what was not used for longest, until `tokens` tokens are gone or everything is in use. Returns how many
    /// are gone.
    pub fn evict(&mut self, tokens: usize) -> usize {
        let mut gone = 0;
        while gone < tokens {
            let leaves = self.nodes.iter().filter(|(_, node)| node.users == 0 && node.children.is_empty());
            let Some((&oldest, _)) = leaves.min_by_key(|&(&id, node)| (node.last_used, id)) else { break };
            gone += self.remove(oldest);
        }
        gone
    }

    fn longest(&self, variant: Variant, tokens: &[u32]) -> Option<Match> {
        let mut found: Option<Match> = None;
        let mut children = self.roots.get(&variant)?;
        loop {
            let len = found.map_or(0, |found| found.len);
            let rest = &tokens[len..];
            let common = |id: &NodeId| self.nodes.get(id).map(|node| common(&node.tokens, rest));
            let best =
                children.iter().filter_map(|id| Some((common(id)?, *id))).max_by_key(|&(common, _)| common);
            let Some((common, id)) = best.filter(|&(common, _)| common > 0) else { return found };
            found = Some(Match { node: id, len: len + common });
            match self.nodes.get(&id) {
                Some(node) if node.tokens.len() == common => children = &node.children,
                _ => return found,
            }
        }
    }

    /// The node whose part ends at `len`, which lies in the part of `node` or at its beginning: it is cut there if it has
    /// to be. `None` at 0.
    fn node_up_to(&mut self, node: NodeId, len: usize) -> Option<NodeId> {
        let place = |it: &Node<K>| (it.start, it.end(), it.parent, it.variant);
        let (start, end, parent, variant) = self.nodes.get(&node).map(place)?;
        if len >= end {
            return Some(node);
        }
        if len <= start {
            return parent;
        }
        let below = self.nodes.get_mut(&node)?;
        let rest = below.tokens.split_off(len - start);
        let tokens = std::mem::replace(&mut below.tokens, rest);
        let (kv, users, last_used) = (below.kv.fork(len), below.users, below.last_used);
        below.start = len;
        let above = self.new_id();
        below_of(&mut self.nodes, &mut self.roots, (variant, parent)).retain(|id| *id != node);
        below_of(&mut self.nodes, &mut self.roots, (variant, parent)).push(above);
        let children = vec![node];
        self.nodes.insert(above, Node { variant, parent, children, start, tokens, kv, users, last_used });
        if let Some(below) = self.nodes.get_mut(&node) {
            below.parent = Some(above);
        }
        Some(above)
    }

    /// A node for a part of `tokens`, of all of which `kv` has the keys and values.
    fn add(
        &mut self,
        variant: Variant,
        parent: Option<NodeId>,
        part: Range<usize>,
        (tokens, kv): (&[u32], &K),
    ) -> NodeId {
        let (id, last_used) = (self.new_id(), self.clock);
        let (start, tokens, kv) = (part.start, tokens[part.clone()].to_vec(), kv.fork(part.end));
        self.held += tokens.len();
        below_of(&mut self.nodes, &mut self.roots, (variant, parent)).push(id);
        let children = Vec::new();
        self.nodes.insert(id, Node { variant, parent, children, start, tokens, kv, users: 0, last_used });
        id
    }

    fn remove(&mut self, id: NodeId) -> usize {
        let Some(node) = self.nodes.remove(&id) else { return 0 };
        below_of(&mut self.nodes, &mut self.roots, (node.variant, node.parent)).retain(|child| *child != id);
        self.roots.retain(|_, roots| !roots.is_empty());
        self.held -= node.tokens.len();
        node.tokens.len()
    }

    fn new_id(&mut self) -> NodeId {
        self.next_id += 1;
        NodeId(self.next_id)
    }

    fn touch(&mut self, node: NodeId) {
        self.clock += 1;
        let now = self.clock;
        self.each_up_from(node, |node, _| node.last_used = now);
    }

    /// Calls `change` for a node and all above it, with the number of used tokens.
    fn each_up_from(&mut self, node: NodeId, change: impl Fn(&mut Node<K>, &mut usize)) {
        let mut next = Some(node);
        while let Some(node) = next.and_then(|id| self.nodes.get_mut(&id)) {
            change(node, &mut self.used);
            next = node.parent;
        }
    }
}

impl<K> Node<K> {
    fn end(&self) -> usize {
        self.start + self.tokens.len()
    }
}

/// The list that has the children of a node, or without one the roots.
fn below_of<'a, K>(
    nodes: &'a mut HashMap<NodeId, Node<K>>,
    roots: &'a mut HashMap<Variant, Vec<NodeId>>,
    (variant, parent): (Variant, Option<NodeId>),
) -> &'a mut Vec<NodeId> {
    match parent.and_then(|parent| nodes.get_mut(&parent)) {
        Some(parent) => &mut parent.children,
        None => roots.entry(variant).or_default(),
    }
}

/// How many tokens two lists have in common at their beginning.
fn common(one: &[u32], other: &[u32]) -> usize {
    one.iter().zip(other).take_while(|(one, other)| one == other).count()
}

#[cfg(test)]
mod tests;
