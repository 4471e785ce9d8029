//! One file of a repository to a folder: resumed where it broke off, and checked.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, BufReader, Read, Write},
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use anyhow::{Context, bail, ensure};
use artifact_store::Digest;
use ureq::http::{StatusCode, header};

use super::{Hub, RemoteFile, Snapshot, check};

/// Attempts in a row that bring nothing.
const MAX_FRUITLESS: u32 = 5;
/// Before the second fruitless attempt; doubles each time.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const BUFFER: usize = 1 << 18;

/// How an attempt ended that did not fail for good.
enum Attempt {
    /// The connection ended, for this reason.
    Broken(String),
    /// The server wants to be left alone for a while.
    Busy(StatusCode),
    Complete,
}

/// Bytes of `file` that an earlier download has not left in `folder`.
pub(crate) fn missing(file: &RemoteFile, folder: &Path) -> u64 {
    if folder.join(file.name()).is_file() {
        return 0;
    }
    let have = fs::metadata(partial_path(file, folder)).map_or(0, |metadata| metadata.len());
    file.size.saturating_sub(have)
}

/// Downloads `file` into `folder`. What an earlier download left there is used. `advanced` is told of bytes as they
/// come, also of those that are there already.
pub(crate) fn download(
    hub: &Hub,
    snapshot: &Snapshot,
    file: &RemoteFile,
    folder: &Path,
    advanced: &mut dyn FnMut(u64),
) -> anyhow::Result<()> {
    let complete = folder.join(file.name());
    if complete.is_file() {
        advanced(file.size);
        return Ok(());
    }
    let partial = partial_path(file, folder);
    let mut have = fs::metadata(&partial).map_or(0, |metadata| metadata.len());
    if have > file.size {
        // Not of this file.
        fs::remove_file(&partial).with_context(|| format!("cannot remove {}", partial.display()))?;
        have = 0;
    }
    advanced(have);
    let mut fruitless = 0;
    while have < file.size || !partial.exists() {
        let before = have;
        let attempt = attempt(hub, snapshot, file, &partial, &mut have, advanced)?;
        fruitless = if have > before { 0 } else { fruitless + 1 };
        let reason = match attempt {
            Attempt::Complete => break,
            Attempt::Broken(reason) => reason,
            Attempt::Busy(status) => format!("the hub answered {status}"),
        };
        if fruitless >= MAX_FRUITLESS {
            bail!("cannot download {}: {reason}; the same command goes on where this one stopped", file.path);
        }
        if fruitless > 0 {
            thread::sleep(FIRST_PAUSE * 2_u32.pow(fruitless - 1));
        }
    }
    verify(file, &partial)?;
    fs::rename(&partial, &complete).with_context(|| format!("cannot rename {}", partial.display()))
}

fn partial_path(file: &RemoteFile, folder: &Path) -> PathBuf {
    folder.join(format!("{}.part", file.name()))
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
    let mut response = match hub.open(snapshot, &file.path, *have) {
        Ok(response) => response,
        Err(error) if is_passing(&error) => return Ok(Attempt::Broken(error.to_string())),
        Err(error) => return Err(error).with_context(|| format!("cannot download {}", file.path)),
    };
    let status = response.status();
    if status == StatusCode::TOO_MANY_REQUESTS || status.is_server_error() {
        return Ok(Attempt::Busy(status));
    }
    check(&response, &snapshot.repository, hub.token.is_some())?;
    if *have > 0 && status == StatusCode::PARTIAL_CONTENT {
        let range = response.headers().get(header::CONTENT_RANGE).and_then(|range| range.to_str().ok());
        let expected = format!("bytes {have}-{}/{}", file.size - 1, file.size);
        ensure!(
            range == Some(expected.as_str()),
            "the server sent bytes `{}` of {} instead of `{expected}`",
            range.unwrap_or("?"),
            file.path
        );
    } else if *have > 0 {
        // A server that does not know ranges begins anew; what it sends is skipped up to what is there.
        let skipped = io::copy(&mut response.body_mut().as_reader().take(*have), &mut io::sink());
        if skipped.is_err() || skipped.is_ok_and(|skipped| skipped < *have) {
            return Ok(Attempt::Broken("the connection ended early".to_owned()));
        }
    }
    let opened = OpenOptions::new().create(true).append(true).open(partial);
    let mut out = opened.with_context(|| format!("cannot open {}", partial.display()))?;
    let mut buffer = vec![0; BUFFER];
    let mut body = response.body_mut().as_reader();
    loop {
        let n = match body.read(&mut buffer) {
            Ok(0) if *have < file.size => {
                return Ok(Attempt::Broken("the connection ended early".to_owned()));
            }
            Ok(0) => return Ok(Attempt::Complete),
            Ok(n) => n,
            Err(error) => return Ok(Attempt::Broken(error.to_string())),
        };
        ensure!(
            *have + n as u64 <= file.size,
            "the server sent more of {} than its {} bytes",
            file.path,
            file.size
        );
        out.write_all(&buffer[..n]).with_context(|| format!("cannot write to {}", partial.display()))?;
        *have += n as u64;
        advanced(n as u64);
    }
}

/// Trouble of the connection, which another attempt may not have.
fn is_passing(error: &ureq::Error) -> bool {
    matches!(error, ureq::Error::Io(_) | ureq::Error::Timeout(_) | ureq::Error::ConnectionFailed)
}

/// A file that is not what the hub says is removed, so that the next attempt begins anew.
fn verify(file: &RemoteFile, partial: &Path) -> anyhow::Result<()> {
    let Some(expected) = file.sha256 else { return Ok(()) };
    let opened = File::open(partial).with_context(|| format!("cannot open {}", partial.display()))?;
    let (found, _) = Digest::of_reader(&mut BufReader::new(opened))
        .with_context(|| format!("cannot read {}", partial.display()))?;
    if found != expected {
        fs::remove_file(partial).with_context(|| format!("cannot remove {}", partial.display()))?;
        bail!(
            "{} was damaged on the way: its SHA-256 is not the one that the hub names; pull it again",
            file.path
        );
    }
    Ok(())
}
