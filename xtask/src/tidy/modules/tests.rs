use std::fs;

use anyhow::Result;
use tempfile::TempDir;

use super::{
    super::Finding,
    check,
    graph::Graph,
    layers,
    rules::{Limit, Rule},
    targets,
    tree::Tree,
};

/// A workspace with one crate.
struct Crate {
    name: &'static str,
    root: TempDir,
}

impl Crate {
    /// Writes `files`, whose paths are below `src`.
    fn new(name: &'static str, files: &[(&str, &str)]) -> Result<Self> {
        // Without links in its path, since the files of `#[path]` have none.
        let root = tempfile::tempdir_in(std::env::temp_dir().canonicalize()?)?;
        for (file, text) in files {
            let path = root.path().join("src").join(file);
            fs::create_dir_all(path.parent().unwrap_or(root.path()))?;
            fs::write(path, text)?;
        }
        Ok(Self { name, root })
    }

    fn tree(&self) -> Result<Tree> {
        Tree::read(self.name, &self.root.path().join("src/lib.rs"), self.root.path())
    }

    fn findings(&self) -> Result<Vec<Finding>> {
        Ok(check(&self.tree()?))
    }

    fn places(&self) -> Result<Vec<String>> {
        let place = |it: Finding| format!("{}:{}", it.file.display(), it.line);
        Ok(self.findings()?.into_iter().map(place).collect())
    }
}

/// Where the rules are broken in a crate `name` of these files.
fn places(name: &'static str, files: &[(&str, &str)]) -> Result<Vec<String>> {
    Crate::new(name, files)?.places()
}

/// A gateway in order; tests add to it.
const GATEWAY: &[(&str, &str)] = &[
    ("lib.rs", "pub mod http;\npub mod serve;\npub mod fleet;\npub mod worker;\n"),
    ("http/mod.rs", "mod openai;\nmod error;\npub use error::HttpError;\n"),
    ("http/openai/mod.rs", "mod chat;\n"),
    (
        "http/openai/chat.rs",
        "use super::super::HttpError;\nuse crate::serve::Permit;\nfn f(_: Permit) -> HttpError { HttpError }\n",
    ),
    ("http/error.rs", "pub struct HttpError;\n"),
    ("serve/mod.rs", "mod admission;\npub use admission::Permit;\n"),
    ("serve/admission.rs", "use crate::fleet::Registry;\npub struct Permit(Registry);\n"),
    ("fleet/mod.rs", "mod registry;\npub use self::registry::Registry;\n"),
    ("fleet/registry.rs", "use crate::worker::Id;\npub struct Registry(Id);\n"),
    ("worker/mod.rs", "pub struct Id;\n"),
];

fn gateway_with(files: &[(&'static str, &'static str)]) -> Result<Vec<String>> {
    let kept = GATEWAY.iter().filter(|(path, _)| files.iter().all(|(other, _)| other != path));
    places("gateway", &kept.chain(files).copied().collect::<Vec<_>>())
}

#[test]
fn a_crate_in_order_is_clean() -> Result<()> {
    assert_eq!(gateway_with(&[])?, [""; 0]);
    Ok(())
}

#[test]
fn a_lower_layer_that_names_a_higher_one_is_refused_however_it_is_written() -> Result<()> {
    for (text, line) in [
        ("use crate::serve::Permit;\npub struct Id(Permit);\n", 1),
        ("\nuse super::{fleet, serve::{self, Permit as P}};\npub struct Id(P);\n", 2),
        ("pub struct Id;\nfn f() { crate::serve::admission::start() }\n", 2),
        ("pub struct Id;\nfn f() {\n    use crate::{serve::*};\n}\n", 3),
        ("pub struct Id;\nfn f() { assert!(crate::serve::is_open()) }\n", 2),
        ("pub struct Id;\nmod deep {\n    use super::super::serve::Permit;\n}\n", 3),
        ("pub struct Id;\nuse crate as me;\nfn f(_: me::serve::Permit) {}\n", 3),
    ] {
        let found = gateway_with(&[("worker/mod.rs", text)])?;
        assert!(found.contains(&format!("src/worker/mod.rs:{line}")), "{text}: {found:?}");
    }
    Ok(())
}

