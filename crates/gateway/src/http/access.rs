//! The access log: one line for each request, once its answer was sent or its client has gone.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
    time::Instant,
};

use axum::{
    body::{Body, Bytes},
    response::Response,
};
use http_body::{Body as HttpBody, Frame, SizeHint};
use telemetry::ACCESS;
use tracing::{Span, info};

/// Lets a line be written when the answer to the request of `span` has ended. It began at `began`.
pub(super) fn log(response: Response, span: Span, began: Instant) -> Response {
    let status = response.status().as_u16();
    response.map(|body| Body::new(Logged { body, span, began, status, bytes: 0, ended: false }))
}

/// A body that is logged when it is dropped.
struct Logged {
    body: Body,
    /// Of the request; it has method, route and id.
    span: Span,
    began: Instant,
    status: u16,
    bytes: usize,
    /// All of it was read.
    ended: bool,
}

impl HttpBody for Logged {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        match &frame {
            Some(Ok(frame)) => self.bytes += frame.data_ref().map_or(0, Bytes::len),
            Some(Err(_)) => {}
            None => self.ended = true,
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Logged {
    fn drop(&mut self) {
        let Self { body, span, began, status, bytes, ended } = self;
        // One whose length was known is not asked for more than that.
        let (status, bytes, complete) = (*status, *bytes, *ended || body.is_end_stream());
        let ms = began.elapsed().as_millis() as u64;
        span.in_scope(|| info!(target: ACCESS, status, ms, bytes, complete, "answered"));
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use axum::response::IntoResponse;
    use http_body_util::BodyExt;
    use test_support::LogBuffer;
    use tracing::info_span;

    use super::*;

    /// What is logged while `answer` is sent by `send`.
    fn logged(filter: &str, send: impl FnOnce(Body)) -> String {
        let lines = LogBuffer::default();
        let writer = lines.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_ansi(false)
            .with_writer(move || writer.clone())
            .finish();
        tracing::subscriber::with_default(subscriber, || {
            let span = info_span!("accept", method = "GET", request_id = "r1");
            let response = log("hello".into_response(), span, Instant::now());
            send(response.into_body());
        });
        lines.text()
    }

    fn read_all(body: Body) {
        futures_util::FutureExt::now_or_never(body.collect()).unwrap().unwrap();
    }

    #[test]
    fn an_answer_is_one_line_with_its_request() {
        let line = logged("info", read_all);
        assert_eq!(line.lines().count(), 1, "{line}");
        for part in
            ["access", "method=\"GET\"", "request_id=\"r1\"", "status=200", "bytes=5", "complete=true"]
        {
            assert!(line.contains(part), "no {part} in {line}");
        }
        let line = logged("info", drop);
        assert!(line.contains("bytes=0") && line.contains("complete=false"), "{line}");
    }

    #[test]
    fn it_is_off_where_its_target_is() {
        assert_eq!(logged("info,access=off", read_all), "");
    }
}
