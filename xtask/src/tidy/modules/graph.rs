//! Which module names what.

use std::collections::BTreeSet;

use super::{
    names::{Target, resolve, resolve_here},
    references::{Kind, Place},
    tree::{Id, Tree},
};

/// All that the modules of a crate name.
pub(super) struct Graph {
    pub(super) edges: Vec<Edge>,
}

/// One module names something.
pub(super) struct Edge {
    pub(super) from: Id,
    /// The item of `from` that does.
    pub(super) item: Option<String>,
    /// Whether it is a function of a type that names this type.
    pub(super) is_own_type: bool,
    pub(super) to: Target,
    /// The path of the same where it was found: there it may be a re-export.
    pub(super) written: Vec<String>,
    pub(super) kind: Kind,
    pub(super) place: Place,
}

impl Graph {
    pub(super) fn of(tree: &Tree) -> Self {
        let mut edges = Vec::new();
        for (from, module) in tree.modules.iter().enumerate() {
            for reference in &module.references {
                let to = resolve(tree, from, &reference.path);
                // A single name in code that would be a module is a variable.
                let is_variable = reference.kind == Kind::Code
                    && reference.path.len() == 1
                    && matches!(to, Target::Own { item: None, .. });
                if !is_variable {
                    let own = reference.implemented.as_ref().map(|path| resolve(tree, from, path));
                    let is_own_type = own.is_some_and(|own| own == to);
                    let (item, place) = (reference.item.clone(), reference.place.clone());
                    let written = tree.path_of(&resolve_here(tree, from, &reference.path));
                    edges.push(Edge { from, item, is_own_type, to, written, kind: reference.kind, place });
                }
            }
        }
        Self { edges }
    }

    /// Without the imports of what is also named where it is used. Left are those of traits, whose functions are called
    /// without a name.
    pub(super) fn uses(&self) -> impl Iterator<Item = &Edge> {
        let in_code = self.edges.iter().filter(|edge| edge.kind == Kind::Code);
        let named: BTreeSet<_> = in_code.map(|edge| (edge.from, &edge.to)).collect();
        let is_named = move |edge: &&Edge| edge.kind != Kind::Code && named.contains(&(edge.from, &edge.to));
        self.edges.iter().filter(move |edge| !is_named(edge))
    }
}

impl Tree {
    /// The path of what `target` names: `crate::a::B`, or another crate's.
    pub(super) fn path_of(&self, target: &Target) -> Vec<String> {
        match target {
            Target::Own { module, item } => {
                let mut path = vec!["crate".to_owned()];
                path.extend(self.modules[*module].path.iter().cloned());
                path.extend(item.clone());
                path
            }
            Target::Foreign { path, .. } => path.clone(),
        }
    }
}
