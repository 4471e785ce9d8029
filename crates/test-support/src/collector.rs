//! An OpenTelemetry collector on the loopback interface, which keeps the spans that it is sent (OTLP over HTTP, protobuf).

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

/// A collector; it takes spans until the test's process ends.
#[derive(Debug)]
pub struct FakeCollector {
    endpoint: String,
    spans: Arc<Mutex<Vec<ExportedSpan>>>,
}

/// A span that was exported.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExportedSpan {
    /// The program that it is from.
    pub service: String,
    /// Its name.
    pub name: String,
    /// The trace that it belongs to.
    pub trace_id: Vec<u8>,
    /// Its own id.
    pub span_id: Vec<u8>,
    /// Its parent's; empty for a root.
    pub parent_id: Vec<u8>,
}

/// Longest time for spans to come: exporters collect them for a while.
const PATIENCE: Duration = Duration::from_secs(60);

/// Between two looks at what has come.
const POLL: Duration = Duration::from_millis(20);

impl FakeCollector {
    /// Starts it on any free port.
    ///
    /// # Panics
    /// There is none.
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let spans = Arc::<Mutex<Vec<ExportedSpan>>>::default();
        let taken = Arc::clone(&spans);
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let taken = Arc::clone(&taken);
                thread::spawn(move || while take(&client, &taken).is_some() {});
            }
        });
        Self { endpoint, spans }
    }

    /// For `telemetry.otlp_endpoint`.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// Waits until all these spans have come, and returns everything that has.
    ///
    /// # Panics
    /// They don't.
    pub fn spans(&self, names: &[&str]) -> Vec<ExportedSpan> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let spans = self.spans.lock().unwrap().clone();
            let missing: Vec<_> =
                names.iter().filter(|name| spans.iter().all(|span| span.name != **name)).collect();
            if missing.is_empty() {
                return spans;
            }
            assert!(Instant::now() < deadline, "no {missing:?} in {spans:?}");
            thread::sleep(POLL);
        }
    }
}

/// Reads and answers one request; `None` at the end of the connection.
fn take(mut client: &TcpStream, taken: &Mutex<Vec<ExportedSpan>>) -> Option<()> {
    let mut reader = BufReader::new(client);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if reader.read_line(&mut head).ok()? == 0 {
            return None;
        }
    }
    let head = head.to_ascii_lowercase();
    let header = |name: &str| {
        head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": ").map(str::to_owned))
    };
    assert!(head.starts_with("post /v1/traces http/1.1"), "{head}");
    assert_eq!(header("content-type").as_deref(), Some("application/x-protobuf"), "{head}");
    let mut body = vec![0; header("content-length").unwrap().parse().unwrap()];
    reader.read_exact(&mut body).unwrap();
    taken.lock().unwrap().extend(spans(&body));
    client
        .write_all(b"HTTP/1.1 200 OK\r\ncontent-type: application/x-protobuf\r\ncontent-length: 0\r\n\r\n")
        .ok()
}

/// The spans of an `ExportTraceServiceRequest`.
fn spans(request: &[u8]) -> Vec<ExportedSpan> {
    let mut spans = Vec::new();
    for of_program in all(request, 1) {
        let attributes = all(of_program, 1).flat_map(|resource| all(resource, 1));
        let name_of = attributes.filter(|it| text(it, 1) == "service.name");
        let service = name_of.map(|it| text(one(it, 2), 1)).next().unwrap_or_default();
        for span in all(of_program, 2).flat_map(|scope| all(scope, 2)) {
            spans.push(ExportedSpan {
                service: service.clone(),
                name: text(span, 5),
                trace_id: one(span, 1).to_vec(),
                span_id: one(span, 2).to_vec(),
                parent_id: one(span, 4).to_vec(),
            });
        }
    }
    spans
}

fn text(message: &[u8], number: u64) -> String {
    String::from_utf8(one(message, number).to_vec()).unwrap()
}

fn one(message: &[u8], number: u64) -> &[u8] {
    all(message, number).next().unwrap_or_default()
}

/// The fields of this number that have bytes: texts and messages, in protobuf's encoding.
fn all(mut rest: &[u8], number: u64) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        while !rest.is_empty() {
            let key = varint(&mut rest);
            let bytes = match key & 7 {
                0 => {
                    varint(&mut rest);
                    continue;
                }
                1 => 8,
                2 => varint(&mut rest) as usize,
                5 => 4,
                kind => panic!("protobuf has no type {kind}"),
            };
            let (value, after) = rest.split_at(bytes);
            rest = after;
            if key == number << 3 | 2 {
                return Some(value);
            }
        }
        None
    })
}

fn varint(rest: &mut &[u8]) -> u64 {
    let mut value = 0;
    for shift in (0..).step_by(7) {
        let (&byte, after) = rest.split_first().unwrap();
        *rest = after;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            break;
        }
    }
    value
}
