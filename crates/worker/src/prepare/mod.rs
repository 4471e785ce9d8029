//! Stage 7, prepare: from what the client asked for to tokens that fit the model, on threads of its own.
//!
//! ```text
//! pool       the threads, and the bounded queue before them (lanes)
//! preparer   one request -> one sequence; also one that another worker began
//! operation  tokenize, detokenize, count, render, check a draft model (pieces, draft)
//! embed      texts to embed -> tokens
//! group      small operations of one kind are one job
//! template   the chat templates
//! control    control tokens that a client typed are text
//! constraint what the output has to be, compiled
//! tokens     the model's tokenizer, bounded (growth, least)
//! ```

mod constraint;
mod control;
mod draft;
mod embed;
mod group;
mod growth;
mod lanes;
mod least;
mod operation;
mod pool;
mod preparer;
#[cfg(test)]
pub(crate) mod samples;
pub mod template;
mod tokens;

pub use draft::{Drafts, check_draft};
pub use embed::PreparedInputs;
pub use operation::Operated;
pub use pool::{OperationJob, Pool, PreparationAge};
pub use preparer::{Preparer, Settings};
pub use template::{ChatTemplate, ChatTemplates};
pub use tokens::{PromptTokenizer, TokenizerError};

#[cfg(test)]
mod tests;
