//! Gateways under load: what `bench gateway`, `bench serve` and `chaos` start, and how they put load on it.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, anyhow, bail, ensure};
use serde_json::Value;
use tempfile::{NamedTempFile, TempDir};
use test_support::{Options, Server};

use crate::{
    binaries::{self, Program},
    model::{self, Store},
    process, setup,
    workspace::Workspace,
};

/// Optimized programs: the gateway, and those that only measurements use.
pub(crate) struct Programs {
    pub(crate) gateway: PathBuf,
    /// The worker with a trivial engine.
    pub(crate) bench_worker: PathBuf,
    /// A server that does the least with the same requests.
    pub(crate) plain_server: PathBuf,
    load: PathBuf,
    /// Built together with kr-worker, if that was asked for.
    cache_tool: Option<PathBuf>,
}

/// The model that a gateway serves, and who runs it.
pub(crate) struct Subject {
    pub(crate) model: String,
    store: PathBuf,
    /// `None`: `kr-worker`, beside the gateway.
    worker: Option<PathBuf>,
    /// An empty store, of a worker that has no model.
    _folder: Option<TempDir>,
}

/// How a gateway is started.
#[derive(Clone, Debug, Default)]
pub(crate) struct Setting {
    pub(crate) workers: u32,
    /// Tokens a second of each stream of the trivial engine; 0: as fast as its readers allow.
    pub(crate) rate: u32,
    /// Its configuration.
    pub(crate) config: String,
}

/// A gateway that load can be put on.
pub(crate) struct Loaded<'a> {
    programs: &'a Programs,
    model: &'a str,
    server: Server,
    /// The gateway has read it; a reload reads it again.
    _config: NamedTempFile,
}

/// What one experiment said.
pub(crate) struct Outcome {
    /// Its report.
    pub(crate) report: Value,
    /// Whether it found everything as it should be.
    pub(crate) is_clean: bool,
}

impl Programs {
    /// Builds them; `real` is for a real model, and builds kr-worker beside the gateway.
    pub(crate) fn build(workspace: &Workspace, real: bool) -> Result<Self> {
        let mut arguments = vec!["build", "--release", "-p", "gateway", "-p", "bench-worker", "-p", "load"];
        if real {
            setup::run(workspace)?;
            arguments.extend(["-p", "worker", "-p", "cache-tool"]);
        }
        let built = binaries::build_all(workspace, &arguments)?;
        let find = |name| built.find(Program::Binary, name);
        Ok(Self {
            gateway: find("kr-gateway")?,
            bench_worker: find("kr-bench-worker")?,
            plain_server: find("kr-plain-server")?,
            load: find("kr-load")?,
            cache_tool: real.then(|| find("cache-tool")).transpose()?,
        })
    }

    /// Starts a gateway with workers for `subject`.
    pub(crate) fn start<'a>(&'a self, subject: &'a Subject, setting: &Setting) -> Result<Loaded<'a>> {
        let config = NamedTempFile::with_suffix(".yaml").context("cannot make a configuration")?;
        std::fs::write(&config, &setting.config).context("cannot write the configuration")?;
        let path = |path: &Path| path.to_str().map(str::to_owned).context("a path is not UTF-8");
        let mut arguments = vec!["--config".to_owned(), path(config.path())?];
        if let Some(worker) = &subject.worker {
            arguments.extend(["--worker-bin".to_owned(), path(worker)?]);
        }
        let server = Server::try_start(&Options {
            workers: setting.workers,
            gateway: Some(self.gateway.clone()),
            model: subject.model.clone(),
            store: Some(subject.store.clone()),
            arguments,
            environment: vec![("RUST_LOG", "warn".to_owned()), ("KR_BENCH_RATE", setting.rate.to_string())],
            ..Options::default()
        })?;
        Ok(Loaded { programs: self, model: &subject.model, server, _config: config })
    }

    /// Runs an experiment on any server of chats.
    pub(crate) fn load(&self, address: &str, model: &str, pid: u32, experiment: &[&str]) -> Result<Outcome> {
        let mut command = Command::new(&self.load);
        command.args(["--address", address, "--model", model, "--pid", &pid.to_string()]).args(experiment);
        let shown = process::display(&command);
        let output = command
            .stdin(Stdio::null())
            .stderr(Stdio::inherit())
            .output()
            .with_context(|| format!("cannot start `{shown}`"))?;
        let report = serde_json::from_slice(&output.stdout)
            .map_err(|_| anyhow!("`{shown}` failed ({}); its error is above", output.status))?;
        Ok(Outcome { report, is_clean: output.status.success() })
    }
}

impl Subject {
    /// The trivial engine.
    pub(crate) fn trivial(programs: &Programs) -> Result<Self> {
        let folder = TempDir::new().context("cannot make a folder")?;
        Ok(Self {
            model: "bench".to_owned(),
            store: folder.path().to_owned(),
            worker: Some(programs.bench_worker.clone()),
            _folder: Some(folder),
        })
    }

    /// The default model, in the tests' store.
    pub(crate) fn real(workspace: &Workspace, programs: &Programs) -> Result<Self> {
        let cache_tool = programs.cache_tool.as_deref().context("cache-tool was not built")?;
        let store = workspace.mlx().join("test-store");
        Store::new(cache_tool, Some(&store)).provide(workspace, model::DEFAULT)?;
        Ok(Self { model: model::DEFAULT.to_owned(), store, worker: None, _folder: None })
    }

    /// The store that it is in.
    pub(crate) fn store(&self) -> &Path {
        &self.store
    }
}

impl Outcome {
    /// The report, if everything was as it should be.
    pub(crate) fn clean(self) -> Result<Value> {
        let Self { report, is_clean } = self;
        ensure!(is_clean, "the experiment failed: {report}");
        Ok(report)
    }
}

impl Loaded<'_> {
    /// The gateway's process id.
    pub(crate) fn pid(&self) -> u32 {
        self.server.pid()
    }

    /// Runs an experiment, and fails if it does.
    pub(crate) fn run(&self, experiment: &[&str]) -> Result<Value> {
        self.try_run(experiment)?.clean()
    }

    /// Runs an experiment. Its outcome may be that something was lost.
    pub(crate) fn try_run(&self, experiment: &[&str]) -> Result<Outcome> {
        self.programs.load(self.server.client.address(), self.model, self.pid(), experiment)
    }

    /// Waits until as many workers can answer as were asked for.
    pub(crate) fn wait_for_workers(&self, count: u32) {
        let ready = |state: &Value| {
            let workers = state["workers"].as_array().into_iter().flatten();
            workers.filter(|worker| worker["state"] == "ready").count()
        };
        self.server.wait_until("all workers ready", |_, state| ready(state) >= count as usize);
    }
}

/// Settings with which `streams` run at the same time, whatever an adaptive limit would say. The last ones are those of
/// `worker`, to which others can be added.
pub(crate) fn places(streams: u32) -> String {
    format!(
        "stream_registry:\n  adaptive_limits: {{ min_streams: {streams}, max_streams: {streams} }}\n\
         worker:\n  max_num_seqs: {streams}\n"
    )
}

/// A number in a report.
pub(crate) fn number(report: &Value, path: &str) -> Result<f64> {
    match report.pointer(path) {
        Some(Value::Number(number)) => number.as_f64().with_context(|| format!("{path} is not a number")),
        _ => bail!("the report has no {path}: {report}"),
    }
}
