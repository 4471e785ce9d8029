//! Why an adapter can't be loaded.

use artifact_store::{Digest, StoreError};

/// Why an adapter can't be loaded.
#[derive(Debug, thiserror::Error)]
pub enum AdapterError {
    /// It adapts another model, or is none.
    #[error(
        "it is not an adapter of this model ({base}): it was imported for {}; import it again with --adapter-of",
        .found.map_or("no base".to_owned(), |digest| format!("the artifact {digest}"))
    )]
    OtherBase {
        /// The model that is served.
        base: Digest,
        /// What it adapts.
        found: Option<Digest>,
    },
    /// Its configuration has no factor.
    #[error("its configuration has no finite `lora_parameters.scale`")]
    NoScale,
    /// A module of the model that it adapts is none that can be.
    #[error(
        "it adapts `{module}`, of which this worker can't compute an adapted form (experts, embeddings, and output heads that \
         are embeddings); fuse it with its base and import the result as a separate model"
    )]
    NoSite {
        /// Name of the module.
        module: String,
    },
    /// Its matrices do not fit a module.
    #[error("its matrices of `{module}` {problem}")]
    Misfit {
        /// Name of the module.
        module: String,
        /// What does not fit.
        problem: String,
    },
    /// It takes more memory than all adapters may.
    #[error("it takes {bytes} bytes, and adapters may have {limit}: raise `worker.adapter_max_bytes`")]
    TooLarge {
        /// What it takes.
        bytes: u64,
        /// What there may be.
        limit: u64,
    },
    /// It would have room if others were not in use.
    #[error(
        "it takes {bytes} bytes, those in use have {used} of the {limit} of `worker.adapter_max_bytes`: try again later, or raise that"
    )]
    NoRoom {
        /// What it takes.
        bytes: u64,
        /// What those that are in use take.
        used: u64,
        /// What there may be.
        limit: u64,
    },
    /// Its files can't be read, or are damaged.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Its weights can't be read.
    #[error("its weights can't be read")]
    Read(#[from] std::io::Error),
}