#[test]
fn a_reexport_hides_nothing() -> Result<()> {
    // `serve` passes the worker's type on, which `http` may not name.
    let found = gateway_with(&[
        ("serve/mod.rs", "mod admission;\npub use admission::Permit;\npub use crate::worker::Id;\n"),
        ("http/error.rs", "use crate::serve::Id;\npub struct HttpError(Id);\n"),
    ])?;
    assert_eq!(found, ["src/http/error.rs:1"]);
    Ok(())
}

#[test]
fn the_finding_names_the_rule_and_the_reason() -> Result<()> {
    let files = [("lib.rs", "mod config { fn f() { crate::worker::x() } }\nmod worker { pub fn x() {} }\n")];
    let findings = Crate::new("gateway", &files)?.findings()?;
    let [finding] = &findings[..] else { panic!("{findings:?}") };
    let text = finding.to_string();
    assert!(text.starts_with("src/lib.rs:1: `crate::worker::x` is named here"), "{text}");
    assert!(
        text.contains("crate::config is below it (assembly > shutdown > reload > http > serve"),
        "{text}"
    );
    assert!(text.contains("tested, without what is above"), "{text}");
    Ok(())
}

#[test]
fn dialects_stay_apart() -> Result<()> {
    let files = [
        ("http/mod.rs", "mod openai;\nmod ollama;\nmod error;\npub use error::HttpError;\n"),
        ("http/ollama/mod.rs", "use super::openai::chat::f;\nfn g() { f() }\n"),
    ];
    assert_eq!(gateway_with(&files)?, ["src/http/ollama/mod.rs:1"]);
    Ok(())
}

#[test]
fn tests_may_name_anything() -> Result<()> {
    let text = "pub struct Id;\n#[cfg(test)]\nuse crate::serve::Permit;\n\
                #[cfg(all(test, unix))]\nmod tests { use crate::http::HttpError; }\n\
                #[test]\nfn f() { crate::serve::start() }\n#[cfg(test)]\nmod missing;\n";
    assert_eq!(gateway_with(&[("worker/mod.rs", text)])?, [""; 0]);
    // What is built otherwise, too, is no test.
    let text = "pub struct Id;\n#[cfg(not(test))]\nuse crate::serve::Permit;\n#[cfg(any(test, fuzzing))]\nuse crate::fleet::Registry;\n";
    assert_eq!(
        gateway_with(&[("worker/mod.rs", text)])?,
        ["src/worker/mod.rs:3", "src/worker/mod.rs:5", "src/serve/admission.rs:2"]
    );
    Ok(())
}

#[test]
fn the_worker_s_tensors_and_kernels_are_where_they_belong() -> Result<()> {
    let files = [
        ("lib.rs", "mod model;\nmod backend;\nmod schedule;\nmod engine;\n"),
        ("engine.rs", "pub struct Engine;\n"),
        ("schedule.rs", "use mlx_rs::{Array, ops as o};\nfn f(_: Array) {}\n"),
        ("model/mod.rs", "mod arch;\nmod layers;\npub mod error;\npub use error::ModelError;\n"),
        ("model/error.rs", "pub struct ModelError;\n"),
        ("model/arch/mod.rs", "mod llama;\n"),
        (
            "model/arch/llama.rs",
            "use crate::{engine::Engine, model::{ModelError, layers::{Mlp, Kernel}}};\nuse crate::backend::cpu;\n\
             fn f(_: Engine, _: ModelError, _: Mlp, _: Kernel) { cpu::g() }\n",
        ),
        (
            "model/layers.rs",
            "use crate::backend;\nuse mlx_rs::fast;\npub use backend::Kernel;\npub struct Mlp(backend::Kernel);\nfn f() { fast::rope() }\n",
        ),
        ("backend/mod.rs", "pub mod cpu;\nmod mlx;\npub struct Kernel;\n"),
        ("backend/cpu.rs", "use mlx_ext::cpu;\npub fn g() { cpu::linear(); ::mlx_rs::fast::rope() }\n"),
        ("backend/mlx.rs", "use mlx_rs::fast::*;\nfn f() { mlx_ext::cpu::attention() }\n"),
    ];
    let mut found = places("worker", &files)?;
    found.sort();
    assert_eq!(
        found,
        [
            "src/backend/cpu.rs:2",
            "src/backend/mlx.rs:2",
            "src/model/arch/llama.rs:1",
            "src/model/arch/llama.rs:2",
            "src/model/layers.rs:2",
            "src/schedule.rs:1",
        ]
    );
    Ok(())
}

