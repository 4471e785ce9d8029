//! A [`Batch`](super::Batch) put together from submissions that were encoded one by one: so each submission's size is
//! known before it joins a batch, and one that can't be encoded or is too large concerns no other.

use serde::Serialize;

use super::{OperationKind, Submission};
use crate::{
    codec::{self, CodecError, MAX_ENCODED},
    ids::RequestId,
};

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

    /// The same of a [`Submission::Operation`], whose kind need not be given away for it.
    ///
    /// # Errors
    /// If it would not fit into a batch even alone.
    pub fn operation(id: RequestId, kind: &OperationKind) -> Result<Self, CodecError> {
        let mut bytes = Vec::new();
        append_operation(id, kind, &mut bytes)?;
        match bytes.len() {
            len if len > Self::MAX => Err(CodecError::TooLarge { len, limit: Self::MAX }),
            _ => Ok(Self(bytes)),
        }
    }

    /// In bytes.
    pub fn size(&self) -> usize {
        self.0.len()
    }

    /// Its bytes, as they stand in a batch.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// Begins a batch of `count` submissions in `out`, which is cleared first. Exactly as many have to be appended.
///
/// # Errors
/// Never: a number can be encoded.
pub fn begin_batch(count: usize, out: &mut Vec<u8>) -> Result<(), CodecError> {
    codec::encode(&count, out)
}

/// Appends a submission to a batch that was begun.
///
/// # Errors
/// It can't be encoded; `out` is as it was then.
pub fn append_submission(submission: &Submission, out: &mut Vec<u8>) -> Result<(), CodecError> {
    codec::append(submission, out)
}

/// Appends a [`Submission::Operation`] to a batch that was begun.
///
/// # Errors
/// It can't be encoded; `out` is as it was then.
pub fn append_operation(id: RequestId, kind: &OperationKind, out: &mut Vec<u8>) -> Result<(), CodecError> {
    codec::append(&Borrowed::Operation { id, kind }, out)
}

/// A [`Submission`] that owns nothing: the same variants at the same places, so that the bytes are the same.
#[derive(Serialize)]
#[expect(dead_code, reason = "the variants before the one that is used give it its number")]
enum Borrowed<'a> {
    Generate,
    Cancel,
    Credit,
    Operation { id: RequestId, kind: &'a OperationKind },
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
