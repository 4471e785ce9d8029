//! From a command line to a running engine.

use std::{
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, anyhow};
use artifact_store::{Artifact, Store, default_store_dir};
use crossbeam_channel::bounded;
use protocol::message::{Failure, FailureKind, ModelInfo, Report};
use tokenizers::Tokenizer;
use tracing::{info, warn};

use crate::{
    cli::{Activations, Cli, KvType, Verify},
    engine::{Engine, EosTokens, Gauges, Inbox},
    link::{self, LinkSender, Receiver, Reports},
    model::{Kernels, KvBudget, Model},
    prepare::{ChatTemplate, Pool, Preparer},
    requests::Registry,
    scheduler::Limits,
    verify,
};

/// Time between two heartbeats.
const HEARTBEAT: Duration = Duration::from_millis(500);

/// Messages that may wait for the engine; it takes all of them in before each step.
const MAX_INBOX: usize = 4096;

/// Threads that prepare prompts. Tokenizing is fast: two keep a long prompt from delaying a short one.
const PREPARE_THREADS: usize = 2;

/// Everything that was loaded.
struct Loaded {
    /// Keeps the lease on what the model's weights are views of.
    artifact: Artifact,
    model: Model,
    preparer: Preparer,
    info: ModelInfo,
}

/// Serves a gateway until it has gone or has drained this worker.
///
/// # Errors
/// The gateway can't be reached, or the model can't be loaded; the gateway has then been told why.
pub fn run(cli: &Cli, started: Instant) -> anyhow::Result<()> {
    let connected = link::connect(&cli.socket)?;
    // A gateway of before 1.1 would not understand it.
    let speaks_of_verification = connected.version.minor >= 1;
    let sender = Arc::new(LinkSender::new(connected.sender, Arc::clone(&connected.socket)));
    let reports: Arc<dyn Reports> = Arc::clone(&sender) as _;
    let Loaded { artifact, model, preparer, info } = load(cli, started).inspect_err(|error| {
        let kind = if speaks_of_verification { verify::kind_of(error) } else { FailureKind::Internal };
        reports.report(&Report::LoadFailed(Failure { kind, param: None, message: format!("{error:#}") }));
    })?;

    let limits = limits(cli, &model);
    let registry = Arc::new(Registry::default());
    let gauges = Arc::new(Gauges::default());
    let (engine, inbox) = bounded::<Inbox>(MAX_INBOX);
    let pool =
        Pool::start(PREPARE_THREADS, preparer, Arc::clone(&registry), Arc::clone(&reports), engine.clone())?;
    let receiver = Receiver {
        frames: connected.receiver,
        socket: connected.socket,
        sender,
        registry: Arc::clone(&registry),
        pool,
        engine,
    };
    info!(model = info.name, load_ms = info.load_micros / 1000, "ready");
    reports.report(&Report::Ready(info));
    thread::Builder::new().name("receive".into()).spawn(move || receiver.run())?;
    let _verification = (cli.verify == Verify::Background && speaks_of_verification)
        .then(|| verify::while_serving(&artifact, &reports));
    let _heartbeat = start_heartbeat(Arc::clone(&reports), Arc::clone(&gauges))?;
    Ok(Engine::new(model, limits, inbox, registry, reports, gauges).run()?)
}

/// Loads the weights on this thread, which will run them, and the tokenizer beside it.
fn load(cli: &Cli, started: Instant) -> anyhow::Result<Loaded> {
    let dir = cli.store.clone().map_or_else(default_store_dir, Ok)?;
    let store = Store::open(&dir).with_context(|| format!("artifact store {}", dir.display()))?;
    let artifact = store.resolve(&cli.model)?;
    if cli.verify == Verify::Full {
        verify::before_serving(&artifact)?;
    }
    let (model, load_micros, tokenizer, took) = thread::scope(|scope| {
        let tokenizer = scope.spawn(|| {
            let began = Instant::now();
            load_tokenizer(&artifact).map(|tokenizer| (tokenizer, began.elapsed()))
        });
        let kernels = match Kernels::of(mlx_ext::init()?) {
            Kernels::Own if cli.activations == Activations::Int8 => Kernels::OwnInt8,
            kernels => kernels,
        };
        let half = cli.kv_type == KvType::Float16;
        let budget =
            KvBudget { bytes: cli.kv_mib.saturating_mul(1 << 20), sequences: cli.max_running.max(1), half };
        let model = Model::load(&artifact, kernels, budget)?;
        if kernels == Kernels::Mlx {
            model.warm_up(cli.chunk_tokens)?;
        }
        let load_micros = micros(started.elapsed());
        let (tokenizer, took) =
            tokenizer.join().map_err(|_| anyhow!("reading the tokenizer panicked; see the log above"))??;
        anyhow::Ok((model, load_micros, tokenizer, took))
    })?;
    if let Err(error) = artifact.record_use() {
        // A read-only store serves as well; it only forgets what was used last.
        warn!(%error, "the store can't record that the model was used");
    }
    let info = ModelInfo {
        name: cli.model.clone(),
        digest: artifact.digest.to_string(),
        architecture: artifact.manifest.architecture().unwrap_or_default().to_string(),
        context_length: model.context_length(),
        vocab_size: model.vocab_size(),
        weight_bytes: model.weight_bytes(),
        load_micros,
        tokenizer_micros: micros(took),
    };
    let preparer = Preparer {
        tokenizer: Arc::new(tokenizer),
        template: chat_template(&artifact)?,
        eos_tokens: EosTokens::new(artifact.manifest.eos_token_ids.clone()),
        context_length: (model.context_length() as usize).min(model.kv_tokens()),
        vocab_size: model.vocab_size(),
    };
    Ok(Loaded { artifact, model, preparer, info })
}

fn chat_template(artifact: &Artifact) -> anyhow::Result<Option<ChatTemplate>> {
    let manifest = &artifact.manifest;
    let text = |token: &Option<String>| token.clone().unwrap_or_default();
    let Some(source) = manifest.chat_template.clone() else { return Ok(None) };
    let template = ChatTemplate::new(source, text(&manifest.bos_token), text(&manifest.eos_token));
    Ok(Some(template.context("the model's chat template")?))
}

fn load_tokenizer(artifact: &Artifact) -> anyhow::Result<Tokenizer> {
    let bytes = artifact.read_tokenizer()?;
    Tokenizer::from_bytes(bytes).map_err(|error| anyhow!("tokenizer.json of {}: {error}", artifact.name))
}

fn limits(cli: &Cli, model: &Model) -> Limits {
    Limits {
        max_running: cli.max_running.max(1),
        chunk_tokens: cli.chunk_tokens.max(1),
        // Room for every decode and a chunk, so that neither waits for the other.
        step_tokens: cli.max_running.max(1).saturating_add(cli.chunk_tokens.max(1)),
        kv_tokens: model.kv_tokens(),
    }
}

/// Sends heartbeats until the returned sender is dropped.
fn start_heartbeat(
    reports: Arc<dyn Reports>,
    gauges: Arc<Gauges>,
) -> std::io::Result<crossbeam_channel::Sender<()>> {
    let (stop, stopped) = bounded::<()>(0);
    thread::Builder::new().name("heartbeat".into()).spawn(move || {
        while stopped.recv_timeout(HEARTBEAT) == Err(crossbeam_channel::RecvTimeoutError::Timeout) {
            reports.report(&Report::Heartbeat(gauges.heartbeat()));
        }
    })?;
    Ok(stop)
}

fn micros(duration: Duration) -> u64 {
    duration.as_micros().try_into().unwrap_or(u64::MAX)
}
