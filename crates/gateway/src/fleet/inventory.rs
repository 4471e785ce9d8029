//! What there is: the models that are loaded, and those that are stored.

use std::time::Duration;

use protocol::stored::StoredModel;
use tokio::time::timeout;

use super::{
    adapter,
    models::{ModelError, Models},
    route::RouteError,
    status::ModelStatus,
    stored::Listing,
};

/// A list of the store of this age will do for whoever looks.
const LOOK_AGE: Duration = Duration::from_secs(5);

/// For one who looks, a list that takes longer than this to renew is not waited for, if there is an older one.
const LOOK_PATIENCE: Duration = Duration::from_millis(300);

/// A model that is in no list of this age does not exist: one that was imported just now can be used just now.
const DEMAND_AGE: Duration = Duration::from_secs(1);

impl Models {
    /// All models: those that are loaded or lately could not be, with their adapters, and, with `stored`, those that are
    /// only in the store. Needs a runtime.
    pub async fn list(&self, stored: bool) -> Vec<ModelStatus> {
        let registry = &self.context.registry;
        let mut models = registry.models();
        let listing = self.look().await;
        let adapters = adapter::of_loaded(registry, &listing);
        if !stored {
            models.extend(adapters);
            return models;
        }
        for model in &mut models {
            model.stored = listing.find(&model.name).cloned();
        }
        models.extend(adapters);
        let loaded: Vec<_> = models.iter().map(|model| model.name.clone()).collect();
        let others =
            listing.models().iter().filter(|it| it.name.is_some() && !loaded.iter().any(|id| id == it.id()));
        models.extend(others.cloned().map(ModelStatus::from));
        models
    }

    /// The model with this name or digest; one that is only in the store, with `stored`. Needs a runtime.
    ///
    /// # Errors
    /// There is none.
    pub async fn status(&self, id: &str, stored: bool) -> Result<ModelStatus, RouteError> {
        let registry = &self.context.registry;
        let loaded = registry.model(id);
        if let (Some(loaded), false) = (&loaded, stored) {
            return Ok(loaded.clone());
        }
        let listing = self.look().await;
        if let Some(adapter) = listing.find(id).and_then(|found| adapter::status_of(found, registry)) {
            return Ok(adapter);
        }
        if !stored {
            return Err(registry.unknown(id, std::iter::empty()));
        }
        match (loaded, listing.find(id).cloned()) {
            (Some(model), stored) => Ok(ModelStatus { stored, ..model }),
            (None, Some(stored)) => Ok(match registry.model(stored.id()) {
                Some(model) => ModelStatus { stored: Some(stored), ..model },
                None => stored.into(),
            }),
            (None, None) => Err(self.unknown(id, &listing)),
        }
    }

    /// Name or digest of the model that drafts tokens for the one with this name or digest, as far as is known without
    /// looking into the store.
    pub fn draft_of(&self, id: &str) -> Option<String> {
        self.context.stored.latest().draft_of(id).map(str::to_owned)
    }

    /// Whether the model with the first name or digest drafts tokens for that with the second. mlx-lm's clients name
    /// whatever is configured `default_model`.
    pub fn is_draft(&self, draft: &str, id: &str) -> bool {
        let listing = self.context.stored.latest();
        let digest = |id: &str| listing.find(id).map(|model| &model.digest);
        listing.draft_of(id).is_some_and(|configured| {
            [configured, "default_model"].contains(&draft)
                || digest(draft).is_some_and(|found| digest(configured) == Some(found))
        })
    }

    /// Whether a request for some model would be taken. Where models are loaded on demand, none has to be loaded, but
    /// one that was named at the start is waited for.
    pub fn is_ready(&self) -> bool {
        let registry = &self.context.registry;
        registry.is_ready() || (self.loads_on_demand() && !registry.misses_one())
    }

    /// The name by which the stored model with this name or digest is loaded.
    ///
    /// # Errors
    /// There is none, it can't be loaded, or the store can't be read.
    pub(super) async fn stored_name(&self, id: &str) -> Result<String, ModelError> {
        let stored = &self.context.stored;
        let is_good = |model: &&StoredModel| model.defect.is_none();
        if let Some(model) = stored.latest().find(id).filter(is_good) {
            return Ok(model.id().to_owned());
        }
        let listing = stored.within(DEMAND_AGE).await;
        match listing.find(id) {
            Some(StoredModel { defect: Some(failure), .. }) => {
                Err(ModelError::Failed { model: id.to_owned(), failure: failure.clone() })
            }
            Some(model) => Ok(model.id().to_owned()),
            None if listing.has_failed() => Err(ModelError::StoreUnreadable),
            None => Err(ModelError::NotLoaded(self.absent(id, &listing))),
        }
    }

    /// Why a model that is not stored can't be used.
    fn absent(&self, id: &str, listing: &Listing) -> RouteError {
        match self.context.registry.resolve(id) {
            Err(error @ RouteError::Unloading { .. }) => error,
            _ => self.unknown(id, listing),
        }
    }

    fn unknown(&self, id: &str, listing: &Listing) -> RouteError {
        let usable = listing.models().iter().filter(|model| model.defect.is_none());
        self.context.registry.unknown(id, usable.filter_map(|model| model.name.as_deref()))
    }

    /// A list that has the model or adapter with this name, if there is one: one that was imported just now is found.
    pub(super) async fn listing_with(&self, id: &str) -> Listing {
        let stored = &self.context.stored;
        let listing = stored.within(LOOK_AGE).await;
        if listing.find(id).is_some() { listing } else { stored.within(DEMAND_AGE).await }
    }

    async fn look(&self) -> Listing {
        let stored = &self.context.stored;
        let renewed = stored.within(LOOK_AGE);
        if !stored.latest().is_known() {
            return renewed.await;
        }
        timeout(LOOK_PATIENCE, renewed).await.unwrap_or_else(|_| stored.latest())
    }
}
