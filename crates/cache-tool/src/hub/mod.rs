//! The Hugging Face Hub, as far as `pull` needs it: what a repository holds, and its files.
//!
//! Not the `hf-hub` crate: its version 1 starts an interrupted download again, and brings 280 crates and an asynchronous
//! runtime; the version before it resumes, and has ended.

mod checksum;
mod download;
mod pace;
mod repository;
mod select;
mod snapshot;

use std::{env, fs, io::Read as _, path::PathBuf, time::Duration};

use anyhow::{Context, anyhow, bail, ensure};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use ureq::{
    Agent, Body,
    http::{Response, StatusCode, header},
};
use url::Url;

use self::pace::Paced;
pub(crate) use self::{
    checksum::Checksum,
    download::{download, missing, remove, settle},
    repository::Repository,
    select::{Index, gguf_file, index_of, settings, weights},
    snapshot::{RemoteFile, Snapshot},
};

const DEFAULT_ENDPOINT: &str = "https://huggingface.co";
/// Longest answer that describes a repository, in bytes.
const MAX_DESCRIPTION: u64 = 32 << 20;
const MAX_REDIRECTS: usize = 10;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(60);
/// A connection that sends nothing for this long is given up; the download goes on with another one.
const READ_TIMEOUT: Duration = Duration::from_secs(60);

/// What stands for itself in one part of a URL's path.
const COMPONENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
/// The same with the slashes between parts.
const PATH: &AsciiSet = &COMPONENT.remove(b'/');

/// A hub, and who asks it.
pub(crate) struct Hub {
    agent: Agent,
    /// Without a slash at its end.
    endpoint: String,
    token: Option<String>,
}

impl Hub {
    /// Of the usual variables: `HF_ENDPOINT`, and `HF_TOKEN` or the file in which `hf auth login` leaves the token.
    pub(crate) fn from_env() -> anyhow::Result<Self> {
        let agent = Agent::config_builder()
            .http_status_as_error(false)
            // They are followed in `get`, where it is known who may see the token.
            .max_redirects(0)
            .timeout_resolve(Some(CONNECT_TIMEOUT))
            .timeout_connect(Some(CONNECT_TIMEOUT))
            .timeout_recv_response(Some(RESPONSE_TIMEOUT))
            .timeout_per_read(Some(READ_TIMEOUT))
            .user_agent(concat!("cache-tool/", env!("CARGO_PKG_VERSION")))
            .build()
            .into();
        let endpoint = variable("HF_ENDPOINT").unwrap_or_else(|| DEFAULT_ENDPOINT.to_owned());
        let url = Url::parse(&endpoint).with_context(|| format!("HF_ENDPOINT is not a URL: {endpoint}"))?;
        ensure!(
            matches!(url.scheme(), "http" | "https"),
            "HF_ENDPOINT is not a URL of http or https: {endpoint}"
        );
        Ok(Self { agent, endpoint: endpoint.trim_end_matches('/').to_owned(), token: token() })
    }

    /// The address of the hub.
    pub(crate) fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// What `repository` holds.
    pub(crate) fn snapshot(&self, repository: &Repository) -> anyhow::Result<Snapshot> {
        let Repository { id, revision } = repository;
        let revision = utf8_percent_encode(revision, COMPONENT);
        let url = format!("{}/api/models/{id}/revision/{revision}?blobs=true", self.endpoint);
        let response = self.get(&url, None).with_context(|| format!("cannot read {url}"))?;
        check(&response, repository, self.token.is_some())?;
        let mut json = Vec::new();
        let mut body = Paced::new(response.into_body().into_reader()).take(MAX_DESCRIPTION + 1);
        body.read_to_end(&mut json).with_context(|| format!("cannot read {url}"))?;
        ensure!(
            json.len() as u64 <= MAX_DESCRIPTION,
            "{url} answered with more than {MAX_DESCRIPTION} bytes"
        );
        Snapshot::read(repository, &json)
            .with_context(|| format!("{url} did not answer as a Hugging Face Hub does"))
    }

