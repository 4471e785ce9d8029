//! The modules of a crate, as `mod` declarations make them.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use syn::{Expr, Item, ItemMod, Lit, Meta};

use super::{
    super::relative,
    references::{self, Place, Reference},
    syntax::{attributes, defined_name, imports, is_for_tests, text},
};

/// A module's place in [`Tree::modules`].
pub(super) type Id = usize;

/// A crate.
pub(super) struct Tree {
    /// Its package's name.
    pub(super) krate: String,
    /// The root is the first; parents stand before their children.
    pub(super) modules: Vec<Module>,
}

/// What is known of one module.
pub(super) struct Module {
    /// Names from the root, which has none.
    pub(super) path: Vec<String>,
    pub(super) parent: Option<Id>,
    pub(super) children: BTreeMap<String, Id>,
    /// Names of its own functions, types and so on.
    pub(super) items: Vec<String>,
    /// What imported names stand for, as written.
    pub(super) imports: BTreeMap<String, Vec<String>>,
    /// Paths whose names are all imported.
    pub(super) globs: Vec<Vec<String>>,
    /// All paths that its code names.
    pub(super) references: Vec<Reference>,
}

/// Where a module's code is.
struct Source {
    file: PathBuf,
    /// Where its children's files are.
    folder: PathBuf,
}

impl Tree {
    /// Reads the crate whose root file is `entry`, and all files that it declares.
    pub(super) fn read(krate: &str, entry: &Path, workspace: &Path) -> Result<Self> {
        let mut tree = Self { krate: krate.to_owned(), modules: Vec::new() };
        let folder = entry.parent().unwrap_or(workspace).to_owned();
        let source = Source { file: entry.to_owned(), folder };
        let root = tree.add(None, None);
        let items = parse(&source.file)?;
        tree.fill(root, &items, &source, workspace)?;
        Ok(tree)
    }

    /// The module's path as Rust writes it.
    pub(super) fn name(&self, id: Id) -> String {
        match self.modules[id].path.join("::") {
            path if path.is_empty() => "crate".to_owned(),
            path => path,
        }
    }

    fn add(&mut self, parent: Option<Id>, name: Option<&str>) -> Id {
        let id = self.modules.len();
        let mut path = parent.map(|parent| self.modules[parent].path.clone()).unwrap_or_default();
        path.extend(name.map(str::to_owned));
        let (children, imports) = Default::default();
        let (items, globs, references) = Default::default();
        self.modules.push(Module { path, parent, children, items, imports, globs, references });
        id
    }

    /// The child `name` of `parent`. Two declarations under different `cfg` are one module.
    fn child(&mut self, parent: Id, name: &str) -> Id {
        if let Some(&id) = self.modules[parent].children.get(name) {
            return id;
        }
        let id = self.add(Some(parent), Some(name));
        self.modules[parent].children.insert(name.to_owned(), id);
        id
    }

    fn fill(&mut self, id: Id, items: &[Item], source: &Source, workspace: &Path) -> Result<()> {
        let file = relative(&source.file, workspace)?;
        for item in items.iter().filter(|item| !is_for_tests(attributes(item))) {
            if let Item::Mod(declaration) = item {
                self.declare(id, declaration, source, workspace)?;
                continue;
            }
            let module = &mut self.modules[id];
            module.items.extend(defined_name(item).map(text));
            if let Item::Use(it) = item {
                for import in imports(it) {
                    let place = Place { file: file.to_owned(), line: import.line };
                    module.references.push(Reference::import(&import, place));
                    match import.name {
                        Some(name) if name != "_" => drop(module.imports.insert(name, import.path)),
                        Some(_) => {}
                        None => module.globs.push(import.path),
                    }
                }
            } else {
                module.references.extend(references::of(item, file));
            }
        }
        Ok(())
    }

    fn declare(&mut self, parent: Id, it: &ItemMod, source: &Source, workspace: &Path) -> Result<()> {
        let name = text(&it.ident);
        let folder = source.folder.join(&name);
        if let Some((_, items)) = &it.content {
            let id = self.child(parent, &name);
            let source = Source { file: source.file.clone(), folder };
            return self.fill(id, items, &source, workspace);
        }
        let Some(source) = find(&name, it, source) else {
            // Another build may make it. If it should be here, the compiler says so.
            return Ok(());
        };
        let items = parse(&source.file)?;
        let id = self.child(parent, &name);
        self.fill(id, &items, &source, workspace)
    }
}

/// The file of `mod name;`, which stands in `parent`.
fn find(name: &str, declaration: &ItemMod, parent: &Source) -> Option<Source> {
    if let Some(path) = path_attribute(declaration) {
        let file = parent.file.parent()?.join(path);
        // Without `..`, so that it is seen to be in the workspace.
        let file = file.canonicalize().ok()?;
        let folder = file.parent()?.to_owned();
        return Some(Source { file, folder });
    }
    let folder = parent.folder.join(name);
    let candidates = [parent.folder.join(format!("{name}.rs")), folder.join("mod.rs")];
    let file = candidates.into_iter().find(|file| file.is_file())?;
    Some(Source { file, folder })
}

fn path_attribute(declaration: &ItemMod) -> Option<PathBuf> {
    declaration.attrs.iter().find_map(|attribute| match &attribute.meta {
        Meta::NameValue(meta) if meta.path.is_ident("path") => match &meta.value {
            Expr::Lit(it) => match &it.lit {
                Lit::Str(text) => Some(PathBuf::from(text.value())),
                _ => None,
            },
            _ => None,
        },
        _ => None,
    })
}

fn parse(file: &Path) -> Result<Vec<Item>> {
    let text = fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    let parsed = syn::parse_file(&text).with_context(|| format!("cannot parse {}", file.display()))?;
    Ok(parsed.items)
}
