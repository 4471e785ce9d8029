//! From a command line to a running engine.

mod draft;
mod served;

use std::{
    path::{Path, PathBuf},
    sync::{Arc, atomic::AtomicU64},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, anyhow};
use artifact_store::{Artifact, Store, default_store_dir};
use crossbeam_channel::{Sender, bounded};
use draft::StoredDraft;
use protocol::{
    message::{Failure, FailureKind, Heartbeat, ModelInfo, Report},
    options::{Verify, WorkerOptions},
};
use served::Served;
use tracing::{info, warn};

use crate::{
    adapters::Adapters,
    cli::Serve,
    engine::{Embedder, Engine, EngineMessage, EngineStats, EosTokens},
    link::{self, LinkSender, Receiver},
    memory::MemoryUsage,
    model::Model,
    options,
    prefix_store::{PrefixStore, PrefixStoreConfig},
    prepare::{ChatTemplates, Drafts, Pool, PreparationAge, Preparer, PromptTokenizer, Settings},
    report_sink::ReportSink,
    requests::RequestTable,
    schedule::Limits,
    verify,
};

/// Messages that may wait for the engine; it handles all of them before each step.
const MAX_ENGINE_MESSAGES: usize = 4096;

/// The folder of the artifact store that has keys and values of prefixes.
const PREFIXES: &str = "prefixes";

/// Everything that was loaded.
struct Loaded {
    /// Keeps the lease on what the model's weights are views of.
    artifact: Artifact,
    /// The same for the draft model.
    stored_draft: Option<StoredDraft>,
    served: Served,
    preparer: Preparer,
    /// Bytes of the adapters that are loaded.
    adapter_bytes: Arc<AtomicU64>,
    info: ModelInfo,
    /// The store's.
    dir: PathBuf,
}

/// Draft models are looked up among these.
#[derive(Debug)]
struct StoredModels(Store);

impl Drafts for StoredModels {
    fn tokenizer(&self, name: &str) -> Result<PromptTokenizer, Failure> {
        let opened = self.0.resolve(name).map_err(anyhow::Error::from).and_then(|it| load_tokenizer(&it));
        opened.map_err(|error| {
            let kind = verify::kind_of(&error);
            let message = match kind {
                FailureKind::UnknownModel => format!("the artifact store has no single model `{name}`"),
                _ => format!("the draft model `{name}` can't be used: {error:#}"),
            };
            Failure { kind, param: Some("draft_model".into()), message }
        })
    }
}

/// Serves a gateway until it has gone or has drained this worker.
///
/// # Errors
/// The gateway can't be reached, or the model can't be loaded; the gateway has then been told why.
pub fn run(cli: &Serve, started: Instant) -> anyhow::Result<()> {
    let connected = link::connect(&cli.socket)?;
    let options = connected.options;
    let requests = Arc::new(RequestTable::default());
    let socket = Arc::clone(&connected.socket);
    let sender = Arc::new(LinkSender::new(connected.sender, socket, Arc::clone(&requests)));
    let reports: Arc<dyn ReportSink> = Arc::clone(&sender) as _;
    let loaded = load(cli, &options, started).inspect_err(|error| {
        let kind = verify::kind_of(error);
        reports.report(&Report::LoadFailed(Failure { kind, param: None, message: format!("{error:#}") }));
    })?;
    let Loaded { artifact, stored_draft: _lease, served, preparer, adapter_bytes, info, dir } = loaded;

    let limits = Limits {
        windows: served.kv_windows().map(options::window_limits),
        ..options::limits(&options, served.kv_tokens(), served.kv_sequences())
    };
    if limits.max_num_seqs < options.max_sequences as usize {
        info!(
            sequences = limits.max_num_seqs,
            "fewer run at the same time than `worker.max_num_seqs` says: there is no memory for the states of more"
        );
    }
    let stats = Arc::new(EngineStats::default());
    let (engine, messages) = bounded::<EngineMessage>(MAX_ENGINE_MESSAGES);
    let pool = Pool::start(preparer, Arc::clone(&requests), Arc::clone(&reports), engine.clone())?;
    let preparation = pool.age();
    let prefixes = served
        .generating()
        .and_then(|models| prefix_store(&options, &dir, &artifact, &models.model, engine.clone()));
    let receiver = Receiver {
        frames: connected.receiver,
        socket: connected.socket,
        sender,
        requests: Arc::clone(&requests),
        pool,
        engine,
    };
    info!(model = info.name, load_ms = info.load_micros / 1000, "ready");
    reports.report(&Report::Ready(info));
    thread::Builder::new().name("receive".into()).spawn(move || receiver.run())?;
    let _verification =
        (options.verify == Verify::Background).then(|| verify::while_serving(&artifact, &reports));
    let interval = options::heartbeat(&options);
    let memory = served.memory_usage(Arc::clone(&stats)).with_adapters(adapter_bytes);
    let _heartbeat =
        start_heartbeat(interval, Arc::clone(&reports), Arc::clone(&stats), preparation, memory)?;
    let models = match served {
        Served::Generating(models) => models,
        Served::Embedding(loaded) => {
            let step_tokens = limits.max_num_batched_tokens;
            let embedder = Embedder::new(loaded.model, step_tokens, messages, requests, reports, stats);
            return Ok(embedder.run()?);
        }
    };
    let (model, draft_model) = models.into_parts(limits);
    let mut engine = Engine::new(model, limits, messages, requests, reports, stats);
    if let Some(prefixes) = prefixes {
        engine = engine.with_prefix_store(prefixes);
    }
    if let Some(draft_model) = draft_model {
        engine = engine.with_draft_model(draft_model);
    }
    Ok(engine.run()?)
}

