//! A plain HTTP client, which sees what any client sees.

use std::{
    io::{BufRead, BufReader},
    time::Duration,
};

use serde_json::{Value, json};
use ureq::{Agent, Body, http::Response};

use crate::MODEL;

/// Longer than any answer that a test asks for takes on two busy cores.
const TIMEOUT: Duration = Duration::from_secs(300);

/// Talks to one gateway.
#[derive(Clone, Debug)]
pub struct Client {
    base: String,
    agent: Agent,
    /// Sent with every request.
    key: Option<String>,
    /// Sent with every `POST`.
    headers: Vec<(&'static str, String)>,
}

/// A whole answer.
#[derive(Debug)]
#[must_use]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// The body, if it is JSON; else the text as a JSON string.
    pub json: Value,
}

/// A stream, read event by event.
#[must_use]
pub struct StreamAnswer {
    /// HTTP status.
    pub status: u16,
    lines: std::io::Lines<BufReader<ureq::BodyReader<'static>>>,
}

impl Client {
    /// A client for the gateway at `base`, such as `http://127.0.0.1:8080`.
    pub fn new(base: &str) -> Self {
        let config =
            Agent::config_builder().http_status_as_error(false).timeout_global(Some(TIMEOUT)).build();
        Self { base: base.into(), agent: config.into(), key: None, headers: Vec::new() }
    }

    /// Where the gateway listens, such as `127.0.0.1:8080`.
    pub fn address(&self) -> &str {
        self.base.trim_start_matches("http://")
    }

    /// The same client, with an API key.
    pub fn with_key(&self, key: &str) -> Self {
        Self { key: Some(key.into()), ..self.clone() }
    }

    /// The same client, with another header in every `POST`.
    pub fn with_header(&self, name: &'static str, value: &str) -> Self {
        let mut client = self.clone();
        client.headers.push((name, value.to_owned()));
        client
    }

    /// `GET path`.
    pub fn get(&self, path: &str) -> Answer {
        let request = self.agent.get(format!("{}{path}", self.base));
        answer(match &self.key {
            Some(key) => request.header("authorization", format!("Bearer {key}")).call().unwrap(),
            None => request.call().unwrap(),
        })
    }

    /// `POST path` with any bytes as JSON.
    pub fn post_bytes(&self, path: &str, body: &[u8]) -> Answer {
        answer(self.send(path, body))
    }

    /// `POST path` with JSON.
    pub fn post(&self, path: &str, body: &Value) -> Answer {
        self.post_bytes(path, body.to_string().as_bytes())
    }

    /// `POST path`, with the answer read as it comes.
    pub fn stream(&self, path: &str, body: &Value) -> StreamAnswer {
        let response = self.send(path, body.to_string().as_bytes());
        let status = response.status().as_u16();
        StreamAnswer { status, lines: BufReader::new(response.into_body().into_reader()).lines() }
    }

    /// Asks `question` greedily and returns the answer's text.
    ///
    /// # Panics
    /// It is refused.
    pub fn ask(&self, question: &str, max_tokens: u32) -> String {
        let answer = self.post("/v1/chat/completions", &chat(question, max_tokens));
        assert_eq!(answer.status, 200, "{}", answer.json);
        answer.json["choices"][0]["message"]["content"].as_str().unwrap().to_string()
    }

    fn send(&self, path: &str, body: &[u8]) -> Response<Body> {
        let url = format!("{}{path}", self.base);
        let mut request = self.agent.post(url).header("content-type", "application/json");
        for (name, value) in &self.headers {
            request = request.header(*name, value);
        }
        match &self.key {
            Some(key) => request.header("authorization", format!("Bearer {key}")).send(body).unwrap(),
            None => request.send(body).unwrap(),
        }
    }
}

impl StreamAnswer {
    /// Data of the next event; `None` at the end of the stream.
    pub fn next_data(&mut self) -> Option<String> {
        self.lines
            .by_ref()
            .map(Result::unwrap)
            .find_map(|line| line.strip_prefix("data: ").map(str::to_string))
    }

    /// Data of all events that are left.
    pub fn rest(mut self) -> Vec<String> {
        std::iter::from_fn(|| self.next_data()).collect()
    }
}

/// A greedy chat request.
pub fn chat(question: &str, max_tokens: u32) -> Value {
    json!({
        "model": MODEL,
        "messages": [{"role": "user", "content": question}],
        "temperature": 0,
        "max_tokens": max_tokens,
    })
}

fn answer(mut response: Response<Body>) -> Answer {
    let status = response.status().as_u16();
    let text = response.body_mut().read_to_string().unwrap();
    Answer { status, json: serde_json::from_str(&text).unwrap_or(Value::String(text)) }
}
