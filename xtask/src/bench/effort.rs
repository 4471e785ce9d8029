//! How much is measured.

/// How often, and whether in full.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(super) struct Effort {
    /// How often everything is measured, in turns.
    #[arg(long, value_name = "N", default_value_t = 3)]
    rounds: u32,
    /// Fewer requests and shorter times: to see whether all works, not for figures.
    #[arg(long)]
    quick: bool,
}

impl Effort {
    /// At least one.
    pub(super) fn rounds(&self) -> u32 {
        self.rounds.max(1)
    }

    /// `full`, or a tenth of it if it has to be quick.
    pub(super) fn count(&self, full: u32) -> u32 {
        if self.quick { (full / 10).max(1) } else { full }
    }

    /// The same of seconds, as an argument.
    pub(super) fn seconds(&self, full: u32) -> String {
        format!("{}s", self.count(full))
    }
}
