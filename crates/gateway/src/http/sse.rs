//! Server-sent events: how they are framed, not what is in them.

use bytes::{BufMut, BytesMut};
use serde::Serialize;
use tracing::error;

use super::dialect::Framing;

/// Of a stream of server-sent events.
pub(super) const FRAMING: Framing = Framing {
    // Some clients take text without a character set for ISO-8859-1.
    media_type: "text/event-stream; charset=utf-8",
    keepalive: Some(b": keep-alive\n\n"),
};

/// Writes an event without a name, whose data is JSON.
pub(super) fn json(out: &mut BytesMut, value: &impl Serialize) {
    out.extend_from_slice(b"data: ");
    // Text, numbers and fixed keys: JSON can express them, and a buffer takes them.
    if let Err(error) = serde_json::to_writer((&mut *out).writer(), value) {
        error!(%error, "an event could not be written");
    }
    out.extend_from_slice(b"\n\n");
}

/// Writes an event without a name. `data` is one line.
pub(super) fn line(out: &mut BytesMut, data: &str) {
    out.extend_from_slice(b"data: ");
    out.extend_from_slice(data.as_bytes());
    out.extend_from_slice(b"\n\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_one_line_and_an_empty_one() {
        let mut out = BytesMut::new();
        json(&mut out, &"a\n\nb\r");
        line(&mut out, "[DONE]");
        assert_eq!(&out[..], b"data: \"a\\n\\nb\\r\"\n\ndata: [DONE]\n\n");
    }
}