    /// The bytes of a file, from one on. Follows redirections.
    fn open(&self, snapshot: &Snapshot, path: &str, from: u64) -> anyhow::Result<Response<Body>> {
        let Snapshot { repository, commit, .. } = snapshot;
        let path = utf8_percent_encode(path, PATH);
        let url = format!("{}/{}/resolve/{commit}/{path}", self.endpoint, repository.id);
        self.get(&url, (from > 0).then(|| format!("bytes={from}-")))
    }

    /// The token goes to the hub itself: to no other host, port or scheme.
    fn get(&self, url: &str, range: Option<String>) -> anyhow::Result<Response<Body>> {
        let mut url = Url::parse(url)?;
        let origin = url.origin();
        for _ in 0..=MAX_REDIRECTS {
            let mut request = self.agent.get(url.as_str());
            if let Some(token) = self.token.as_ref().filter(|_| url.origin() == origin) {
                request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
            }
            if let Some(range) = &range {
                request = request.header(header::RANGE, range);
            }
            let response = request.call()?;
            match redirection(&response, &url)? {
                None => return Ok(response),
                Some(next) => url = next,
            }
        }
        bail!("there are more than {MAX_REDIRECTS} redirections");
    }
}

/// Where a response leads, if it leads anywhere.
fn redirection(response: &Response<Body>, from: &Url) -> anyhow::Result<Option<Url>> {
    let follows = [
        StatusCode::MOVED_PERMANENTLY,
        StatusCode::FOUND,
        StatusCode::SEE_OTHER,
        StatusCode::TEMPORARY_REDIRECT,
        StatusCode::PERMANENT_REDIRECT,
    ];
    if !follows.contains(&response.status()) {
        return Ok(None);
    }
    let location = response.headers().get(header::LOCATION).and_then(|location| location.to_str().ok());
    let to = location.and_then(|location| from.join(location).ok());
    let to = to.ok_or_else(|| anyhow!("a redirection of the hub leads nowhere"))?;
    let is_worse = from.scheme() == "https" && to.scheme() != "https";
    ensure!(!is_worse, "a redirection leads from an encrypted connection to one that is not");
    ensure!(
        matches!(to.scheme(), "http" | "https"),
        "a redirection leads to a URL of another kind than http"
    );
    Ok(Some(to))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_have_no_letters_with_a_meaning() {
        assert_eq!(utf8_percent_encode("refs/pr/1", COMPONENT).to_string(), "refs%2Fpr%2F1");
        assert_eq!(utf8_percent_encode("Q4/a b+%?.gguf", PATH).to_string(), "Q4/a%20b%2B%25%3F.gguf");
        assert_eq!(utf8_percent_encode("-._~\u{e9}", COMPONENT).to_string(), "-._~%C3%A9");
    }

    fn redirected(from: &str, to: &str) -> Result<Option<String>, String> {
        let response =
            Response::builder().status(302).header(header::LOCATION, to).body(Body::builder().data(""));
        let found =
            redirection(&response.map_err(|e| e.to_string())?, &Url::parse(from).map_err(|e| e.to_string())?);
        found.map(|url| url.map(String::from)).map_err(|error| error.to_string())
    }

    #[test]
    fn a_redirection_may_be_relative_and_never_leads_out_of_encryption() {
        let url = |text: &str| Ok(Some(text.to_owned()));
        assert_eq!(redirected("https://hub/a/b", "/c"), url("https://hub/c"));
        assert_eq!(redirected("https://hub/a/b", "https://cdn/x?y=1"), url("https://cdn/x?y=1"));
        assert_eq!(redirected("http://hub/a", "https://hub/a"), url("https://hub/a"));
        for (from, to) in
            [("https://hub/a", "http://hub/a"), ("http://hub/a", "file:///etc/passwd"), ("http://hub", "//")]
        {
            assert!(redirected(from, to).is_err(), "{from} {to}");
        }
    }
}
