//! What HTTP is read from and written to: a stream that reports what moves through it.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use axum::http::StatusCode;
use bytes::{Buf, Bytes};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf},
    time::{Duration, timeout},
};

use super::{activity::Activity, refusal, transport::Transport};
use crate::http::error::ApiError;

/// A stream that tells its connection's [`Activity`] about every request and every answer.
#[derive(Debug)]
pub(super) struct Socket {
    stream: Transport,
    activity: Arc<Activity>,
    /// The first line of the request that is being read.
    line: FirstLine,
    /// A first line of this length is too long by itself.
    max_header_bytes: usize,
    /// What is written in the place of an answer of hyper's.
    replacement: Bytes,
}

/// How long a request's first line is, as far as it has come.
#[derive(Debug, Default)]
struct FirstLine {
    length: usize,
    ended: bool,
}

impl FirstLine {
    fn add(&mut self, bytes: &[u8]) {
        if self.ended {
            return;
        }
        let end = bytes.iter().position(|byte| *byte == b'\n');
        self.ended = end.is_some();
        self.length += end.unwrap_or(bytes.len());
    }
}

/// A client that is still writing does not see an answer when the connection is closed under it: the kernel
/// throws the answer away with the bytes that nobody read. So what comes is read for a while, and thrown away.
const LINGER_BYTES: usize = 256 << 20;
const LINGER_TIME: Duration = Duration::from_secs(10);

impl Socket {
    pub(super) fn new(stream: Transport, activity: Arc<Activity>, max_header_bytes: usize) -> Self {
        Self { stream, activity, line: FirstLine::default(), max_header_bytes, replacement: Bytes::new() }
    }

    /// Ends a connection whose last answer was written.
    pub(super) async fn close(mut self) {
        let discard = async {
            self.stream.shutdown().await?;
            let mut left = LINGER_BYTES;
            let mut scratch = vec![0; 64 << 10];
            while left > 0 {
                match self.stream.read(&mut scratch).await? {
                    0 => break,
                    read => left = left.saturating_sub(read),
                }
            }
            io::Result::Ok(())
        };
        // The client may have gone long ago, which is what it was waited for.
        let _ = timeout(LINGER_TIME, discard).await;
    }

    /// Ends a connection with an answer to a request that never became one.
    pub(super) async fn refuse(mut self, error: &ApiError) {
        let write = async {
            self.stream.write_all(&refusal::bytes(error)).await?;
            self.stream.flush().await
        };
        if timeout(LINGER_TIME, write).await.is_ok_and(|it| it.is_ok()) {
            self.close().await;
        }
    }

    /// Ends a connection whose client does not read: what was written is not kept for it.
    pub(super) fn abort(self) {
        // Without it the kernel keeps the bytes for as long as the client says that it is there.
        let _ = self.stream.tcp().set_zero_linger();
    }

    /// What was too large: hyper calls it the header also where it is the path.
    fn which(&self, status: StatusCode) -> StatusCode {
        match status {
            StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE if self.line.length >= self.max_header_bytes => {
                StatusCode::URI_TOO_LONG
            }
            other => other,
        }
    }

    fn poll_replacement(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.replacement.has_remaining() {
            match ready!(Pin::new(&mut self.stream).poll_write(cx, &self.replacement))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                written => self.replacement.advance(written),
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buffer);
        let new = &buffer.filled()[before..];
        if !new.is_empty() {
            if self.activity.received() {
                self.line = FirstLine::default();
            }
            self.line.add(new);
        }
        read
    }
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if let Some(status) = answer_of_hyper(bytes) {
            let status = self.which(status);
            self.replacement = refusal::bytes(&ApiError::Malformed { status }).into();
            return Poll::Ready(Ok(bytes.len()));
        }
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_replacement(cx))?;
        ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
        self.activity.flushed();
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_replacement(cx))?;
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// The status, if these bytes are hyper's own answer to bytes that are not HTTP. It has no body, and hyper offers no
/// way to choose another. Our answers carry an `x-request-id`, and no piece of a body begins like a status line.
fn answer_of_hyper(bytes: &[u8]) -> Option<StatusCode> {
    let head = bytes.strip_prefix(b"HTTP/1.1 ")?.strip_suffix(b"\r\n\r\n")?;
    let status = StatusCode::from_bytes(head.get(..3)?).ok().filter(StatusCode::is_client_error)?;
    let head = std::str::from_utf8(head).ok()?.to_ascii_lowercase();
    (head.contains("\r\ncontent-length: 0") && !head.contains("\r\nx-request-id:")).then_some(status)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_hypers_own_answers_are_replaced() {
        let of = |text: &str| answer_of_hyper(text.as_bytes()).map(|status| status.as_u16());
        assert_eq!(
            of("HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"),
            Some(400)
        );
        let too_large =
            "HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-length: 0\r\ndate: x\r\n\r\n";
        assert_eq!(of(too_large), Some(431));
        for other in [
            "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
            "HTTP/1.1 404 Not Found\r\nx-request-id: 1\r\ncontent-length: 0\r\n\r\n",
            "HTTP/1.1 404 Not Found\r\ncontent-length: 20\r\n\r\n",
            "data: HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n",
            "HTTP/1.1 4",
        ] {
            assert_eq!(of(other), None, "{other}");
        }
    }
}
