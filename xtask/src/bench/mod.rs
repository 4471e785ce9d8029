//! `cargo xtask bench`: figures, measured here and now.

use anyhow::Result;

use crate::{
    binaries::Binaries,
    model::{self, Store},
    process, setup,
    workspace::Workspace,
};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// What to measure.
    what: What,
    /// Model of the engine's figures, by its name in the store [default: smollm2-135m-instruct, in a store of its own].
    #[arg(long, value_name = "NAME", requires = "store")]
    model: Option<String>,
    /// Folder of the artifact store that has it.
    #[arg(long, value_name = "DIR")]
    store: Option<std::path::PathBuf>,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum What {
    /// Products with weight matrices, beside MLX's own operation.
    Kernels,
    /// The whole model: tokens a second of prefill and of decode in batches.
    Engine,
}

/// Sets up, builds and measures. Nothing else should run meanwhile.
pub(crate) fn run(workspace: &Workspace, args: &Args) -> Result<()> {
    setup::run(workspace)?;
    let bench = |package, name| workspace.cargo(&["bench", "-p", package, "--bench", name]);
    match args.what {
        What::Kernels => process::run(bench("mlx-ext", "kernels")),
        What::Engine => {
            let tool = Binaries::build(
                workspace,
                &["build", "--release", "-p", "gateway", "-p", "worker", "-p", "cache-tool"],
            )?;
            let store = args.store.clone().unwrap_or_else(|| workspace.mlx().join("test-store"));
            let model = args.model.as_deref().unwrap_or(model::DEFAULT);
            Store::new(&tool, Some(&store)).provide(workspace, model)?;
            let mut cargo = bench("worker", "engine");
            cargo.env("KR_BENCH_STORE", store).env("KR_BENCH_MODEL", model);
            process::run(cargo)
        }
    }
}
