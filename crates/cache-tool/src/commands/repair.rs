//! `cache-tool repair`.

use std::process::ExitCode;

use artifact_store::{Digest, Problem, RepairAction, RepairReport};
use serde_json::{Value, json};

use crate::{
    exit,
    output::{path_json, print, print_json, say, size},
    progress::say_waiting,
    store_args::StoreArgs,
};

/// Put the store right.
///
/// Finishes or undoes what a killed process left, removes temporary files,
/// files that no artifact uses, and names that stand for nothing, puts back
/// what is in quarantine without reason, and rebuilds the index. Nothing
/// that an artifact may need is removed. What remains, such as a damaged file,
/// is shown with how to repair it; then the exit code is 5. To read every file,
/// see `verify`.
///
/// Example: cache-tool repair --dry-run
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Args {
    /// Change nothing; show what would be done
    #[arg(long)]
    dry_run: bool,
    /// Print JSON, sizes in bytes
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(store_args: &StoreArgs, args: &Args) -> anyhow::Result<ExitCode> {
    let report = store_args.open_existing()?.repair(args.dry_run, &mut say_waiting)?;
    if args.json {
        print_json(&as_json(&report))?;
    } else {
        show(&report)?;
    }
    let damaged = report.problems.iter().any(|problem| !matches!(problem, Problem::Foreign(_)));
    Ok(if damaged { exit::DAMAGED.into() } else { ExitCode::SUCCESS })
}

fn show(report: &RepairReport) -> anyhow::Result<()> {
    for action in &report.actions {
        print(&describe(action))?;
    }
    for problem in &report.problems {
        say(&problem.to_string());
    }
    let (things, were) = match report.actions.len() {
        0 => ("nothing".to_owned(), "was"),
        1 => ("1 thing".to_owned(), "was"),
        count => (format!("{count} things"), "were"),
    };
    say(&format!("{things} {} repaired", if report.dry_run { "would be" } else { were }));
    if !report.problems.is_empty() {
        say(&format!("{} problem(s) left for you, see above", report.problems.len()));
    }
    Ok(())
}

fn describe(action: &RepairAction) -> String {
    match action {
        RepairAction::FinishName { name, digest } => {
            format!("finish the import of `{name}`, artifact {}", digest.short())
        }
        RepairAction::FinishEviction { digests } => {
            let digests: Vec<String> = digests.iter().map(Digest::short).collect();
            format!("remove what had to make room for an import: {}", digests.join(", "))
        }
        RepairAction::RemoveTemporary { path, bytes } => {
            format!("remove unfinished work, {}: {}", size(*bytes), path.display())
        }
        RepairAction::DropName { name } => format!("remove the name `{name}`, which stands for nothing"),
        RepairAction::DropPin { digest } => format!("remove the pin of {}, which is gone", digest.short()),
        RepairAction::RemoveOrphan { blob, bytes } => {
            format!("remove a file that nothing uses, {}: {}", size(*bytes), blob.short())
        }
        RepairAction::DropQuarantined { blob, bytes } => {
            format!(
                "remove from quarantine what was repaired or is not needed, {}: {}",
                size(*bytes),
                blob.short()
            )
        }
        RepairAction::RestoreBlob { blob } => {
            format!("put back from quarantine, being good after all: {}", blob.short())
        }
        RepairAction::RebuildIndex => "rebuild the index".to_owned(),
    }
}

fn as_json(report: &RepairReport) -> Value {
    json!({
        "dry_run": report.dry_run,
        "actions": report.actions.iter().map(action_json).collect::<Vec<_>>(),
        "problems": report.problems.iter().map(problem_json).collect::<Vec<_>>(),
    })
}

fn action_json(action: &RepairAction) -> Value {
    match action {
        RepairAction::FinishName { name, digest } => {
            json!({ "action": "finish-name", "name": name, "digest": digest })
        }
        RepairAction::FinishEviction { digests } => {
            json!({ "action": "finish-eviction", "digests": digests })
        }
        RepairAction::RemoveTemporary { path, bytes } => {
            json!({ "action": "remove-temporary", "path": path_json(path), "bytes": bytes })
        }
        RepairAction::DropName { name } => json!({ "action": "drop-name", "name": name }),
        RepairAction::DropPin { digest } => json!({ "action": "drop-pin", "digest": digest }),
        RepairAction::RemoveOrphan { blob, bytes } => {
            json!({ "action": "remove-orphan", "blob": blob, "bytes": bytes })
        }
        RepairAction::DropQuarantined { blob, bytes } => {
            json!({ "action": "drop-quarantined", "blob": blob, "bytes": bytes })
        }
        RepairAction::RestoreBlob { blob } => json!({ "action": "restore-blob", "blob": blob }),
        RepairAction::RebuildIndex => json!({ "action": "rebuild-index" }),
    }
}

fn problem_json(problem: &Problem) -> Value {
    let reason = problem.to_string();
    match problem {
        Problem::Manifest { digest, names, .. } => {
            json!({ "problem": "manifest", "digest": digest, "names": names, "reason": reason })
        }
        Problem::File { digest, names, file, .. } => {
            json!({ "problem": "file", "digest": digest, "names": names, "file": file, "reason": reason })
        }
        Problem::Foreign(path) => json!({ "problem": "foreign", "path": path_json(path), "reason": reason }),
    }
}
