//! A conversation that grows, as an agent's does: each turn sends all that was said before, and something new.

use anyhow::{Context, Result};
use serde::Serialize;

use crate::{
    answer::Answer,
    ask::{Ask, Message},
    client::{Client, Target},
    prompts,
};

/// How it grows.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Turns.
    #[arg(long, default_value_t = 10)]
    pub turns: u32,
    /// Words of each new message, such as what a tool has printed.
    #[arg(long, default_value_t = 550)]
    pub words: u32,
    /// Tokens of each answer.
    #[arg(long, default_value_t = 40)]
    pub tokens: u32,
}

/// What the client saw.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The answers, one after the other.
    pub turns: Vec<Answer>,
}

/// Goes through the conversation.
///
/// # Errors
/// A turn was not answered as it should.
pub async fn run(client: &Client, target: &Target, args: &Args) -> Result<Report> {
    let (mut messages, mut turns) = (Vec::new(), Vec::new());
    for number in 0..args.turns {
        messages.push(Message::user(prompts::words(number, args.words).join(" ")));
        let ask = Ask::new(&target.model, messages.clone(), args.tokens);
        let answer = Answer::to(client, ask).await.with_context(|| format!("turn {}", number + 1))?;
        messages.push(Message::assistant(answer.text.clone()));
        turns.push(answer);
    }
    Ok(Report { turns })
}
