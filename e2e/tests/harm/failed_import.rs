//! A failed import leaves the store as it was.
