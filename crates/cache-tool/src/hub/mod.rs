//! The Hugging Face Hub, as far as `pull` needs it: what a repository holds, and its files.
//!
//! Not the `hf-hub` crate: its version 1 begins an interrupted download anew, and brings 280 crates and an asynchronous
//! runtime; the version before it resumes, and has ended.

mod download;
mod select;

use std::{env, fs, path::PathBuf, time::Duration};

use anyhow::{Context, bail};
use artifact_store::{Digest, StoreError};
use serde_json::Value;
use ureq::{
    Agent, Body,
    config::RedirectAuthHeaders,
    http::{Response, StatusCode, header},
};

pub(crate) use download::{download, missing};
pub(crate) use select::{gguf_file, index_of, settings, weights};

const DEFAULT_ENDPOINT: &str = "https://huggingface.co";
const DEFAULT_REVISION: &str = "main";
/// Longest answer that describes a repository, in bytes.
const MAX_DESCRIPTION: u64 = 32 << 20;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(60);
/// A connection that sends nothing for so long is given up; the download goes on with another one.
const READ_TIMEOUT: Duration = Duration::from_secs(60);

/// A hub, and who asks it.
pub(crate) struct Hub {
    agent: Agent,
    endpoint: String,
    token: Option<String>,
}

/// `ORGANISATION/NAME`, and which of its revisions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Repository {
    pub(crate) id: String,
    /// A branch, a tag or a commit.
    pub(crate) revision: String,
}

/// A revision of a repository, as the hub describes it.
#[derive(Debug)]
pub(crate) struct Snapshot {
    pub(crate) repository: Repository,
    /// What the revision stands for now. Its files never change.
    pub(crate) commit: String,
    pub(crate) files: Vec<RemoteFile>,
}

/// A file of a repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RemoteFile {
    /// With its folders.
    pub(crate) path: String,
    /// Bytes.
    pub(crate) size: u64,
    /// Known of large files only.
    pub(crate) sha256: Option<Digest>,
}

impl Hub {
    /// Of the usual variables: `HF_ENDPOINT`, and `HF_TOKEN` or the file in which `hf auth login` leaves the token.
    pub(crate) fn from_env() -> Self {
        let agent = Agent::config_builder()
            .http_status_as_error(false)
            .redirect_auth_headers(RedirectAuthHeaders::SameHost)
            .timeout_connect(Some(CONNECT_TIMEOUT))
            .timeout_recv_response(Some(RESPONSE_TIMEOUT))
            .timeout_per_read(Some(READ_TIMEOUT))
            .user_agent(concat!("cache-tool/", env!("CARGO_PKG_VERSION")))
            .build()
            .into();
        let endpoint = variable("HF_ENDPOINT").unwrap_or_else(|| DEFAULT_ENDPOINT.to_owned());
        Self { agent, endpoint: endpoint.trim_end_matches('/').to_owned(), token: token() }
    }

    /// What `repository` holds.
    pub(crate) fn snapshot(&self, repository: &Repository) -> anyhow::Result<Snapshot> {
        let Repository { id, revision } = repository;
        let url =
            format!("{}/api/models/{id}/revision/{}?blobs=true", self.endpoint, encoded(revision, false));
        let mut response = self.get(&url, None)?;
        check(&response, repository, self.token.is_some())?;
        let body = response.body_mut().with_config().limit(MAX_DESCRIPTION).read_to_vec();
        let bytes = body.with_context(|| format!("cannot read {url}"))?;
        let described: Option<(String, Vec<RemoteFile>)> =
            serde_json::from_slice(&bytes).ok().and_then(|json: Value| {
                let files =
                    json["siblings"].as_array()?.iter().map(RemoteFile::described).collect::<Option<_>>()?;
                Some((json["sha"].as_str()?.to_owned(), files))
            });
        let Some((commit, files)) = described.filter(|(commit, _)| is_commit(commit)) else {
            bail!(
                "{url} did not answer as a Hugging Face Hub does: a commit and files with sizes are missing"
            );
        };
        Ok(Snapshot { repository: repository.clone(), commit, files })
    }

    /// The bytes of a file, from one on. Follows redirections.
    fn open(&self, snapshot: &Snapshot, path: &str, from: u64) -> Result<Response<Body>, ureq::Error> {
        let Snapshot { repository, commit, .. } = snapshot;
        let url = format!("{}/{}/resolve/{commit}/{}", self.endpoint, repository.id, encoded(path, true));
        self.get(&url, (from > 0).then(|| format!("bytes={from}-")))
    }

