//! `--list-models`: what the artifact store has, for a gateway, which opens no store itself.

use std::{
    collections::HashSet,
    io::Write,
    path::Path,
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::Context;
use artifact_store::{
    ArtifactState, ArtifactSummary, Digest, Manifest, Store, StoreError, default_store_dir, with_causes,
};
use protocol::{
    memory::StoredSize,
    message::{Failure, FailureKind},
    stored::StoredModel,
};

use crate::{
    model::{EmbeddingModel, Model, stored_size},
    verify,
};

/// Writes [`list`] to `out` as a JSON array.
///
/// # Errors
/// The store can't be read, or `out` not written.
pub fn print(store: Option<&Path>, mut out: impl Write) -> anyhow::Result<()> {
    let models = list(store)?;
    serde_json::to_writer(&mut out, &models).context("cannot write the list of models")?;
    out.flush().context("cannot write the list of models")
}

/// Every name in the store, then what has none. Looks into no blob, so it does not take longer for large models.
///
/// # Errors
/// There is no store, or it can't be read. An artifact that can't be is listed with its defect.
pub fn list(store: Option<&Path>) -> anyhow::Result<Vec<StoredModel>> {
    let dir = store.map_or_else(default_store_dir, |dir| Ok(dir.to_owned()))?;
    let store = Store::open_read_only(&dir)?;
    let mut models = Vec::new();
    let artifacts = store.list()?;
    let bases: HashSet<Digest> = artifacts.iter().filter_map(|artifact| artifact.base).collect();
    for artifact in artifacts {
        let model = match store.manifest(artifact.digest) {
            Ok(Some(manifest)) => describe(&artifact, &manifest),
            // It was removed meanwhile.
            Ok(None) => continue,
            Err(error) => unreadable(&artifact, error),
        };
        let model = StoredModel { has_adapters: bases.contains(&artifact.digest), ..model };
        let named =
            artifact.names.iter().map(|name| StoredModel { name: Some(name.clone()), ..model.clone() });
        models.extend(named);
        if artifact.names.is_empty() {
            models.push(model);
        }
    }
    models
        .sort_by(|a, b| (a.name.is_none(), &a.name, &a.digest).cmp(&(b.name.is_none(), &b.name, &b.digest)));
    Ok(models)
}

fn describe(artifact: &ArtifactSummary, manifest: &Manifest) -> StoredModel {
    let StoredSize { weight_bytes, kv_token_values, context_length } = stored_size(manifest);
    StoredModel {
        name: None,
        digest: artifact.digest.to_string(),
        architecture: manifest.architecture().map(str::to_owned),
        base: manifest.base.map(|digest| digest.to_string()),
        size: artifact.size,
        weight_bytes,
        kv_token_values,
        embeds: EmbeddingModel::is_one(manifest),
        has_adapters: false,
        context_length: Some(context_length).filter(|length| *length > 0),
        imported_at: seconds(artifact.imported_at),
        defect: defect(artifact, manifest),
    }
}

fn defect(artifact: &ArtifactSummary, manifest: &Manifest) -> Option<Failure> {
    let failure = |kind, message| Some(Failure { kind, param: None, message });
    if artifact.state == ArtifactState::Quarantined {
        let message = "a stored file of the model failed its verification and was set aside; import or pull the model again";
        return failure(FailureKind::DamagedModel, message.to_owned());
    }
    if manifest.base.is_some() {
        // Whether its base is stored is seen in the list.
        return None;
    }
    let unsupported = Model::check_architecture(manifest.architecture()).err()?;
    failure(FailureKind::Internal, unsupported.to_string())
}

fn unreadable(artifact: &ArtifactSummary, error: StoreError) -> StoredModel {
    let message = with_causes(&error);
    let kind = verify::kind_of(&error.into());
    StoredModel {
        name: None,
        digest: artifact.digest.to_string(),
        architecture: artifact.architecture.clone(),
        base: artifact.base.map(|digest| digest.to_string()),
        size: artifact.size,
        weight_bytes: 0,
        kv_token_values: 0,
        embeds: false,
        has_adapters: false,
        context_length: None,
        imported_at: seconds(artifact.imported_at),
        defect: Some(Failure { kind, param: None, message }),
    }
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
