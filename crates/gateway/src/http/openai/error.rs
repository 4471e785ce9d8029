//! The error object.

use bytes::BytesMut;
use serde::Serialize;

use crate::http::{error::ErrorReport, sse};

#[derive(Serialize)]
struct ErrorBody<'a> {
    error: ErrorJson<'a>,
}

#[derive(Serialize)]
struct ErrorJson<'a> {
    message: &'a str,
    #[serde(rename = "type")]
    kind: &'static str,
    param: Option<&'a str>,
    code: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    request_id: Option<&'a str>,
}

impl<'a> From<&'a ErrorReport> for ErrorBody<'a> {
    fn from(report: &'a ErrorReport) -> Self {
        let ErrorReport { kind, code, message, param, request_id } = report;
        let (kind, code, request_id) = (kind.as_str(), *code, request_id.as_deref());
        Self { error: ErrorJson { message, kind, param: param.as_deref(), code, request_id } }
    }
}

/// `{"error": {…}}`, for a response.
pub(in crate::http) fn write_error(report: &ErrorReport) -> Vec<u8> {
    // Strings and nulls: JSON can express them.
    serde_json::to_vec(&ErrorBody::from(report)).unwrap_or_default()
}

/// The same as the last event of a stream.
pub(super) fn write_event(out: &mut BytesMut, report: &ErrorReport) {
    sse::json(out, &ErrorBody::from(report));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::error::ErrorKind;

    #[test]
    fn an_error_has_openais_form() {
        let report = ErrorReport {
            kind: ErrorKind::RateLimit,
            code: Some("queue_full"),
            message: "later".into(),
            param: None,
            request_id: None,
        };
        let json =
            r#"{"error":{"message":"later","type":"rate_limit_error","param":null,"code":"queue_full"}}"#;
        assert_eq!(write_error(&report), json.as_bytes());
        let mut event = BytesMut::new();
        write_event(
            &mut event,
            &ErrorReport { param: Some("n".into()), code: None, ..report }.with_request_id("r"),
        );
        let json = r#"{"error":{"message":"later","type":"rate_limit_error","param":"n","code":null,"request_id":"r"}}"#;
        assert_eq!(event, format!("data: {json}\n\n").as_bytes());
    }
}
