//! What the artifact store has: asks the worker program, because the gateway opens no store.

use std::{
    io,
    process::{ExitStatus, Stdio},
    time::Duration,
};

use protocol::stored::StoredModel;
use tokio::{
    io::AsyncReadExt,
    process::{Child, Command},
    time::timeout,
};

use super::{environment, launcher::WorkerLauncher};

/// Why the stored models are not known.
#[derive(Debug, thiserror::Error)]
pub enum ListError {
    /// The worker program can't be started.
    #[error("can't start the worker program to list the stored models; name it with --worker-bin")]
    Start(#[source] io::Error),
    /// What it prints can't be read.
    #[error("can't read the list of stored models")]
    Read(#[source] io::Error),
    /// It failed.
    #[error("the worker program could not list the stored models ({0}); its own words are above")]
    Failed(ExitStatus),
    /// It takes too long.
    #[error("the worker program did not list the stored models within {} s", LIST_TIMEOUT.as_secs())]
    TimedOut,
    /// It prints too much.
    #[error("the list of stored models is longer than {MAX_LIST} bytes")]
    TooLong,
    /// It does not print a list.
    #[error(
        "the worker program printed something else than a list of models; it must be of the gateway's release"
    )]
    Malformed(#[source] serde_json::Error),
}

/// It reads one manifest a model. A disk that sleeps takes some seconds to wake.
const LIST_TIMEOUT: Duration = Duration::from_secs(20);

/// Some ten thousand models.
const MAX_LIST: u64 = 8 << 20;

/// Lists the models of the artifact store that workers use. Needs a runtime; dropping the future ends the program.
///
/// # Errors
/// The program can't be run, or the store not be read; the reason is then in the program's log, which is the gateway's.
pub async fn list_stored(launcher: &WorkerLauncher) -> Result<Vec<StoredModel>, ListError> {
    let mut child = start(launcher).map_err(ListError::Start)?;
    timeout(LIST_TIMEOUT, read(&mut child)).await.unwrap_or(Err(ListError::TimedOut))
}

fn start(launcher: &WorkerLauncher) -> io::Result<Child> {
    let mut command = Command::new(&launcher.binary);
    command.arg("--list-models");
    if let Some(store) = &launcher.config.workers.store {
        command.arg("--store").arg(store);
    }
    command.env_clear().envs(environment::for_worker());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).process_group(0).kill_on_drop(true);
    let _alone = launcher.descriptors();
    command.spawn()
}

async fn read(child: &mut Child) -> Result<Vec<StoredModel>, ListError> {
    let mut printed = Vec::new();
    if let Some(stdout) = child.stdout.take() {
        stdout.take(MAX_LIST + 1).read_to_end(&mut printed).await.map_err(ListError::Read)?;
    }
    if printed.len() as u64 > MAX_LIST {
        return Err(ListError::TooLong);
    }
    let status = child.wait().await.map_err(ListError::Read)?;
    if !status.success() {
        return Err(ListError::Failed(status));
    }
    serde_json::from_slice(&printed).map_err(ListError::Malformed)
}