#[test]
fn siblings_in_a_circle_are_refused_whatever_their_depth() -> Result<()> {
    let files = [
        ("lib.rs", "mod a;\nmod b;\nmod c;\n"),
        ("a.rs", "mod inner;\npub struct A;\n"),
        ("a/inner.rs", "use crate::b::B;\npub struct Inner(B);\n"),
        ("b.rs", "use crate::c;\npub struct B(c::C);\n"),
        ("c/mod.rs", "\nuse super::a::A;\npub struct C(A);\n"),
    ];
    let findings = Crate::new("any", &files)?.findings()?;
    let [finding] = &findings[..] else { panic!("{findings:?}") };
    for step in ["a names b (src/a/inner.rs:2)", "b names c (src/b.rs:2)", "c names a (src/c/mod.rs:3)"] {
        assert!(finding.message.contains(step), "{finding}");
    }
    Ok(())
}

#[test]
fn a_parent_may_use_its_children_and_they_its_types() -> Result<()> {
    let files = [
        ("lib.rs", "mod link;\n"),
        (
            "link.rs",
            "mod send;\npub use send::Sender;\npub struct Error;\nfn start(_: Sender) -> Error { Error }\n",
        ),
        ("link/send.rs", "use super::Error;\npub struct Sender(Error);\n"),
    ];
    assert_eq!(places("any", &files)?, [""; 0]);
    Ok(())
}

#[test]
fn a_child_that_uses_what_uses_the_child_is_a_circle() -> Result<()> {
    for parent in [
        "mod send;\npub struct Link(send::Sender);\n",
        "mod send;\nuse send::Sender;\npub struct Link;\nimpl Link { fn f(&self) -> Vec<Sender> { vec![] } }\n",
        "mod send;\npub struct Link;\nimpl Link { fn f(&self) { debug!(\"{:?}\", send::Sender::new()) } }\n",
    ] {
        let files = [
            ("lib.rs", "mod link;\n"),
            ("link.rs", parent),
            ("link/send.rs", "use super::Link;\npub struct Sender(Link);\n"),
        ];
        let findings = Crate::new("any", &files)?.findings()?;
        assert_eq!(findings.len(), 1, "{parent}: {findings:?}");
        assert!(findings[0].message.contains("link::send names link::Link"), "{}", findings[0]);
    }
    Ok(())
}

#[test]
fn the_functions_of_a_type_may_be_divided() -> Result<()> {
    let lib = "mod store;\nmod lock;\npub use store::Store;\n";
    let store = "use crate::lock::Lock;\npub struct Store(Lock);\n";
    for (lock, circles) in [
        ("use crate::Store;\npub struct Lock;\nimpl Store { fn lock(&self) -> Store { Store(Lock) } }\n", 0),
        ("use crate::Store;\npub struct Lock;\nimpl Store { fn lock(&self) {} }\nfn f(_: Store) {}\n", 1),
        ("use crate::Store;\npub struct Lock;\nimpl Drop for Store { fn drop(&mut self) {} }\n", 1),
    ] {
        let files = [("lib.rs", lib), ("store.rs", store), ("lock.rs", lock)];
        assert_eq!(places("any", &files)?.len(), circles, "{lock}");
    }
    Ok(())
}

#[test]
fn a_trait_that_is_imported_for_its_functions_counts() -> Result<()> {
    let files = [
        ("lib.rs", "mod a;\nmod b;\n"),
        ("a.rs", "use crate::b::T as _;\npub struct A;\nfn f(x: u8) { x.call() }\n"),
        ("b.rs", "use crate::a::A;\npub trait T { fn call(&self) -> A; }\n"),
    ];
    assert_eq!(places("any", &files)?, ["src/a.rs:1"]);
    Ok(())
}

#[test]
fn what_a_module_passes_on_is_named_there_alone() -> Result<()> {
    let files = [
        ("lib.rs", "mod backend;\nmod startup;\nmod schedule;\n"),
        ("backend/mod.rs", "mod cpu;\npub use cpu::KvDtype;\npub use mlx_rs::Array;\n"),
        ("backend/cpu.rs", "pub use mlx_ext::cpu::KvDtype;\n"),
        ("startup.rs", "use crate::backend::KvDtype;\nfn f(_: KvDtype) {}\n"),
        ("schedule.rs", "use crate::backend::Array;\nfn f(_: Array) {}\n"),
    ];
    // That scheduling knows no tensor does not depend on where it has it from.
    assert_eq!(places("worker", &files)?, ["src/schedule.rs:1"]);
    Ok(())
}

