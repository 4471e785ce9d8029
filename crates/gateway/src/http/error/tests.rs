#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;

use axum::http::Method;
use protocol::memory::{MemoryNeeds, Shortage};

use super::{spec::RETRY_BUSY, *};
use crate::serve::{Bound, Failure, Occupancy, RateExceeded, RateUnit};

const INVALID: ErrorKind = ErrorKind::InvalidRequest;
const RATE: ErrorKind = ErrorKind::RateLimit;
const SERVER: ErrorKind = ErrorKind::Server;

fn failed(kind: FailureKind) -> ApiError {
    let failure = Failure { kind, param: Some("messages".into()), message: "why".into() };
    ServeError::Failed(failure).into()
}

fn not_loaded(kind: FailureKind) -> ApiError {
    ModelError::Failed { model: model("m"), failure: failure(kind) }.into()
}

fn failure(kind: FailureKind) -> Failure {
    Failure { kind, param: None, message: "why".into() }
}

fn unknown() -> RouteError {
    RouteError::UnknownModel { model: model("m"), served: model("s") }
}

fn model(model: &str) -> String {
    model.to_owned()
}

const OCCUPANCY: Occupancy = Occupancy {
    limit: 5,
    running: 5,
    waiting: 2,
    max_waiting: 2,
    waiting_tokens: 100,
    max_waiting_tokens: 1000,
};

const SHORTAGE: Shortage = Shortage {
    needs: MemoryNeeds { weight_bytes: 5 << 30, least_kv_bytes: 1, most_kv_bytes: 2, other_bytes: 3 },
    workers: 1,
    left_bytes: 1 << 30,
    max_bytes: 8 << 30,
};

const RETRY: Duration = Duration::from_millis(1500);

fn queue_full(bound: Bound) -> Rejection {
    Rejection::QueueFull { bound, occupancy: OCCUPANCY, retry_after: RETRY }
}

fn rate_limited() -> Rejection {
    Rejection::RateLimited(RateExceeded { unit: RateUnit::Tokens, per_minute: 600, retry_after: RETRY })
}

fn waited_too_long() -> Rejection {
    Rejection::WaitedTooLong { waited: RETRY_BUSY, occupancy: OCCUPANCY, retry_after: RETRY }
}

