//! A model hub on the loopback interface: every repository exists and holds the same files.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Write},
    net::{TcpListener, TcpStream},
    sync::Arc,
    thread,
};

use serde_json::json;

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// Starts it and returns the address for `HF_ENDPOINT`. It ends with the test.
pub(crate) fn start(files: BTreeMap<String, Vec<u8>>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let files = Arc::new(files);
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let files = Arc::clone(&files);
            thread::spawn(move || answer(&stream, &files));
        }
    });
    endpoint
}

/// One request; then the connection ends.
fn answer(stream: &TcpStream, files: &BTreeMap<String, Vec<u8>>) {
    let mut lines = BufReader::new(stream).lines().map_while(Result::ok).take_while(|line| !line.is_empty());
    let Some(first) = lines.next() else { return };
    let path = first.split(' ').nth(1).unwrap_or_default().split('?').next().unwrap_or_default().to_owned();
    lines.for_each(drop);
    if path.starts_with("/api/models/") {
        let siblings: Vec<_> = files
            .iter()
            .map(|(name, bytes)| json!({ "rfilename": name, "size": bytes.len(), "lfs": null }))
            .collect();
        return send(stream, "200 OK", json!({ "sha": COMMIT, "siblings": siblings }).to_string().as_bytes());
    }
    let name = path.split_once(&format!("/resolve/{COMMIT}/")).map(|(_, name)| name);
    match name.and_then(|name| files.get(name)) {
        Some(bytes) => send(stream, "200 OK", bytes),
        None => send(stream, "404 Not Found", b"{}"),
    }
}

/// An error means that the client went away, which is its own business.
fn send(mut stream: &TcpStream, status: &str, body: &[u8]) {
    let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
    let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body));
}
