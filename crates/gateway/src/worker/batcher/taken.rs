//! What was taken out of a queue, on its way into one frame.

use std::time::Duration;

use protocol::{
    codec::{CodecError, MAX_ENCODED},
    ids::RequestId,
    message::{EncodedSubmission, begin_batch},
};

use super::Queued;
use crate::trace::StageSpan;

/// What goes into one frame. To be used again for the next.
#[derive(Debug, Default)]
pub struct Taken {
    /// All but operations, in order.
    pub(super) submissions: Vec<Queued>,
    /// Encoded small operations.
    pub(super) small: Vec<u8>,
    pub(super) large: Vec<EncodedSubmission>,
    /// The operations in it.
    pub(super) operations: Vec<RequestId>,
    pub(super) drain: bool,
    /// For how long its oldest submission was queued.
    pub(super) waited: Duration,
}

impl Taken {
    /// Submissions in it.
    pub fn len(&self) -> usize {
        self.submissions.len() + self.operations.len() + usize::from(self.drain)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// For how long its oldest submission was queued.
    pub fn waited(&self) -> Duration {
        self.waited
    }

    /// The streams whose requests are in it.
    pub fn requests(&self) -> Vec<RequestId> {
        self.submissions.iter().filter_map(Queued::request).collect()
    }

    /// The operations in it.
    pub fn operations(&self) -> &[RequestId] {
        &self.operations
    }

    /// It is on its way. Returns the next stage of each request's trace.
    pub(in crate::worker) fn begin_shipping(&mut self) -> impl Iterator<Item = StageSpan> {
        self.submissions.iter_mut().filter_map(Queued::begin_shipping)
    }

    /// Encodes it into `body`, as one batch.
    ///
    /// # Errors
    /// Never for what a batcher gave: sizes were looked at before.
    pub fn encode(&self, body: &mut Vec<u8>) -> Result<(), CodecError> {
        begin_batch(self.len(), body)?;
        for queued in &self.submissions {
            queued.append_to(body)?;
        }
        body.extend_from_slice(&self.small);
        for operation in &self.large {
            body.extend_from_slice(operation.as_bytes());
        }
        if self.drain {
            Queued::Drain.append_to(body)?;
        }
        match body.len() {
            len if len > MAX_ENCODED => Err(CodecError::TooLarge { len, limit: MAX_ENCODED }),
            _ => Ok(()),
        }
    }

    /// Forgets everything but a little memory.
    pub fn clear(&mut self) {
        self.submissions.clear();
        self.small.clear();
        self.large.clear();
        self.operations.clear();
        self.drain = false;
        self.waited = Duration::ZERO;
    }
}
