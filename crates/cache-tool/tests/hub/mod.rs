//! A hub on the loopback interface: repositories in memory, the URLs and headers of the real one, and faults on order.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Write},
    net::{TcpListener, TcpStream},
    sync::{Arc, Mutex},
    thread,
};

use artifact_store::Digest;
use serde_json::json;
use sha1::{Digest as _, Sha1};

pub const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
const TOKEN: &str = "secret";

/// What clients asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    pub path: String,
    pub range: Option<String>,
    pub authorization: Option<String>,
}

#[derive(Default)]
pub struct Repository {
    pub files: BTreeMap<String, Vec<u8>>,
    /// Wants the token.
    pub gated: bool,
    /// The next bodies end after so many bytes, with the connection.
    pub cuts: Vec<usize>,
    /// The next answers are 503.
    pub busy: usize,
    /// The answers after the cut ones are 403.
    pub refuses: bool,
    /// Ignores ranges.
    pub no_ranges: bool,
    /// Sends other bytes than it describes.
    pub damaged: bool,
    /// Sizes that it claims of files.
    pub sizes: BTreeMap<String, u64>,
    /// Names the Git blobs of small files.
    pub blob_ids: bool,
    /// Where its files are [default: the same port of another host].
    pub cdn: Option<String>,
    /// Called with the name of a file before it is sent.
    pub on_file: Option<Box<dyn FnMut(&str) + Send>>,
}

pub struct Hub {
    pub endpoint: String,
    pub repository: Arc<Mutex<Repository>>,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl Hub {
    /// With one repository, `org/model`, whose branch `main` and tag `v1/x` are [`COMMIT`].
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

    pub fn asked(&self) -> Vec<Asked> {
        std::mem::take(&mut self.asked.lock().unwrap())
    }
}

/// One request; then the connection ends.
fn serve(stream: TcpStream, repository: &Mutex<Repository>, log: &Mutex<Vec<Asked>>) {
    let mut lines = BufReader::new(&stream).lines().map_while(Result::ok);
    let Some(first) = lines.next() else { return };
    let mut asked = Asked { path: first.split(' ').nth(1).unwrap().to_owned(), ..Asked::default() };
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

fn answer(stream: &TcpStream, repository: &mut Repository, asked: &Asked) {
    let resolve = format!("/org/model/resolve/{COMMIT}/");
    let path = asked.path.split('?').next().unwrap();
    let allowed = !repository.gated || asked.authorization.as_deref() == Some(&format!("Bearer {TOKEN}"));
    if let Some(rest) = path.strip_prefix("/api/models/org/moved/") {
        let to = format!("Location: /api/models/org/model/{rest}?blobs=true");
        send(stream, "307 Temporary Redirect", &[to], b"", usize::MAX);
    } else if path.starts_with("/api/models/org/model/revision/") && !allowed {
        send(stream, "401 Unauthorized", &[], b"{}", usize::MAX);
    } else if ["main", COMMIT, "v1%2Fx"]
        .iter()
        .any(|rev| path == format!("/api/models/org/model/revision/{rev}"))
    {
        send(stream, "200 OK", &[], describe(repository).as_bytes(), usize::MAX);
    } else if let Some(name) = path.strip_prefix(&resolve).or(path.strip_prefix("/org/moved/resolve/")) {
        // Files are on another host.
        let elsewhere = || format!("http://localhost:{}", stream.local_addr().unwrap().port());
        let cdn = repository.cdn.clone().unwrap_or_else(elsewhere);
        let name = name.strip_prefix(&format!("{COMMIT}/")).unwrap_or(name);
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

fn send_file(stream: &TcpStream, repository: &mut Repository, asked: &Asked, mut bytes: Vec<u8>) {
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
        let lfs = json!({ "sha256": Digest::of(bytes).to_string(), "size": size, "pointerSize": 130 });
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

/// A client that went away is no fault of the hub.
fn send(mut stream: &TcpStream, status: &str, headers: &[String], body: &[u8], cut: usize) {
    let headers: String = headers.iter().map(|header| format!("{header}\r\n")).collect();
    let head =
        format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n{headers}\r\n", body.len());
    let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&body[..body.len().min(cut)]));
}
