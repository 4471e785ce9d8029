//! The paths that code names.

use std::path::{Path, PathBuf};

use proc_macro2::{TokenStream, TokenTree};
use syn::{
    Attribute, Item, ItemUse, Type,
    visit::{self, Visit},
};

use super::syntax::{self, Import, attributes, defined_name, is_for_tests, segments};

/// Where something is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// Relative to the workspace.
    pub(super) file: PathBuf,
    /// From 1.
    pub(super) line: usize,
}

/// A path in a module's code.
pub(super) struct Reference {
    /// The item of the module that it is in: an `impl` belongs to its type. `None` for imports.
    pub(super) item: Option<String>,
    /// The type whose functions it is in, as of [`segments`]; not those of a trait.
    pub(super) implemented: Option<Vec<String>>,
    /// As of [`segments`].
    pub(super) path: Vec<String>,
    pub(super) kind: Kind,
    pub(super) place: Place,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// `use path;`
    Import,
    /// `use path::*;`
    Glob,
    /// In an item.
    Code,
}

impl Reference {
    /// The path of an import.
    pub(super) fn import(import: &Import, place: Place) -> Self {
        let kind = if import.name.is_none() { Kind::Glob } else { Kind::Import };
        Self { item: None, implemented: None, path: import.path.clone(), kind, place }
    }
}

/// All paths in an item other than `use` and `mod`, with those in its macro calls.
pub(super) fn of(item: &Item, file: &Path) -> Vec<Reference> {
    let own_type = match item {
        Item::Impl(it) => match &*it.self_ty {
            Type::Path(path) => Some(segments(&path.path)),
            _ => None,
        },
        _ => None,
    };
    let owner = match &own_type {
        Some(path) => path.first().cloned(),
        None => defined_name(item).map(syntax::text),
    };
    let implemented = own_type.filter(|_| matches!(item, Item::Impl(it) if it.trait_.is_none()));
    let mut search = Search { owner, implemented, file, found: Vec::new() };
    search.visit_item(item);
    search.found
}

struct Search<'a> {
    owner: Option<String>,
    implemented: Option<Vec<String>>,
    file: &'a Path,
    found: Vec<Reference>,
}

impl Search<'_> {
    fn add(&mut self, path: Vec<String>, kind: Kind, line: usize) {
        if !path.is_empty() {
            let place = Place { file: self.file.to_owned(), line };
            let (item, implemented) = (self.owner.clone(), self.implemented.clone());
            self.found.push(Reference { item, implemented, path, kind, place });
        }
    }

    /// Takes what looks like a path: names with `::` between them, and single ones that are types or are called.
    fn add_tokens(&mut self, tokens: TokenStream) {
        let tokens: Vec<TokenTree> = tokens.into_iter().collect();
        let is_punct = |at: usize, wanted: char| matches!(tokens.get(at), Some(TokenTree::Punct(it)) if it.as_char() == wanted);
        let mut at = 0;
        while at < tokens.len() {
            match &tokens[at] {
                TokenTree::Group(group) => self.add_tokens(group.stream()),
                TokenTree::Ident(first) if at == 0 || !is_punct(at - 1, '.') => {
                    let mut path = vec![syntax::text(first)];
                    while is_punct(at + 1, ':')
                        && is_punct(at + 2, ':')
                        && let Some(TokenTree::Ident(next)) = tokens.get(at + 3)
                    {
                        path.push(syntax::text(next));
                        at += 3;
                    }
                    let is_call = matches!(tokens.get(at + 1), Some(TokenTree::Group(_)));
                    if path.len() > 1 || is_call || path[0].starts_with(char::is_uppercase) {
                        self.add(path, Kind::Code, syntax::line(first));
                    }
                }
                _ => {}
            }
            at += 1;
        }
    }
}

impl<'ast> Visit<'ast> for Search<'_> {
    fn visit_item(&mut self, item: &'ast Item) {
        if !is_for_tests(attributes(item)) {
            visit::visit_item(self, item);
        }
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let line = path.segments.first().map_or(1, |segment| syntax::line(&segment.ident));
        self.add(segments(path), Kind::Code, line);
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, call: &'ast syn::Macro) {
        self.add_tokens(call.tokens.clone());
        visit::visit_macro(self, call);
    }

    /// An import inside a function.
    fn visit_item_use(&mut self, item: &'ast ItemUse) {
        for import in syntax::imports(item) {
            let kind = if import.name.is_none() { Kind::Glob } else { Kind::Import };
            self.add(import.path, kind, import.line);
        }
    }

    /// What attributes name are macros and their own words.
    fn visit_attribute(&mut self, _: &'ast Attribute) {}
}
