#![allow(clippy::unwrap_used)]

use artifact_store::Digest;
use proptest::prelude::*;

use super::*;

const BASE: Variant = Variant(None);
const BLOCK: usize = 4;

/// Keys and values are the tokens themselves.
#[derive(Clone, Debug, PartialEq)]
struct Tokens(Vec<u32>);

impl Fork for Tokens {
    fn fork(&self, len: usize) -> Self {
        Self(self.0[..len].to_vec())
    }
}

fn tree() -> Prefixes<Tokens> {
    Prefixes::new(BLOCK)
}

fn insert(tree: &mut Prefixes<Tokens>, tokens: &[u32]) -> Option<(NodeId, usize)> {
    tree.insert(BASE, tokens, &Tokens(tokens.to_vec()))
}

/// Length of the longest prefix that is found, of which the keys and values are the right ones.
fn found(tree: &mut Prefixes<Tokens>, tokens: &[u32]) -> usize {
    let Some(found) = tree.find(BASE, tokens) else { return 0 };
    assert_eq!(tree.resume(found).unwrap().0, tokens[..found.len]);
    found.len
}

#[test]
fn equal_tokens_of_an_adapter_are_others() {
    let mut tree = tree();
    let text = [1, 1, 1, 1, 2, 2, 2, 2];
    let adapters = [b"a", b"b"].map(|name| Variant(Some(Digest::of(name))));
    insert(&mut tree, &text);
    assert_eq!(tree.find(adapters[0], &text), None);
    let (_, known) = tree.insert(adapters[0], &text, &Tokens(text.to_vec())).unwrap();
    assert_eq!((known, tree.held_tokens()), (0, 16));
    assert_eq!(tree.find(adapters[0], &text).map(|found| found.len), Some(8));
    assert_eq!(tree.find(adapters[1], &text), None);
    // What makes room is what was not used for longest, whosever it is.
    found(&mut tree, &text);
    assert_eq!(tree.evict(1), 8);
    assert_eq!((tree.find(adapters[0], &text), found(&mut tree, &text)), (None, 8));
    check(&tree);
}

/// What has to be true of any tree.
fn check(tree: &Prefixes<Tokens>) {
    let (mut held, mut used) = (0, 0);
    for (id, node) in &tree.nodes {
        held += node.tokens.len();
        used += if node.users > 0 { node.tokens.len() } else { 0 };
        assert!(!node.tokens.is_empty() && node.tokens.len() % BLOCK == 0 && node.start % BLOCK == 0);
        assert_eq!((node.kv.0.len(), &node.kv.0[node.start..]), (node.end(), &node.tokens[..]));
        let above = node.parent.map(|parent| &tree.nodes[&parent]);
        assert_eq!(above.map_or(0, Node::end), node.start);
        assert!(above.map_or(&tree.roots[&node.variant], |above| &above.children).contains(id));
        assert!(above.is_none_or(|above| above.variant == node.variant));
        assert!(above.is_none_or(
            |above| above.last_used >= node.last_used && above.kv.0[..] == node.kv.0[..node.start]
        ));
        let below: usize = node.children.iter().map(|child| tree.nodes[child].users).sum();
        assert!(node.users >= below);
        let mut firsts: Vec<_> =
            node.children.iter().map(|child| &tree.nodes[child].tokens[..BLOCK]).collect();
        firsts.sort_unstable();
        firsts.dedup();
        assert_eq!(firsts.len(), node.children.len(), "a block is held once");
    }
    assert_eq!((held, used), (tree.held, tree.used));
}

#[test]
fn whole_blocks_are_kept_and_found_again_to_the_token() {
    let mut tree = tree();
    assert_eq!(insert(&mut tree, &[1, 2, 3]), None);
    let text = [1, 2, 3, 4, 5, 6, 7, 8, 9];
    let (_, known) = insert(&mut tree, &text).unwrap();
    assert_eq!((known, tree.held_tokens()), (0, 8));
    assert_eq!(found(&mut tree, &text), 8);
    assert_eq!(found(&mut tree, &[1, 2, 3, 4, 5, 6, 0]), 6, "inside of a block");
    assert_eq!(found(&mut tree, &[1]), 1);
    assert_eq!(found(&mut tree, &[2, 2, 3, 4]), 0);
    check(&tree);
}