/// (error, status, type, code), at least one of each kind.
fn samples() -> Vec<(ApiError, u16, ErrorKind, &'static str)> {
    let rejected = |r: Rejection| ApiError::from(ServeError::from(r));
    let busy = |r: OperationRejection| ApiError::from(ServeError::from(r));
    let malformed = |status| ApiError::Malformed { status };
    let field = ApiError::Field { param: None, message: "x".into() };
    let json = serde_json::from_str::<()>("{").unwrap_err();
    vec![
        (malformed(StatusCode::BAD_REQUEST), 400, INVALID, "malformed_request"),
        (malformed(StatusCode::URI_TOO_LONG), 414, INVALID, "malformed_request"),
        (malformed(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE), 431, INVALID, "malformed_request"),
        (ApiError::HeaderTimeout, 408, INVALID, "header_timeout"),
        (ApiError::TooManyConnections, 503, SERVER, "too_many_connections"),
        (ApiError::ForeignHost("h".into()), 403, INVALID, "host_not_allowed"),
        (ApiError::ForeignOrigin("o".into()), 403, INVALID, "origin_not_allowed"),
        (ApiError::BadPath, 400, INVALID, "invalid_path"),
        (ApiError::ContentEncoding("br".into()), 415, INVALID, "unsupported_encoding"),
        (ApiError::Charset("utf-16".into()), 415, INVALID, "unsupported_charset"),
        (ApiError::BodyBroken("x".into()), 400, INVALID, "body_broken"),
        (ApiError::Json(json), 400, INVALID, "invalid_json"),
        (field, 400, INVALID, "invalid_value"),
        (ApiError::Unknown { param: "x".into() }, 400, INVALID, "unknown_parameter"),
        (ApiError::SlowConsumer(Duration::from_secs(1)), 408, INVALID, "slow_consumer"),
        (ApiError::Memory, 429, RATE, "out_of_memory_budget"),
        (ApiError::Random(getrandom::Error::UNSUPPORTED), 500, SERVER, "internal_error"),
        (failed(FailureKind::Overloaded), 503, SERVER, "overloaded"),
        (failed(FailureKind::UnknownModel), 404, INVALID, "model_not_found"),
        (failed(FailureKind::DamagedModel), 422, SERVER, "model_damaged"),
        (failed(FailureKind::TooLarge), 422, SERVER, "model_too_large"),
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
        (rejected(queue_full(Bound::Requests)), 429, RATE, "queue_full"),
        (rejected(queue_full(Bound::Tokens)), 429, RATE, "queue_full"),
        (rejected(waited_too_long()), 429, RATE, "queue_timeout"),
        (rejected(rate_limited()), 429, RATE, "rate_limit_exceeded"),
        (rejected(Rejection::DeadlinePassed), 504, SERVER, "deadline_exceeded"),
        (ServeError::DeadlinePassed.into(), 504, SERVER, "deadline_exceeded"),
        (busy(OperationRejection::QueueFull { waiting: 1 }), 429, RATE, "queue_full"),
        (busy(OperationRejection::WaitedTooLong { waited: RETRY_BUSY }), 429, RATE, "queue_timeout"),
        (RouteError::NotNamed { served: model("s") }.into(), 400, INVALID, "invalid_value"),
        (rejected(Rejection::ShuttingDown), 503, SERVER, "shutting_down"),
        (RouteError::NoWorker { model: model("m") }.into(), 503, SERVER, "no_worker"),
        (unknown().into(), 404, INVALID, "model_not_found"),
        (
            RouteError::Unloading { model: model("m"), served: model("s") }.into(),
            404,
            INVALID,
            "model_unloading",
        ),
        (RouteError::NoBase { adapter: model("m:a") }.into(), 404, INVALID, "model_not_found"),
        (ApiError::NotTls, 400, INVALID, "https_needed"),
        (AuthError::NoApiKey.into(), 401, INVALID, "missing_api_key"),
        (AuthError::WrongApiKey.into(), 401, INVALID, "invalid_api_key"),
        (AuthError::Disabled.into(), 403, INVALID, "admin_disabled"),
        (AuthError::NoKey.into(), 401, INVALID, "missing_admin_key"),
        (AuthError::WrongKey.into(), 401, INVALID, "invalid_admin_key"),
        (not_loaded(FailureKind::UnknownModel), 404, INVALID, "model_not_found"),
        (not_loaded(FailureKind::DamagedModel), 422, SERVER, "model_damaged"),
        (not_loaded(FailureKind::Internal), 500, SERVER, "load_failed"),
        (ModelError::TooMany { max: 1, loaded: vec![] }.into(), 409, INVALID, "too_many_models"),
        (ModelError::OtherWorkers { model: model("m"), workers: 1 }.into(), 409, INVALID, "already_loaded"),
        (ModelError::Unloading(model("m")).into(), 409, INVALID, "model_unloading"),
        (ModelError::Unloaded(model("m")).into(), 409, INVALID, "model_unloading"),
        (ModelError::NotLoaded(unknown()).into(), 404, INVALID, "model_not_found"),
        (
            ModelError::UnknownWorker { worker: "m/9".into(), known: "`m/0`".into() }.into(),
            404,
            INVALID,
            "worker_not_found",
        ),
        (ModelError::Restarting("m/0".into()).into(), 409, INVALID, "restart_in_progress"),
        (
            ModelError::NotRestarted { worker: "m/0".into(), failure: failure(FailureKind::Internal) }.into(),
            500,
            SERVER,
            "restart_failed",
        ),
        (
            ModelError::NotRestartedYet { what: model("m"), after: RETRY_BUSY }.into(),
            504,
            SERVER,
            "restart_timeout",
        ),
        (ModelError::ShuttingDown.into(), 503, SERVER, "shutting_down"),
        (ModelError::NoRoom { model: model("m"), max: 1, waited: RETRY_BUSY }.into(), 503, SERVER, "no_room"),
        (
            ModelError::StillUnloading { model: model("m"), waited: RETRY_BUSY }.into(),
            503,
            SERVER,
            "model_unloading",
        ),
        (not_loaded(FailureKind::TooLarge), 422, SERVER, "model_too_large"),
        (
            ModelError::TooLarge { model: model("m"), shortage: SHORTAGE }.into(),
            422,
            SERVER,
            "model_too_large",
        ),
        (
            ModelError::NoMemory { model: model("m"), shortage: SHORTAGE, loaded: vec![] }.into(),
            409,
            INVALID,
            "insufficient_memory",
        ),
        (
            ModelError::NoMemoryYet { model: model("m"), shortage: SHORTAGE, waited: RETRY_BUSY }.into(),
            503,
            SERVER,
            "no_room",
        ),
        (ModelError::Crowded(1).into(), 429, RATE, "queue_full"),
        (ModelError::StoreUnreadable.into(), 503, SERVER, "store_unreadable"),
        (ServeError::from(ModelError::Unloaded(model("m"))).into(), 409, INVALID, "model_unloading"),
        (failed(FailureKind::InvalidRequest), 400, INVALID, "invalid_value"),
        (failed(FailureKind::ContextLengthExceeded), 400, INVALID, "context_length_exceeded"),
        (failed(FailureKind::Internal), 500, SERVER, "worker_error"),
        (failed(FailureKind::WorkerLost), 503, SERVER, "worker_lost"),
        (ApiError::Internal, 500, SERVER, "internal_error"),
        (ServeError::Internal.into(), 500, SERVER, "internal_error"),
    ]
}

