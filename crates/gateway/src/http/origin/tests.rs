#![allow(clippy::unwrap_used)]

use std::path::Path;

use super::*;
use crate::{cli::Flags, config::Config};

fn origins(server: &str) -> Origins {
    let flags = Flags { models: vec!["m".into()], ..Flags::default() };
    let config = Config::from_text(Path::new("test.yaml"), &format!("server: {server}"), &flags).unwrap();
    Origins::new(&config.server)
}

fn check(origins: &Origins, method: Method, headers: &[(&'static str, &str)]) -> Result<bool, &'static str> {
    let headers = headers
        .iter()
        .map(|(name, value)| (header::HeaderName::from_static(name), HeaderValue::from_str(value).unwrap()));
    match origins.check(&method, &Uri::from_static("/v1/models"), &headers.collect()) {
        Ok(origin) => Ok(origin.is_some()),
        Err(ApiError::ForeignHost(_)) => Err("host"),
        Err(ApiError::ForeignOrigin(_)) => Err("origin"),
        Err(other) => panic!("{other}"),
    }
}

#[test]
fn on_loopback_only_loopback_hosts_are_answered() {
    let local = origins("{host: 127.0.0.1}");
    let with = |host: &str| check(&local, Method::POST, &[("host", host)]);
    for host in [
        "localhost",
        "LOCALHOST:8080",
        "127.0.0.1",
        "127.0.0.1:1",
        "127.9.9.9:80",
        "[::1]",
        "[::1]:8080",
        "gateway:8080",
    ] {
        assert_eq!(with(host), Ok(false), "{host}");
    }
    for host in [
        "evil.example",
        "evil.example:8080",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "127.0.0.1@evil.example",
        "evil.example@127.0.0.1",
        "10.0.0.1",
        "0.0.0.0",
        "[fe80::1]",
        "2130706433",
        "0x7f000001.",
        "localhost, evil.example",
        "",
    ] {
        assert_eq!(with(host), Err("host"), "{host}");
    }
    assert_eq!(check(&local, Method::GET, &[]), Ok(false), "old programs send none");
    assert_eq!(
        check(&local, Method::GET, &[("host", "localhost"), ("host", "evil.example")]),
        Err("host"),
        "every one counts"
    );
    let uri = Uri::from_static("http://evil.example/v1/models");
    assert!(local.check(&Method::GET, &uri, &HeaderMap::new()).is_err());
}

#[test]
fn other_hosts_and_addresses_can_be_allowed() {
    let named = origins("{host: 127.0.0.1, allowed_hosts: [My-Mac.local]}");
    assert_eq!(check(&named, Method::GET, &[("host", "my-mac.local:8080")]), Ok(false));
    assert_eq!(check(&named, Method::GET, &[("host", "evil.example")]), Err("host"));
    let open = origins("{allow_insecure: true, host: 0.0.0.0}");
    assert_eq!(check(&open, Method::GET, &[("host", "evil.example")]), Ok(false));
    let restricted = origins("{allow_insecure: true, host: 0.0.0.0, allowed_hosts: [a.example]}");
    assert_eq!(check(&restricted, Method::GET, &[("host", "evil.example")]), Err("host"));
}

#[test]
fn pages_of_other_sites_are_refused() {
    let local = origins("{host: localhost, allowed_origins: [\"https://Chat.example/\"]}");
    let with = |origin: &str| check(&local, Method::POST, &[("host", "127.0.0.1:8080"), ("origin", origin)]);
    for origin in [
        "http://localhost:3000",
        "http://127.0.0.1:8080",
        "https://[::1]",
        "https://chat.example",
        "app://obsidian.md",
        "vscode-webview://abc",
    ] {
        assert_eq!(with(origin), Ok(true), "{origin}");
    }
    for origin in [
        "null",
        "https://evil.example",
        "http://localhost.evil.example",
        "http://127.0.0.1.evil.example",
        "http://localhost@evil.example",
        "http://chat.example",
        "https://chat.example.evil.example",
        "",
    ] {
        assert_eq!(with(origin), Err("origin"), "{origin}");
    }
}

#[test]
fn a_page_may_use_the_server_that_it_is_from() {
    let open = origins("{allow_insecure: true, host: 0.0.0.0}");
    let with = |origin: &str| check(&open, Method::POST, &[("host", "llm.lan:8080"), ("origin", origin)]);
    assert_eq!(with("http://llm.lan:8080"), Ok(true));
    assert_eq!(with("http://llm.lan:9090"), Err("origin"));
    assert_eq!(with("http://evil.example"), Err("origin"));
    let all = origins("{allow_insecure: true, host: 0.0.0.0, allowed_origins: [\"*\"]}");
    assert_eq!(check(&all, Method::POST, &[("host", "h"), ("origin", "https://a.example")]), Ok(true));
}

#[test]
fn what_a_browser_says_without_an_origin_counts_for_requests_that_change_something() {
    let local = origins("{}");
    let headers = [("host", "localhost"), ("sec-fetch-site", "cross-site")];
    assert_eq!(check(&local, Method::POST, &headers), Err("origin"));
    assert_eq!(check(&local, Method::GET, &headers), Ok(false), "a link");
    let same = [("host", "localhost"), ("sec-fetch-site", "same-origin")];
    assert_eq!(check(&local, Method::POST, &same), Ok(false));
}
