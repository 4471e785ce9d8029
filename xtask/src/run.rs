//! `cargo xtask run`: a server, from nothing.

use std::{
    fs,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};

use crate::{
    binaries::Binaries,
    build,
    model::{self, Store},
    process,
    workspace::Workspace,
};

/// Flags that are not given are left to the gateway, whose configuration file may say them.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Port to listen on; 0 takes a free one [default: 8080].
    #[arg(long)]
    port: Option<u16>,
    /// Number of worker processes [default: 1].
    #[arg(long, value_name = "N")]
    workers: Option<usize>,
    /// Model to serve, by its name in the store; may be repeated [default: the configuration's, or
    /// smollm2-135m-instruct].
    #[arg(long, value_name = "NAME")]
    model: Vec<String>,
    /// Configuration file [default: config/runtime.yaml of the repository].
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Folder of the artifact store [default: in the platform's cache folder].
    #[arg(long, value_name = "DIR")]
    store: Option<PathBuf>,
    /// Start the programs in this folder, which were built before, instead of building them.
    #[arg(long, value_name = "DIR", env = "KR_BIN_DIR")]
    binaries: Option<PathBuf>,
}

/// Sets up, builds, provides the model and becomes the gateway.
pub(crate) fn run(workspace: &Workspace, args: &Args) -> Result<()> {
    let config = args.config.clone().unwrap_or_else(|| workspace.root.join("config/runtime.yaml"));
    let models = if args.model.is_empty() {
        vec![configured_model(&config)?.unwrap_or_else(|| model::DEFAULT.to_owned())]
    } else {
        args.model.clone()
    };
    let binaries = match &args.binaries {
        Some(folder) => Binaries::in_folder(folder)?,
        None => build::run(workspace)?,
    };
    let store = Store::new(&binaries.cache_tool, args.store.as_deref());
    for model in &models {
        store.provide(workspace, model)?;
    }

    let mut gateway = Command::new(&binaries.gateway);
    gateway.arg("--config").arg(&config);
    for model in &models {
        gateway.args(["--model", model]);
    }
    if let Some(port) = args.port {
        gateway.args(["--port", &port.to_string()]);
    }
    if let Some(workers) = args.workers {
        gateway.args(["--workers", &workers.to_string()]);
    }
    if let Some(store) = &args.store {
        gateway.arg("--store").arg(store);
    }
    // The gateway takes this process's place, so signals sent to it reach the gateway, and its exit code is the command's.
    let error = gateway.exec();
    Err(error).with_context(|| format!("cannot start `{}`", process::display(&gateway)))
}

/// The value of the top-level key `model` in a configuration file. The gateway reads the file properly, later; here
/// it is only to be known which model the store has to have.
fn configured_model(config: &Path) -> Result<Option<String>> {
    let text = fs::read_to_string(config)
        .with_context(|| format!("cannot read the configuration {}", config.display()))?;
    Ok(model_of(&text))
}

fn model_of(config: &str) -> Option<String> {
    let value = config.lines().find_map(|line| line.strip_prefix("model:"))?;
    let value = value.split(" #").next().unwrap_or_default().trim();
    let name = value.trim_matches(['"', '\'']);
    (!name.is_empty() && name != "null" && name != "~").then(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_in_the_configuration_is_found() {
        assert_eq!(model_of("model: qwen3 # ours\nserver:\n"), Some("qwen3".to_owned()));
        assert_eq!(model_of("server:\n  port: 1\nmodel: 'a b'\n"), Some("a b".to_owned()));
    }

    #[test]
    fn a_comment_or_a_nested_key_is_not_the_model() {
        assert_eq!(model_of("# model: qwen3\nserver:\n  model: no\nmodel:\n"), None);
    }
}
