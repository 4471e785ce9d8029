//! One file a command; its `Args` are its help.

pub(crate) mod import;
pub(crate) mod inspect;
pub(crate) mod list;
pub(crate) mod prune;
pub(crate) mod pull;
