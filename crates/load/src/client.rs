//! A client of the gateway: requests over connections that are kept, and streams read event by event.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{
    Method, Request,
    body::Incoming,
    client::conn::http1::{SendRequest, handshake},
    header,
};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::{net::TcpSocket, sync::watch};

use crate::{
    sse::Parser,
    streamed::{Refusal, Streamed},
};

/// What the load is put on.
#[derive(Clone, Debug, clap::Args)]
pub struct Target {
    /// Where the gateway listens.
    #[arg(long, value_name = "HOST:PORT")]
    pub address: SocketAddr,
    /// The model that is asked.
    #[arg(long, value_name = "NAME")]
    pub model: String,
    /// Process whose processor time and memory are measured.
    #[arg(long, value_name = "PID")]
    pub pid: Option<u32>,
    /// A new connection for each request: some servers close theirs behind an answer without saying so.
    #[arg(long, global = true)]
    pub new_connections: bool,
}

/// Sends requests to one gateway. Cheap to clone; all clones share their connections.
#[derive(Clone, Debug)]
pub struct Client {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    address: SocketAddr,
    /// Bytes that the system takes for a connection; `None`: its default.
    receive_buffer: Option<u32>,
    /// Whether connections serve more than one request.
    keeps: bool,
    idle: Mutex<Vec<Sender>>,
}

type Sender = SendRequest<Full<Bytes>>;

/// An answer whose header has come.
#[derive(Debug)]
pub struct Response {
    /// HTTP status.
    pub status: u16,
    retry_after: Option<Duration>,
    body: Incoming,
    sender: Sender,
    client: Client,
}

impl Client {
    /// A client of that server.
    pub fn new(target: &Target) -> Self {
        let (address, keeps) = (target.address, !target.new_connections);
        Self { inner: Arc::new(Inner { address, receive_buffer: None, keeps, idle: Mutex::default() }) }
    }

    /// A client for which the system keeps only `bytes` that it has not read, so that it soon slows the gateway down when
    /// it stops reading.
    pub fn with_receive_buffer(address: SocketAddr, bytes: u32) -> Self {
        let receive_buffer = Some(bytes);
        Self { inner: Arc::new(Inner { address, receive_buffer, keeps: true, idle: Mutex::default() }) }
    }

    /// Sends a request and waits for the header of the answer.
    ///
    /// # Errors
    /// The gateway can't be reached, or closes the connection.
    pub async fn send(&self, method: Method, path: &str, body: Bytes) -> Result<Response> {
        let request = || {
            Request::builder()
                .method(method.clone())
                .uri(path)
                .header(header::HOST, self.inner.address.to_string())
                .header(header::CONTENT_TYPE, "application/json")
                .body(Full::new(body.clone()))
        };
        loop {
            let kept = self.idle().pop();
            let reused = kept.is_some();
            let mut sender = match kept {
                Some(sender) => sender,
                None => self.connect().await?,
            };
            if sender.ready().await.is_err() && reused {
                // The gateway closed it while nothing was asked.
                continue;
            }
            match sender.send_request(request()?).await {
                Ok(response) => {
                    let status = response.status().as_u16();
                    let retry_after = retry_after(response.headers());
                    let body = response.into_body();
                    return Ok(Response { status, retry_after, body, sender, client: self.clone() });
                }
                Err(error) if reused && error.is_canceled() => {}
                Err(error) => return Err(error).context("no answer"),
            }
        }
    }

    /// Sends a chat.
    ///
    /// # Errors
    /// As of [`Client::send`].
    pub async fn ask(&self, body: Bytes) -> Result<Response> {
        self.send(Method::POST, "/v1/chat/completions", body).await
    }

    /// `GET path`.
    ///
    /// # Errors
    /// There is no answer.
    pub async fn get(&self, path: &str) -> Result<String> {
        self.send(Method::GET, path, Bytes::new()).await?.text().await
    }

    /// Sends a streamed chat and reads it to its end. `on_text` is called for each event with text, when it has come.
    pub async fn stream(&self, body: Bytes, on_text: impl FnMut(Instant)) -> Streamed {
        self.stream_unless(body, on_text, None).await
    }

