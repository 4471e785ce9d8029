#![allow(clippy::unwrap_used)]

use std::path::Path;

use axum::http::{HeaderName, HeaderValue};

use super::*;
use crate::{
    cli::Flags,
    config::{Config, Environment},
};

const ALICE: &str = "alice-key-0123456789";
const BOB: &str = "bob-key-0123456789";
const ADMIN: &str = "admin-key-0123456789";

fn access(api: Option<String>, admin: Option<&str>) -> Access {
    let flags = Flags { models: vec!["m".into()], ..Flags::default() };
    let environment =
        Environment { api_keys: api, admin_key: admin.map(str::to_owned), ..Environment::default() };
    Access::new(&Config::from_parts(Path::new("t"), "", &flags, &environment).unwrap().config.server)
}

fn keyed() -> Access {
    access(Some(format!("alice:{ALICE},bob:{BOB}")), Some(ADMIN))
}

fn headers(list: &[(&'static str, &str)]) -> HeaderMap {
    let headers = list
        .iter()
        .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_str(value).unwrap()));
    headers.collect()
}

fn bearer(key: &str) -> HeaderMap {
    headers(&[("authorization", &format!("Bearer {key}"))])
}

fn who(access: &Access, headers: &HeaderMap) -> Result<Option<String>, AuthError> {
    access.authenticate(headers).map(|caller| caller.key.map(|key| key.to_string()))
}

#[test]
fn a_key_is_taken_from_either_header_and_names_its_client() {
    let access = keyed();
    for (key, name) in [(ALICE, "alice"), (BOB, "bob"), (ADMIN, "admin")] {
        for headers in [
            bearer(key),
            headers(&[("authorization", &format!("bEARER  {key} "))]),
            headers(&[("x-api-key", key)]),
            headers(&[("x-api-key", key), ("authorization", "Basic YTpi")]),
            headers(&[("x-api-key", key), ("authorization", "Bearer of-something-else")]),
            headers(&[("x-api-key", "nothing"), ("authorization", &format!("Bearer {key}"))]),
        ] {
            assert_eq!(who(&access, &headers), Ok(Some(name.to_owned())), "{headers:?}");
        }
    }
}

#[test]
fn without_one_of_the_keys_nobody_comes_in() {
    let access = keyed();
    for headers in [
        HeaderMap::new(),
        headers(&[("authorization", "Basic YTpi")]),
        headers(&[("authorization", ALICE)]),
        headers(&[("authorization", "Bearer")]),
        headers(&[("cookie", ALICE)]),
    ] {
        assert_eq!(who(&access, &headers), Err(AuthError::NoApiKey), "{headers:?}");
    }
    for wrong in ["", "x", "alice", &ALICE[1..], &format!("{ALICE}x"), &ALICE.to_uppercase()] {
        assert_eq!(who(&access, &bearer(wrong)), Err(AuthError::WrongApiKey), "{wrong}");
        assert_eq!(who(&access, &headers(&[("x-api-key", wrong)])), Err(AuthError::WrongApiKey), "{wrong}");
    }
}

#[test]
fn without_api_keys_everybody_may_come_in() {
    let open = access(None, Some(ADMIN));
    assert_eq!(who(&open, &HeaderMap::new()), Ok(None));
    assert_eq!(who(&open, &bearer("any key at all")), Ok(None), "clients that must have one send one");
    assert_eq!(who(&open, &bearer(ADMIN)), Ok(Some("admin".into())));
}

#[test]
fn only_an_admin_key_administrates() {
    let access = keyed();
    assert_eq!(access.authorize(&bearer(ADMIN)), Ok(()));
    assert_eq!(access.authorize(&headers(&[("x-api-key", ADMIN)])), Ok(()));
    assert_eq!(access.authorize(&bearer(ALICE)), Err(AuthError::WrongKey));
    assert_eq!(access.authorize(&HeaderMap::new()), Err(AuthError::NoKey));
    let nobody = self::access(Some(format!("alice:{ALICE}")), None);
    for headers in [HeaderMap::new(), bearer(ALICE), bearer(ADMIN), bearer("")] {
        assert_eq!(nobody.authorize(&headers), Err(AuthError::Disabled));
    }
}
