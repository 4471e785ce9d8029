//! The worker's executable: a script that only announces that it was started.

use std::{
    collections::HashSet,
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::Mutex,
};

use super::{FakeProcess, FakeWorker};
use crate::wait::until;

/// Announces itself with its arguments, which appear at once and complete, and runs until it is killed or the folder is
/// gone. Asked for the stored models, it prints what the test has written.
const SCRIPT: &str = r#"#!/bin/sh
cd "$(dirname "$0")/started" || exit 1
if [ "$1" = --list-models ]; then
    echo "$*" >> ../listings
    exec cat ../stored.json
fi
echo "$*" > $$.new && mv $$.new $$ || exit 1
while [ -e $$ ]; do sleep 1; done
"#;

/// An executable for the gateway to start as its worker. Its processes end when it is dropped.
pub struct WorkerProgram {
    folder: tempfile::TempDir,
    path: PathBuf,
    /// Processes that [`WorkerProgram::next_process`] has returned.
    known: Mutex<HashSet<u32>>,
}

impl WorkerProgram {
    /// Writes the script into a folder of its own.
    ///
    /// # Panics
    /// It can't be written.
    #[expect(clippy::new_without_default, reason = "it writes files")]
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("started")).unwrap();
        fs::write(folder.path().join("stored.json"), "[]").unwrap();
        let path = folder.path().join("worker.sh");
        fs::write(&path, SCRIPT).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).unwrap();
        Self { folder, path, known: Mutex::default() }
    }

    /// For `--worker-bin`.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What the artifact store has from now on, as the worker program prints it; `None`: it can't be read.
    ///
    /// # Panics
    /// It can't be written.
    pub fn store(&self, printed: Option<&str>) {
        let path = self.folder.path().join("stored.json");
        let Some(printed) = printed else { return fs::remove_file(path).unwrap() };
        let new = self.folder.path().join("stored.new");
        fs::write(&new, printed).unwrap();
        fs::rename(new, path).unwrap();
    }

    /// How often the stored models were asked for.
    pub fn listings(&self) -> usize {
        fs::read_to_string(self.folder.path().join("listings")).map_or(0, |text| text.lines().count())
    }

    /// Waits for the next process, and connects for it.
    ///
    /// # Panics
    /// None is started.
    pub async fn next_worker(&self) -> FakeWorker {
        FakeWorker::join(self.next_process().await).await
    }

    /// Waits for the next process that was started.
    ///
    /// # Panics
    /// None is, or not with a worker's arguments.
    pub async fn next_process(&self) -> FakeProcess {
        let started = self.folder.path().join("started");
        let next = || {
            let names = fs::read_dir(&started).unwrap().map(|entry| entry.unwrap().file_name());
            let pids = names.filter_map(|name| name.to_str().and_then(|name| name.parse().ok()));
            pids.filter(|pid| !self.known.lock().unwrap().contains(pid)).min()
        };
        until("a worker process", || next().is_some()).await;
        let pid: u32 = next().unwrap();
        self.known.lock().unwrap().insert(pid);
        let line = fs::read_to_string(started.join(pid.to_string())).unwrap();
        let args: Vec<_> = line.split_whitespace().collect();
        let after = |flag: &str| args[args.iter().position(|arg| *arg == flag).unwrap() + 1].to_owned();
        let model = args.iter().find_map(|arg| arg.strip_prefix("--model=")).unwrap().to_owned();
        FakeProcess { pid, socket: after("--socket").into(), model }
    }
}