    fn get(&self, url: &str, range: Option<String>) -> Result<Response<Body>, ureq::Error> {
        let mut request = self.agent.get(url);
        if let Some(token) = &self.token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        if let Some(range) = range {
            request = request.header(header::RANGE, range);
        }
        request.call()
    }
}

impl Repository {
    /// Reads `REPO[@REVISION]`.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let (id, revision) = text.split_once('@').unwrap_or((text, DEFAULT_REVISION));
        let part = |part: &str| {
            let legal = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
            part.bytes().all(legal) && part.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric())
        };
        if id.split('/').count() > 2 || !id.split('/').all(part) || revision.is_empty() {
            return Err("write ORGANISATION/NAME, or ORGANISATION/NAME@REVISION".to_owned());
        }
        Ok(Self { id: id.to_owned(), revision: revision.to_owned() })
    }

    /// This repository cannot be imported, because of `reason`.
    pub(crate) fn error(&self, reason: impl Into<String>) -> anyhow::Error {
        StoreError::BadSource { path: PathBuf::from(&self.id), reason: reason.into() }.into()
    }
}

impl RemoteFile {
    fn described(json: &Value) -> Option<Self> {
        let sha256 = json["lfs"]["sha256"].as_str().and_then(|text| text.parse().ok());
        let size = json["lfs"]["size"].as_u64().or_else(|| json["size"].as_u64())?;
        Some(Self { path: json["rfilename"].as_str()?.to_owned(), size, sha256 })
    }

    /// Without its folders.
    pub(crate) fn name(&self) -> &str {
        self.path.rsplit('/').next().unwrap_or(&self.path)
    }
}

/// Turns an answer that is no success into an error that says what to do.
fn check(response: &Response<Body>, repository: &Repository, has_token: bool) -> anyhow::Result<()> {
    let status = response.status();
    if status.is_success() {
        return Ok(());
    }
    let Repository { id, revision } = repository;
    let reason = match status {
        StatusCode::UNAUTHORIZED if !has_token => {
            "there is no such public repository; if it is private or gated, set HF_TOKEN".to_owned()
        }
        StatusCode::UNAUTHORIZED => "the hub does not accept the token in HF_TOKEN".to_owned(),
        StatusCode::FORBIDDEN => {
            "the hub refuses access; a gated repository wants its terms accepted on its page first".to_owned()
        }
        StatusCode::NOT_FOUND => format!("the hub has no `{id}` with a revision `{revision}`"),
        _ => bail!("the hub answered {status} for {id}"),
    };
    Err(repository.error(reason))
}

fn token() -> Option<String> {
    variable("HF_TOKEN").or_else(|| {
        let home = || Some(PathBuf::from(variable("HF_HOME")?));
        let cache = || Some(PathBuf::from(variable("XDG_CACHE_HOME")?).join("huggingface"));
        let fallback = || Some(PathBuf::from(variable("HOME")?).join(".cache/huggingface"));
        let file = variable("HF_TOKEN_PATH").map(PathBuf::from);
        let file = file.or_else(|| Some(home().or_else(cache).or_else(fallback)?.join("token")))?;
        Some(fs::read_to_string(file).ok()?.trim().to_owned()).filter(|token| !token.is_empty())
    })
}

fn variable(name: &str) -> Option<String> {
    env::var(name).ok().map(|value| value.trim().to_owned()).filter(|value| !value.is_empty())
}

/// Forty hex digits: it becomes a part of a path.
fn is_commit(text: &str) -> bool {
    text.len() == 40 && text.bytes().all(|b| b.is_ascii_hexdigit())
}

/// As a part of a URL's path.
fn encoded(text: &str, slashes: bool) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~".contains(&b) || (slashes && b == b'/');
    text.bytes().map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_repository_may_have_a_revision() {
        let parsed = |text| Repository::parse(text).map(|repository| (repository.id, repository.revision));
        let both = |id: &str, revision: &str| Ok((id.to_owned(), revision.to_owned()));
        assert_eq!(parsed("org/Name-1.5"), both("org/Name-1.5", "main"));
        assert_eq!(parsed("gpt2@refs/pr/1"), both("gpt2", "refs/pr/1"));
        for bad in ["", "a/b/c", "../x", "a//b", "a/..", "a b", "a/b@", "/a", "a/", "https://host/a"] {
            assert!(parsed(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn urls_have_no_letters_with_a_meaning() {
        assert_eq!(encoded("refs/pr/1", false), "refs%2Fpr%2F1");
        assert_eq!(encoded("Q4/a b+%?.gguf", true), "Q4/a%20b%2B%25%3F.gguf");
    }
}