/// Fails to compile when a kind is added, so that its sample is not forgotten.
fn number(error: &ApiError) -> usize {
    match error {
        ApiError::Malformed { .. } => 0,
        ApiError::HeaderTimeout => 1,
        ApiError::TooManyConnections => 2,
        ApiError::ForeignHost(_) => 3,
        ApiError::ForeignOrigin(_) => 4,
        ApiError::UnknownPath(_) => 5,
        ApiError::BadPath => 6,
        ApiError::Method(_) => 7,
        ApiError::MediaType(_) => 8,
        ApiError::ContentEncoding(_) => 9,
        ApiError::Charset(_) => 10,
        ApiError::BodyTooLarge { .. } => 11,
        ApiError::BodyBroken(_) => 12,
        ApiError::BodyTimeout(_) => 13,
        ApiError::NotUtf8(_) => 14,
        ApiError::Json(_) => 15,
        ApiError::Field { .. } => 16,
        ApiError::Unsupported { .. } => 17,
        ApiError::Unknown { .. } => 18,
        ApiError::Memory => 19,
        ApiError::Serve(ServeError::Rejected(Rejection::QueueFull { .. })) => 20,
        ApiError::Serve(ServeError::Rejected(Rejection::WaitedTooLong { .. })) => 21,
        ApiError::Serve(ServeError::Rejected(Rejection::ShuttingDown)) => 22,
        ApiError::Serve(ServeError::Unroutable(RouteError::UnknownModel { .. })) => 23,
        ApiError::Serve(ServeError::Unroutable(RouteError::Unloading { .. })) => 24,
        ApiError::Serve(ServeError::Unroutable(RouteError::NoWorker { .. })) => 25,
        ApiError::Auth(AuthError::Disabled) => 26,
        ApiError::Auth(AuthError::NoKey) => 27,
        ApiError::Auth(AuthError::WrongKey) => 28,
        ApiError::Model(ModelError::Failed { .. }) => 29,
        ApiError::Model(ModelError::TooMany { .. }) => 30,
        ApiError::Model(ModelError::OtherWorkers { .. }) => 31,
        ApiError::Model(ModelError::Unloading(_)) => 32,
        ApiError::Model(ModelError::Unloaded(_)) => 33,
        ApiError::Model(ModelError::NotLoaded(_)) => 34,
        ApiError::Model(ModelError::ShuttingDown) => 35,
        ApiError::Serve(ServeError::Failed(failure)) => match failure.kind {
            FailureKind::InvalidRequest => 36,
            FailureKind::ContextLengthExceeded => 37,
            FailureKind::Internal => 38,
            FailureKind::WorkerLost => 39,
            FailureKind::Overloaded => 40,
            FailureKind::UnknownModel => 41,
            FailureKind::DamagedModel => 42,
            FailureKind::TooLarge => 64,
        },
        ApiError::Random(_) => 43,
        ApiError::Internal => 44,
        ApiError::Serve(ServeError::Internal) => 45,
        ApiError::Auth(AuthError::NoApiKey) => 46,
        ApiError::Auth(AuthError::WrongApiKey) => 47,
        ApiError::NotTls => 48,
        ApiError::Model(ModelError::UnknownWorker { .. }) => 49,
        ApiError::Model(ModelError::Restarting(_)) => 50,
        ApiError::Model(ModelError::NotRestarted { .. }) => 51,
        ApiError::Model(ModelError::NotRestartedYet { .. }) => 52,
        ApiError::Model(ModelError::NoRoom { .. }) => 53,
        ApiError::Model(ModelError::Crowded(_)) => 54,
        ApiError::Model(ModelError::StoreUnreadable) => 55,
        ApiError::Serve(ServeError::NoModel(_)) => 56,
        ApiError::Serve(ServeError::Rejected(Rejection::RateLimited(_))) => 57,
        ApiError::Serve(ServeError::Rejected(Rejection::DeadlinePassed)) => 58,
        ApiError::Serve(ServeError::DeadlinePassed) => 59,
        ApiError::Serve(ServeError::Unroutable(RouteError::NotNamed { .. })) => 60,
        ApiError::Serve(ServeError::OperationRejected(OperationRejection::QueueFull { .. })) => 61,
        ApiError::Serve(ServeError::OperationRejected(OperationRejection::WaitedTooLong { .. })) => 62,
        ApiError::SlowConsumer(_) => 63,
        ApiError::Model(ModelError::TooLarge { .. }) => 65,
        ApiError::Model(ModelError::NoMemory { .. }) => 66,
        ApiError::Model(ModelError::NoMemoryYet { .. }) => 67,
        ApiError::Model(ModelError::StillUnloading { .. }) => 68,
        ApiError::Serve(ServeError::Unroutable(RouteError::NoBase { .. })) => 69,
    }
}

