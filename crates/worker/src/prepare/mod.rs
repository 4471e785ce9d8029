//! Stage 7, prepare: from what the client asked for to tokens that fit the model, on threads of its own.
//!
//! ```text
//! pool       the threads, and the bounded queue before them (lanes)
//! preparer   one request -> one sequence; also one that another worker began
//! operation  tokenize, detokenize, count
//! template   the chat template
//! control    control tokens that a client typed are text
//! tokens     the model's tokenizer, bounded (growth, least)
//! ```

mod control;
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

pub use pool::{Pool, PreparationAge};
pub use preparer::{Preparer, Settings};
pub use template::ChatTemplate;
pub use tokens::{PromptTokenizer, TokenizerError};

#[cfg(test)]
mod tests;
