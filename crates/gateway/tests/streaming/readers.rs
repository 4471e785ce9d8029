//! Readers that stop, beside others that don't.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use serde_json::json;
use test_support::worker::Generator;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    task::JoinHandle,
};

use crate::support::*;

const TOKENS: usize = 150;
/// So long that a stream is more than all buffers between worker and client take.
const TEXT_BYTES: usize = 10_000;

/// Asks for a stream of [`TOKENS`], with little room for what it does not read.
async fn ask(address: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let mut tcp = socket.connect(address).await.unwrap();
    let body = chat(json!({"stream": true, "max_tokens": TOKENS})).to_string();
    let length = body.len();
    let head = format!(
        "POST {CHAT} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-type: application/json\r\n\
         content-length: {length}\r\n\r\n{body}"
    );
    tcp.write_all(head.as_bytes()).await.unwrap();
    tcp
}

/// Reads to the end, and counts meanwhile.
fn read(mut tcp: TcpStream) -> (Arc<AtomicUsize>, JoinHandle<String>) {
    let bytes = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&bytes);
    let task = tokio::spawn(async move {
        let mut answer = Vec::new();
        while tcp.read_buf(&mut answer).await.unwrap() > 0 {
            count.store(answer.len(), Ordering::Relaxed);
        }
        String::from_utf8(answer).unwrap()
    });
    (bytes, task)
}

fn assert_whole(answer: &str) {
    assert_eq!(answer.matches("\"content\":\"xx").count(), TOKENS);
    assert!(answer.contains("data: [DONE]\n\n") && !answer.contains("\"error\""));
}

#[tokio::test]
async fn ten_readers_of_fifty_stop_and_the_others_notice_nothing() {
    const ALL: usize = 50;
    const STOPPED: usize = 10;
    let (env, worker) = TestEnv::ready("stream_registry: {credit_chunks: 8}\n").await;
    let address = env.listen().await;
    let mut generator = Generator::new(worker, &"x".repeat(TEXT_BYTES));
    let mut clients = Vec::new();
    for count in 1..=ALL {
        clients.push(ask(address).await);
        while generator.live() < count {
            generator.receive().await;
            tokio::task::yield_now().await;
        }
    }
    let readers: Vec<_> = clients.split_off(STOPPED).into_iter().map(read).collect();
    for token in 1..=TOKENS {
        let tokens = generator.step().await;
        assert!(tokens >= ALL - STOPPED, "token {token}: a reader waited for credit");
        until("the readers' token", || {
            readers.iter().all(|(bytes, _)| bytes.load(Ordering::Relaxed) >= token * TEXT_BYTES)
        })
        .await;
    }
    for (_, answer) in readers {
        assert_whole(&soon("an answer", answer).await.unwrap());
    }
    // The ten wait, without a place in any step, and nothing of theirs is lost.
    assert_eq!((generator.live(), generator.paused(), generator.step().await), (STOPPED, STOPPED, 0));
    assert_eq!(env.app.admission.metrics().streams_open.get(), STOPPED as i64);
    let late: Vec<_> = clients.into_iter().map(read).collect();
    soon("the rest", async {
        while generator.live() > 0 {
            generator.step().await;
            tokio::task::yield_now().await;
        }
    })
    .await;
    for (_, answer) in late {
        assert_whole(&soon("a late answer", answer).await.unwrap());
    }
    until("free places", || env.app.admission.metrics().streams_open.get() == 0).await;
    assert_eq!(env.metric("kr_slow_consumers_total").await, "0");
}
