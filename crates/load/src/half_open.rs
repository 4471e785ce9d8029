//! Connections whose request never becomes complete: when the gateway closes them, and whether it serves others meanwhile.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use serde::Serialize;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
    time::{sleep, timeout},
};

use crate::{
    ask::Ask,
    client::{Client, Target},
    latency::{Latencies, Summary},
    open_loop,
};

/// How many connections.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Connections.
    #[arg(long, default_value_t = 2000)]
    pub connections: u32,
    /// How long to wait for their end.
    #[arg(long, value_parser = humantime::parse_duration, default_value = "120s")]
    pub patience: Duration,
}

/// What was seen.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Connections that were opened.
    pub opened: u32,
    /// Those that the gateway closed in time.
    pub closed: u32,
    /// From a connection's half request to its end.
    pub closed_after: Summary,
    /// Requests of others that were served meanwhile.
    pub served: u64,
    /// Requests of others that were not.
    pub failed: u64,
    /// Of those that were served.
    pub latency: Summary,
}

/// A header without its end.
const HALF: &[u8] =
    b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\nX-Half: ";

/// Between two requests of the others.
const INTERVAL: Duration = Duration::from_millis(100);

/// Opens the connections, and serves others until the last of them is closed.
///
/// # Errors
/// The gateway takes no connections.
pub async fn run(client: &Client, target: &Target, args: &Args) -> Result<Report> {
    let mut opened = Vec::new();
    for _ in 0..args.connections {
        opened.push(half(target.address).await?);
    }
    let count = opened.len() as u32;
    let over = Arc::new(AtomicBool::new(false));
    let others = tokio::spawn(serve_others(client.clone(), target.model.clone(), Arc::clone(&over)));
    let mut ends = JoinSet::new();
    for (connection, since) in opened {
        ends.spawn(end(connection, since, args.patience));
    }
    let mut closed_after = Latencies::new()?;
    while let Some(end) = ends.join_next().await {
        if let Some(after) = end? {
            closed_after.record(after);
        }
    }
    over.store(true, Ordering::Relaxed);
    let (served, failed, latency) = others.await??;
    let closed_after = closed_after.summary();
    Ok(Report { opened: count, closed: closed_after.count as u32, closed_after, served, failed, latency })
}

async fn half(address: SocketAddr) -> Result<(TcpStream, Instant)> {
    let mut connection = TcpStream::connect(address).await.context("can't connect")?;
    // The gateway may have closed it already, to make room; its end is read later.
    let _ = connection.write_all(HALF).await;
    Ok((connection, Instant::now()))
}

/// How long after `since` the gateway closed it.
async fn end(mut connection: TcpStream, since: Instant, patience: Duration) -> Option<Duration> {
    let closed = async {
        let mut answer = [0; 1024];
        while let Ok(1..) = connection.read(&mut answer).await {}
    };
    timeout(patience, closed).await.ok().map(|()| since.elapsed())
}

async fn serve_others(client: Client, model: String, over: Arc<AtomicBool>) -> Result<(u64, u64, Summary)> {
    let ask = Ask { stream: false, ..Ask::question(&model, "Hello.", 1) };
    let (mut latency, mut failed) = (Latencies::new()?, 0);
    while !over.load(Ordering::Relaxed) {
        let begin = Instant::now();
        match open_loop::request(&client, ask.body()).await {
            None => latency.record(begin.elapsed()),
            Some(_) => failed += 1,
        }
        sleep(INTERVAL).await;
    }
    let latency = latency.summary();
    Ok((latency.count, failed, latency))
}
