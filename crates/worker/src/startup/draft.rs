//! The model that drafts tokens for the one that is served: found, compared and loaded with it. Where it can't be used, the
//! load fails: whoever has configured it wants to know.

use anyhow::{Context, anyhow};
use artifact_store::{Artifact, Store, with_causes};
use mlx_ext::Device;
use protocol::{
    memory::Shortage,
    options::{Verify, WorkerOptions},
};
use tracing::{info, warn};

use super::load_tokenizer;
use crate::{
    engine::{DraftModel, DraftSize},
    memory::MemoryPlan,
    model::{KvBudget, Model, stored_size},
    options,
    prepare::{PromptTokenizer, check_draft},
    schedule::Limits,
    speculate::Costs,
    verify,
};

/// A stored model that is to draft tokens for another one.
pub(super) struct StoredDraft {
    names: Names,
    /// Keeps the lease on what its weights are views of.
    artifact: Artifact,
}

/// Names of a draft model and of the model that it drafts for.
#[derive(Clone)]
struct Names {
    draft: String,
    target: String,
}

/// A model and the one that drafts for it.
pub(super) struct LoadedModels {
    pub(super) model: Model,
    pub(super) draft: Option<Model>,
    /// Bytes that are set aside beside weights, keys and values.
    pub(super) other_bytes: u64,
}

impl Names {
    /// That of the draft model. It has no kind of its own: what is wrong is not wrong with the model that clients ask for.
    fn refusal(&self, why: &str) -> anyhow::Error {
        let Self { draft, target } = self;
        anyhow!(
            "`{draft}`, which `speculation.draft_models` names for `{target}`, can't draft tokens for it: {why}"
        )
    }
}

impl StoredDraft {
    /// The one that the options name for the model `target`, if they name one.
    pub(super) fn find(store: &Store, options: &WorkerOptions, target: &str) -> anyhow::Result<Option<Self>> {
        let Some(name) = &options.draft_model else { return Ok(None) };
        let names = Names { draft: name.clone(), target: target.to_owned() };
        match store.resolve(name) {
            Ok(artifact) => Ok(Some(Self { names, artifact })),
            Err(error) => Err(names.refusal(&with_causes(&error))),
        }
    }

    /// Its name.
    pub(super) fn name(&self) -> &str {
        &self.names.draft
    }

    /// Verifies what is stored, if that is to be done before it serves. What is verified in the background is the served
    /// model alone: a draft model that is damaged can change no output.
    pub(super) fn verify(&self, options: &WorkerOptions) -> anyhow::Result<()> {
        if options.verify != Verify::Full {
            return Ok(());
        }
        verify::before_serving(&self.artifact).map_err(|error| self.names.refusal(&with_causes(&error)))
    }

    /// Compares its vocabulary with that of the other model.
    pub(super) fn check(&self, target: &PromptTokenizer) -> anyhow::Result<()> {
        let checked = load_tokenizer(&self.artifact)
            .map_err(|error| format!("{error:#}"))
            .and_then(|tokenizer| check_draft(target, &tokenizer));
        checked.map_err(|why| self.names.refusal(&why))
    }

    /// Records that it was used.
    pub(super) fn record_use(&self) {
        if let Err(error) = self.artifact.record_use() {
            warn!(%error, "the store can't record that the draft model was used");
        }
    }

    /// Whether guesses are checked at all.
    fn is_of_use(&self, options: &WorkerOptions, device: Device) -> bool {
        let why = match device {
            _ if options.max_draft_tokens == 0 => "`speculation.max_draft_tokens` is 0",
            Device::Gpu => "on a GPU nothing is guessed, since outputs could differ",
            Device::Cpu => return true,
        };
        warn!(draft_model = self.name(), why, "the draft model is not loaded");
        false
    }
}

impl LoadedModels {
    /// Loads the weights, if they fit into the worker's share of memory.
    pub(super) fn load(
        artifact: &Artifact,
        draft: Option<&StoredDraft>,
        options: &WorkerOptions,
    ) -> anyhow::Result<Self> {
        let device = mlx_ext::init()?;
        match draft.filter(|draft| draft.is_of_use(options, device)) {
            None => Self::load_alone(artifact, options, device),
            Some(draft) => Self::load_both(artifact, draft, options, device),
        }
    }

