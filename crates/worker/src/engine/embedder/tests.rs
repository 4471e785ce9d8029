#![allow(clippy::unwrap_used)]

use std::sync::Mutex;

use crossbeam_channel::{Sender, unbounded};
use protocol::message::Submission;

use super::*;
use crate::testing::Collected;

/// The embedding of an input is its first token and how many there are; some tokens can't be embedded.
#[derive(Default)]
struct Fake {
    /// Of each call the number of tokens of each input.
    calls: Arc<Mutex<Vec<Vec<usize>>>>,
}

/// A token that fails whatever it is in.
const BAD: u32 = 66;

/// A token of which infinity comes.
const INFINITE: u32 = 77;

impl Embed for Fake {
    fn embed(&self, inputs: &[&[u32]]) -> Result<Vec<Vec<f32>>, ModelError> {
        self.calls.lock().unwrap().push(inputs.iter().map(|input| input.len()).collect());
        if inputs.iter().any(|input| input.contains(&BAD)) {
            return Err(ModelError::NoLayers);
        }
        let first = |input: &[u32]| if input[0] == INFINITE { f32::INFINITY } else { input[0] as f32 };
        Ok(inputs.iter().map(|input| vec![first(input), input.len() as f32]).collect())
    }
}

struct World {
    engine: Sender<EngineMessage>,
    requests: Arc<RequestTable>,
    reports: Arc<Collected>,
    stats: Arc<EngineStats>,
    calls: Arc<Mutex<Vec<Vec<usize>>>>,
    embedder: Embedder<Fake>,
}

impl World {
    fn new(step_tokens: usize) -> Self {
        let (engine, messages) = unbounded();
        let (requests, reports) = (Arc::new(RequestTable::default()), Arc::new(Collected::default()));
        let (model, stats) = (Fake::default(), Arc::new(EngineStats::default()));
        let calls = Arc::clone(&model.calls);
        let sink: Arc<dyn ReportSink> = Arc::clone(&reports) as _;
        let embedder =
            Embedder::new(model, step_tokens, messages, Arc::clone(&requests), sink, Arc::clone(&stats));
        Self { engine, requests, reports, stats, calls, embedder }
    }

    fn ask(&self, id: u64, inputs: &[&[u32]], dimensions: Option<u32>) {
        let id = RequestId(id);
        let request = self.requests.begin(id, 0).unwrap();
        let inputs = inputs.iter().map(|input| input.to_vec()).collect();
        self.engine
            .send(EngineMessage::Embed(Box::new(EmbedJob { id, request, inputs, dimensions })))
            .unwrap();
    }

    /// Drains, and returns what each request was answered, and the calls of the model.
    fn run(self) -> (Vec<(u64, StreamEventKind)>, Vec<Vec<usize>>) {
        self.engine.send(EngineMessage::Drain).unwrap();
        self.embedder.run().unwrap();
        assert!(self.requests.is_empty());
        assert_eq!(self.stats.heartbeat().runnable, 0);
        let reports = self.reports.reports();
        assert_eq!(reports.last(), Some(&Report::Drained));
        let events = self.reports.events().into_iter().map(|event| (event.id.0, event.kind)).collect();
        let calls = self.calls.lock().unwrap().clone();
        (events, calls)
    }
}

fn answer(all: &[(u32, &[f32])]) -> StreamEventKind {
    let mut embeddings = Embeddings::default();
    all.iter().for_each(|(tokens, vector)| embeddings.push(*tokens, vector));
    StreamEventKind::Answered(Answer::Embeddings(embeddings))
}

#[test]
fn requests_share_a_step_as_far_as_its_tokens_allow() {
    let world = World::new(5);
    world.ask(1, &[&[7, 7], &[8]], None);
    world.ask(2, &[&[9], &[5, 5, 5, 5, 5, 5, 5], &[4]], None);
    world.ask(3, &[&[3]], None);
    let (events, calls) = world.run();
    assert_eq!(calls, [vec![2, 1, 1], vec![7], vec![1, 1]], "one that is too long goes alone");
    let expected = [
        (1, answer(&[(2, &[7.0, 2.0]), (1, &[8.0, 1.0])])),
        (2, answer(&[(1, &[9.0, 1.0]), (7, &[5.0, 7.0]), (1, &[4.0, 1.0])])),
        (3, answer(&[(1, &[3.0, 1.0])])),
    ];
    assert_eq!(events, expected);
}

#[test]
fn a_request_that_fails_fails_alone() {
    let world = World::new(50);
    world.ask(1, &[&[7]], None);
    world.ask(2, &[&[1], &[BAD]], None);
    world.ask(3, &[&[8]], None);
    let (events, _) = world.run();
    let by_id = |id| events.iter().find(|(of, _)| *of == id).unwrap().1.clone();
    assert_eq!(events.len(), 3);
    assert_eq!(by_id(1), answer(&[(1, &[7.0, 1.0])]));
    assert_eq!(by_id(3), answer(&[(1, &[8.0, 1.0])]));
    let StreamEventKind::Failed(failure) = by_id(2) else { panic!("{events:?}") };
    assert!(failure.message.contains("no layers"), "{}", failure.message);
}

#[test]
fn what_is_not_finite_is_not_sent() {
    let world = World::new(50);
    world.ask(1, &[&[INFINITE]], None);
    world.ask(2, &[&[7]], None);
    let (events, _) = world.run();
    assert!(
        matches!(&events[0], (1, StreamEventKind::Failed(failure)) if failure.message.contains("finite"))
    );
    assert_eq!(events[1], (2, answer(&[(1, &[7.0, 1.0])])));
}

#[test]
fn a_cancelled_request_is_forgotten_in_silence() {
    let world = World::new(50);
    world.ask(1, &[&[7]], None);
    world.ask(2, &[&[8]], None);
    world.requests.apply(&Submission::Cancel(RequestId(1)));
    let (events, calls) = world.run();
    assert_eq!(events, [(2, answer(&[(1, &[8.0, 1.0])]))]);
    assert_eq!(calls, [vec![1]]);
}

#[test]
fn a_shorter_embedding_has_a_length_of_one() {
    let world = World::new(50);
    world.ask(1, &[&[7, 1]], Some(1));
    world.ask(2, &[&[7, 1]], Some(2));
    let (events, _) = world.run();
    assert_eq!(events, [(1, answer(&[(2, &[1.0])])), (2, answer(&[(2, &[7.0, 2.0])]))]);
}

#[test]
fn a_model_that_fails_on_everything_ends_the_worker() {
    struct Broke;
    impl Embed for Broke {
        fn embed(&self, _: &[&[u32]]) -> Result<Vec<Vec<f32>>, ModelError> {
            Err(ModelError::NoLayers)
        }
    }
    let (engine, messages) = unbounded();
    let requests = Arc::new(RequestTable::default());
    for id in (0..20).map(RequestId) {
        let request = requests.begin(id, 0).unwrap();
        let job = EmbedJob { id, request, inputs: vec![vec![1]], dimensions: None };
        engine.send(EngineMessage::Embed(Box::new(job))).unwrap();
    }
    let reports: Arc<dyn ReportSink> = Arc::new(Collected::default());
    // One request a step.
    let embedder = Embedder::new(Broke, 1, messages, Arc::clone(&requests), reports, Arc::default());
    embedder.run().unwrap_err();
    assert!(!requests.is_empty(), "it ended before it had tried all");
}
