//! `traceparent` and `tracestate` of W3C Trace Context: where a request belongs in its client's trace.

use axum::http::HeaderMap;

use crate::serve::TraceContext;

const PARENT: &str = "traceparent";
const STATE: &str = "tracestate";

/// Most bytes of a `tracestate` that is passed on. W3C asks for 512 at least.
const MAX_STATE: usize = 512;

/// The client's span, if there is exactly one `traceparent` and it is well-formed. Any other is as good as none.
pub(super) fn parent(headers: &HeaderMap) -> Option<TraceContext> {
    let mut values = headers.get_all(PARENT).iter();
    match (values.next(), values.next()) {
        (Some(value), None) => parse(value.as_bytes()),
        _ => None,
    }
}

/// The client's `tracestate`, of which there may be several.
pub(super) fn state(headers: &HeaderMap) -> Option<String> {
    let values = headers.get_all(STATE).iter().filter_map(|value| value.to_str().ok());
    let state = values.collect::<Vec<_>>().join(",");
    (1..=MAX_STATE).contains(&state.len()).then_some(state)
}

/// `version-trace-span-flags` in hex. A later version may go on after that.
fn parse(value: &[u8]) -> Option<TraceContext> {
    /// Bytes of version 00.
    const LENGTH: usize = 55;
    let (known, rest) = value.split_at_checked(LENGTH)?;
    let [v0, v1, b'-', trace @ .., b'-', f0, f1] = known else { return None };
    let (trace, span) = (trace.get(..32)?, trace.get(32..)?);
    let span = span.strip_prefix(b"-")?;
    let [version] = bytes(&[*v0, *v1])?;
    let [flags] = bytes(&[*f0, *f1])?;
    let (trace_id, span_id): ([u8; 16], [u8; 8]) = (bytes(trace)?, bytes(span)?);
    let is_complete = match version {
        0 => rest.is_empty(),
        0xff => false,
        _ => matches!(rest, [] | [b'-', ..]),
    };
    let is_valid = is_complete && trace_id != [0; 16] && span_id != [0; 8];
    is_valid.then_some(TraceContext { trace_id, span_id, sampled: flags & 1 == 1 })
}

/// Bytes of as many lower-case digits as they need.
fn bytes<const N: usize>(hex: &[u8]) -> Option<[u8; N]> {
    let digit = |c: u8| match c {
        b'0'..=b'9' => Some(c - b'0'),
        b'a'..=b'f' => Some(c - b'a' + 10),
        _ => None,
    };
    let (pairs, []) = hex.as_chunks::<2>() else { return None };
    let mut bytes = [0; N];
    if pairs.len() != N {
        return None;
    }
    for (byte, [high, low]) in bytes.iter_mut().zip(pairs) {
        *byte = digit(*high)? << 4 | digit(*low)?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use axum::http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    const SPEC: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn with(name: &'static str, values: &[&str]) -> HeaderMap {
        values.iter().map(|value| (name.parse().unwrap(), HeaderValue::from_str(value).unwrap())).collect()
    }

    #[test]
    fn the_headers_of_the_specification_are_understood() {
        let context = parent(&with(PARENT, &[SPEC])).unwrap();
        assert_eq!(context.trace_hex().to_string(), "4bf92f3577b34da6a3ce929d0e0e4736");
        assert_eq!(context.span_id, [0x00, 0xf0, 0x67, 0xaa, 0x0b, 0xa9, 0x02, 0xb7]);
        assert!(context.sampled);
        assert!(!parse(SPEC.replace("-01", "-02").as_bytes()).unwrap().sampled);
        let later = format!("{}-more", SPEC.replacen("00", "cc", 1));
        assert_eq!(parse(later.as_bytes()), Some(context));
    }

    #[test]
    fn what_is_malformed_is_ignored() {
        let upper = SPEC.to_uppercase();
        let no_trace = SPEC.replace("4bf92f3577b34da6a3ce929d0e0e4736", &"0".repeat(32));
        let no_span = SPEC.replace("00f067aa0ba902b7", &"0".repeat(16));
        let (longer, reserved) = (format!("{SPEC}-more"), SPEC.replacen("00", "ff", 1));
        let joined = format!("{}more", SPEC.replacen("00", "cc", 1));
        for bad in ["", "00", &SPEC[..54], &longer, &upper, &no_trace, &no_span, &reserved, &joined] {
            assert_eq!(parse(bad.as_bytes()), None, "{bad}");
        }
        assert_eq!(parent(&with(PARENT, &[SPEC, SPEC])), None);
        assert_eq!(parent(&HeaderMap::new()), None);
    }

    #[test]
    fn states_are_joined_and_bounded() {
        assert_eq!(state(&with(STATE, &["a=1", "b=2"])).unwrap(), "a=1,b=2");
        assert_eq!(state(&with(STATE, &[&"a".repeat(513)])), None);
        assert_eq!(state(&HeaderMap::new()), None);
    }

    proptest! {
        #[test]
        fn every_context_is_read_as_it_is_written(trace in 1..=u128::MAX, span in 1..=u64::MAX, sampled: bool) {
            let header = format!("00-{trace:032x}-{span:016x}-0{}", u8::from(sampled));
            let (trace_id, span_id) = (trace.to_be_bytes(), span.to_be_bytes());
            prop_assert_eq!(parse(header.as_bytes()), Some(TraceContext { trace_id, span_id, sampled }));
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            let _ = parse(&bytes);
        }
    }
}
