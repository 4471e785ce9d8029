//! Who is asking: an administrator, or anybody.

use axum::http::{HeaderMap, header};

use crate::config::AdminKey;

/// Why a request was not accepted as an administrator's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum AuthError {
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

/// Checks that a request with these headers has the server's admin key.
pub(super) fn authorize(key: Option<&AdminKey>, headers: &HeaderMap) -> Result<(), AuthError> {
    let key = key.ok_or(AuthError::Disabled)?;
    let presented = headers.get(header::AUTHORIZATION).map(|value| value.as_bytes());
    let (scheme, presented) = presented.and_then(|it| it.split_at_checked(7)).ok_or(AuthError::NoKey)?;
    if !scheme.eq_ignore_ascii_case(b"bearer ") {
        return Err(AuthError::NoKey);
    }
    if key.is(presented.trim_ascii()) { Ok(()) } else { Err(AuthError::WrongKey) }
}
