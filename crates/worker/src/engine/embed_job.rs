//! Texts to embed, on their way to the engine.

use std::sync::Arc;

use protocol::ids::RequestId;

use crate::requests::RequestHandle;

/// A request's inputs, which the model can take.
#[derive(Debug)]
pub struct EmbedJob {
    /// Names the request that the answer goes to.
    pub id: RequestId,
    /// Tells whether anyone still waits for it.
    pub request: Arc<RequestHandle>,
    /// Tokens of each, at least one.
    pub inputs: Vec<Vec<u32>>,
    /// How many numbers of each embedding are wanted; `None`: all.
    pub dimensions: Option<u32>,
}
