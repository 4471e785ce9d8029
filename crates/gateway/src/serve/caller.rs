//! Who sent a request.

use std::sync::Arc;

/// Who sent a request, as far as sharing the server between clients goes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Caller {
    /// Name of the API key; None where the server has no keys.
    pub key: Option<Arc<str>>,
}