#[test]
fn modules_that_are_bound_together_are_told_once() -> Result<()> {
    let files = [
        ("lib.rs", "mod a;\nmod b;\nmod c;\n"),
        ("a.rs", "use crate::b::B;\npub struct A(B);\n"),
        ("b.rs", "use crate::{a::A, c::C};\npub struct B(A, C);\n"),
        ("c.rs", "use crate::b::B;\npub struct C(B);\n"),
    ];
    let findings = Crate::new("any", &files)?.findings()?;
    let [finding] = &findings[..] else { panic!("{findings:?}") };
    assert!(finding.message.contains("bound together: a, b, c"), "{finding}");
    Ok(())
}

#[test]
fn names_of_variables_and_of_other_crates_are_not_modules() -> Result<()> {
    let files = [
        ("lib.rs", "mod config;\nmod bytes;\nfn f() { let config = 1; g(config) }\nfn g(_: u8) {}\n"),
        ("config.rs", "use ::bytes::Bytes;\npub fn h(bytes: u8) { println!(\"{}\", bytes) }\n"),
        ("bytes.rs", "use crate::config::h;\nfn f() { h(1) }\n"),
    ];
    assert_eq!(places("any", &files)?, [""; 0]);
    Ok(())
}

#[test]
fn imports_that_name_each_other_end() -> Result<()> {
    let files = [
        ("lib.rs", "mod a;\nmod b;\nuse libc;\nfn f() { libc::exit(0) }\n"),
        ("a.rs", "pub use crate::b::*;\npub use crate::b::X;\nfn f(_: Y) {}\n"),
        ("b.rs", "pub use crate::a::*;\npub use crate::a::X;\n"),
    ];
    Crate::new("any", &files)?.findings()?;
    Ok(())
}

#[test]
fn modules_are_found_where_rust_finds_them() -> Result<()> {
    let files = [
        (
            "lib.rs",
            "mod a;\n#[path = \"else/where.rs\"]\nmod b;\nmod c { mod d; }\n#[cfg(windows)]\nmod absent;\n",
        ),
        ("a.rs", "mod inner;\n"),
        ("a/inner.rs", ""),
        ("else/where.rs", "mod beside;\n"),
        ("else/beside.rs", ""),
        ("c/d/mod.rs", ""),
    ];
    let tree = Crate::new("any", &files)?.tree()?;
    let mut names: Vec<String> = (0..tree.modules.len()).map(|id| tree.name(id)).collect();
    names.sort();
    assert_eq!(names, ["a", "a::inner", "b", "b::beside", "c", "c::d", "crate"]);
    Ok(())
}

#[test]
fn paths_that_do_not_exist_break_no_rule() -> Result<()> {
    let rules = [
        Rule { krate: "any", limit: Limit::Layers(&["crate::x", "crate::y"]), why: "" },
        Rule { krate: "any", limit: Limit::Only { of: "crate::x", what: &["crate::y"] }, why: "" },
        Rule { krate: "any", limit: Limit::Reserved { what: "x::y", by: &["crate::x"] }, why: "" },
    ];
    let tree = Crate::new("any", &[("lib.rs", "mod a;\n"), ("a.rs", "fn f() {}\n")])?.tree()?;
    assert!(layers::check(&tree, &Graph::of(&tree), &rules).is_empty());
    Ok(())
}

#[test]
fn libraries_and_programs_of_members_are_looked_at() {
    let package = |source: Option<&str>| {
        serde_json::json!({
            "name": "a", "source": source,
            "targets": [
                { "kind": ["lib"], "src_path": "/a/src/lib.rs" }, { "kind": ["bin"], "src_path": "/a/src/main.rs" },
                { "kind": ["test"], "src_path": "/a/tests/t.rs" },
            ],
        })
    };
    let metadata = serde_json::json!({ "packages": [package(None), package(Some("registry"))] });
    let found: Vec<String> =
        targets(&metadata).into_iter().flatten().map(|(_, path)| path.display().to_string()).collect();
    assert_eq!(found, ["/a/src/lib.rs", "/a/src/main.rs"]);
}
