//! A hub on the loopback interface, with the URLs and headers of the real one, a repository in memory, and faults on
//! demand.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Write},
    net::{TcpListener, TcpStream},
    sync::{Arc, Mutex},
    thread,
};

use serde_json::json;
use sha1::{Digest as _, Sha1};
use sha2::Sha256;

/// The commit of every revision.
pub const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
/// What a gated repository wants.
const TOKEN: &str = "secret";

/// What a client asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HubRequest {
    /// With its query.
    pub path: String,
    /// The header of this name.
    pub range: Option<String>,
    /// The header of this name.
    pub authorization: Option<String>,
}

/// Called with the name of a file.
pub type OnFile = Box<dyn FnMut(&str) + Send>;

/// What a [`FakeHub`] holds, and how it behaves.
#[derive(Default)]
pub struct Repository {
    /// Contents by name.
    pub files: BTreeMap<String, Vec<u8>>,
    /// Every repository exists in every revision, and has the same files. Otherwise only `org/model` does, with the
    /// branch `main` and the tag `v1/x`; `org/moved` redirects to it.
    pub any_name: bool,
    /// Requires the token `secret`.
    pub gated: bool,
    /// Each of the next bodies ends after this many bytes, with the connection.
    pub cuts: Vec<usize>,
    /// The next answers are 503.
    pub busy: usize,
    /// The answers after the cut ones are 403.
    pub refuses: bool,
    /// Ignores ranges.
    pub no_ranges: bool,
    /// Sends bytes that differ from its description.
    pub damaged: bool,
    /// Sizes that it claims for files, where they differ from the true ones.
    pub sizes: BTreeMap<String, u64>,
    /// Names the Git blobs of small files.
    pub blob_ids: bool,
    /// Origin of its files [default: the same port of another host].
    pub cdn: Option<String>,
    /// Called with the name of a file before it is sent.
    pub on_file: Option<OnFile>,
}

/// A running hub. It ends with the test's process.
pub struct FakeHub {
    /// For `HF_ENDPOINT`.
    pub endpoint: String,
    /// What it holds; can be changed while it runs.
    pub repository: Arc<Mutex<Repository>>,
    asked: Arc<Mutex<Vec<HubRequest>>>,
}

impl FakeHub {
    /// Serves `repository` on a free port.
    ///
    /// # Panics
    /// There is none.
    pub fn start(repository: Repository) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let hub = Self { endpoint, repository: Arc::new(Mutex::new(repository)), asked: Arc::default() };
        let (repository, asked) = (hub.repository.clone(), hub.asked.clone());
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (repository, asked) = (repository.clone(), asked.clone());
                thread::spawn(move || serve(stream, &repository, &asked));
            }
        });
        hub
    }

    /// Takes the requests that came since the last call.
    ///
    /// # Panics
    /// A thread of the hub panicked.
    pub fn asked(&self) -> Vec<HubRequest> {
        std::mem::take(&mut self.asked.lock().unwrap())
    }
}

/// One request; then the connection ends.
fn serve(stream: TcpStream, repository: &Mutex<Repository>, log: &Mutex<Vec<HubRequest>>) {
    let mut lines = BufReader::new(&stream).lines().map_while(Result::ok);
    let Some(first) = lines.next() else { return };
    let mut asked = HubRequest { path: first.split(' ').nth(1).unwrap().to_owned(), ..HubRequest::default() };
    for line in lines.take_while(|line| !line.is_empty()) {
        let (name, value) = line.split_once(": ").unwrap();
        match name.to_ascii_lowercase().as_str() {
            "range" => asked.range = Some(value.to_owned()),
            "authorization" => asked.authorization = Some(value.to_owned()),
            _ => {}
        }
    }
    log.lock().unwrap().push(asked.clone());
    answer(&stream, &mut repository.lock().unwrap(), &asked);
}