    fn load_alone(artifact: &Artifact, options: &WorkerOptions, device: Device) -> anyhow::Result<Self> {
        let plan = MemoryPlan::new(options, device, stored_size(&artifact.manifest))?;
        mlx_ext::set_cache_limit(plan.cache_bytes())?;
        let (kernels, mut other_bytes) = (options::kernels(options, device), 0);
        let model = Model::load_within(artifact, kernels, options::kv_budget(options), |size| {
            let bytes = plan.divide(size)?;
            other_bytes = bytes.other;
            anyhow::Ok(bytes.kv)
        })?;
        model.warm_up(options::chunk_tokens(options))?;
        Ok(Self { model, draft: None, other_bytes })
    }

    /// The two share the memory for keys and values, so that both hold as many tokens.
    fn load_both(
        artifact: &Artifact,
        draft: &StoredDraft,
        options: &WorkerOptions,
        device: Device,
    ) -> anyhow::Result<Self> {
        let Names { draft: name, target } = &draft.names;
        let together = || format!("`{target}` and its draft model `{name}` together");
        let size = stored_size(&artifact.manifest).and_draft(stored_size(&draft.artifact.manifest));
        let plan = MemoryPlan::new(options, device, size).with_context(together)?;
        mlx_ext::set_cache_limit(plan.cache_bytes())?;
        let (kernels, budget) = (options::kernels(options, device), options::kv_budget(options));
        let (mut drafting, mut other_bytes) = (None, 0);
        let model = Model::load_within(artifact, kernels, budget, |size| {
            let mut kv_bytes = 0;
            // Who shares out its memory counts tokens alone.
            let whole = KvBudget { step_tokens: None, ..budget };
            let loaded = Model::load_within(&draft.artifact, kernels, whole, |draft_size| {
                let bytes = plan.divide(size.and_draft(draft_size)).with_context(together)?;
                other_bytes = bytes.other;
                kv_bytes = size.share(bytes.kv, &draft_size);
                anyhow::Ok(bytes.kv - kv_bytes)
            });
            drafting = Some(loaded.map_err(|error| {
                // That there is too little memory is about both; what else there is must not be taken for the model's own.
                let short = error.is::<Shortage>();
                if short { error } else { draft.names.refusal(&format!("{error:#}")) }
            })?);
            anyhow::Ok(kv_bytes)
        })?;
        if drafting.as_ref().is_some_and(Model::has_states) {
            let why = "its layers keep states, which can't be taken back behind a wrong guess";
            return Err(draft.names.refusal(why));
        }
        let chunk = options::chunk_tokens(options);
        model.warm_up(chunk)?;
        if let Some(loaded) = &drafting {
            loaded.warm_up(chunk).map_err(|error| draft.names.refusal(&error.to_string()))?;
            info!(draft_model = name, weight_bytes = loaded.weight_bytes(), "draft model loaded");
        }
        if !model.checks_drafts() {
            warn!(
                draft_model = name,
                "nothing is guessed: this model can't take back what was guessed wrong"
            );
        }
        Ok(Self { model, draft: drafting, other_bytes })
    }

    /// Bytes of the weights of both.
    pub(super) fn weight_bytes(&self) -> u64 {
        self.both(Model::weight_bytes)
    }

    /// Most bytes of the keys and values of both.
    pub(super) fn kv_bytes(&self) -> u64 {
        self.both(Model::kv_bytes)
    }

    fn both(&self, bytes: fn(&Model) -> u64) -> u64 {
        bytes(&self.model) + self.draft.as_ref().map_or(0, bytes)
    }

    /// The model, and the one that drafts for it in an engine with these limits.
    pub(super) fn into_parts(self, limits: Limits) -> (Model, Option<DraftModel<Model>>) {
        let Self { model, draft, .. } = self;
        let draft = draft.map(|draft| {
            let size = DraftSize {
                kv_tokens: draft.kv_tokens(),
                context_length: draft.context_length() as usize,
                vocab_size: draft.vocab_size().min(model.vocab_size()) as usize,
            };
            // What was expanded is read in that form.
            let read = |model: &Model| model.weight_bytes().max(model.private_bytes());
            let costs = Costs::of_weights(read(&draft), read(&model));
            DraftModel::new(draft, size, limits, costs)
        });
        (model, draft)
    }
}
