//! One file a command; its `Args` are its help.

pub(crate) mod completions;
pub(crate) mod export;
pub(crate) mod import;
pub(crate) mod inspect;
pub(crate) mod list;
pub(crate) mod pin;
pub(crate) mod prune;
pub(crate) mod pull;
pub(crate) mod remove;
pub(crate) mod repair;
pub(crate) mod unpin;
pub(crate) mod usage;
pub(crate) mod verify;
