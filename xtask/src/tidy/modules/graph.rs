//! Which module names what.

use super::{
    names::{Target, resolve},
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
    pub(super) to: Target,
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
                    let (item, place) = (reference.item.clone(), reference.place.clone());
                    edges.push(Edge { from, item, to, kind: reference.kind, place });
                }
            }
        }
        Self { edges }
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
            Target::Foreign(path) => path.clone(),
        }
    }
}
