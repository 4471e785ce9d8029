//! What a path means.

use super::tree::{Id, Tree};

/// What a path names.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Target {
    /// A module of the crate, or an item where it is defined, however it was imported.
    Own { module: Id, item: Option<String> },
    /// A path into another crate, and the module that wrote it: others may have it from there. It may also be a name
    /// that only a function or a macro knows.
    Foreign { path: Vec<String>, named_in: Id },
}

/// Imports of imports that are followed. What needs more is a circle of imports.
const DEPTH: usize = 16;

/// What `path` names in the code of `module`.
pub(super) fn resolve(tree: &Tree, module: Id, path: &[String]) -> Target {
    Names { tree, imports_of: None }.resolve(module, path, DEPTH)
}

/// The same without a look through the imports of other modules.
pub(super) fn resolve_here(tree: &Tree, module: Id, path: &[String]) -> Target {
    Names { tree, imports_of: Some(module) }.resolve(module, path, DEPTH)
}

struct Names<'a> {
    tree: &'a Tree,
    /// The one module whose imports are followed; `None`: all.
    imports_of: Option<Id>,
}

impl Names<'_> {
    fn resolve(&self, module: Id, path: &[String], depth: usize) -> Target {
        match path.first().map(String::as_str) {
            Some("") => Target::Foreign { path: path[1..].to_vec(), named_in: module },
            Some("crate") => self.walk(0, &path[1..], depth),
            None | Some("self" | "super") => self.walk(module, path, depth),
            Some(_) => self
                .find(module, path, depth)
                .unwrap_or_else(|| Target::Foreign { path: path.to_vec(), named_in: module }),
        }
    }

    /// What `rest` names below `module`.
    fn walk(&self, module: Id, rest: &[String], depth: usize) -> Target {
        match rest.first().map(String::as_str) {
            None => Target::Own { module, item: None },
            Some("self") => self.walk(module, &rest[1..], depth),
            Some("super") => {
                self.walk(self.tree.modules[module].parent.unwrap_or_default(), &rest[1..], depth)
            }
            // A macro may have defined what is not found.
            Some(name) => self
                .find(module, rest, depth)
                .unwrap_or_else(|| Target::Own { module, item: Some(name.to_owned()) }),
        }
    }

    /// What `path` names, if its first name is in the scope of `module`.
    fn find(&self, id: Id, path: &[String], depth: usize) -> Option<Target> {
        let module = &self.tree.modules[id];
        let (name, rest) = path.split_first()?;
        let is_item = module.items.contains(name);
        // A function may have a module's name; more segments tell them apart.
        if let Some(&child) = module.children.get(name)
            && !(is_item && rest.is_empty())
        {
            return Some(self.walk(child, rest, depth));
        }
        if is_item {
            return Some(Target::Own { module: id, item: Some(name.clone()) });
        }
        if self.imports_of.is_some_and(|it| it != id) {
            return None;
        }
        let depth = depth.checked_sub(1)?;
        if let Some(import) = module.imports.get(name) {
            // `use bytes;` is not what `bytes` stands for.
            let is_itself = import.len() == 1 && import[0] == *name;
            let path = [import, rest].concat();
            if is_itself {
                return Some(Target::Foreign { path, named_in: id });
            }
            return Some(self.resolve(id, &path, depth));
        }
        module.globs.iter().find_map(|glob| match self.resolve(id, glob, depth) {
            Target::Own { module, item: None } if module != id => self.find(module, path, depth),
            _ => None,
        })
    }
}
