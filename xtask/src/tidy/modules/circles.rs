//! Modules that name each other in a circle.
//!
//! What is a circle is decided for each module and its children. Each child, with everything below it, is one node.
//! So is each item that stands in the parent's own file. An edge goes from the code that names something to where that
//! is defined. Re-exports are looked through: `pub use` in a parent adds no edge, and importing what a parent
//! re-exports is an edge to the child that defines it.
//!
//! Therefore a parent may put its children together, and children may use a type that stands in their parent's file. It
//! is a circle if that type (its fields, functions and `impl`s in the parent's file) names the child in turn: neither can
//! be understood without the other then. Circles among the items of one file are left alone.
//!
//! The functions of a type may be divided among files: an `impl` that adds functions to another module's type makes no
//! edge to this type. What the functions name beyond it does.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::{
    super::Finding,
    graph::{Edge, Graph},
    names::Target,
    references::{Kind, Place},
    tree::{Id, Tree},
};

/// One finding for each set of modules that name each other.
pub(super) fn check(tree: &Tree, graph: &Graph) -> Vec<Finding> {
    let parents = (0..tree.modules.len()).filter(|&id| !tree.modules[id].children.is_empty());
    parents.flat_map(|parent| Level::new(tree, graph, parent).check()).collect()
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Node {
    Child(Id),
    Item(String),
}

/// A module and its children.
struct Level<'a> {
    tree: &'a Tree,
    parent: Id,
    /// Who names whom, and where first.
    edges: BTreeMap<Node, BTreeMap<Node, Place>>,
}

impl<'a> Level<'a> {
    fn new(tree: &'a Tree, graph: &Graph, parent: Id) -> Self {
        let mut level = Self { tree, parent, edges: BTreeMap::new() };
        for edge in graph.uses().filter(|edge| !edge.is_own_type) {
            if let Some((from, to)) = level.nodes(edge)
                && from != to
            {
                let places = level.edges.entry(from).or_default();
                places.entry(to).or_insert_with(|| edge.place.clone());
            }
        }
        level
    }

    fn nodes(&self, edge: &Edge) -> Option<(Node, Node)> {
        let Target::Own { module, item: Some(item) } = &edge.to else {
            // Importing a module names nothing in it; the code that goes on from there does.
            return None;
        };
        let from = match self.child_with(edge.from) {
            Some(child) => Node::Child(child),
            None if edge.from == self.parent && edge.kind == Kind::Code => Node::Item(edge.item.clone()?),
            None => return None,
        };
        let to = match self.child_with(*module) {
            Some(child) => Node::Child(child),
            None if *module == self.parent => Node::Item(item.clone()),
            None => return None,
        };
        Some((from, to))
    }

    /// The child of this level's parent that `module` is, or is in.
    fn child_with(&self, mut module: Id) -> Option<Id> {
        loop {
            let above = self.tree.modules[module].parent?;
            if above == self.parent {
                return Some(module);
            }
            module = above;
        }
    }

    fn check(&self) -> Vec<Finding> {
        let mut findings = Vec::new();
        let mut told = BTreeSet::new();
        for start in self.edges.keys().filter(|node| matches!(node, Node::Child(_))) {
            if told.contains(start) {
                continue;
            }
            let members = self.named_by_each_other(start);
            if let Some(circle) = self.shortest_circle(start) {
                findings.extend(self.finding(&circle, &members));
            }
            told.extend(members);
        }
        findings
    }

    fn successors(&self, node: &Node) -> impl Iterator<Item = &Node> {
        self.edges.get(node).into_iter().flat_map(BTreeMap::keys)
    }

    /// Everything that `node` reaches and that reaches `node`, with `node`.
    fn named_by_each_other(&self, node: &Node) -> BTreeSet<Node> {
        let reached = self.reached(node);
        reached.iter().filter(|other| self.reached(other).contains(node)).cloned().collect()
    }

    fn reached(&self, start: &Node) -> BTreeSet<Node> {
        let mut reached = BTreeSet::from([start.clone()]);
        let mut open = vec![start];
        while let Some(node) = open.pop() {
            open.extend(self.successors(node).filter(|next| reached.insert((*next).clone())));
        }
        reached
    }

    /// From `start` back to `start`; both ends are in it.
    fn shortest_circle(&self, start: &Node) -> Option<Vec<Node>> {
        let mut queue = VecDeque::from([vec![start.clone()]]);
        let mut seen = BTreeSet::new();
        while let Some(way) = queue.pop_front() {
            for next in self.successors(way.last()?) {
                let longer: Vec<Node> = way.iter().chain([next]).cloned().collect();
                if next == start {
                    return Some(longer);
                }
                if seen.insert(next.clone()) {
                    queue.push_back(longer);
                }
            }
        }
        None
    }

    fn finding(&self, circle: &[Node], members: &BTreeSet<Node>) -> Option<Finding> {
        let place = |pair: &[Node]| self.edges.get(&pair[0])?.get(&pair[1]);
        let steps = circle.windows(2).filter_map(|pair| {
            let place = place(pair)?;
            let (file, line) = (place.file.display(), place.line);
            Some(format!("{} names {} ({file}:{line})", self.show(&pair[0]), self.show(&pair[1])))
        });
        let steps: Vec<String> = steps.collect();
        let mut message = format!("a circle: {}", steps.join(", "));
        if members.len() + 1 > circle.len() {
            let all: Vec<String> = members.iter().map(|node| self.show(node)).collect();
            message += &format!("; with more such, all of these are bound together: {}", all.join(", "));
        }
        message += "; move what both need to a module that both may name, or hand it over as an argument";
        let place = place(circle.get(..2)?)?;
        Some(Finding::new(&place.file, place.line, message))
    }

    fn show(&self, node: &Node) -> String {
        match node {
            Node::Child(id) => self.tree.name(*id),
            Node::Item(name) => format!("{}::{name}", self.tree.name(self.parent)),
        }
    }
}
