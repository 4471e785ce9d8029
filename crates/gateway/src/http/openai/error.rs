//! The error object.

use bytes::BytesMut;
use serde::Serialize;

use crate::http::{
    error::{ErrorReport, Full},
    sse,
};

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
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_after_ms: Option<u64>,
    /// `queue` or `rate_limit`.
    #[serde(flatten)]
    full: Option<Full>,
}

impl<'a> From<&'a ErrorReport> for ErrorBody<'a> {
    fn from(report: &'a ErrorReport) -> Self {
        let ErrorReport { kind, code, message, param, request_id, retry_after, full } = report;
        Self {
            error: ErrorJson {
                message,
                kind: kind.as_str(),
                param: param.as_deref(),
                code: *code,
                request_id: request_id.as_deref(),
                retry_after_ms: retry_after.map(|after| after.as_millis() as u64),
                full: *full,
            },
        }
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
            retry_after: None,
            full: None,
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

    #[test]
    fn what_is_full_and_for_how_long_is_in_it() {
        let full = Full::RateLimit { unit: "tokens", per_minute: 600 };
        let report = ErrorReport {
            kind: ErrorKind::RateLimit,
            code: Some("rate_limit_exceeded"),
            message: "later".into(),
            param: None,
            request_id: None,
            retry_after: Some(std::time::Duration::from_millis(1500)),
            full: Some(full),
        };
        let json: serde_json::Value = serde_json::from_slice(&write_error(&report)).unwrap_or_default();
        assert_eq!(json["error"]["retry_after_ms"], 1500);
        assert_eq!(json["error"]["rate_limit"], serde_json::json!({"unit": "tokens", "per_minute": 600}));
    }
}
