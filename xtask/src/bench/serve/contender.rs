//! The servers that are measured.

use std::fmt;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::Bench;
use crate::{
    bench::server,
    load::{self, Loaded, Programs, Setting},
};

/// A server that is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Contender {
    /// Ours.
    KrServe,
    /// Ours, which keeps nothing of a prompt.
    WithoutPrefixCache,
    /// Ours, which guesses no token.
    WithoutSpeculation,
    /// llama.cpp's.
    LlamaServer,
}

/// What a server has to have room for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Room {
    /// Sequences at the same time.
    pub(super) sequences: u32,
    /// Tokens of each, at most.
    pub(super) tokens: u32,
}

/// A server that runs; stopped when dropped.
pub(super) enum Running<'a> {
    Ours(Loaded<'a>),
    LlamaServer { server: server::Running, programs: &'a Programs, model: &'a str },
}

/// Number of a prompt that nothing else has anything in common with.
const WARM_UP: u32 = u32::MAX;

impl fmt::Display for Contender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::KrServe => "kr-serve",
            Self::WithoutPrefixCache => "kr-serve without prefix_cache",
            Self::WithoutSpeculation => "kr-serve without speculation",
            Self::LlamaServer => "llama-server",
        })
    }
}

impl Contender {
    /// What is a goal for ours is none for others.
    pub(super) fn goal(self, goal: &'static str) -> &'static str {
        if self == Self::KrServe { goal } else { "" }
    }
}

impl Bench {
    /// Ours, and the other one if there is one.
    pub(super) fn contenders(&self) -> Vec<Contender> {
        let other = self.llama_server.as_ref().map(|_| Contender::LlamaServer);
        std::iter::once(Contender::KrServe).chain(other).collect()
    }

    /// The same, and first ours without the cache, where that makes the difference.
    pub(super) fn with_and_without_prefix_cache(&self) -> Vec<Contender> {
        std::iter::once(Contender::WithoutPrefixCache).chain(self.contenders()).collect()
    }

    /// Starts each of `contenders` by itself and measures it, once a round. Of each round there are the results in the
    /// contenders' order; every other round goes the other way, so that nobody always comes after the same one.
    pub(super) fn in_turns<T>(
        &self,
        contenders: &[Contender],
        room: Room,
        measure: impl Fn(&Running<'_>) -> Result<T>,
    ) -> Result<Vec<Vec<T>>> {
        let one = |contender: Contender| {
            let server = self.start(contender, room)?;
            measure(&server).with_context(|| format!("{contender}, {room:?}"))
        };
        let round = |round: u32| -> Result<Vec<T>> {
            eprintln!("round {}, {} sequences", round + 1, room.sequences);
            if round.is_multiple_of(2) {
                return contenders.iter().map(|&contender| one(contender)).collect();
            }
            let mut results = contenders.iter().rev().map(|&it| one(it)).collect::<Result<Vec<T>>>()?;
            results.reverse();
            Ok(results)
        };
        (0..self.effort.rounds()).map(round).collect()
    }

    /// Starts one and has it answer something, since the first answer takes longer.
    fn start(&self, contender: Contender, room: Room) -> Result<Running<'_>> {
        let server = match contender {
            Contender::KrServe => self.start_ours(load::places(room.sequences))?,
            Contender::WithoutPrefixCache => {
                self.start_ours(load::places(room.sequences) + "prefix_cache:\n  enabled: false\n")?
            }
            Contender::WithoutSpeculation => {
                self.start_ours(load::places(room.sequences) + "speculation:\n  max_draft_tokens: 0\n")?
            }
            Contender::LlamaServer => {
                let program = self.llama_server.as_ref().context("llama-server was not asked for")?;
                let server = program.start(room.sequences as usize, room.tokens as usize)?;
                Running::LlamaServer { server, programs: &self.programs, model: &self.subject.model }
            }
        };
        server.streams(&format!("--streams 1 --tokens 8 --first {WARM_UP}"))?;
        Ok(server)
    }

    /// Starts ours with this configuration.
    pub(super) fn start_ours(&self, config: String) -> Result<Running<'_>> {
        let setting = Setting { workers: 1, rate: 0, config };
        Ok(Running::Ours(self.programs.start(&self.subject, &setting)?))
    }
}

impl Running<'_> {
    /// Runs an experiment, and fails if it does.
    pub(super) fn run(&self, experiment: &str) -> Result<Value> {
        let mut experiment: Vec<&str> = experiment.split(' ').collect();
        match self {
            Self::Ours(gateway) => gateway.run(&experiment),
            Self::LlamaServer { server, programs, model } => {
                // It closes connections behind a streamed answer.
                experiment.push("--new-connections");
                programs.load(server.address(), model, server.pid(), &experiment)?.clean()
            }
        }
    }

    /// Runs `streams` with these arguments, of which all have to be whole.
    pub(super) fn streams(&self, arguments: &str) -> Result<Value> {
        let report = self.run(&format!("streams --usage {arguments}"))?;
        ensure!(report["whole"] == report["streams"], "not all were answered: {report}");
        Ok(report)
    }
}
