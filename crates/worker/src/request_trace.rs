//! The spans of one request. With those that its gateway has made they are its trace; and where something about the
//! request is logged inside of one, the line says by which id its client knows it.
//!
//! ```text
//! receive ─► prepare ─► schedule ────────────► step ──────────────────────────► end
//!                       until its first row    └─► emit, from its first token ──┘
//! ```
//!
//! A step has a span of its own, too, which is about all of its rows.

use std::sync::Arc;

use protocol::{
    ids::RequestId,
    message::{Generate, TraceContext},
};
use tracing::{
    Span, debug_span,
    field::{Empty, display},
    info_span,
};

/// The target of spans that belong to one request.
const REQUEST: &str = "worker::request";

/// What names a request in logs and traces. Cheap to clone.
#[derive(Clone, Debug)]
pub struct RequestTrace {
    id: RequestId,
    /// The client's id, or the one that its gateway gave it.
    request_id: Option<Arc<str>>,
    parent: Option<TraceContext>,
}

/// The spans of a request that has become a sequence. They end with it.
#[derive(Debug, Default)]
pub struct SequenceSpans {
    trace: Option<RequestTrace>,
    stage: Stage,
    emit: Option<Span>,
}

/// How far a sequence has come.
#[derive(Debug, Default)]
enum Stage {
    /// It has been prepared.
    #[default]
    Prepared,
    /// It waits for a place in a step.
    Scheduled(#[expect(dead_code, reason = "it ends when it is dropped")] Span),
    /// It has been in a step.
    Stepping(Span),
}

impl RequestTrace {
    /// Of a request that has come.
    pub fn new(generate: &Generate) -> Self {
        let request_id = generate.correlation_id.as_deref().map(Arc::from);
        Self { id: generate.id, request_id, parent: generate.trace }
    }

    /// It was taken out of a frame.
    pub fn receive(&self) -> Span {
        self.named(
            debug_span!(target: REQUEST, "receive", id = self.id.0, request_id = Empty, trace_id = Empty),
        )
    }

    /// Its prompt is being prepared.
    pub fn prepare(&self) -> Span {
        self.named(
            info_span!(target: REQUEST, "prepare", id = self.id.0, request_id = Empty, trace_id = Empty),
        )
    }

    fn schedule(&self) -> Span {
        self.named(
            debug_span!(target: REQUEST, "schedule", id = self.id.0, request_id = Empty, trace_id = Empty),
        )
    }

    fn step(&self) -> Span {
        self.named(info_span!(target: REQUEST, "step", id = self.id.0, request_id = Empty, trace_id = Empty))
    }

    /// Names the request in its span, and makes the span a part of the request's trace.
    fn named(&self, span: Span) -> Span {
        if let Some(parent) = &self.parent {
            telemetry::adopt(&span, parent, None);
            span.record("trace_id", display(parent.trace_hex()));
        }
        if let Some(request_id) = &self.request_id {
            span.record("request_id", &**request_id);
        }
        span
    }
}

impl SequenceSpans {
    /// For a sequence that has been prepared.
    pub fn new(trace: RequestTrace) -> Self {
        Self { trace: Some(trace), ..Self::default() }
    }

    /// The engine has it.
    pub fn schedule(&mut self) {
        if let Some(trace) = &self.trace {
            self.stage = Stage::Scheduled(trace.schedule());
        }
    }

    /// It has a row in the next step.
    pub fn step(&mut self) {
        if let (Some(trace), Stage::Prepared | Stage::Scheduled(_)) = (&self.trace, &self.stage) {
            self.stage = Stage::Stepping(trace.step());
        }
    }

    /// It has a token.
    pub fn emit(&mut self) {
        if let (None, Stage::Stepping(step)) = (&self.emit, &self.stage) {
            self.emit = Some(debug_span!(target: REQUEST, parent: step, "emit"));
        }
    }

    /// Logs something about it.
    pub fn in_scope<T>(&self, log: impl FnOnce() -> T) -> T {
        match &self.stage {
            Stage::Stepping(step) => step.in_scope(log),
            Stage::Prepared | Stage::Scheduled(_) => log(),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use protocol::message::Prompt;
    use test_support::LogBuffer;
    use tracing::{info, subscriber::with_default};
    use tracing_subscriber::fmt::format::FmtSpan;

    use super::*;

    /// What is logged, with a line for the begin and the end of each span.
    fn logged(work: impl FnOnce()) -> Vec<String> {
        let lines = LogBuffer::default();
        let writer = lines.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(tracing::Level::DEBUG)
            .with_span_events(FmtSpan::NEW | FmtSpan::CLOSE)
            .without_time()
            .with_ansi(false)
            .with_writer(move || writer.clone())
            .finish();
        with_default(subscriber, work);
        lines.text().lines().map(str::to_owned).collect()
    }

    fn request() -> RequestTrace {
        let parent = TraceContext { trace_id: [0xab; 16], span_id: [1; 8], sampled: true };
        RequestTrace::new(&Generate {
            trace: Some(parent),
            correlation_id: Some("client-7".into()),
            ..Generate::new(RequestId(7), Prompt::Text("x".into()), 1)
        })
    }

    #[test]
    fn stages_follow_each_other_and_each_begins_once() {
        let lines = logged(|| {
            let mut spans = SequenceSpans::new(request());
            spans.schedule();
            for _ in 0..3 {
                spans.step();
                spans.emit();
            }
        });
        let seen: Vec<_> = lines
            .iter()
            .map(|line| {
                let names = ["schedule", "emit", "step"];
                let innermost = names
                    .iter()
                    .find(|name| line.contains(&format!("{name}{{")) || line.contains(&format!(":{name}:")));
                (*innermost.unwrap_or_else(|| panic!("{line}")), line.contains("close"))
            })
            .collect();
        assert_eq!(seen.len(), 6, "{lines:?}");
        assert_eq!(seen[..3], [("schedule", false), ("step", false), ("schedule", true)]);
    }

    #[test]
    fn lines_name_the_request_as_its_client_does() {
        let lines = logged(|| {
            let mut spans = SequenceSpans::new(request());
            spans.schedule();
            spans.step();
            spans.in_scope(|| info!("here"));
            request().prepare().in_scope(|| info!("here"));
        });
        let here: Vec<_> = lines.iter().filter(|line| line.ends_with("here")).collect();
        assert_eq!(here.len(), 2);
        for line in here {
            for part in ["id=7", "request_id=\"client-7\"", &format!("trace_id={}", "ab".repeat(16))] {
                assert!(line.contains(part), "no {part} in {line}");
            }
        }
    }

    #[test]
    fn a_request_that_nobody_named_has_its_number() {
        let generate = Generate::new(RequestId(7), Prompt::Text("x".into()), 1);
        let lines = logged(|| RequestTrace::new(&generate).prepare().in_scope(|| info!("here")));
        assert!(lines.iter().any(|line| line.contains("id=7") && !line.contains("request_id")), "{lines:?}");
        // One without a request, as tests make it.
        assert!(logged(|| SequenceSpans::default().step()).is_empty());
    }
}
