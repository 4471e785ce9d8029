//! An answer that has to be whole, with its number of tokens and the time that it took.

use std::time::Instant;

use anyhow::{Context, Result, bail};
use serde::Serialize;

use crate::{ask::Ask, client::Client, usage::Usage};

/// A whole answer.
#[derive(Clone, Debug, Serialize)]
pub struct Answer {
    /// Tokens, as the server counts them.
    pub usage: Usage,
    /// Seconds from the request to its first text.
    pub first_token: f64,
    /// Seconds from the request to its end.
    pub seconds: f64,
    /// What it says.
    #[serde(skip)]
    pub text: String,
}

impl Answer {
    /// Asks, and reads the answer.
    ///
    /// # Errors
    /// It is not as it should be, has no text, or the server does not count its tokens.
    pub async fn to(client: &Client, ask: Ask) -> Result<Self> {
        let (body, begin) = (Ask { usage: true, ..ask }.body(), Instant::now());
        let mut first_token = None;
        let on_text = |now: Instant| {
            first_token.get_or_insert((now - begin).as_secs_f64());
        };
        let streamed = client.stream(body, on_text).await;
        let seconds = begin.elapsed().as_secs_f64();
        if let Some(fault) = streamed.fault() {
            bail!(fault);
        }
        let usage = streamed.usage.context("the server does not count its tokens")?;
        let first_token = first_token.context("the answer has no text")?;
        Ok(Self { usage, first_token, seconds, text: streamed.text })
    }
}
