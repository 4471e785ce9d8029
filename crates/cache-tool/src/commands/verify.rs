//! `cache-tool verify`.

use std::{num::NonZeroUsize, process::ExitCode};

use artifact_store::{Artifact, FailedBlob, Store, Verified, VerifyOptions, with_causes};
use serde_json::{Value, json};

use crate::{
    exit,
    output::{Rows, path_json, print_json, say, size},
    progress::VerifyProgress,
    store_args::StoreArgs,
};

/// Read everything that is stored and compare it with its digests.
///
/// A file that is not what was stored is moved to quarantine, where no load
/// finds it; a process that has it mapped keeps it. Importing or pulling the
/// same source again repairs the artifact. Exits with 5 if anything was bad.
///
/// Example: cache-tool verify smollm2-135m
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Args {
    /// Names, digests, or the first digits of digests [default: all artifacts]
    names: Vec<String>,
    /// Files to read at once [default: the number of cores]
    #[arg(long, value_name = "N")]
    jobs: Option<NonZeroUsize>,
    /// Move nothing; only show what is bad
    #[arg(long)]
    dry_run: bool,
    /// Print JSON, sizes in bytes
    #[arg(long)]
    json: bool,
}

/// An artifact whose manifest can't be used.
struct Unreadable {
    name: String,
    reason: String,
}

pub(crate) fn run(store_args: &StoreArgs, args: &Args) -> anyhow::Result<ExitCode> {
    let store = if args.dry_run { store_args.open_read_only()? } else { store_args.open_existing()? };
    let (artifacts, unreadable) = resolve(&store, &args.names)?;
    let mut options = VerifyOptions { quarantine: !args.dry_run, ..VerifyOptions::all_cores() };
    options.jobs = args.jobs.unwrap_or(options.jobs);
    let progress = VerifyProgress::new()?;
    let verified = store.verify(&artifacts, &options, &|event| progress.observe(event));
    progress.finish();
    let verified = verified?;

    let ok = unreadable.is_empty() && verified.iter().all(|artifact| artifact.failed.is_empty());
    if args.json {
        print_json(&as_json(&verified, &unreadable, args.dry_run, ok))?;
    } else {
        show(verified, unreadable)?;
    }
    Ok(if ok { ExitCode::SUCCESS } else { exit::DAMAGED.into() })
}

/// The artifacts that were asked for; of all, also those that can't be read.
fn resolve(store: &Store, names: &[String]) -> anyhow::Result<(Vec<Artifact>, Vec<Unreadable>)> {
    if !names.is_empty() {
        let artifacts: Result<_, _> = names.iter().map(|name| store.resolve(name)).collect();
        return Ok((artifacts?, Vec::new()));
    }
    let (mut artifacts, mut unreadable) = (Vec::new(), Vec::new());
    for listed in store.list()? {
        let name = listed.names.first().cloned().unwrap_or_else(|| listed.digest.to_string());
        match store.resolve(&name) {
            Ok(artifact) => artifacts.push(artifact),
            Err(error) => unreadable.push(Unreadable { name, reason: with_causes(&error) }),
        }
    }
    Ok((artifacts, unreadable))
}

fn as_json(verified: &[Verified], unreadable: &[Unreadable], dry_run: bool, ok: bool) -> Value {
    let failed = |failed: &FailedBlob| {
        json!({
            "blob": failed.blob.to_string(),
            "files": failed.files,
            "reason": failed.defect.to_string(),
            "quarantined": failed.quarantined,
            "path": path_json(&failed.path),
        })
    };
    let artifacts = verified.iter().map(|artifact| {
        json!({
            "digest": artifact.digest.to_string(),
            "name": artifact.name,
            "blobs": artifact.blobs,
            "bytes": artifact.bytes,
            "failed": artifact.failed.iter().map(failed).collect::<Vec<_>>(),
        })
    });
    let unreadable = unreadable.iter().map(|it| json!({ "name": it.name, "reason": it.reason }));
    json!({
        "ok": ok,
        "dry_run": dry_run,
        "artifacts": artifacts.collect::<Vec<_>>(),
        "unreadable": unreadable.collect::<Vec<_>>(),
    })
}

fn show(verified: Vec<Verified>, unreadable: Vec<Unreadable>) -> anyhow::Result<()> {
    let mut rows = Rows::with_header(["NAME", "FILES", "SIZE", "RESULT"]);
    for artifact in &verified {
        let result = match artifact.failed.len() {
            0 => "good".to_owned(),
            bad => format!("{bad} bad"),
        };
        rows.add_row([artifact.name.clone(), artifact.blobs.to_string(), size(artifact.bytes), result]);
    }
    for artifact in &unreadable {
        rows.add_row([artifact.name.clone(), "-".to_owned(), "-".to_owned(), "unreadable".to_owned()]);
    }
    rows.print()?;
    for artifact in verified {
        for failed in &artifact.failed {
            let moved = if failed.quarantined { "; it is in quarantine" } else { "" };
            say(&format!("{} of {}: {}{moved}", failed.files.join(", "), artifact.name, failed.defect));
        }
        if let Err(error) = artifact.into_result() {
            say(&with_causes(&error));
        }
    }
    unreadable.iter().for_each(|artifact| say(&artifact.reason));
    Ok(())
}
