//! `cargo xtask test`: every test, with real binaries and a real model.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

use crate::{
    binaries::Binaries,
    model::{self, Store},
    process, references, setup,
    workspace::Workspace,
};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Arguments for `cargo test`, such as `-p gateway` or a test's name; without any, all tests run, loom's and the
    /// kernels' in C++ too.
    #[arg(last = true)]
    arguments: Vec<String>,
}

/// Sets up, builds, provides the model, tests.
pub(crate) fn run(workspace: &Workspace, args: &Args) -> Result<()> {
    setup::run(workspace)?;
    // With the tests in one call, so that both share every dependency; apart, cargo would build some twice, with other
    // features. Not optimized: what is slow without (MLX, our kernels, hashing) is optimized in every profile, and
    // another minute of link-time optimization would not come back.
    let binaries = Binaries::build(workspace, &["build", "--workspace", "--bins", "--tests"])?;
    let store = workspace.mlx().join("test-store");
    Store::new(&binaries.cache_tool, Some(&store)).provide(workspace, model::DEFAULT)?;

    let references = references::ALL.iter().map(|it| Ok((it.variable, it.ensure(workspace)?)));
    let references = references.collect::<Result<Vec<_>>>()?;

    // All of it runs even if a part fails: one run shows all that is broken.
    let mut results = vec![cargo_test(workspace, &binaries, &store, &references, &args.arguments)];
    if args.arguments.is_empty() {
        results.push(loom(workspace));
        #[cfg(target_os = "linux")]
        results.push(crate::kernel_tests::PLAIN.run(workspace));
    }
    let errors: Vec<String> =
        results.into_iter().filter_map(|it| it.err().map(|e| format!("{e:#}"))).collect();
    if errors.is_empty() { Ok(()) } else { bail!("{}", errors.join("; and ")) }
}

fn cargo_test(
    workspace: &Workspace,
    binaries: &Binaries,
    store: &Path,
    references: &[(&str, PathBuf)],
    arguments: &[String],
) -> Result<()> {
    let mut cargo = workspace.cargo(&["test"]);
    if !arguments.iter().any(|argument| argument.starts_with("-p") || argument.starts_with("--package")) {
        cargo.arg("--workspace");
    }
    if arguments.is_empty() {
        cargo.arg("--no-fail-fast");
    }
    cargo.args(arguments);
    cargo.env("KR_TEST_STORE", store).env("KR_TEST_BIN_DIR", binaries.folder());
    cargo.env("KR_TEST_GGUF", model::file(workspace)?);
    cargo.envs(references.iter().map(|(variable, folder)| (variable, folder)));
    process::run(cargo)
}

/// Every interleaving of the ring's two ends. `--cfg loom` changes every crate, so it has a target folder of its own;
/// optimized, since the models run millions of steps.
fn loom(workspace: &Workspace) -> Result<()> {
    let mut cargo = workspace.cargo(&["test", "-p", "protocol", "--test", "loom", "--release"]);
    cargo.arg("--target-dir").arg(workspace.target()?.join("loom"));
    cargo.env("RUSTFLAGS", "--cfg loom").env_remove("CARGO_ENCODED_RUSTFLAGS");
    process::run(cargo)
}
