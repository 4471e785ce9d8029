//! A [`Batch`](super::Batch) put together from submissions that were encoded one by one: so each submission's size is
//! known before it joins a batch, and one that can't be encoded or is too large concerns no other.

use super::Submission;
use crate::codec::{self, CodecError, MAX_ENCODED};

/// A submission's bytes within a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EncodedSubmission(Vec<u8>);

/// Bytes of the number of submissions, if there is one.
const COUNT: usize = 1;

impl EncodedSubmission {
    /// Most bytes: a submission of this size is a batch of its own, as large as a message may be.
    pub const MAX: usize = MAX_ENCODED - COUNT;

    /// Encodes `submission`.
    ///
    /// # Errors
    /// If it would not fit into a batch even alone.
    pub fn new(submission: &Submission) -> Result<Self, CodecError> {
        let mut bytes = Vec::new();
        codec::encode(submission, &mut bytes)?;
        match bytes.len() {
            len if len > Self::MAX => Err(CodecError::TooLarge { len, limit: Self::MAX }),
            _ => {
                bytes.shrink_to_fit();
                Ok(Self(bytes))
            }
        }
    }

    /// In bytes.
    pub fn size(&self) -> usize {
        self.0.len()
    }
}

/// Encodes the [`Batch`](super::Batch) of `submissions` into `out`, which is cleared first.
///
/// # Errors
/// If it is larger than [`MAX_ENCODED`]; `out` is empty then. One submission always fits, and so do several whose
/// sizes add up to less than [`EncodedSubmission::MAX`] by a few bytes.
pub fn encode_batch(submissions: &[EncodedSubmission], out: &mut Vec<u8>) -> Result<(), CodecError> {
    codec::encode(&submissions.len(), out)?;
    let len = out.len() + submissions.iter().map(EncodedSubmission::size).sum::<usize>();
    if len > MAX_ENCODED {
        out.clear();
        return Err(CodecError::TooLarge { len, limit: MAX_ENCODED });
    }
    out.reserve(len - out.len());
    submissions.iter().for_each(|submission| out.extend_from_slice(&submission.0));
    Ok(())
}
