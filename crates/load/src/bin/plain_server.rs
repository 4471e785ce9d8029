//! `kr-plain-server`: the least that an HTTP server with axum does to answer the same requests: no admission, no worker,
//! no checks. What the gateway costs more than this is its own.

#![allow(clippy::print_stdout)] // the address is the output

use std::{
    convert::Infallible,
    io::{self, Write},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::Context;
use axum::{
    Json, Router,
    extract::State,
    response::{
        IntoResponse, Response,
        sse::{Event, Sse},
    },
    routing::post,
    serve::ListenerExt,
};
use clap::Parser;
use futures_util::stream;
use serde::{Deserialize, Serialize};
use tokio::{
    net::TcpListener,
    sync::mpsc,
    time::{MissedTickBehavior, interval},
};

/// Answers chats with words from nowhere.
#[derive(Parser)]
#[command(name = "kr-plain-server", version)]
struct Cli {
    /// Tokens per second of each stream.
    #[arg(long, default_value_t = 50)]
    rate: u32,
}

#[derive(Deserialize)]
struct Request {
    model: String,
    max_tokens: u32,
    #[serde(default)]
    stream: bool,
}

#[derive(Serialize)]
struct Object<'a> {
    id: &'a str,
    object: &'static str,
    created: u64,
    model: &'a str,
    choices: [Choice<'a>; 1],
}

#[derive(Serialize)]
struct Choice<'a> {
    index: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    delta: Option<Content<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<Content<'a>>,
    finish_reason: Option<&'static str>,
}

#[derive(Serialize)]
struct Content<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<&'a str>,
}

/// Streams that get a token with every step, as from an engine.
type Streams = Arc<Mutex<Vec<mpsc::UnboundedSender<String>>>>;

const ID: &str = "chatcmpl-00000000000000000000000000000000";

fn main() -> anyhow::Result<()> {
    let cli = Cli::parse();
    tokio::runtime::Runtime::new().context("can't start the runtime")?.block_on(serve(&cli))
}

async fn serve(cli: &Cli) -> anyhow::Result<()> {
    let streams = Streams::default();
    tokio::spawn(step(Duration::from_secs(1) / cli.rate.max(1), Arc::clone(&streams)));
    let router = Router::new().route("/v1/chat/completions", post(chat)).with_state(streams);
    let listener = TcpListener::bind("127.0.0.1:0").await.context("can't listen")?;
    println!("ready http://{}", listener.local_addr()?);
    io::stdout().flush()?;
    let listener = listener.tap_io(|connection| {
        // Without it, answers are as good, only later.
        let _ = connection.set_nodelay(true);
    });
    axum::serve(listener, router).await.context("can't serve")
}

/// Gives every stream a token in each interval.
async fn step(length: Duration, streams: Streams) {
    let mut ticks = interval(length);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        lock(&streams).retain(|stream| stream.send(" word".to_owned()).is_ok());
    }
}

async fn chat(State(streams): State<Streams>, Json(request): Json<Request>) -> Response {
    if request.stream {
        return Sse::new(events(&streams, request)).into_response();
    }
    let text = " word".repeat(request.max_tokens as usize);
    let message = Some(Content { content: Some(&text) });
    let choice = Choice { index: 0, delta: None, message, finish_reason: Some("length") };
    Json(object(&request.model, "chat.completion", choice)).into_response()
}

fn events(
    streams: &Streams,
    request: Request,
) -> impl stream::Stream<Item = Result<Event, Infallible>> + use<> {
    let (sender, receiver) = mpsc::unbounded_channel();
    // The first token comes at once, as the bench worker's does.
    let _ = sender.send(" word".to_owned());
    lock(streams).push(sender);
    let Request { model, max_tokens, .. } = request;
    stream::unfold((receiver, 0), move |(mut receiver, sent)| {
        let model = model.clone();
        async move {
            let event = if sent < max_tokens {
                let text = receiver.recv().await?;
                chunk(&model, Some(&text), None)
            } else if sent == max_tokens {
                chunk(&model, None, Some("length"))
            } else if sent == max_tokens + 1 {
                Event::default().data("[DONE]")
            } else {
                return None;
            };
            Some((Ok(event), (receiver, sent + 1)))
        }
    })
}

fn chunk(model: &str, content: Option<&str>, finish_reason: Option<&'static str>) -> Event {
    let choice = Choice { index: 0, delta: Some(Content { content }), message: None, finish_reason };
    let object = object(model, "chat.completion.chunk", choice);
    // Text, numbers and fixed keys: JSON can express them.
    Event::default().json_data(object).unwrap_or_default()
}

fn object<'a>(model: &'a str, object: &'static str, choice: Choice<'a>) -> Object<'a> {
    Object { id: ID, object, created: 0, model, choices: [choice] }
}

fn lock(streams: &Streams) -> std::sync::MutexGuard<'_, Vec<mpsc::UnboundedSender<String>>> {
    streams.lock().unwrap_or_else(PoisonError::into_inner)
}
