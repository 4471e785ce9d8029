//! `cargo xtask lint`: everything that can be said of the code without running it.

use anyhow::{Result, bail};

use crate::{process, setup, tidy, workspace::Workspace};

/// Runs all checks, the quick ones first, and names those that failed.
pub(crate) fn run(workspace: &Workspace) -> Result<()> {
    // clippy and rustdoc compile mlx-sys, which needs the set-up.
    setup::run(workspace)?;
    let mut failed = Vec::new();
    let mut check = |name: &'static str, run: &dyn Fn() -> Result<()>| {
        eprintln!("lint: {name}");
        if let Err(error) = run() {
            eprintln!("{error:#}");
            failed.push(name);
        }
    };
    check("fmt", &|| process::run(workspace.cargo(&["fmt", "--all", "--check"])));
    check("tidy", &|| tidy::run(workspace));
    check("clippy", &|| {
        process::run(workspace.cargo(&["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]))
    });
    check("doc", &|| {
        let mut doc = workspace.cargo(&["doc", "--workspace", "--no-deps"]);
        doc.env("RUSTDOCFLAGS", "-Dwarnings");
        process::run(doc)
    });
    if process::succeeds(workspace.cargo(&["deny", "--version"])) {
        check("deny", &|| process::run(workspace.cargo(&["deny", "check"])));
    } else {
        eprintln!("lint: deny skipped, cargo-deny is not installed (cargo install --locked cargo-deny)");
    }
    if failed.is_empty() {
        eprintln!("lint: all clean");
        return Ok(());
    }
    bail!("lint found something in: {}", failed.join(", "))
}