/// Loads the weights on this thread, which will run them, and the tokenizer in parallel.
fn load(cli: &Serve, options: &WorkerOptions, started: Instant) -> anyhow::Result<Loaded> {
    let dir = cli.store.clone().map_or_else(default_store_dir, Ok)?;
    let store = Store::open(&dir).with_context(|| format!("artifact store {}", dir.display()))?;
    let artifact = store.resolve(&cli.model)?;
    if let Some(base) = artifact.manifest.base {
        anyhow::bail!("`{}` is an adapter of the artifact {base}: load that model instead", cli.model);
    }
    if options.verify == Verify::Full {
        verify::before_serving(&artifact)?;
    }
    let draft = StoredDraft::find(&store, options, &cli.model)?;
    draft.iter().try_for_each(|draft| draft.verify(options))?;
    // Who has no adapters need not have memory for them. One that is imported later is loaded all the same.
    let adapter_bytes = if Adapters::any_of(&store, artifact.digest) { options.adapter_bytes } else { 0 };
    let planned = WorkerOptions { adapter_bytes, ..options.clone() };
    let (served, load_micros, tokenizer, took) = thread::scope(|scope| {
        let tokenizer = scope.spawn(|| {
            let began = Instant::now();
            let tokenizer = load_tokenizer(&artifact)?;
            draft.iter().try_for_each(|draft| draft.check(&tokenizer))?;
            anyhow::Ok((tokenizer, began.elapsed()))
        });
        let served = Served::load(&artifact, draft.as_ref(), &planned)?;
        let load_micros = micros(started.elapsed());
        let (tokenizer, took) =
            tokenizer.join().map_err(|_| anyhow!("reading the tokenizer panicked; see the log above"))??;
        anyhow::Ok((served, load_micros, tokenizer, took))
    })?;
    if let Err(error) = artifact.record_use() {
        // A read-only store serves as well; it only can't record what was used last.
        warn!(%error, "the store can't record that the model was used");
    }
    draft.iter().for_each(StoredDraft::record_use);
    let info = ModelInfo {
        name: cli.model.clone(),
        digest: artifact.digest.to_string(),
        architecture: artifact.manifest.architecture().unwrap_or_default().to_string(),
        context_length: served.context_length(),
        vocab_size: served.vocab_size(),
        weight_bytes: served.weight_bytes(),
        load_micros,
        tokenizer_micros: micros(took),
        kv_bytes: served.kv_bytes(),
        other_bytes: served.other_bytes(),
        draft_model: served
            .generating()
            .and_then(|models| models.draft.as_ref())
            .and(draft.as_ref())
            .map(|draft| draft.name().to_owned()),
        embedding_size: served.embedding().map(|dimensions| dimensions.all),
    };
    let template = chat_templates(&artifact);
    let settings = Settings {
        eos_tokens: eos_tokens(&artifact, template.as_ref(), &tokenizer, served.vocab_size()),
        template,
        context_length: served.context_length() as usize,
        kv_tokens: served.kv_tokens(),
        vocab_size: served.vocab_size(),
        special_tokens_in_content: options.special_tokens_in_content,
        embedding: served.embedding().cloned(),
    };
    let dir = store.dir().to_owned();
    let mut preparer = Preparer::new(tokenizer, settings).with_drafts(Box::new(StoredModels(store.clone())));
    let mut adapter_bytes = Arc::default();
    if let Some(models) = served.generating() {
        let adaptable = models.model.adaptable();
        let verifies = options.verify != Verify::Header;
        let adapters = Adapters::new(store, artifact.digest, adaptable, options.adapter_bytes, verifies);
        adapter_bytes = adapters.bytes();
        preparer = preparer.with_adapters(adapters);
    }
    Ok(Loaded { artifact, stored_draft: draft, served, preparer, adapter_bytes, info, dir })
}