    /// The same; but it reads nothing while `paused` is true.
    pub async fn stream_unless(
        &self,
        body: Bytes,
        on_text: impl FnMut(Instant),
        paused: Option<watch::Receiver<bool>>,
    ) -> Streamed {
        let mut streamed = Streamed::default();
        if let Err(error) = self.read_stream(body, on_text, paused, &mut streamed).await {
            streamed.broken = Some(format!("{error:#}"));
        }
        streamed
    }

    async fn read_stream(
        &self,
        body: Bytes,
        mut on_text: impl FnMut(Instant),
        mut paused: Option<watch::Receiver<bool>>,
        streamed: &mut Streamed,
    ) -> Result<()> {
        let mut response = self.ask(body).await?;
        if response.status != 200 {
            streamed.refused = Some(response.refusal().await?);
            return Ok(());
        }
        let mut parser = Parser::default();
        loop {
            if let Some(paused) = &mut paused {
                // An error means that nobody will pause it any more.
                let _ = paused.wait_for(|paused| !paused).await;
            }
            let Some(data) = response.read().await? else { break };
            let now = Instant::now();
            parser.push(&data);
            while let Some(event) = parser.next_event()? {
                if event.text.is_some() {
                    on_text(now);
                }
                streamed.add(event);
            }
        }
        response.finish();
        Ok(())
    }

    async fn connect(&self) -> Result<Sender> {
        let address = self.inner.address;
        let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        if let Some(bytes) = self.inner.receive_buffer {
            socket.set_recv_buffer_size(bytes)?;
        }
        let stream = socket.connect(address).await.context("can't connect")?;
        stream.set_nodelay(true)?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await?;
        // Its error is also that of the request that it carries.
        tokio::spawn(async move { drop(connection.await) });
        Ok(sender)
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Sender>> {
        self.inner.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Response {
    /// The next part of the body.
    async fn read(&mut self) -> Result<Option<Bytes>> {
        loop {
            match self.body.frame().await {
                None => return Ok(None),
                Some(frame) => {
                    if let Ok(data) = frame.context("the answer broke off")?.into_data() {
                        return Ok(Some(data));
                    }
                }
            }
        }
    }

    /// The rest of the body as text.
    ///
    /// # Errors
    /// It breaks off.
    pub async fn text(mut self) -> Result<String> {
        let mut text = Vec::new();
        while let Some(data) = self.read().await? {
            text.extend_from_slice(&data);
        }
        self.finish();
        String::from_utf8(text).context("the answer is not UTF-8")
    }

    /// Reads an answer that is not 200.
    ///
    /// # Errors
    /// It breaks off.
    pub async fn refusal(self) -> Result<Refusal> {
        let (status, retry_after) = (self.status, self.retry_after);
        let body: Value = serde_json::from_str(&self.text().await?).unwrap_or_default();
        let code = body["error"]["code"].as_str().unwrap_or("unknown").to_owned();
        Ok(Refusal { status, code, retry_after })
    }

    /// Keeps the connection for the next request: the body was read to its end.
    fn finish(self) {
        let Self { sender, client, .. } = self;
        if client.inner.keeps {
            client.idle().push(sender);
        }
    }
}

/// In milliseconds if the gateway says so, else in seconds.
fn retry_after(headers: &hyper::HeaderMap) -> Option<Duration> {
    let number = |name: &str| headers.get(name)?.to_str().ok()?.parse().ok();
    number("retry-after-ms")
        .map(Duration::from_millis)
        .or_else(|| number("retry-after").map(Duration::from_secs))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_finer_hint_when_to_come_back_counts() {
        let mut headers = hyper::HeaderMap::new();
        assert_eq!(retry_after(&headers), None);
        headers.insert("retry-after", header::HeaderValue::from_static("2"));
        assert_eq!(retry_after(&headers), Some(Duration::from_secs(2)));
        headers.insert("retry-after-ms", header::HeaderValue::from_static("1500"));
        assert_eq!(retry_after(&headers), Some(Duration::from_millis(1500)));
    }
}
