//! Clients that stop reading don't block other models.

use std::{
    io::{Read, Write},
    net::TcpStream,
    time::Duration,
};

use serde_json::json;
use test_support::{MODEL, Options, PrivateStore, Server, chat};

const OTHER: &str = "test/other";

/// Streams that one model may have.
const STREAMS: usize = 2;

/// A client with a stream that goes on for long, of which it reads only the beginning.
fn stall(server: &Server) -> TcpStream {
    let mut client = TcpStream::connect(server.client.address()).unwrap();
    // Longer than any header takes; a test that hangs says where.
    client.set_read_timeout(Some(Duration::from_secs(300))).unwrap();
    let mut request = chat("Count from one to a thousand in words.", 4000);
    request["stream"] = true.into();
    request["ignore_eos"] = true.into();
    let body = request.to_string();
    let length = body.len();
    let head = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n\
         content-length: {length}\r\n\r\n{body}"
    );
    client.write_all(head.as_bytes()).unwrap();
    let mut status = [0; 12];
    client.read_exact(&mut status).unwrap();
    assert_eq!(&status, b"HTTP/1.1 200");
    client
}

#[test]
fn a_model_whose_clients_do_not_read_leaves_another_alone() {
    let folder = tempfile::tempdir().unwrap();
    let settings = folder.path().join("runtime.yaml");
    // Whoever waits is turned away at once, so that waiting can't pass for being served.
    let limits = format!("{{adaptive_limits: {{max_streams: {STREAMS}}}, max_waiting: 0}}");
    std::fs::write(&settings, format!("stream_registry: {limits}\n")).unwrap();
    let store = PrivateStore::with_names(&[OTHER]);
    let arguments = ["--config", settings.to_str().unwrap(), "--model", OTHER].map(str::to_owned).to_vec();
    let server = Server::start_with(&Options { store: Some(store.path()), arguments, ..Options::default() });

    let stalled: Vec<_> = (0..STREAMS).map(|_| stall(&server)).collect();
    let full = server.client.post("/v1/chat/completions", &chat("hi", 1));
    assert_eq!((full.status, &full.json["error"]["code"]), (429, &json!("queue_full")), "{MODEL} is full");
    let mut request = chat("hi", 1);
    request["model"] = OTHER.into();
    let answer = server.client.post("/v1/chat/completions", &request);
    assert_eq!(answer.status, 200, "{}", answer.json);
    drop(stalled);
}
