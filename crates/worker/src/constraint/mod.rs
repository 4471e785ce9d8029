//! What an output may be, token by token. Each generated token moves its sequence's constraint on; then the mask for the
//! next one is computed on a thread of its own, while the model runs.
//!
//! ```text
//! mod       one sequence's constraint, wherever it is at the moment
//! position  how far its output has come, and which tokens may follow
//! mask      a set of tokens
//! ahead     the thread that computes masks
//! ```
//!
//! Preparation compiles constraints (`prepare::constraint`); the engine follows them.

mod ahead;
mod mask;
mod position;

pub use ahead::MaskThread;
use ahead::{Job, Outcome};
use crossbeam_channel::{Receiver, bounded};
use llguidance::Matcher;
pub use mask::TokenMask;
use position::Position;
use thiserror::Error;

/// The constraint of one sequence, at the end of its tokens.
pub struct Constraint {
    /// `None` while its mask is being computed.
    position: Option<Box<Position>>,
    /// From where it comes back then.
    outcome: Option<Receiver<Outcome>>,
    masks: MaskThread,
}

/// Why an output can't be continued under its constraint.
#[derive(Debug, Error)]
pub enum ConstraintError {
    /// The library gives up: on something too complex, or because of a defect.
    #[error("{0}")]
    Library(String),
    /// A token that ends outputs stands where this one must not end.
    #[error("token {0} ends the output too early")]
    TooEarly(u32),
    /// An earlier error took it, or the thread that computes masks has died with it.
    #[error("the output's state is lost")]
    Lost,
}

impl Constraint {
    /// At the beginning of an output. Masks are computed ahead by `masks`. With `ignore_eos` the output goes on as long
    /// as the constraint lets it.
    pub fn new(matcher: Matcher, masks: MaskThread, ignore_eos: bool) -> Self {
        let position = Position::new(matcher, ignore_eos);
        Self { position: Some(Box::new(position)), outcome: None, masks }
    }

    /// The tokens that may follow. Waits for them if they are being computed.
    ///
    /// # Errors
    /// Nothing can follow, or it can't be found out.
    pub fn mask(&mut self) -> Result<&TokenMask, ConstraintError> {
        self.position()?.mask()
    }

    /// Goes on behind `token`. Whether the output is complete, so that nothing may follow.
    ///
    /// # Errors
    /// The token may not stand here, or the library fails.
    pub fn accept(&mut self, token: u32) -> Result<bool, ConstraintError> {
        self.position()?.accept(token)
    }

    /// Has the next mask computed, so that it is there when the model has run.
    pub fn look_ahead(&mut self) {
        let Some(position) = self.position.take_if(|position| !position.knows_mask()) else { return };
        let (reply, outcome) = bounded(1);
        match self.masks.compute(Job { position, reply }) {
            Ok(()) => self.outcome = Some(outcome),
            // Without the thread it is computed when it is needed.
            Err(position) => self.position = Some(position),
        }
    }

    fn position(&mut self) -> Result<&mut Position, ConstraintError> {
        if let Some(outcome) = self.outcome.take() {
            self.position = Some(outcome.recv().map_err(|_| ConstraintError::Lost)??);
        }
        self.position.as_deref_mut().ok_or(ConstraintError::Lost)
    }
}

/// What the library says of an error, without the state and the stack that it adds for its own developers. It may quote
/// all that it was given: of a long line the middle is left out.
pub fn reason(error: &anyhow::Error) -> String {
    const MAX_LINES: usize = 20;
    let text = error.to_string();
    let text = text.split("\n<").next().unwrap_or_default().trim();
    let lines: Vec<String> = text.lines().take(MAX_LINES).map(shortened).collect();
    lines.join("\n")
}

fn shortened(line: &str) -> String {
    /// Bytes at either end.
    const SHOWN: usize = 100;
    if line.len() <= 2 * SHOWN {
        return line.to_owned();
    }
    let (head, tail) = (line.floor_char_boundary(SHOWN), line.ceil_char_boundary(line.len() - SHOWN));
    format!("{} … {}", &line[..head], &line[tail..])
}
