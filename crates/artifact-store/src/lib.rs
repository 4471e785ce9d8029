//! artifact-store
