//! Who is asking: an administrator, somebody with an API key, or anybody.
//!
//! ```text
//! Host, Origin ─► authenticate ─► route ─► authorize (loading and unloading)
//!                  │ API or admin key        │ admin key
//!                  └► Caller                 └► or 401, 403
//! ```
//!
//! Without API keys everybody may use the server; what changes it still takes an admin key.

use std::sync::Arc;

use axum::http::{HeaderMap, header};

use crate::{
    config::{Digest, Keys, Server},
    serve::Caller,
};

/// The keys that are accepted now.
#[derive(Debug)]
pub(super) struct Access {
    api: Keys,
    admin: Keys,
}

/// Why a request was not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum AuthError {
    /// No key was sent, and one is needed.
    #[error("an API key is needed; send it as `Authorization: Bearer KEY` or as `x-api-key: KEY`")]
    NoApiKey,
    /// The key that was sent is not one of the server's.
    #[error("this is not one of the server's API keys")]
    WrongApiKey,
    /// The server has no admin key, so nobody is an administrator.
    #[error(
        "this server has no administrators: it was started without an admin key; set `server.admin_key_file` in its \
         configuration, or KR_ADMIN_KEY in its environment"
    )]
    Disabled,
    /// No key was sent.
    #[error("the admin key is missing; send it as `Authorization: Bearer KEY`")]
    NoKey,
    /// Another key was sent.
    #[error("this is not the server's admin key")]
    WrongKey,
}

/// Where Anthropic's clients put a key.
const API_KEY: &str = "x-api-key";

impl Access {
    pub(super) fn new(server: &Server) -> Self {
        Self { api: server.api_keys.clone(), admin: server.admin_keys.clone() }
    }

    /// Who sent a request with these headers. Whether the path is public is not asked.
    ///
    /// # Errors
    /// The server has API keys, and none of its keys was sent.
    pub(super) fn authenticate(&self, headers: &HeaderMap) -> Result<Caller, AuthError> {
        if self.api.is_empty() && self.admin.is_empty() {
            return Ok(Caller::default());
        }
        let presented = Presented::of(headers);
        // Both lists are searched whatever comes of the first.
        let (admin, api) = (presented.find(&self.admin), presented.find(&self.api));
        match api.or(admin) {
            Some(name) => Ok(Caller { key: Some(name.clone()) }),
            None if self.api.is_empty() => Ok(Caller::default()),
            None if presented.is_empty() => Err(AuthError::NoApiKey),
            None => Err(AuthError::WrongApiKey),
        }
    }

    /// Checks that a request with these headers is an administrator's.
    pub(super) fn authorize(&self, headers: &HeaderMap) -> Result<(), AuthError> {
        if self.admin.is_empty() {
            return Err(AuthError::Disabled);
        }
        let presented = Presented::of(headers);
        match presented.find(&self.admin) {
            Some(_) => Ok(()),
            None if presented.is_empty() => Err(AuthError::NoKey),
            None => Err(AuthError::WrongKey),
        }
    }
}

/// The keys that a request brings, of which there may be one in each of two headers.
struct Presented([Option<Digest>; 2]);

impl Presented {
    fn of(headers: &HeaderMap) -> Self {
        let bearer = headers.get(header::AUTHORIZATION).and_then(|value| {
            let (scheme, key) = value.as_bytes().split_at_checked(7)?;
            scheme.eq_ignore_ascii_case(b"bearer ").then_some(key)
        });
        let plain = headers.get(API_KEY).map(|value| value.as_bytes());
        Self([bearer, plain].map(|key| key.map(|key| Digest::of(key.trim_ascii()))))
    }

    fn is_empty(&self) -> bool {
        self.0.iter().all(Option::is_none)
    }

    /// The name of the one that is in `keys`.
    fn find<'a>(&self, keys: &'a Keys) -> Option<&'a Arc<str>> {
        let [bearer, plain] = self.0.each_ref().map(|key| key.as_ref().and_then(|key| keys.find(key)));
        bearer.or(plain)
    }
}

#[cfg(test)]
mod tests;
