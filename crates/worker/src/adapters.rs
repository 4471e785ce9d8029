//! Adapters of the served model: loaded when a request needs one, kept as long as there is memory.
//!
//! Preparation asks for them, on its own threads: reading one keeps no step waiting. A sequence holds its adapter until it
//! has ended. When there is no room for another one, those that no sequence holds go, the least recently used first.

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicU64, Ordering},
};

use artifact_store::{Digest, Store, StoreError, with_causes};
use protocol::message::{AdapterRef, Failure, FailureKind};
use tracing::{info, warn};

use crate::{
    model::{Adaptable, Adapter, AdapterError},
    verify,
};

/// The adapters of one model.
#[derive(Debug)]
pub struct Adapters {
    store: Store,
    /// Digest of the model.
    base: Digest,
    adaptable: Arc<Adaptable>,
    max_bytes: u64,
    /// Whether what is stored is verified before it is used.
    verifies: bool,
    /// The least recently used first.
    loaded: Mutex<Vec<Arc<Adapter>>>,
    bytes: Arc<AtomicU64>,
    /// Held while one is loaded, so that no two count on the same room.
    loading: Mutex<()>,
}

impl Adapters {
    /// None is loaded yet. All together may take `max_bytes`.
    pub fn new(
        store: Store,
        base: Digest,
        adaptable: Arc<Adaptable>,
        max_bytes: u64,
        verifies: bool,
    ) -> Self {
        let (loaded, bytes, loading) = Default::default();
        Self { store, base, adaptable, max_bytes, verifies, loaded, bytes, loading }
    }

    /// Whether there are adapters of the artifact `base` in the store. A store that does not say may have some.
    pub fn any_of(store: &Store, base: Digest) -> bool {
        store.list().map_or(true, |all| all.iter().any(|artifact| artifact.base == Some(base)))
    }

    /// Bytes of those that are loaded; any thread may look.
    pub fn bytes(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.bytes)
    }

    /// The adapter, which is loaded if need be.
    ///
    /// # Errors
    /// It is not stored, is of another model, can't be loaded, or has no room.
    pub fn provide(&self, wanted: &AdapterRef) -> Result<Arc<Adapter>, Failure> {
        let failure = |kind, why: String| {
            let message = format!("the adapter `{}` can't be used: {why}", wanted.name);
            Failure { kind, param: Some("model".into()), message }
        };
        let digest: Digest = wanted
            .digest
            .parse()
            .map_err(|_| failure(FailureKind::Internal, format!("`{}` is not a digest", wanted.digest)))?;
        if let Some(adapter) = self.find(digest) {
            return Ok(adapter);
        }
        let _loading = self.loading.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(adapter) = self.find(digest) {
            return Ok(adapter);
        }
        let adapter = self.load(digest).map_err(|error| failure(kind_of(&error), with_causes(&error)))?;
        info!(adapter = wanted.name, bytes = adapter.bytes(), "adapter loaded");
        let adapter = Arc::new(adapter);
        let mut loaded = self.loaded();
        loaded.push(Arc::clone(&adapter));
        self.count(&loaded);
        Ok(adapter)
    }

    /// One that is loaded. It is used now.
    fn find(&self, digest: Digest) -> Option<Arc<Adapter>> {
        let mut loaded = self.loaded();
        let index = loaded.iter().position(|adapter| adapter.digest() == digest)?;
        let adapter = loaded.remove(index);
        loaded.push(Arc::clone(&adapter));
        Some(adapter)
    }

    fn load(&self, digest: Digest) -> Result<Adapter, AdapterError> {
        let artifact = self.store.resolve(&digest.to_string())?;
        if self.verifies {
            verify::before_serving(&artifact)?;
        }
        let bytes = self.adaptable.size(&artifact, self.base)?;
        self.make_room(bytes)?;
        if let Err(error) = artifact.record_use() {
            warn!(%error, "the store can't record that the adapter was used");
        }
        self.adaptable.load(artifact, self.base, self.max_bytes)
    }

    /// Forgets adapters until another one has room.
    fn make_room(&self, bytes: u64) -> Result<(), AdapterError> {
        let mut loaded = self.loaded();
        let mut used: u64 = loaded.iter().map(|adapter| adapter.bytes()).sum();
        let limit = self.max_bytes;
        loaded.retain(|adapter| {
            // Nobody else can begin to use it meanwhile: that takes the lock.
            let goes = used.saturating_add(bytes) > limit && Arc::strong_count(adapter) == 1;
            used -= if goes { adapter.bytes() } else { 0 };
            !goes
        });
        self.count(&loaded);
        if bytes > limit {
            return Err(AdapterError::TooLarge { bytes, limit });
        }
        if used.saturating_add(bytes) > limit {
            return Err(AdapterError::NoRoom { bytes, used, limit });
        }
        Ok(())
    }

    fn count(&self, loaded: &[Arc<Adapter>]) {
        self.bytes.store(loaded.iter().map(|adapter| adapter.bytes()).sum(), Ordering::Relaxed);
    }

    fn loaded(&self) -> MutexGuard<'_, Vec<Arc<Adapter>>> {
        self.loaded.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn kind_of(error: &AdapterError) -> FailureKind {
    match error {
        AdapterError::Store(StoreError::UnknownArtifact { .. }) | AdapterError::OtherBase { .. } => {
            FailureKind::UnknownModel
        }
        AdapterError::Store(StoreError::Damaged { .. } | StoreError::Quarantined { .. }) => {
            FailureKind::DamagedModel
        }
        AdapterError::NoRoom { .. } => FailureKind::Overloaded,
        AdapterError::TooLarge { .. } => FailureKind::TooLarge,
        _ => FailureKind::Internal,
    }
}
