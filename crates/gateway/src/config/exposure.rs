//! Whether other machines may reach the server without anything that protects it.

use std::net::IpAddr;

use super::{ConfigError, Server};

/// What protects a server that other machines can reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Exposure {
    /// Other machines can't reach it.
    Loopback,
    /// Keys, over TLS.
    Protected,
    /// Who has a key may use it; who listens on the way can take the key.
    KeysOnly,
    /// Nobody can listen, and everybody may use it.
    TlsOnly,
    /// Nothing.
    Open,
}

/// `localhost`, 127.0.0.0/8 or ::1, with brackets or without.
pub(crate) fn is_loopback(host: &str) -> bool {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host.eq_ignore_ascii_case("localhost")
        || host.parse().is_ok_and(|ip: IpAddr| ip.to_canonical().is_loopback())
}

pub(super) fn exposure(server: &Server) -> Exposure {
    match (server.tls.is_some(), !server.api_keys.is_empty()) {
        _ if is_loopback(&server.host) => Exposure::Loopback,
        (true, true) => Exposure::Protected,
        (false, true) => Exposure::KeysOnly,
        (true, false) => Exposure::TlsOnly,
        (false, false) => Exposure::Open,
    }
}

/// Refuses to listen where everybody could use the server, unless that is wanted.
pub(super) fn check(server: &Server) -> Result<(), ConfigError> {
    match exposure(server) {
        Exposure::Open if !server.allow_insecure => Err(ConfigError::Exposed { host: server.host.clone() }),
        _ => Ok(()),
    }
}
