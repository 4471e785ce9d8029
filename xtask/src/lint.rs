//! `cargo xtask lint`: every check that does not run the programs, and those of generated documents.

use anyhow::{Result, bail};

use crate::{docs, process, setup, tidy, workspace::Workspace};

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
    check("docs", &|| docs::check_all(workspace));
    check("rustdoc", &|| {
        let mut doc = workspace.cargo(&["doc", "--workspace", "--no-deps"]);
        doc.env("RUSTDOCFLAGS", "-Dwarnings");
        process::run(doc)
    });
    if !process::succeeds(workspace.cargo(&["deny", "--version"])) {
        eprintln!("lint: deny skipped, cargo-deny is not installed (cargo install --locked cargo-deny)");
    } else {
        let deny = ["deny", "check", "bans", "licenses", "sources"];
        check("deny", &|| process::run(workspace.cargo(&deny)));
        // The database of advisories is downloaded, and a machine without a network is no fault of the code.
        if process::succeeds(workspace.cargo(&["deny", "fetch", "db"])) {
            let advisories = ["deny", "check", "advisories"];
            check("advisories", &|| process::run(workspace.cargo(&advisories)));
        } else {
            eprintln!(
                "lint: advisories skipped, their database cannot be reached (`cargo deny fetch db` says why)"
            );
        }
    }
    if failed.is_empty() {
        eprintln!("lint: all clean");
        return Ok(());
    }
    bail!("lint found something in: {}", failed.join(", "))
}
