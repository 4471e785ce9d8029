//! One file of a repository to a folder: resumed where it broke off, and checked.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, BufReader, Read, Write},
    path::{Path, PathBuf},
    thread,
};

use anyhow::{Context, bail, ensure};
use artifact_store::Digest;
use ureq::http::{StatusCode, header};

use super::{
    Hub, RemoteFile, Snapshot, check,
    checksum::Checksum,
    pace::{Attempts, Paced},
};

const BUFFER: usize = 1 << 18;

/// How an attempt ended that did not fail for good.
enum Attempt {
    /// The connection ended, for this reason.
    Broken(String),
    /// The server wants to be left alone for a while.
    Busy(StatusCode),
    Complete,
}

/// Where a file is while it is downloaded and afterwards.
struct Places {
    complete: PathBuf,
    /// What came so far.
    partial: PathBuf,
    /// The SHA-256 of what came, if the hub names no checksum.
    record: PathBuf,
}

impl Places {
    fn of(file: &RemoteFile, folder: &Path) -> Self {
        let complete = folder.join(file.local());
        let beside = |name: String| complete.with_file_name(name);
        let name = complete.file_name().unwrap_or_default().to_string_lossy();
        let (partial, record) = (beside(format!("{name}.part")), beside(format!(".{name}.sha256")));
        Self { complete, partial, record }
    }

    fn partial_len(&self) -> u64 {
        fs::metadata(&self.partial).map_or(0, |metadata| metadata.len())
    }

    /// What the bytes have to be: what the hub says, or what came.
    fn checksum(&self, file: &RemoteFile) -> Option<Checksum> {
        let recorded = || fs::read_to_string(&self.record).ok()?.parse().ok().map(Checksum::Sha256);
        file.checksum.or_else(recorded)
    }
}

/// Decides what an earlier download left of `file` in `folder`: what is not what the hub has, or nobody knows to be, is
/// removed. A link is removed too: what it led to may be gone.
pub(crate) fn settle(file: &RemoteFile, folder: &Path) -> anyhow::Result<()> {
    let places = Places::of(file, folder);
    let is_file = match places.complete.symlink_metadata() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        found => {
            Some(found.with_context(|| format!("cannot inspect {}", places.complete.display()))?.is_file())
        }
    };
    let fits = match (is_file, places.checksum(file)) {
        (Some(true), Some(checksum)) => checksum.fits(&places.complete, file.size)?,
        _ => false,
    };
    if is_file.is_some() && !fits {
        remove(&places.complete)?;
    }
    // Without a checksum nobody would notice that the two parts of a file do not belong together.
    let partial = places.partial.symlink_metadata();
    let resumable =
        file.checksum.is_some() && partial.as_ref().is_ok_and(|it| it.is_file() && it.len() <= file.size);
    if partial.is_ok() && !resumable {
        remove(&places.partial)?;
    }
    Ok(())
}

/// Bytes of `file` that an earlier download has not left in `folder`, after [`settle`].
pub(crate) fn missing(file: &RemoteFile, folder: &Path) -> u64 {
    let places = Places::of(file, folder);
    if places.complete.exists() { 0 } else { file.size.saturating_sub(places.partial_len()) }
}

/// Downloads `file` into `folder`. What [`settle`] left there is used. `advanced` is told of bytes as they come, also of
/// those that are there already.
pub(crate) fn download(
    hub: &Hub,
    snapshot: &Snapshot,
    file: &RemoteFile,
    folder: &Path,
    advanced: &mut dyn FnMut(u64),
) -> anyhow::Result<()> {
    let places = Places::of(file, folder);
    if places.complete.exists() {
        advanced(file.size);
        return Ok(());
    }
    if let Some(parent) = places.complete.parent() {
        fs::create_dir_all(parent).with_context(|| format!("cannot create {}", parent.display()))?;
    }
    let resumed = places.partial_len() > 0;
    fetch(hub, snapshot, file, &places.partial, advanced)?;
    if !is_intact(file, &places.partial)? {
        remove(&places.partial)?;
        // The part that was there before may be at fault.
        if resumed {
            fetch(hub, snapshot, file, &places.partial, &mut |_| {})?;
        }
        if !resumed || !is_intact(file, &places.partial)? {
            let _ = fs::remove_file(&places.partial);
            bail!(
                "{} was damaged on the way: its checksum is not the one that the hub names; pull it again",
                file.path
            );
        }
    }
    keep(file, &places)
}

fn is_intact(file: &RemoteFile, partial: &Path) -> anyhow::Result<bool> {
    file.checksum.map_or(Ok(true), |checksum| checksum.fits(partial, file.size))
}