fn answer(stream: &TcpStream, repository: &mut Repository, asked: &HubRequest) {
    let path = asked.path.split('?').next().unwrap();
    let allowed = !repository.gated || asked.authorization.as_deref() == Some(&format!("Bearer {TOKEN}"));
    let any = repository.any_name;
    if let Some(rest) = path.strip_prefix("/api/models/org/moved/") {
        let to = format!("Location: /api/models/org/model/{rest}?blobs=true");
        send(stream, "307 Temporary Redirect", &[to], b"", usize::MAX);
    } else if let Some((id, revision)) = described(path).filter(|(id, _)| any || *id == "org/model") {
        if !allowed {
            send(stream, "401 Unauthorized", &[], b"{}", usize::MAX);
        } else if any || ["main", COMMIT, "v1%2Fx"].contains(&revision) {
            send(stream, "200 OK", &[], describe(repository).as_bytes(), usize::MAX);
        } else {
            send(stream, "404 Not Found", &[], format!("no {revision} of {id}").as_bytes(), usize::MAX);
        }
    } else if let Some(name) = resolved(path, any) {
        // Files are on another host.
        let elsewhere = || format!("http://localhost:{}", stream.local_addr().unwrap().port());
        let cdn = repository.cdn.clone().unwrap_or_else(elsewhere);
        send(stream, "302 Found", &[format!("Location: {cdn}/cdn/{name}")], b"", usize::MAX);
    } else if let Some((name, bytes)) =
        path.strip_prefix("/cdn/").and_then(|name| Some((name, repository.files.get(name)?.clone())))
    {
        if let Some(on_file) = &mut repository.on_file {
            on_file(name);
        }
        send_file(stream, repository, asked, bytes);
    } else {
        send(stream, "404 Not Found", &[], b"{}", usize::MAX);
    }
}

/// Name and revision of the repository whose description `path` asks for.
fn described(path: &str) -> Option<(&str, &str)> {
    path.strip_prefix("/api/models/")?.split_once("/revision/")
}

/// The file that `path` asks for.
fn resolved(path: &str, any: bool) -> Option<&str> {
    let (id, file) = path.strip_prefix('/')?.split_once("/resolve/")?;
    (any || ["org/model", "org/moved"].contains(&id)).then_some(())?;
    file.strip_prefix(COMMIT)?.strip_prefix('/')
}

fn send_file(stream: &TcpStream, repository: &mut Repository, asked: &HubRequest, mut bytes: Vec<u8>) {
    if repository.busy > 0 {
        repository.busy -= 1;
        return send(stream, "503 Service Unavailable", &[], b"", usize::MAX);
    }
    if repository.refuses && repository.cuts.is_empty() {
        return send(stream, "403 Forbidden", &[], b"", usize::MAX);
    }
    if repository.damaged {
        bytes[0] ^= 1;
    }
    let cut = if repository.cuts.is_empty() { usize::MAX } else { repository.cuts.remove(0) };
    let from = asked.range.as_ref().filter(|_| !repository.no_ranges);
    let from = from.map(|range| {
        range.strip_prefix("bytes=").unwrap().strip_suffix('-').unwrap().parse::<usize>().unwrap()
    });
    match from {
        None => send(stream, "200 OK", &[], &bytes, cut),
        Some(from) => {
            let range = format!("Content-Range: bytes {from}-{}/{}", bytes.len() - 1, bytes.len());
            send(stream, "206 Partial Content", &[range], &bytes[from..], cut);
        }
    }
}

fn describe(repository: &Repository) -> String {
    let describe = |(name, bytes): (&String, &Vec<u8>)| {
        let large = name.ends_with(".safetensors") || name.ends_with(".gguf");
        let size = repository.sizes.get(name).copied().unwrap_or(bytes.len() as u64);
        let lfs = json!({ "sha256": hex::encode(Sha256::digest(bytes)), "size": size, "pointerSize": 130 });
        let mut file =
            json!({ "rfilename": name, "size": size, "lfs": if large { lfs } else { json!(null) } });
        if repository.blob_ids && !large {
            file["blobId"] = git_blob(bytes).into();
        }
        file
    };
    json!({ "sha": COMMIT, "siblings": repository.files.iter().map(describe).collect::<Vec<_>>() })
        .to_string()
}

fn git_blob(bytes: &[u8]) -> String {
    let blob = [format!("blob {}\0", bytes.len()).as_bytes(), bytes].concat();
    hex::encode(Sha1::digest(blob))
}

/// Errors are ignored: the client may have gone.
fn send(mut stream: &TcpStream, status: &str, headers: &[String], body: &[u8], cut: usize) {
    let headers: String = headers.iter().map(|header| format!("{header}\r\n")).collect();
    let head =
        format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n{headers}\r\n", body.len());
    let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&body[..body.len().min(cut)]));
}
