//! Sends spans to the collector. The exporter has a thread of its own, so waiting for an answer keeps nobody else.

use std::{
    future::{Future, ready},
    pin::Pin,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use tracing::{info, warn};
use ureq::Agent;

/// For one batch of spans to be taken.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Most bytes of a collector's answer.
const MAX_ANSWER: u64 = 64 << 10;

/// An HTTP client without TLS, for a collector on this machine or in its network.
#[derive(Debug)]
pub(crate) struct Client {
    agent: Agent,
    endpoint: String,
    /// The last batch was lost, which has been logged: a collector that is away for hours is one line, not thousands.
    lost: AtomicBool,
}

impl Client {
    pub(crate) fn new(endpoint: &str) -> Self {
        let config = Agent::config_builder()
            .timeout_global(Some(TIMEOUT))
            .http_status_as_error(false)
            .max_redirects(0)
            .proxy(None);
        Self { agent: config.build().into(), endpoint: endpoint.to_owned(), lost: AtomicBool::new(false) }
    }

    fn send(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let (parts, body) = request.into_parts();
        let answer = self.agent.run(Request::from_parts(parts, &*body))?;
        let (parts, mut body) = answer.into_parts();
        let body = body.with_config().limit(MAX_ANSWER).read_to_vec()?;
        Ok(Response::from_parts(parts, body.into()))
    }

    fn log(&self, sent: &Result<Response<Bytes>, HttpError>) {
        let problem = match sent {
            Ok(answer) if answer.status().is_success() => None,
            Ok(answer) => Some(format!("it answered {}", answer.status())),
            Err(error) => Some(error.to_string()),
        };
        let was_lost = self.lost.swap(problem.is_some(), Ordering::Relaxed);
        match problem {
            Some(problem) if !was_lost => {
                let endpoint = &self.endpoint;
                warn!(endpoint, problem, "the collector takes no spans; they are lost until it does");
            }
            None if was_lost => info!(endpoint = self.endpoint, "the collector takes spans again"),
            _ => {}
        }
    }
}

impl HttpClient for Client {
    fn send_bytes<'client, 'future>(
        &'client self,
        request: Request<Bytes>,
    ) -> Pin<Box<dyn Future<Output = Result<Response<Bytes>, HttpError>> + Send + 'future>>
    where
        'client: 'future,
        Self: 'future,
    {
        let sent = self.send(request);
        self.log(&sent);
        Box::pin(ready(sent))
    }
}
