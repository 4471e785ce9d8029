use axum::http::Method;
use protocol::message::FailureKind;

use super::{
    table::{INVALID, RETRY_BUSY, SERVER},
    *,
};

fn failed(kind: FailureKind) -> ApiError {
    ApiError::Failed(Failure { kind, param: Some("messages".into()), message: "why".into() })
}

fn not_loaded(kind: FailureKind) -> ApiError {
    let failure = Failure { kind, param: None, message: "why".into() };
    ModelError::Failed { model: model("m"), failure }.into()
}

fn unknown() -> RouteError {
    RouteError::UnknownModel { model: model("m"), served: model("s") }
}

fn model(model: &str) -> String {
    model.to_owned()
}

#[test]
fn every_failure_has_its_status_type_and_code() {
    let rejected = |r: Rejection| ApiError::Rejected(r);
    let table = [
        (ApiError::UnknownPath("/x".into()), 404, INVALID, "unknown_url"),
        (ApiError::Method(Method::PUT), 405, INVALID, "method_not_allowed"),
        (ApiError::MediaType("text/plain".into()), 415, INVALID, "unsupported_media_type"),
        (ApiError::BodyTooLarge { limit: 1 }, 413, INVALID, "body_too_large"),
        (ApiError::BodyTimeout(Duration::from_secs(1)), 408, INVALID, "body_timeout"),
        (ApiError::NotUtf8(3), 400, INVALID, "invalid_json"),
        (
            ApiError::Unsupported { param: "n".into(), what: "2".into() },
            400,
            INVALID,
            "unsupported_parameter",
        ),
        (rejected(Rejection::QueueFull { waiting: 1 }), 429, "rate_limit_error", "queue_full"),
        (rejected(Rejection::WaitedTooLong { waited: RETRY_BUSY }), 429, "rate_limit_error", "queue_timeout"),
        (rejected(Rejection::ShuttingDown), 503, SERVER, "shutting_down"),
        (RouteError::NoWorker { model: model("m") }.into(), 503, SERVER, "no_worker"),
        (unknown().into(), 404, INVALID, "model_not_found"),
        (
            RouteError::Unloading { model: model("m"), served: model("s") }.into(),
            404,
            INVALID,
            "model_unloading",
        ),
        (Refusal::Disabled.into(), 403, INVALID, "admin_disabled"),
        (Refusal::NoKey.into(), 401, INVALID, "missing_admin_key"),
        (Refusal::WrongKey.into(), 401, INVALID, "invalid_admin_key"),
        (not_loaded(FailureKind::UnknownModel), 404, INVALID, "model_not_found"),
        (not_loaded(FailureKind::DamagedModel), 422, SERVER, "model_damaged"),
        (not_loaded(FailureKind::Internal), 500, SERVER, "load_failed"),
        (ModelError::TooMany { max: 1, loaded: vec![] }.into(), 409, INVALID, "too_many_models"),
        (ModelError::OtherWorkers { model: model("m"), workers: 1 }.into(), 409, INVALID, "already_loaded"),
        (ModelError::Unloading(model("m")).into(), 409, INVALID, "model_unloading"),
        (ModelError::Unloaded(model("m")).into(), 409, INVALID, "model_unloading"),
        (ModelError::NotLoaded(unknown()).into(), 404, INVALID, "model_not_found"),
        (ModelError::ShuttingDown.into(), 503, SERVER, "shutting_down"),
        (failed(FailureKind::InvalidRequest), 400, INVALID, "invalid_value"),
        (failed(FailureKind::ContextLengthExceeded), 400, INVALID, "context_length_exceeded"),
        (failed(FailureKind::Internal), 500, SERVER, "worker_error"),
        (failed(FailureKind::WorkerLost), 503, SERVER, "worker_lost"),
        (ApiError::Internal, 500, SERVER, "internal_error"),
    ];
    for (error, status, kind, code) in table {
        let body = error.body().error;
        assert_eq!((body.kind, body.code), (kind, Some(code)), "{error}");
        let words = error.to_string();
        let response = error.into_response();
        assert_eq!(response.status(), status, "{words}");
        let retry = response.headers().get(header::RETRY_AFTER).is_some();
        assert_eq!(retry, matches!(status, 429 | 503), "{words}");
        assert_eq!(retry, response.headers().get("retry-after-ms").is_some(), "{words}");
        let scheme = response.headers().get(header::WWW_AUTHENTICATE).is_some();
        assert_eq!(scheme, status == 401, "{words}");
    }
}
