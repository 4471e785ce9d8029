//! How likely tokens were: for those who ask, with every token, and the same whatever else is done.

use protocol::message::TokenLogprob;

use super::*;

fn asking(logprobs: u8, stop: &str) -> Ask {
    let sampling = Sampling { logprobs: Some(logprobs), ..Sampling::default() };
    Ask { sampling, stop: vec![stop.to_owned()], ..Ask::default() }
}

/// The most likely token has a logit of 2, and each of the others one of 1, 0, -1, ….
fn steep() -> FakeModel {
    FakeModel::new(VOCAB, |tokens| {
        let next = (tokens[tokens.len() - 1] + 1) % VOCAB;
        (0..VOCAB).map(|token| 2.0 - ((token + VOCAB - next) % VOCAB) as f32).collect()
    })
}

#[test]
fn every_token_has_its_ranking_also_while_its_text_is_held_back() {
    let mut world = World::new(steep());
    world.ask(1, asking(3, "cdx"));
    world.ask(2, Ask::default());
    world.settle();
    let (stream, silent) = (world.stream(1), world.stream(2));
    assert_eq!((stream.text.as_str(), silent.text.as_str()), ("bcdef", "bcdef"));
    assert!(silent.logprobs.is_empty());
    for event in world.reports.events() {
        if let StreamEventKind::Delta(delta) = event.kind
            && event.id == RequestId(1)
        {
            assert_eq!(delta.logprobs.len(), delta.tokens.len());
            assert_eq!(delta.logprobs[0].chosen.token, delta.tokens[0]);
        }
    }
    // ln of 1 + e^-1 + e^-2 + ….
    let log_total = 0.458_675_15_f32;
    for (logprobs, token) in stream.logprobs.iter().zip(1..) {
        let expected: Vec<_> = (0..3)
            .map(|n| TokenLogprob {
                token: token + n,
                logprob: -(n as f32) - log_total,
                special: false,
                bytes: vec![b'a' + (token + n) as u8],
            })
            .collect();
        for (found, expected) in logprobs.top.iter().zip(&expected) {
            assert!((found.logprob - expected.logprob).abs() < 1e-5, "{found:?}, not {expected:?}");
            assert_eq!(TokenLogprob { logprob: expected.logprob, ..found.clone() }, *expected);
        }
        assert_eq!((logprobs.top.len(), &logprobs.chosen), (3, &logprobs.top[0]), "the choice is greedy");
    }
}