/// Gives a file its name once its bytes are on the disk: after a loss of power, a file with this name is complete.
fn keep(file: &RemoteFile, places: &Places) -> anyhow::Result<()> {
    let Places { complete, partial, record } = places;
    let opened = File::open(partial).with_context(|| format!("cannot open {}", partial.display()))?;
    if file.checksum.is_none() {
        let digest = Digest::of_reader(&mut BufReader::new(&opened));
        let (digest, _) = digest.with_context(|| format!("cannot read {}", partial.display()))?;
        fs::write(record, digest.to_string())
            .with_context(|| format!("cannot write {}", record.display()))?;
    }
    opened.sync_all().with_context(|| format!("cannot write {} to the disk", partial.display()))?;
    fs::rename(partial, complete).with_context(|| format!("cannot rename {}", partial.display()))?;
    let folder = complete.parent().unwrap_or(Path::new("."));
    let synced = File::open(folder).and_then(|folder| folder.sync_all());
    synced.with_context(|| format!("cannot write {} to the disk", folder.display()))
}

/// Appends to `partial` until it has the size of `file`.
fn fetch(
    hub: &Hub,
    snapshot: &Snapshot,
    file: &RemoteFile,
    partial: &Path,
    advanced: &mut dyn FnMut(u64),
) -> anyhow::Result<()> {
    let mut have = fs::metadata(partial).map_or(0, |metadata| metadata.len());
    advanced(have);
    let mut attempts = Attempts::new(file.size);
    while have < file.size || !partial.exists() {
        let before = have;
        let reason = match attempt(hub, snapshot, file, partial, &mut have, advanced)? {
            Attempt::Complete => break,
            Attempt::Broken(reason) => reason,
            Attempt::Busy(status) => format!("the hub answered {status}"),
        };
        match attempts.again_after(have - before) {
            Some(pause) => thread::sleep(pause),
            None => {
                bail!(
                    "cannot download {}: {reason}; the same command goes on where this one stopped",
                    file.path
                )
            }
        }
    }
    Ok(())
}

/// One request; what it brings is appended, and counted in `have`.
fn attempt(
    hub: &Hub,
    snapshot: &Snapshot,
    file: &RemoteFile,
    partial: &Path,
    have: &mut u64,
    advanced: &mut dyn FnMut(u64),
) -> anyhow::Result<Attempt> {
    let response = match hub.open(snapshot, &file.path, *have) {
        Ok(response) => response,
        Err(error) if is_passing(&error) => return Ok(Attempt::Broken(format!("{error:#}"))),
        Err(error) => return Err(error).with_context(|| format!("cannot download {}", file.path)),
    };
    let status = response.status();
    if status == StatusCode::TOO_MANY_REQUESTS || status.is_server_error() {
        return Ok(Attempt::Busy(status));
    }
    check(&response, &snapshot.repository, hub.token.is_some())?;
    let continues = *have > 0 && status == StatusCode::PARTIAL_CONTENT;
    if continues {
        let range = response.headers().get(header::CONTENT_RANGE).and_then(|range| range.to_str().ok());
        let expected = format!("bytes {have}-{}/{}", file.size - 1, file.size);
        ensure!(
            range == Some(expected.as_str()),
            "the server sent bytes `{}` of {} instead of `{expected}`",
            range.unwrap_or("?"),
            file.path
        );
    }
    let mut body = Paced::new(response.into_body().into_reader());
    if *have > 0 && !continues {
        // A server that does not know ranges starts again; what it sends is skipped up to what is there.
        let skipped = io::copy(&mut body.by_ref().take(*have), &mut io::sink());
        if !skipped.is_ok_and(|skipped| skipped == *have) {
            return Ok(Attempt::Broken("the connection ended early".to_owned()));
        }
    }
    append(file, &mut body, partial, have, advanced)
}

fn append(
    file: &RemoteFile,
    body: &mut impl Read,
    partial: &Path,
    have: &mut u64,
    advanced: &mut dyn FnMut(u64),
) -> anyhow::Result<Attempt> {
    let opened = OpenOptions::new().create(true).append(true).open(partial);
    let mut out = opened.with_context(|| format!("cannot open {}", partial.display()))?;
    let mut buffer = vec![0; BUFFER];
    loop {
        let n = match body.read(&mut buffer) {
            Ok(0) if *have < file.size => {
                return Ok(Attempt::Broken("the connection ended early".to_owned()));
            }
            Ok(0) => return Ok(Attempt::Complete),
            Ok(n) => n as u64,
            Err(error) => return Ok(Attempt::Broken(error.to_string())),
        };
        ensure!(n <= file.size - *have, "the server sent more of {} than its {} bytes", file.path, file.size);
        out.write_all(&buffer[..n as usize])
            .with_context(|| format!("cannot write to {}", partial.display()))?;
        *have += n;
        advanced(n);
    }
}

/// Trouble of the connection, which another attempt may not have.
fn is_passing(error: &anyhow::Error) -> bool {
    let error = error.downcast_ref::<ureq::Error>();
    matches!(error, Some(ureq::Error::Io(_) | ureq::Error::Timeout(_) | ureq::Error::ConnectionFailed))
}

/// Removes a file, a link or a folder.
pub(crate) fn remove(path: &Path) -> anyhow::Result<()> {
    let is_folder = path.symlink_metadata().is_ok_and(|found| found.is_dir());
    let removed = if is_folder { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    removed.with_context(|| format!("cannot remove {}", path.display()))
}