/// Prefixes on disk, if they are wanted. Where that can't be, the model serves without.
fn prefix_store(
    options: &WorkerOptions,
    dir: &Path,
    artifact: &Artifact,
    model: &Model,
    engine: Sender<EngineMessage>,
) -> Option<PrefixStore> {
    if !options::keeps_on_disk(options) {
        return None;
    }
    if model.has_states() {
        info!(
            "no prefixes are kept on disk: of this model they would be useless without its layers' states, which are not"
        );
        return None;
    }
    let dir = dir.join(PREFIXES);
    let config = PrefixStoreConfig {
        dir: &dir,
        max_bytes: options.prefix_disk_bytes,
        identity: &format!("{}, {}", artifact.digest, model.kv_identity()),
        token_bytes: model.kv_token_bytes(),
    };
    // An engine that has ended needs no waking.
    let wake = move || drop(engine.send(EngineMessage::Wake));
    let opened = PrefixStore::open(config, wake);
    opened.inspect_err(|error| warn!(dir = %dir.display(), %error, "no prefixes are kept on disk")).ok()
}

/// A template that can't be used fails chats; completions need none.
fn chat_templates(artifact: &Artifact) -> Option<ChatTemplates> {
    let manifest = &artifact.manifest;
    let mut special_tokens = manifest.special_tokens.clone();
    for (name, token) in [("bos_token", &manifest.bos_token), ("eos_token", &manifest.eos_token)] {
        special_tokens.extend(token.iter().map(|text| (name.to_owned(), text.clone())));
    }
    let named = manifest.named_chat_templates.iter().map(|(name, source)| (name.as_str(), source.as_str()));
    let templates = ChatTemplates::new(manifest.chat_template.as_deref(), named, &special_tokens)?;
    for problem in templates.problems() {
        warn!(%problem, "the model's chat template can't be used; chats with this model will fail");
    }
    Some(templates)
}

/// The tokens that end an output: those that the model's files name, or that its template writes in their place, and those
/// that end a turn in the format of its chats.
fn eos_tokens(
    artifact: &Artifact,
    templates: Option<&ChatTemplates>,
    tokenizer: &PromptTokenizer,
    vocab_size: u32,
) -> EosTokens {
    let named = EosTokens::new(artifact.manifest.eos_token_ids.clone());
    // Where the format says what ends a turn, that which stands behind an answer may end only a part of it.
    let asked = templates.filter(|it| it.format().is_plain());
    let written = asked.and_then(|it| it.end_of_turn(tokenizer.tokenizer(), &named, vocab_size));
    if let Some(token) = written {
        info!(
            token,
            "the chat template ends an answer with a token that the model's files do not name; it ends outputs"
        );
    }
    let of_format = templates.map_or(&[][..], |it| it.format().ends).iter();
    let of_format = of_format.filter_map(|text| tokenizer.tokenizer().token_to_id(text));
    let of_format: Vec<u32> = of_format.filter(|token| *token < vocab_size).collect();
    named.and(written.as_slice()).and(&of_format)
}

fn load_tokenizer(artifact: &Artifact) -> anyhow::Result<PromptTokenizer> {
    let bytes = artifact.read_tokenizer()?;
    PromptTokenizer::from_bytes(&bytes).with_context(|| format!("the tokenizer of {}", artifact.name))
}

/// Sends heartbeats until the returned sender is dropped.
fn start_heartbeat(
    interval: Duration,
    reports: Arc<dyn ReportSink>,
    stats: Arc<EngineStats>,
    preparation: PreparationAge,
    mut memory: MemoryUsage,
) -> std::io::Result<crossbeam_channel::Sender<()>> {
    let (stop, stopped) = bounded::<()>(0);
    thread::Builder::new().name("heartbeat".into()).spawn(move || {
        while stopped.recv_timeout(interval) == Err(crossbeam_channel::RecvTimeoutError::Timeout) {
            let oldest_preparation_millis = preparation.oldest().as_millis().try_into().unwrap_or(u64::MAX);
            let memory_bytes = memory.resident();
            reports.report(&Report::Heartbeat(Heartbeat {
                oldest_preparation_millis,
                memory_bytes,
                memory: memory.now(),
                ..stats.heartbeat()
            }));
        }
    })?;
    Ok(stop)
}

fn micros(duration: Duration) -> u64 {
    duration.as_micros().try_into().unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
