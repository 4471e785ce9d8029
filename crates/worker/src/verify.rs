//! Whether the stored model is what it should be, down to the last byte.
//!
//! ```text
//! header      what every load checks anyway
//! full        ─► SHA-256 of all blobs ─► the load goes on, or is refused
//! background  the load goes on ─► SHA-256 of all blobs, at low priority ─► a report
//! ```
//!
//! A blob that fails is set aside in the store, so that no later load takes it. What is mapped stays mapped: a worker
//! that serves goes on, and its gateway says what is wrong.

use std::{
    ops::ControlFlow,
    sync::Arc,
    time::{Duration, Instant},
};

use artifact_store::{Artifact, BackgroundVerify, StoreError, VerifyOptions, with_causes};
use protocol::{
    memory::Shortage,
    message::{Failure, FailureKind, Report, Verified},
};
use tracing::{error, info, warn};

use crate::{model::ModelError, report_sink::ReportSink};

/// Reads everything on all cores, before anything is loaded.
///
/// # Errors
/// A blob is not what it should be, or can't be read.
pub fn before_serving(artifact: &Artifact) -> Result<(), StoreError> {
    let began = Instant::now();
    let verified = artifact.verify(&VerifyOptions::all_cores(), &|_| ControlFlow::Continue(()))?;
    info!(bytes = verified.bytes, ms = began.elapsed().as_millis(), "verified");
    verified.into_result()
}

/// Reads everything in a thread that gives way to others, and reports what it found. Dropping what is returned stops
/// it.
pub fn while_serving(artifact: &Artifact, reports: &Arc<dyn ReportSink>) -> Option<BackgroundVerify> {
    let (began, reports) = (Instant::now(), Arc::clone(reports));
    let started = artifact.verify_in_background(move |outcome| {
        if let Some(report) = report(outcome, began.elapsed()) {
            reports.report(&report);
        }
    });
    // The worker serves all the same, but the log has to say that nothing was verified.
    started.inspect_err(|error| warn!(error = with_causes(error), "the stored model can't be verified")).ok()
}

/// `None` if the blobs could not be read, so nothing is known.
fn report(outcome: Result<artifact_store::Verified, StoreError>, took: Duration) -> Option<Report> {
    let bytes = match &outcome {
        Ok(verified) => verified.bytes,
        Err(error) => {
            warn!(error = with_causes(error), "the stored model could not be verified");
            return None;
        }
    };
    match outcome.and_then(artifact_store::Verified::into_result) {
        Ok(()) => {
            let micros = took.as_micros().try_into().unwrap_or(u64::MAX);
            info!(bytes, ms = micros / 1000, "verified");
            Some(Report::Verified(Verified { bytes, micros }))
        }
        Err(error) => {
            let message = with_causes(&error);
            error!(error = message, "the stored model is damaged");
            let failure = Failure { kind: FailureKind::DamagedModel, param: None, message };
            Some(Report::Damaged(failure))
        }
    }
}

/// The kind of failure that kept a model from being loaded.
pub fn kind_of(error: &anyhow::Error) -> FailureKind {
    let store = match error.downcast_ref::<ModelError>() {
        Some(ModelError::Store(error)) => Some(error),
        _ if error.is::<Shortage>() => return FailureKind::TooLarge,
        _ => error.downcast_ref::<StoreError>(),
    };
    match store {
        Some(StoreError::UnknownArtifact { .. } | StoreError::AmbiguousDigest { .. }) => {
            FailureKind::UnknownModel
        }
        Some(StoreError::Damaged { .. } | StoreError::Quarantined { .. }) => FailureKind::DamagedModel,
        _ => FailureKind::Internal,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::path::PathBuf;

    use anyhow::Context;
    use artifact_store::{BlobDefect, Digest, FailedBlob};
    use protocol::memory::MemoryNeeds;

    use super::*;

    fn quarantined() -> StoreError {
        StoreError::Quarantined { artifact: "m".into(), file: "f".into(), path: PathBuf::from("/q/f") }
    }

    #[test]
    fn the_kind_of_a_failed_load_is_found_wherever_it_comes_from() {
        let unknown = || StoreError::UnknownArtifact { name: "m".into(), store: "/s".into(), known: vec![] };
        let missing = ModelError::MissingTensor { name: "t".into() };
        let needs = MemoryNeeds { weight_bytes: 2, least_kv_bytes: 0, most_kv_bytes: 0, other_bytes: 0 };
        let shortage = Shortage { needs, workers: 1, left_bytes: 1, max_bytes: 1 };
        let table = [
            (anyhow::Error::new(shortage), FailureKind::TooLarge),
            (Err::<(), _>(shortage).context("both together").unwrap_err(), FailureKind::TooLarge),
            (anyhow::Error::new(quarantined()), FailureKind::DamagedModel),
            (anyhow::Error::new(ModelError::from(quarantined())), FailureKind::DamagedModel),
            (Err::<(), _>(unknown()).context("artifact store /s").unwrap_err(), FailureKind::UnknownModel),
            (anyhow::Error::new(missing), FailureKind::Internal),
        ];
        for (error, kind) in table {
            assert_eq!(kind_of(&error), kind, "{error:#}");
        }
    }

    #[test]
    fn what_was_found_out_is_reported_and_what_was_not_is_not() {
        let verified = |failed: &[FailedBlob]| artifact_store::Verified {
            digest: Digest::of(b"manifest"),
            name: "m".into(),
            blobs: 2,
            bytes: 7,
            failed: failed.to_vec(),
        };
        let took = Duration::from_millis(5);
        let good = Report::Verified(Verified { bytes: 7, micros: 5000 });
        assert_eq!(report(Ok(verified(&[])), took), Some(good));
        let failed = FailedBlob {
            blob: Digest::of(b"weights"),
            files: vec!["model.safetensors".into()],
            defect: BlobDefect::Missing,
            quarantined: true,
            path: "/q/f".into(),
        };
        match report(Ok(verified(&[failed])), took) {
            Some(Report::Damaged(Failure { kind: FailureKind::DamagedModel, message, .. })) => {
                assert!(message.contains("model.safetensors") && message.contains("Import"), "{message}");
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(report(Err(StoreError::Cancelled), took), None);
    }
}
