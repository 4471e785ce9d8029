//! What an engine over a real model holds when many requests of all kinds have ended: nothing, but what it keeps for later
//! ones. `cargo xtask bench serve leaks` asks the same of the process, with more requests.

use std::{
    cell::RefCell,
    sync::{Arc, Mutex},
};

use crossbeam_channel::unbounded;
use protocol::{
    ids::RequestId,
    message::{Report, Sampling, Submission},
};
use tokenizers::Tokenizer;
use worker::{
    engine::{Engine, EngineMessage, EngineStats},
    model::KvInUse,
    report_sink::ReportSink,
    requests::RequestTable,
    schedule::Limits,
};

use super::{
    drafts::draft_model,
    load,
    on::{On, on_every_backend},
    served::{Flaky, LIMITS, sequence},
    tiny::{Spec, SplitMix, Tiny, tokenizer},
};

/// Requests, of which about a third are cancelled.
const REQUESTS: u64 = 200;

/// Looks at the memory when all requests have ended and the engine is still there.
struct Drained {
    in_use: Mutex<Vec<KvInUse>>,
    stats: Arc<EngineStats>,
    /// Bytes in use, tokens that are held, those of them that are kept.
    found: Mutex<Option<(u64, u64, u64)>>,
}

impl ReportSink for Drained {
    fn report(&self, report: &Report) {
        if *report == Report::Drained {
            let bytes = self.in_use.lock().unwrap().iter().map(|in_use| in_use()).sum();
            *self.found.lock().unwrap() = Some((bytes, self.stats.held_tokens(), self.stats.kept_tokens()));
        }
    }
}

/// Every step may cancel a request, whatever that is doing: it waits, computes its prompt or generates, or has ended.
fn cancel_some(requests: &RequestTable, random: &RefCell<SplitMix>) {
    let mut random = random.borrow_mut();
    if random.next().is_multiple_of(3) {
        requests.apply(&Submission::Cancel(RequestId(random.next() % REQUESTS)));
    }
}

/// Serves requests of random lengths, with and without drawing tokens, perhaps with a draft model. Returns what is held then, as [`Drained`] found it, and
/// the bytes of a token.
fn serve_many(on: On, keep_prefixes: bool, drafted: bool) -> ((u64, u64, u64), u64) {
    let stats = Arc::new(EngineStats::default());
    let (requests, random) = (Arc::new(RequestTable::default()), RefCell::new(SplitMix(5)));
    let loaded = load(&Tiny::new(on.spec(Spec::default()), 21), on);
    let token_bytes = loaded.model.kv_token_bytes() as u64;
    let sink = Arc::new(Drained {
        in_use: Mutex::new(vec![loaded.model.kv_in_use()]),
        stats: Arc::clone(&stats),
        found: Mutex::default(),
    });
    let tokenizer = Arc::new(Tokenizer::from_bytes(tokenizer(101).to_string()).unwrap());
    let (sender, messages) = unbounded();
    let common = random.borrow_mut().tokens(64, 100);
    for id in 0..REQUESTS {
        let mut random = random.borrow_mut();
        let (shared, own) = (random.next() as usize % 65, 1 + random.next() as usize % 50);
        let prompt = [&common[..shared], &random.tokens(own, 100)[..]].concat();
        let temperature = if random.next().is_multiple_of(2) { 0.0 } else { 0.8 };
        let sampling = Sampling { temperature, seed: id, ..Sampling::default() };
        let tokens = 1 + random.next() as usize % 20;
        let sequence = sequence(RequestId(id), &requests, &prompt, tokens, sampling, &tokenizer);
        sender.send(EngineMessage::Sequence(Box::new(sequence))).unwrap();
    }
    sender.send(EngineMessage::Drain).unwrap();
    let cancelled = Arc::clone(&requests);
    let model = Flaky::new(loaded, Arc::clone(&stats), move |_| {
        cancel_some(&cancelled, &random);
        false
    });
    let limits = Limits { keep_prefixes, max_draft_tokens: if drafted { 4 } else { 0 }, ..LIMITS };
    let mut engine =
        Engine::new(model, limits, messages, requests, Arc::clone(&sink) as _, Arc::clone(&stats));
    if drafted {
        let draft = load(&Tiny::new(on.spec(Spec::default()), 22), on);
        sink.in_use.lock().unwrap().push(draft.model.kv_in_use());
        engine = engine.with_draft_model(draft_model(draft, limits, &stats, |_| false));
    }
    engine.run().unwrap();
    let found = sink.found.lock().unwrap().take().unwrap();
    (found, token_bytes)
}

fn many_requests_leave_nothing_behind(on: On) {
    let ((bytes, held, kept), _) = serve_many(on, false, false);
    assert_eq!((bytes, held, kept), (0, 0, 0), "all blocks are free again");
    let ((bytes, held, kept), _) = serve_many(on, false, true);
    assert_eq!((bytes, held, kept), (0, 0, 0), "the draft model's are, too");
    let ((bytes, held, kept), token_bytes) = serve_many(on, true, false);
    assert_eq!(held, kept, "no sequence has anything");
    assert!(kept > 0 && kept <= LIMITS.kv_tokens as u64, "{kept}");
    assert_eq!(bytes, kept * token_bytes, "and no block that is not kept");
}

on_every_backend![many_requests_leave_nothing_behind];
