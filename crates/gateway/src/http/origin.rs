//! Keeps web pages of other sites away.
//!
//! A browser lets any page send requests to `http://127.0.0.1`, and a page whose host name is made to point there
//! later (DNS rebinding) may even read the answers. The browser says where a request goes (`Host`) and where it comes
//! from (`Origin`); programs send no `Origin`, and are not restricted.

use std::sync::Arc;

use arc_swap::ArcSwap;
use axum::{
    extract::{Request, State},
    http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header, uri::Authority},
    middleware::Next,
    response::{IntoResponse, Response},
};

use super::error::ApiError;
use crate::config::{Server, is_loopback};

/// Who may ask.
#[derive(Debug)]
pub(super) struct Origins {
    /// `None`: any host will do.
    hosts: Option<Vec<String>>,
    origins: Vec<String>,
}

/// Schemes of pages that belong to an installed program. No web site has them.
const PROGRAMS: [&str; 6] = ["app", "capacitor", "file", "tauri", "vscode-file", "vscode-webview"];

impl Origins {
    pub(super) fn new(server: &Server) -> Self {
        let hosts: Vec<_> = server.allowed_hosts.iter().map(|host| host.to_ascii_lowercase()).collect();
        let restricted = is_loopback(&server.host) || !hosts.is_empty();
        let origins = server.allowed_origins.iter().map(|it| it.trim_end_matches('/').to_ascii_lowercase());
        Self { hosts: restricted.then_some(hosts), origins: origins.collect() }
    }

    /// Refuses a request that a page of a foreign site may have made. Returns the origin that may read the answer.
    fn check(
        &self,
        method: &Method,
        uri: &Uri,
        headers: &HeaderMap,
    ) -> Result<Option<HeaderValue>, ApiError> {
        let sent = headers.get_all(header::HOST).iter().map(|host| Some(text(host)));
        // In a request to a proxy the URI has it.
        let named = uri.authority().map(|authority| Some(authority.to_string()));
        let hosts: Vec<_> = sent.chain(named).flatten().collect();
        if let Some(host) = hosts.iter().find(|host| !self.allows_host(host)) {
            return Err(ApiError::ForeignHost(host.clone()));
        }
        if let Some(value) = headers.get(header::ORIGIN) {
            let origin = text(value);
            let own = |host: &String| origin.split_once("://").is_some_and(|(_, own)| own == host);
            return match self.allows_origin(&origin) || hosts.iter().any(own) {
                true => Ok(Some(value.clone())),
                false => Err(ApiError::ForeignOrigin(origin)),
            };
        }
        let cross_site = headers.get("sec-fetch-site").is_some_and(|site| site == "cross-site");
        if cross_site && !method.is_safe() {
            return Err(ApiError::ForeignOrigin("another site".into()));
        }
        Ok(None)
    }

    fn allows_host(&self, host: &str) -> bool {
        let Some(allowed) = &self.hosts else { return true };
        let Ok(authority) = host.parse::<Authority>() else { return false };
        let name = authority.host().to_ascii_lowercase();
        let plain = !host.contains('@');
        plain
            && (is_loopback(&name)
                || is_local_name(&name)
                || allowed.iter().any(|it| *it == "*" || *it == name))
    }

    fn allows_origin(&self, origin: &str) -> bool {
        let origin = origin.to_ascii_lowercase();
        if self.origins.iter().any(|allowed| *allowed == "*" || *allowed == origin) {
            return true;
        }
        match origin.split_once("://") {
            Some(("http" | "https", authority)) => {
                let host = authority.parse::<Authority>().ok().filter(|_| !authority.contains('@'));
                host.is_some_and(|authority| is_loopback(authority.host()))
            }
            Some((scheme, _)) => PROGRAMS.contains(&scheme),
            // `null` among them: any page can make its frames have it.
            None => false,
        }
    }
}

/// Checks each request before anything else looks at it, and tells browsers whose pages may read the answer.
pub(super) async fn guard(
    State(origins): State<Arc<ArcSwap<Origins>>>,
    request: Request,
    next: Next,
) -> Response {
    let checked = origins.load().check(request.method(), request.uri(), request.headers());
    let origin = match checked {
        Ok(origin) => origin,
        Err(error) => return error.into_response(),
    };
    let Some(origin) = origin else { return next.run(request).await };
    let asks = request.headers().get(header::ACCESS_CONTROL_REQUEST_METHOD).is_some();
    let mut response = match asks && request.method() == Method::OPTIONS {
        true => preflight(request.headers()),
        false => next.run(request).await,
    };
    let headers = response.headers_mut();
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static(EXPOSED));
    headers.append(header::VARY, HeaderValue::from_static("origin"));
    response
}

/// Headers of answers that pages may read.
const EXPOSED: &str = "x-request-id, retry-after, retry-after-ms";

/// Whether a page may send what it is about to send. Methods that a path refuses are refused when they come.
fn preflight(asked: &HeaderMap) -> Response {
    let mut response = StatusCode::NO_CONTENT.into_response();
    let headers = response.headers_mut();
    headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("GET, HEAD, POST"));
    headers.insert(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("600"));
    if let Some(names) = asked.get(header::ACCESS_CONTROL_REQUEST_HEADERS) {
        headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, names.clone());
    }
    if asked.contains_key("access-control-request-private-network") {
        headers.insert("access-control-allow-private-network", HeaderValue::from_static("true"));
    }
    response
}

fn text(value: &HeaderValue) -> String {
    String::from_utf8_lossy(value.as_bytes()).trim().to_owned()
}

/// A name without dots, as containers and machines in a local network have. No web site can have one.
fn is_local_name(host: &str) -> bool {
    let is_letter = |c: char| c.is_ascii_alphabetic();
    host.starts_with(is_letter) && host.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
}

#[cfg(test)]
mod tests;
