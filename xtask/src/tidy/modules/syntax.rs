//! Small questions about syntax.

use syn::{Attribute, Ident, Item, ItemUse, Meta, Path, UseTree, ext::IdentExt as _};

/// An import: what a name in a module stands for.
pub(super) struct Import {
    /// The name it gets here; `None` for `*`.
    pub(super) name: Option<String>,
    /// As of [`segments`], `self` at its end removed.
    pub(super) path: Vec<String>,
    pub(super) line: usize,
}

/// Whether an item is compiled for tests only.
pub(super) fn is_for_tests(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| match &attribute.meta {
        Meta::Path(path) => path.is_ident("test"),
        Meta::List(list) => list.path.is_ident("cfg") && requires_test(&list.tokens.to_string()),
        Meta::NameValue(_) => false,
    })
}

/// `test`, or `all(…)` with it; with `any` or `not` the item may be in other builds too.
fn requires_test(condition: &str) -> bool {
    let is_plain = |text: &str| !text.contains("any") && !text.contains("not");
    let mut words = condition.split(|character: char| !character.is_alphanumeric() && character != '_');
    is_plain(condition) && words.any(|word| word == "test")
}

/// All imports of a `use`.
pub(super) fn imports(item: &ItemUse) -> Vec<Import> {
    let mut found = Vec::new();
    let mut prefix = item.leading_colon.map(|_| String::new()).into_iter().collect();
    collect(&item.tree, &mut prefix, &mut found);
    found
}

fn collect(tree: &UseTree, prefix: &mut Vec<String>, found: &mut Vec<Import>) {
    let mut add = |name: Option<String>, last: Option<&Ident>, line: usize| {
        let mut path = prefix.clone();
        path.extend(last.filter(|it| *it != "self").map(text));
        found.push(Import { name, path, line });
    };
    match tree {
        UseTree::Path(path) => {
            prefix.push(text(&path.ident));
            collect(&path.tree, prefix, found);
            prefix.pop();
        }
        UseTree::Name(name) => {
            let own = (name.ident != "self").then(|| text(&name.ident));
            add(own.or_else(|| prefix.last().cloned()), Some(&name.ident), line(&name.ident));
        }
        UseTree::Rename(rename) => {
            add(Some(text(&rename.rename)), Some(&rename.ident), line(&rename.ident));
        }
        UseTree::Glob(glob) => add(None, None, glob.star_token.spans[0].start().line),
        UseTree::Group(group) => group.items.iter().for_each(|tree| collect(tree, prefix, found)),
    }
}

/// The segments of a path without their arguments, after an empty one if it begins with `::`.
pub(super) fn segments(path: &Path) -> Vec<String> {
    let names = path.segments.iter().map(|segment| text(&segment.ident));
    path.leading_colon.map(|_| String::new()).into_iter().chain(names).collect()
}

/// The name that an item defines in its module's scope, if it is one that others can use.
pub(super) fn defined_name(item: &Item) -> Option<&Ident> {
    match item {
        Item::Const(it) => Some(&it.ident),
        Item::Enum(it) => Some(&it.ident),
        Item::Fn(it) => Some(&it.sig.ident),
        Item::Static(it) => Some(&it.ident),
        Item::Struct(it) => Some(&it.ident),
        Item::Trait(it) => Some(&it.ident),
        Item::TraitAlias(it) => Some(&it.ident),
        Item::Type(it) => Some(&it.ident),
        Item::Union(it) => Some(&it.ident),
        Item::Macro(it) => it.ident.as_ref(),
        _ => None,
    }
}

/// The attributes of an item.
pub(super) fn attributes(item: &Item) -> &[Attribute] {
    match item {
        Item::Const(it) => &it.attrs,
        Item::Enum(it) => &it.attrs,
        Item::ExternCrate(it) => &it.attrs,
        Item::Fn(it) => &it.attrs,
        Item::ForeignMod(it) => &it.attrs,
        Item::Impl(it) => &it.attrs,
        Item::Macro(it) => &it.attrs,
        Item::Mod(it) => &it.attrs,
        Item::Static(it) => &it.attrs,
        Item::Struct(it) => &it.attrs,
        Item::Trait(it) => &it.attrs,
        Item::TraitAlias(it) => &it.attrs,
        Item::Type(it) => &it.attrs,
        Item::Union(it) => &it.attrs,
        Item::Use(it) => &it.attrs,
        _ => &[],
    }
}

/// An identifier without `r#`.
pub(super) fn text(ident: &Ident) -> String {
    ident.unraw().to_string()
}

pub(super) fn line(ident: &Ident) -> usize {
    ident.span().start().line
}
