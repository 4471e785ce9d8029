//! A trace's way from one process to the next.

use opentelemetry::{
    Context,
    trace::{SpanContext, SpanId, TraceContextExt, TraceFlags, TraceId, TraceState},
};
use protocol::message::TraceContext;
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt;

/// Makes a new span a child of `parent`, which is a span of another process. `state` is what its `tracestate` header
/// says: exported spans carry it. Nothing happens where no traces are exported.
pub fn adopt(span: &Span, parent: &TraceContext, state: Option<&str>) {
    let flags = if parent.sampled { TraceFlags::SAMPLED } else { TraceFlags::default() };
    let (trace, id) = (TraceId::from_bytes(parent.trace_id), SpanId::from_bytes(parent.span_id));
    // One that is malformed is as good as none, says W3C.
    let state = state.and_then(|state| state.parse::<TraceState>().ok()).unwrap_or_default();
    let parent = SpanContext::new(trace, id, flags, true, state);
    // An error means that the span is not exported.
    let _ = span.set_parent(Context::new().with_remote_span_context(parent));
}

/// What a span's children in another process need to know of it; `None` where no traces are exported.
pub fn context_of(span: &Span) -> Option<TraceContext> {
    let context = span.context();
    let span = context.span();
    let context = span.span_context();
    context.is_valid().then(|| TraceContext {
        trace_id: context.trace_id().to_bytes(),
        span_id: context.span_id().to_bytes(),
        sampled: context.is_sampled(),
    })
}
