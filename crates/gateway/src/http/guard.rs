//! Turns away whoever may not use the server, before a route is looked for.

use std::net::SocketAddr;

use axum::{
    extract::{ConnectInfo, Request, State},
    http::StatusCode,
    middleware::Next,
    response::{IntoResponse, Response},
};
use tracing::warn;

use super::{
    app::App,
    error::{ApiError, ErrorReport},
};

/// Paths that need no key: what watches a server's health often can't send one.
const PUBLIC: [&str; 3] = ["/livez", "/readyz", "/health"];

/// Lets requests pass whose client may use the server, and says to those behind it who that is. What they refuse for
/// want of an admin key is in the log as well.
pub(super) async fn authenticate(State(app): State<App>, mut request: Request, next: Next) -> Response {
    let client = request.extensions().get::<ConnectInfo<SocketAddr>>().map(|it| it.0);
    let uri = request.uri().clone();
    let response = match app.authenticate(request.headers()) {
        Ok(caller) => {
            request.extensions_mut().insert(caller);
            next.run(request).await
        }
        Err(_) if PUBLIC.contains(&uri.path()) => next.run(request).await,
        Err(error) => ApiError::Auth(error).into_response(),
    };
    if response.status() == StatusCode::UNAUTHORIZED
        && let Some(skipped) = app.refusals.line()
    {
        let client = client.map_or_else(|| "unknown".to_owned(), |it| it.to_string());
        let reason = response.extensions().get().and_then(|report: &ErrorReport| report.code);
        warn!(client, path = uri.path(), reason, skipped, "a request was refused");
    }
    response
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::{
        io,
        path::Path,
        sync::{Arc, Mutex},
    };

    use axum::{Extension, Router, body::Body, middleware::from_fn_with_state, routing::get};
    use http_body_util::BodyExt as _;
    use tower::ServiceExt as _;

    use super::*;
    use crate::{
        assembly,
        cli::Flags,
        config::{Config, Environment},
        http::auth::AuthError,
        serve::Caller,
    };

    const KEY: &str = "alice-key-0123456789";

    /// A gateway with this list of API keys, behind which a route says who asks.
    fn routes(api_keys: Option<&str>) -> Router {
        let flags =
            Flags { models: vec!["m".into()], worker_bin: Some("/bin/sh".into()), ..Flags::default() };
        let environment = Environment { api_keys: api_keys.map(str::to_owned), ..Environment::default() };
        let config = Config::from_parts(Path::new("t"), "", &flags, &environment).unwrap().config;
        let app = assembly::assemble(&config).unwrap();
        let who = async |caller: Option<Extension<Caller>>| match caller {
            Some(Extension(Caller { key: Some(key) })) => key.to_string(),
            Some(Extension(Caller { key: None })) => "anybody".to_owned(),
            None => "nobody".to_owned(),
        };
        Router::new()
            .route("/who", get(who))
            .route("/livez", get(who))
            .route("/admin", get(async || ApiError::Auth(AuthError::WrongKey)))
            .layer(from_fn_with_state(app, authenticate))
    }

    async fn ask(routes: &Router, path: &str, key: &str) -> (u16, String) {
        let request = Request::get(path).header("x-api-key", key).body(Body::empty()).unwrap();
        let response = routes.clone().oneshot(request).await.unwrap();
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn those_behind_it_know_who_asks() {
        let keyed = routes(Some(&format!("alice:{KEY}")));
        assert_eq!(ask(&keyed, "/who", KEY).await, (200, "alice".into()));
        assert_eq!(ask(&keyed, "/who", "x").await.0, 401);
        assert_eq!(ask(&keyed, "/livez", "x").await, (200, "nobody".into()));
        assert_eq!(ask(&routes(None), "/who", "x").await, (200, "anybody".into()));
    }

    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Log {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Log {
        /// Has what this thread logs until the guard is dropped.
        fn start(&self) -> tracing::subscriber::DefaultGuard {
            let writer = self.clone();
            let subscriber = tracing_subscriber::fmt().with_ansi(false);
            tracing::subscriber::set_default(subscriber.with_writer(move || writer.clone()).finish())
        }

        fn text(&self) -> String {
            String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
        }
    }

    #[tokio::test]
    async fn guesses_are_in_the_log_once_and_without_the_key() {
        let log = Log::default();
        let _guard = log.start();
        let keyed = routes(Some(&format!("alice:{KEY}")));
        for guess in 0..20 {
            assert_eq!(ask(&keyed, "/who", &format!("guess-{guess}")).await.0, 401);
        }
        let text = log.text();
        assert_eq!(text.matches("a request was refused").count(), 1, "{text}");
        assert!(text.contains("invalid_api_key") && !text.contains("guess"), "{text}");
    }

    #[tokio::test]
    async fn so_are_those_at_the_admin_key() {
        let log = Log::default();
        let _guard = log.start();
        assert_eq!(ask(&routes(None), "/admin", "guess").await.0, 401);
        let text = log.text();
        assert!(text.contains("invalid_admin_key") && text.contains("/admin"), "{text}");
        assert!(!text.contains("guess"), "{text}");
    }
}
