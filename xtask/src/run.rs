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
    /// Folder of the artifact store [default: the user's, see docs/store.md].
    #[arg(long, value_name = "DIR")]
    store: Option<PathBuf>,
    /// Start the programs in this folder, which were built before, instead of building them.
    #[arg(long, value_name = "DIR", env = "KR_BIN_DIR")]
    binaries: Option<PathBuf>,
}

/// Sets up, builds, provides the model and becomes the gateway.
pub(crate) fn run(workspace: &Workspace, args: &Args) -> Result<()> {
    // The default file may be missing; then everything is a default.
    let default = workspace.root.join("config/runtime.yaml");
    let config = args.config.clone().or_else(|| default.exists().then_some(default));
    let models = if args.model.is_empty() {
        let configured = config.as_deref().map(configured_model).transpose()?;
        vec![configured.flatten().unwrap_or_else(|| model::DEFAULT.to_owned())]
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
    for model in &models {
        gateway.args(["--model", model]);
    }
    if let Some(config) = &config {
        gateway.arg("--config").arg(config);
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

/// The one setting that matters here: which model the store has to have. The gateway checks the whole file, later.
#[derive(Default, serde::Deserialize)]
#[serde(default)]
struct Settings {
    model: Option<String>,
}

/// The model that a configuration file names.
fn configured_model(config: &Path) -> Result<Option<String>> {
    let text = fs::read_to_string(config)
        .with_context(|| format!("cannot read the configuration {}", config.display()))?;
    model_of(&text).with_context(|| format!("cannot read the configuration {}", config.display()))
}

fn model_of(config: &str) -> Result<Option<String>> {
    let settings: Option<Settings> = serde_saphyr::from_str(config)?;
    Ok(settings.unwrap_or_default().model)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn the_model_of_a_configuration_is_found_however_it_is_written() {
        for text in [
            "model: qwen 3 # ours\nserver:\n",
            "server:\n  port: 1\n'model': 'qwen 3'\n",
            "{server: {port: 1}, model: \"qwen 3\"}\n",
            "model:\n  qwen\n  3\n",
        ] {
            assert_eq!(model_of(text).unwrap().as_deref(), Some("qwen 3"), "{text}");
        }
    }

    #[test]
    fn a_comment_a_nested_key_or_another_text_is_not_the_model() {
        for text in
            ["", "# model: x\nserver:\n  model: no\nmodel:\n", "model: ~\n", "note: |\n  x\n  model: y\n"]
        {
            assert_eq!(model_of(text).unwrap(), None, "{text}");
        }
        assert!(model_of("model: [1\n").is_err());
    }

    #[test]
    fn the_shipped_configuration_can_be_read() {
        assert_eq!(model_of(include_str!("../../config/runtime.yaml")).unwrap(), None);
    }
}
