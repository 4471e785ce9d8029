//! Spans of requests on their way to an OTLP collector (HTTP, protobuf).

use std::time::Duration;

use opentelemetry::{KeyValue, trace::TracerProvider};
use opentelemetry_otlp::{ExporterBuildError, Protocol, SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::{
    Resource,
    trace::{BatchConfigBuilder, BatchSpanProcessor, Sampler, SdkTracerProvider, SpanProcessor},
};
use tracing::{Metadata, Subscriber};
use tracing_subscriber::{
    Layer,
    filter::{LevelFilter, filter_fn},
    registry::LookupSpan,
};

use crate::{Traces, client::Client};

/// Ends the target of every span that belongs to one request: `gateway::request`, `worker::request`.
pub const REQUEST: &str = "::request";

/// Spans are sent this often, or when there are many. A worker that is killed loses what it has not sent.
const INTERVAL: Duration = Duration::from_secs(1);

/// For what is left when the program ends.
const LAST: Duration = Duration::from_secs(2);

/// Traces can't be exported.
#[derive(Debug, thiserror::Error)]
#[error("spans can't be sent to {endpoint}")]
pub struct TracesError {
    endpoint: String,
    source: ExporterBuildError,
}

/// Collects spans and sends them, on a thread of its own. Spans that come faster than they can be sent are dropped.
#[derive(Debug)]
pub(crate) struct Exporter {
    provider: SdkTracerProvider,
    service: &'static str,
}

impl Exporter {
    pub(crate) fn start(service: &'static str, traces: &Traces) -> Result<Self, TracesError> {
        let Traces { endpoint, sample_percent } = traces;
        let exporter = SpanExporter::builder()
            .with_http()
            .with_http_client(Client::new(endpoint))
            .with_protocol(Protocol::HttpBinary)
            .with_endpoint(of_traces(endpoint))
            .build()
            .map_err(|source| TracesError { endpoint: endpoint.clone(), source })?;
        let config = BatchConfigBuilder::default().with_scheduled_delay(INTERVAL).build();
        let processor = BatchSpanProcessor::builder(exporter).with_batch_config(config).build();
        Ok(Self::with(service, processor, *sample_percent))
    }

    fn with(service: &'static str, processor: impl SpanProcessor + 'static, sample_percent: u8) -> Self {
        let resource = Resource::builder()
            .with_service_name(service)
            .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
            .with_attribute(KeyValue::new("process.pid", i64::from(std::process::id())));
        let started_here = Sampler::TraceIdRatioBased(f64::from(sample_percent) / 100.0);
        let provider = SdkTracerProvider::builder()
            .with_span_processor(processor)
            .with_resource(resource.build())
            .with_sampler(Sampler::ParentBased(Box::new(started_here)))
            .build();
        Self { provider, service }
    }

    /// Makes OpenTelemetry's spans of those that belong to a request.
    pub(crate) fn layer<S>(&self) -> impl Layer<S> + Send + Sync + use<S>
    where
        S: Subscriber + for<'span> LookupSpan<'span> + Send + Sync,
    {
        tracing_opentelemetry::layer()
            .with_tracer(self.provider.tracer(self.service))
            .with_location(false)
            .with_threads(false)
            .with_tracked_inactivity(false)
            .with_context_activation(false)
            .with_filter(filter_fn(of_request).with_max_level_hint(LevelFilter::DEBUG))
    }

    /// Sends what is left.
    pub(crate) fn finish(&self) {
        // An error has been logged by the client.
        let _ = self.provider.shutdown_with_timeout(LAST);
    }
}

/// Events are left out: they are logged, with the trace's id.
fn of_request(metadata: &Metadata<'_>) -> bool {
    metadata.is_span() && metadata.target().ends_with(REQUEST)
}

/// Where OTLP takes traces, below a collector's base address.
fn of_traces(endpoint: &str) -> String {
    const PATH: &str = "/v1/traces";
    let base = endpoint.trim_end_matches('/');
    if base.ends_with(PATH) { base.to_owned() } else { format!("{base}{PATH}") }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use opentelemetry::{SpanId, TraceId};
    use opentelemetry_sdk::trace::{InMemorySpanExporter, SimpleSpanProcessor, SpanData};
    use protocol::message::TraceContext;
    use test_support::FakeCollector;
    use tracing::{debug_span, info, info_span};
    use tracing_subscriber::layer::SubscriberExt;

    use super::*;
    use crate::{adopt, context_of};

    const TARGET: &str = "test::request";

    /// The spans that are exported of what `program` does.
    fn exported(sample_percent: u8, program: impl FnOnce()) -> Vec<SpanData> {
        let spans = InMemorySpanExporter::default();
        let exporter = Exporter::with("test", SimpleSpanProcessor::new(spans.clone()), sample_percent);
        let subscriber = tracing_subscriber::registry().with(exporter.layer());
        tracing::subscriber::with_default(subscriber, program);
        spans.get_finished_spans().unwrap()
    }

    fn parent(sampled: bool) -> TraceContext {
        TraceContext { trace_id: [7; 16], span_id: [9; 8], sampled }
    }

    #[test]
    fn spans_of_a_request_are_one_trace_across_processes() {
        let mut passed_on = None;
        let spans = exported(0, || {
            let accept = info_span!(target: TARGET, "accept", request_id = "r1");
            adopt(&accept, &parent(true), Some("vendor=1"));
            passed_on = context_of(&accept);
            let _of_many = debug_span!("batch").entered();
            accept.in_scope(|| {
                info!("no span");
                debug_span!(target: TARGET, "admit").in_scope(|| {});
            });
            // The other process.
            let prepare = debug_span!(target: TARGET, "prepare");
            adopt(&prepare, &passed_on.unwrap(), None);
        });
        let names: Vec<_> = spans.iter().map(|span| span.name.as_ref()).collect();
        assert_eq!(names, ["admit", "prepare", "accept"]);
        let trace = TraceId::from_bytes([7; 16]);
        assert!(spans.iter().all(|span| span.span_context.trace_id() == trace));
        let [admit, prepare, accept] = &spans[..] else { panic!("{spans:?}") };
        assert_eq!(accept.parent_span_id, SpanId::from_bytes([9; 8]));
        assert_eq!(accept.span_context.trace_state().get("vendor"), Some("1"));
        assert_eq!(admit.span_context.trace_state().get("vendor"), Some("1"));
        for child in [admit, prepare] {
            assert_eq!(child.parent_span_id, accept.span_context.span_id());
        }
        assert!(passed_on.unwrap().sampled);
        assert!(accept.attributes.iter().any(|it| it.key.as_str() == "request_id"));
    }

    #[test]
    fn whoever_started_a_trace_decides_whether_it_is_recorded() {
        for (sample_percent, sampled) in [(100, false), (0, true)] {
            let spans = exported(sample_percent, || {
                let accept = info_span!(target: TARGET, "accept");
                adopt(&accept, &parent(sampled), None);
                assert_eq!(context_of(&accept).unwrap().sampled, sampled);
            });
            assert_eq!(spans.len(), usize::from(sampled));
        }
        for sample_percent in [0, 100] {
            let spans = exported(sample_percent, || {
                let context = context_of(&info_span!(target: TARGET, "accept")).unwrap();
                assert_eq!(context.sampled, sample_percent == 100);
                assert_ne!(context.trace_id, [0; 16], "a trace is named even if it is not recorded");
            });
            assert_eq!(spans.len(), usize::from(sample_percent == 100));
        }
    }

    #[test]
    fn without_an_exporter_there_is_no_context() {
        let subscriber = tracing_subscriber::registry();
        tracing::subscriber::with_default(subscriber, || {
            let accept = info_span!(target: TARGET, "accept");
            adopt(&accept, &parent(true), None);
            assert_eq!(context_of(&accept), None);
        });
    }

    #[test]
    fn a_collector_gets_what_is_left_when_the_program_ends() {
        let collector = FakeCollector::start();
        let traces = Traces { endpoint: collector.endpoint().to_owned(), sample_percent: 0 };
        let exporter = Exporter::start("a-program", &traces).unwrap();
        let subscriber = tracing_subscriber::registry().with(exporter.layer());
        tracing::subscriber::with_default(subscriber, || {
            adopt(&info_span!(target: TARGET, "accept"), &parent(true), None);
        });
        exporter.finish();
        let spans = collector.spans(&["accept"]);
        let [span] = &spans[..] else { panic!("{spans:?}") };
        assert_eq!((span.service.as_str(), &*span.trace_id), ("a-program", [7; 16].as_slice()));
        assert_eq!(span.parent_id, [9; 8]);
    }

    #[test]
    fn an_endpoint_is_a_collector_or_its_place_for_traces() {
        for endpoint in ["http://c:4318", "http://c:4318/", "http://c:4318/v1/traces"] {
            assert_eq!(of_traces(endpoint), "http://c:4318/v1/traces");
        }
    }
}
