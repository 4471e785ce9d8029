//! What carries a connection's bytes: TCP, or TLS over it.
//!
//! ```text
//! Socket ── bytes of HTTP ──► Transport ─┬─ Plain ──► Meter ──► TCP
//!                                        └─ TLS ────► Meter ──► TCP
//! ```
//!
//! How fast a client reads is measured below TLS, which takes bytes before they have gone anywhere.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use tokio_rustls::{TlsAcceptor, rustls::ServerConfig, server::TlsStream};

use super::activity::Activity;

/// TCP, or TLS over it.
#[derive(Debug)]
pub(super) enum Transport {
    Plain(Meter),
    Tls(Box<TlsStream<Meter>>),
}

/// A TCP stream that tells its connection's [`Activity`] what it takes.
#[derive(Debug)]
pub(super) struct Meter {
    tcp: TcpStream,
    activity: Arc<Activity>,
}

/// Why there is no TLS.
#[derive(Debug)]
pub(super) enum HandshakeError {
    /// The client speaks something else, and gets its stream back.
    NotTls(Transport),
    /// The client has gone, or the two could not agree.
    Failed(io::Error),
}

/// Each record of a handshake begins with it, and no request does.
const HANDSHAKE_RECORD: u8 = 22;

impl Transport {
    /// Without TLS.
    pub(super) fn plain(tcp: TcpStream, activity: Arc<Activity>) -> Self {
        Self::Plain(Meter { tcp, activity })
    }

    /// After the handshake, which may take as long as the client likes.
    pub(super) async fn tls(
        tcp: TcpStream,
        activity: Arc<Activity>,
        server: Arc<ServerConfig>,
    ) -> Result<Self, HandshakeError> {
        let mut first = [0];
        let seen = tcp.peek(&mut first).await.map_err(HandshakeError::Failed)?;
        if seen == 0 {
            return Err(HandshakeError::Failed(io::ErrorKind::UnexpectedEof.into()));
        }
        if first[0] != HANDSHAKE_RECORD {
            return Err(HandshakeError::NotTls(Self::plain(tcp, activity)));
        }
        let accepted = TlsAcceptor::from(server).accept(Meter { tcp, activity }).await;
        accepted.map(|stream| Self::Tls(Box::new(stream))).map_err(HandshakeError::Failed)
    }

    /// The TCP stream under it.
    pub(super) fn tcp(&self) -> &TcpStream {
        match self {
            Self::Plain(meter) => &meter.tcp,
            Self::Tls(stream) => &stream.get_ref().0.tcp,
        }
    }
}

impl AsyncRead for Transport {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Transport {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

impl AsyncRead for Meter {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Meter {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.tcp).poll_write(cx, bytes);
        if written.is_pending() {
            self.activity.blocked();
        }
        let written = ready!(written)?;
        self.activity.wrote(written);
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_shutdown(cx)
    }
}
