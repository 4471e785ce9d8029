//! How a stream loses its worker.

/// Why a worker sends nothing more about a stream. Another worker can continue it. The text says what happened, for
/// people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Loss {
    /// It is leaving, or never received the request: the request is not to blame.
    Left(String),
    /// Somebody else ended it with the request in its hands: a person, or an operating system that ran out of memory.
    Killed(String),
    /// It died, froze or broke the protocol with the request in its hands, which may be the cause.
    Crashed(String),
}

impl Loss {
    /// All names in metrics.
    pub const NAMES: [&'static str; 3] = ["left", "killed", "crashed"];

    /// What happened, for people.
    pub fn reason(&self) -> &str {
        match self {
            Self::Left(reason) | Self::Killed(reason) | Self::Crashed(reason) => reason,
        }
    }

    /// Its name in metrics.
    pub fn name(&self) -> &'static str {
        let [left, killed, crashed] = Self::NAMES;
        match self {
            Self::Left(_) => left,
            Self::Killed(_) => killed,
            Self::Crashed(_) => crashed,
        }
    }
}