#[test]
fn every_kind_of_error_has_a_sample() {
    let seen: BTreeSet<_> = samples().iter().map(|(error, ..)| number(error)).collect();
    let all: BTreeSet<_> = (0..=69).collect();
    assert_eq!(seen, all);
}

#[test]
fn the_table_lists_what_errors_have_and_nothing_else() {
    let row = |spec: &ErrorSpec| (spec.status.as_u16(), spec.kind, spec.code, spec.retry_after);
    let listed: BTreeSet<_> = error_table().iter().map(row).collect();
    let real: BTreeSet<_> = samples().iter().map(|(error, ..)| row(&error.spec())).collect();
    assert_eq!(listed, real);
    let distinct: BTreeSet<_> = error_table().iter().map(|spec| (spec.status.as_u16(), spec.code)).collect();
    assert_eq!(distinct.len(), error_table().len(), "a status and a code have one row");
    assert!(error_table().is_sorted_by_key(|spec| spec.status.as_u16()));
    assert!(error_table().iter().all(|spec| !spec.when.is_empty()));
}

#[test]
fn what_a_client_sent_does_not_make_an_error_long() {
    let long = "x".repeat(1 << 20);
    let route = RouteError::UnknownModel { model: long.clone(), served: "`m`".into() };
    for error in [ApiError::MediaType(long.clone()), route.into(), ApiError::UnknownPath(long.clone())] {
        assert!(error.report().message.len() < 1800);
    }
    let param = ApiError::Unsupported { param: long, what: "x".into() };
    assert!(param.report().param.unwrap().len() < 300);
}

#[test]
fn what_a_worker_says_about_itself_shows_no_paths() {
    let failure = Failure {
        kind: FailureKind::Internal,
        param: None,
        message: "cannot read /home/ann/store/blobs/ab: gone".into(),
    };
    let error = ApiError::from(ServeError::Failed(failure.clone()));
    assert_eq!(error.report().message, "cannot read <path>: gone");
    let error = ServeError::from(ModelError::Failed { model: model("org/m"), failure });
    let message = "the model `org/m` could not be loaded: cannot read <path>: gone";
    assert_eq!(ApiError::from(error).report().message, message);
}

#[test]
fn every_failure_has_its_status_type_and_code() {
    for (error, status, kind, code) in samples() {
        let report = error.report();
        assert_eq!((report.kind, report.code), (kind, Some(code)), "{error}");
        let words = error.to_string();
        let response = error.into_response();
        assert_eq!(response.status(), status, "{words}");
        assert_eq!(response.extensions().get(), Some(&report), "{words}");
        let retry = response.headers().get(header::RETRY_AFTER).is_some();
        assert_eq!(retry, matches!(status, 429 | 503), "{words}");
        assert_eq!(retry, response.headers().get("retry-after-ms").is_some(), "{words}");
        let scheme = response.headers().get(header::WWW_AUTHENTICATE).is_some();
        assert_eq!(scheme, status == 401, "{words}");
    }
}

#[test]
fn what_is_full_is_said_for_people_and_for_programs() {
    let of = |rejection: Rejection| ApiError::from(ServeError::from(rejection)).report();
    let report = of(queue_full(Bound::Requests));
    assert_eq!((report.retry_after, report.full), (Some(RETRY), Some(Full::Queue(OCCUPANCY))));
    for part in ["limit of 5 streams", "2 requests wait, of 2 that may", "in 1.5 s"] {
        assert!(report.message.contains(part), "{}", report.message);
    }
    let report = of(queue_full(Bound::Tokens));
    assert!(report.message.contains("about 100 tokens wait, and 1000 may"), "{}", report.message);
    let report = of(rate_limited());
    assert_eq!(report.full, Some(Full::RateLimit { unit: "tokens", per_minute: 600 }));
    assert!(report.message.contains("600 tokens a minute"), "{}", report.message);
    assert!(of(waited_too_long()).message.contains("within 1 s; try again in 1.5 s"));
    let headers = ApiError::from(ServeError::from(rate_limited())).into_response().headers().clone();
    assert_eq!(
        (&headers["retry-after"], &headers["retry-after-ms"]),
        (&"2".parse().unwrap(), &"1500".parse().unwrap())
    );
}
