//! Where a request belongs in a distributed trace.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The parent of a request's spans in this process, as W3C Trace Context names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct TraceContext {
    /// The trace; not all zero.
    pub trace_id: [u8; 16],
    /// The span under which the request's spans belong; not all zero.
    pub span_id: [u8; 8],
    /// Whether the trace is recorded.
    pub sampled: bool,
}

impl TraceContext {
    /// The trace's id in hex, as logs and other systems write it.
    pub fn trace_hex(&self) -> impl fmt::Display + use<> {
        Hex(self.trace_id)
    }
}

struct Hex([u8; 16]);

impl fmt::Display for Hex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trace_is_named_in_hex_with_its_leading_zeros() {
        let mut trace_id = [0; 16];
        (trace_id[1], trace_id[15]) = (0x0a, 0xff);
        let context = TraceContext { trace_id, span_id: [1; 8], sampled: true };
        assert_eq!(context.trace_hex().to_string(), "000a00000000000000000000000000ff");
    }
}
