//! The models in the artifact store, as they were listed last.
//!
//! A list is asked for only when somebody needs one, by one program at a time, and kept for a while. While the store
//! can't be read, the last list that could be stays.

use std::{
    borrow::Cow,
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use protocol::stored::StoredModel;
use tokio::sync::watch;
use tracing::warn;

use super::usage::now;
use crate::worker::{WorkerLauncher, list_stored};

/// The models in the artifact store.
#[derive(Clone, Debug)]
pub(super) struct StoredModels {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    launcher: Arc<WorkerLauncher>,
    latest: watch::Sender<Listing>,
    /// The program runs.
    asking: AtomicBool,
}

/// What is known of the store.
#[derive(Clone, Debug, Default)]
pub(super) struct Listing {
    /// By a model's name or digest those of the one that drafts tokens for it, as the settings have it.
    drafts: Arc<BTreeMap<String, String>>,
    /// The last list that could be read.
    models: Arc<[StoredModel]>,
    /// When it was last asked for.
    asked: Option<Instant>,
    /// Nobody could answer that.
    failed: bool,
}

/// A store that can't be read is not asked again for this long: each time makes lines in the log.
const RETRY: Duration = Duration::from_secs(10);

/// Fewest digits by which a model can be named.
const MIN_PREFIX: usize = 8;

impl StoredModels {
    /// Nothing is known yet.
    pub(super) fn new(launcher: Arc<WorkerLauncher>) -> Self {
        let speculation = &launcher.config.speculation;
        let may_draft = speculation.max_draft_tokens > 0;
        let drafts = may_draft.then(|| speculation.draft_models.clone());
        let drafts = Arc::new(drafts.unwrap_or_default());
        let latest = watch::Sender::new(Listing { drafts, ..Listing::default() });
        let inner = Inner { launcher, latest, asking: AtomicBool::new(false) };
        Self { inner: Arc::new(inner) }
    }

    /// What is known, however old it is.
    pub(super) fn latest(&self) -> Listing {
        self.inner.latest.borrow().clone()
    }

    /// What was asked for at most `age` ago, or else now. Needs a runtime.
    pub(super) async fn within(&self, age: Duration) -> Listing {
        let called = now();
        let mut latest = self.inner.latest.subscribe();
        loop {
            let known = latest.borrow_and_update().clone();
            if known.is_within(age, called) {
                return known;
            }
            self.ask();
            // It can't fail: the sender is in `self`.
            let _ = latest.changed().await;
        }
    }

    /// Starts the program, unless it runs.
    fn ask(&self) {
        if self.inner.asking.swap(true, Ordering::AcqRel) {
            return;
        }
        let inner = Arc::clone(&self.inner);
        tokio::spawn(async move {
            let asked = now();
            let outcome = list_stored(&inner.launcher).await;
            // Before the news, so that whoever finds it too old can ask again.
            inner.asking.store(false, Ordering::Release);
            inner.latest.send_modify(|listing| listing.learn(outcome.map_err(anyhow::Error::new), asked));
        });
    }
}

impl Listing {
    /// The models, by name.
    pub(super) fn models(&self) -> &[StoredModel] {
        &self.models
    }

    /// Whether the store was ever asked for.
    pub(super) fn is_known(&self) -> bool {
        self.asked.is_some()
    }

    /// The store could not be read when it was asked for last.
    pub(super) fn has_failed(&self) -> bool {
        self.failed
    }

    /// The model with this name, or with this digest, of which the first digits suffice if they are its alone.
    pub(super) fn find(&self, id: &str) -> Option<&StoredModel> {
        if let Some(model) = self.models.iter().find(|model| model.name.as_deref() == Some(id)) {
            return Some(model);
        }
        let digits = id.strip_prefix("sha256:").unwrap_or(id);
        if digits.len() < MIN_PREFIX || !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return None;
        }
        let mut found = self.models.iter().filter(|model| model.digest.starts_with(digits));
        let first = found.next()?;
        // One model may have several names.
        found.all(|other| other.digest == first.digest).then_some(first)
    }

    /// The same, with what the model that drafts for it takes as well.
    pub(super) fn sized(&self, id: &str) -> Option<Cow<'_, StoredModel>> {
        let model = self.find(id)?;
        let Some(draft) = self.draft_of(id).and_then(|draft| self.find(draft)) else {
            return Some(Cow::Borrowed(model));
        };
        let both = model.stored_size().and_draft(draft.stored_size());
        let (weight_bytes, kv_token_values) = (both.weight_bytes, both.kv_token_values);
        Some(Cow::Owned(StoredModel { weight_bytes, kv_token_values, ..model.clone() }))
    }

    /// Name or digest of the model that drafts for the one with this name or digest. It may have been named by another name
    /// of the same model.
    pub(super) fn draft_of(&self, id: &str) -> Option<&str> {
        let by_name = self.drafts.get(id);
        let found = by_name.or_else(|| {
            let digest = &self.find(id)?.digest;
            let is_it = |other: &str| self.find(other).is_some_and(|other| other.digest == *digest);
            self.drafts.iter().find(|(other, _)| is_it(other)).map(|(_, draft)| draft)
        });
        found.map(String::as_str)
    }

    /// Whether there are models that draft.
    pub(super) fn has_drafts(&self) -> bool {
        !self.drafts.is_empty()
    }

    #[cfg(test)]
    pub(super) fn of(models: &[StoredModel]) -> Self {
        Self { models: models.into(), ..Self::default() }
    }

    fn is_within(&self, age: Duration, called: Instant) -> bool {
        let age = if self.failed { age.max(RETRY) } else { age };
        self.asked.is_some_and(|asked| asked + age >= called)
    }

    fn learn(&mut self, outcome: Result<Vec<StoredModel>, anyhow::Error>, asked: Instant) {
        self.asked = Some(asked);
        self.failed = outcome.is_err();
        match outcome {
            Ok(models) => self.models = models.into(),
            Err(error) => warn!("{error:#}"),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    pub(crate) fn stored(name: Option<&str>, digest: &str) -> StoredModel {
        StoredModel {
            name: name.map(str::to_owned),
            digest: digest.to_owned(),
            architecture: None,
            base: None,
            size: 1,
            weight_bytes: 1,
            kv_token_values: 0,
            context_length: None,
            embeds: false,
            has_adapters: false,
            imported_at: 0,
            defect: None,
        }
    }

    #[test]
    fn a_model_is_found_by_its_name_or_enough_of_its_digest() {
        let (a, b) = ("aaaa0000aaaa", "aaaa0000bbbb");
        let models = [
            stored(Some("x"), a),
            stored(Some("y"), a),
            stored(Some("aaaa0000"), b),
            stored(None, "cccc0000"),
        ];
        let listing = Listing::of(&models);
        let find = |id: &str| listing.find(id).map(StoredModel::id);
        assert_eq!((find("x"), find("y")), (Some("x"), Some("y")));
        assert_eq!(find("aaaa0000"), Some("aaaa0000"), "names come first");
        assert_eq!(
            (find(a), find("sha256:aaaa0000aaaa"), find("aaaa0000a")),
            (Some("x"), Some("x"), Some("x"))
        );
        assert_eq!((find(b), find("cccc0000")), (Some("aaaa0000"), Some("cccc0000")));
        for unknown in ["z", "", "cccc", "cccc000", "sha256:", "aaaa000", "cccc0000x", "sha256:aaaa0000"] {
            assert_eq!(find(unknown), None, "{unknown}");
        }
    }

    #[test]
    fn the_model_that_drafts_is_found_by_any_name_of_the_other_and_counts_with_it() {
        let size =
            |model: StoredModel, weight_bytes| StoredModel { weight_bytes, kv_token_values: 3, ..model };
        let models = [
            size(stored(Some("large"), "aaaa0000aaaa"), 100),
            size(stored(Some("large:again"), "aaaa0000aaaa"), 100),
            size(stored(Some("other"), "bbbb0000bbbb"), 50),
            size(stored(Some("small"), "cccc0000cccc"), 7),
        ];
        let drafts = [("large", "small"), ("sha256:bbbb0000", "absent")];
        let drafts = drafts.map(|(one, other)| (one.to_owned(), other.to_owned()));
        let listing = Listing { drafts: Arc::new(drafts.into()), ..Listing::of(&models) };
        for name in ["large", "large:again", "aaaa0000aaaa", "sha256:aaaa0000"] {
            assert_eq!(listing.draft_of(name), Some("small"), "{name}");
            let sized = listing.sized(name).unwrap();
            assert_eq!((sized.weight_bytes, sized.kv_token_values), (107, 6));
        }
        assert_eq!((listing.draft_of("other"), listing.draft_of("small")), (Some("absent"), None));
        assert_eq!(listing.sized("other").unwrap().weight_bytes, 50);
        let unknown = Listing { models: Arc::default(), ..listing };
        assert_eq!((unknown.draft_of("large"), unknown.sized("large")), (Some("small"), None));
    }

    #[test]
    fn a_list_that_could_not_be_read_leaves_the_last_one_and_is_not_asked_for_again_at_once() {
        let start = now();
        let later = |seconds| start + Duration::from_secs(seconds);
        let mut listing = Listing::default();
        assert!(!listing.is_within(Duration::MAX, start) && !listing.is_known());
        listing.learn(Ok(vec![stored(Some("m"), "d")]), start);
        let age = Duration::from_secs(2);
        assert!(listing.is_within(age, later(2)) && !listing.is_within(age, later(3)));
        listing.learn(Err(anyhow::anyhow!("no")), later(3));
        assert!(listing.has_failed() && listing.find("m").is_some());
        assert!(listing.is_within(age, later(13)) && !listing.is_within(age, later(14)));
        listing.learn(Ok(vec![]), later(14));
        assert!(!listing.has_failed() && listing.find("m").is_none());
    }
}
