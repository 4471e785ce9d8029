//! Adapters: a request names one like a model (`base:adapter`), and a worker of its base computes it.

use protocol::{message::AdapterRef, stored::StoredModel};

use super::{
    models::{ModelError, Models},
    registry::ModelRegistry,
    route::RouteError,
    status::ModelStatus,
    stored::Listing,
};

/// What a request's name of a model stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Name or digest of the model whose workers are needed.
    pub model: String,
    /// The adapter with which they compute, if it names one.
    pub adapter: Option<AdapterRef>,
}

/// Between the name of a model and that of its adapter.
const COLON: char = ':';

impl Models {
    /// What the name or digest `id` stands for. A model need not exist. Needs a runtime.
    ///
    /// # Errors
    /// It is an adapter whose base is not stored or embeds text, or the store can't be read.
    pub async fn target(&self, id: &str) -> Result<Target, ModelError> {
        let plain = Target { model: id.to_owned(), adapter: None };
        if !id.contains(COLON) || self.context.registry.name_of(id).is_some() {
            return Ok(plain);
        }
        let listing = self.listing_with(id).await;
        match listing.find(id).and_then(|stored| Some((stored, stored.base.as_deref()?))) {
            Some((stored, base)) => self.target_of(stored, base, &listing),
            None if listing.has_failed() => Err(ModelError::StoreUnreadable),
            None => Ok(plain),
        }
    }

    fn target_of(&self, stored: &StoredModel, base: &str, listing: &Listing) -> Result<Target, ModelError> {
        if let Some(failure) = &stored.defect {
            return Err(ModelError::Failed { model: stored.id().to_owned(), failure: failure.clone() });
        }
        if listing.models().iter().any(|model| model.digest == base && model.embeds) {
            // Workers would compute without it.
            let unknown = self.context.registry.unknown(stored.id(), std::iter::empty());
            return Err(ModelError::NotLoaded(unknown));
        }
        let loaded = self.context.registry.name_of(base);
        let model = loaded.or_else(|| stored_base(stored, base, listing).map(str::to_owned));
        let adapter = AdapterRef { name: stored.id().to_owned(), digest: stored.digest.clone() };
        match model {
            Some(model) => Ok(Target { model, adapter: Some(adapter) }),
            None => Err(ModelError::NotLoaded(RouteError::NoBase { adapter: adapter.name })),
        }
    }
}

/// The name by which the base of an adapter is loaded: the one in the adapter's own name, if it still stands for that.
fn stored_base<'a>(adapter: &StoredModel, base: &str, listing: &'a Listing) -> Option<&'a str> {
    let own = adapter.id().split_once(COLON).map(|(name, _)| name);
    let all = || listing.models().iter().filter(|model| model.digest == base);
    let named = all().find(|model| model.name.as_deref() == own);
    named.or_else(|| all().next()).map(StoredModel::id)
}

/// The adapters of loaded models: each is as usable as its base.
pub(super) fn of_loaded(registry: &ModelRegistry, listing: &Listing) -> Vec<ModelStatus> {
    let adapters = listing.models().iter().filter(|stored| stored.name.is_some());
    adapters.filter_map(|stored| status_of(stored, registry)).collect()
}

/// What an adapter of a loaded model is doing; `None` if its base is not loaded, or it is no adapter.
pub(super) fn status_of(stored: &StoredModel, registry: &ModelRegistry) -> Option<ModelStatus> {
    let base = registry.model(stored.base.as_deref()?)?;
    let own = ModelStatus::from(stored.clone());
    if stored.defect.is_some() {
        return Some(own);
    }
    let info = base.info.map(|info| protocol::message::ModelInfo {
        name: own.name.clone(),
        digest: stored.digest.clone(),
        ..info
    });
    Some(ModelStatus {
        name: own.name,
        stored: own.stored,
        since: own.since,
        info,
        parent: Some(base.name),
        ..base
    })
}