#[test]
fn what_prefixes_have_in_common_is_held_once() {
    let mut tree = tree();
    let one = insert(&mut tree, &[1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3]).unwrap().0;
    tree.hold(one);
    let (other, known) = insert(&mut tree, &[1, 1, 1, 1, 2, 2, 2, 2, 4, 4, 4, 4]).unwrap();
    assert_eq!((known, tree.held_tokens(), tree.used_tokens()), (8, 16, 12));
    tree.hold(other);
    check(&tree);
    assert_eq!(tree.used_tokens(), 16);
    tree.release(one);
    assert_eq!(tree.used_tokens(), 12, "the other one still has the common part");
    let (again, known) = insert(&mut tree, &[1, 1, 1, 1, 2, 2, 2, 2]).unwrap();
    assert_eq!((known, tree.held_tokens()), (8, 16));
    assert!(again != one && again != other);
    check(&tree);
}

#[test]
fn the_least_recently_used_goes_first_and_what_is_in_use_stays() {
    let mut tree = tree();
    let (system, one, two) = ([1; 4], [[1; 4], [2; 4]].concat(), [[1; 4], [3; 4]].concat());
    insert(&mut tree, &system);
    insert(&mut tree, &one);
    let held = insert(&mut tree, &two).unwrap().0;
    tree.hold(held);
    assert_eq!(found(&mut tree, &one), 8);
    assert_eq!(tree.evict(1), 4, "a node goes whole");
    assert_eq!((found(&mut tree, &one), found(&mut tree, &two)), (4, 8));
    assert_eq!(tree.evict(100), 0);
    tree.release(held);
    assert_eq!(tree.evict(100), 8);
    assert_eq!((tree.held_tokens(), tree.used_tokens(), tree.nodes.len(), tree.roots.len()), (0, 0, 0, 0));
}

/// A node that is held, and its prefix.
type Held = (NodeId, Vec<u32>);

proptest! {
    /// Against a list of everything that was ever inserted: what is found was inserted, with its own keys and values;
    /// what is held is never evicted.
    #[test]
    fn the_tree_finds_what_was_kept(
        steps in prop::collection::vec((0..4u8, prop::collection::vec(0..2u32, 0..24)), 1..60),
    ) {
        let mut tree = Prefixes::new(BLOCK);
        let (mut known, mut held): (Vec<Vec<u32>>, Vec<Held>) = Default::default();
        for (step, tokens) in steps {
            let whole = tokens[..tokens.len() / BLOCK * BLOCK].to_vec();
            match step {
                0 | 1 => {
                    if let Some((node, _)) = insert(&mut tree, &tokens) {
                        prop_assert_eq!(found(&mut tree, &tokens) / BLOCK * BLOCK, whole.len());
                        if step == 1 {
                            tree.hold(node);
                            held.push((node, whole.clone()));
                        }
                        known.push(whole);
                    }
                }
                2 => { tree.evict(tokens.len()); }
                _ => if let Some((node, _)) = held.pop() { tree.release(node) },
            }
            check(&tree);
            let longest = known.iter().map(|it| common(it, &tokens)).max().unwrap_or(0);
            prop_assert!(found(&mut tree, &tokens) <= longest);
            for (_, whole) in &held {
                prop_assert_eq!(found(&mut tree, whole), whole.len());
            }
        }
        held.drain(..).for_each(|(node, _)| tree.release(node));
        prop_assert_eq!(tree.used_tokens(), 0);
        tree.evict(usize::MAX);
        prop_assert_eq!((tree.held_tokens(), tree.nodes.len(), tree.roots.len()), (0, 0, 0));
    }
}
