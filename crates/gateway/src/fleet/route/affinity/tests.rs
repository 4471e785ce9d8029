#![allow(clippy::unwrap_used)]

use proptest::prelude::*;
use protocol::message::ChatMessage;

use super::*;

fn idle(count: usize) -> Vec<Candidate> {
    (0..count).map(|number| Candidate { number, outstanding: 0, streams: 0 }).collect()
}

fn request(prefix: u64, prompt_tokens: u64) -> RouteRequest {
    RouteRequest { prefix: Some(prefix), prompt_tokens }
}

/// The number of the worker that is picked.
fn picked(candidates: &[Candidate], request: RouteRequest) -> usize {
    candidates[pick(candidates, request).unwrap()].number
}

fn chat(messages: &[(&str, &str)]) -> RouteRequest {
    let message = |(role, content): &(&str, &str)| ChatMessage::new(*role, *content);
    RouteRequest::of(&Prompt::Chat(messages.iter().map(message).collect()))
}

#[test]
fn without_a_prefix_the_least_busy_worker_is_picked() {
    let candidate = |number, outstanding, streams| Candidate { number, outstanding, streams };
    let workers = [candidate(3, 20, 0), candidate(1, 10, 2), candidate(2, 10, 1), candidate(0, 10, 1)];
    assert_eq!(picked(&workers, RouteRequest::default()), 0);
    assert_eq!(picked(&workers[..3], RouteRequest::default()), 2);
    assert_eq!(pick(&[], RouteRequest::default()), None);
    assert_eq!(pick(&[], request(1, 1)), None);
}

#[test]
fn a_conversation_keeps_its_prefix_and_others_have_their_own() {
    let first = chat(&[("system", "be brief"), ("user", "hello")]);
    let second = chat(&[("system", "be brief"), ("user", "hello"), ("assistant", "hi"), ("user", "again")]);
    assert_eq!(first.prefix, second.prefix);
    assert!(second.prompt_tokens > first.prompt_tokens);
    assert_ne!(first.prefix, chat(&[("system", "be brief"), ("user", "goodbye")]).prefix);
    assert_ne!(first.prefix, chat(&[("user", "be brief"), ("user", "hello")]).prefix);
    // What a whole program has in common counts more than what one of its conversations begins with.
    let long = "x".repeat(PREFIX_BYTES);
    let program = |user| chat(&[("system", &long), ("user", user)]).prefix;
    assert_eq!(program("hello"), program("goodbye"));
}

#[test]
fn a_prompt_is_known_by_its_beginning() {
    let text = |text: String| RouteRequest::of(&Prompt::Text(text)).prefix;
    let long = "x".repeat(PREFIX_BYTES);
    assert_eq!(text(format!("{long}a")), text(format!("{long}b")));
    assert_ne!(text("a".into()), text("b".into()));
    let tokens = |last: u32| {
        let mut tokens = vec![7; PREFIX_TOKENS];
        tokens.push(last);
        RouteRequest::of(&Prompt::Tokens(tokens))
    };
    assert_eq!(tokens(1), tokens(2));
    assert_eq!(tokens(1).prompt_tokens, PREFIX_TOKENS as u64 + 1);
}

#[test]
fn a_busy_worker_is_passed_over_unless_the_prompt_is_worth_the_wait() {
    let mut workers = idle(2);
    let prefix = (0..).find(|prefix| picked(&workers, request(*prefix, 0)) == 1).unwrap();
    workers[0].outstanding = 400;
    workers[1].outstanding = 500;
    assert_eq!(picked(&workers, request(prefix, 0)), 1, "a quarter more is little");
    workers[1].outstanding = 501;
    assert_eq!(picked(&workers, request(prefix, 0)), 0);
    assert_eq!(picked(&workers, request(prefix, 1)), 1);
    workers[1].outstanding = 2000;
    assert_eq!((picked(&workers, request(prefix, 100)), picked(&workers, request(prefix, 1500))), (0, 1));
}

proptest! {
    #[test]
    fn load_is_balanced_within_the_bound(
        requests in prop::collection::vec((0..4u64, 1..800u64, 1..600u64, 0..3usize), 1..200),
        count in 1..6usize,
    ) {
        let mut workers = idle(count);
        let mut live: Vec<(usize, u64)> = Vec::new();
        for (prefix, prompt, answer, ended) in requests {
            let least = workers.iter().map(|it| it.outstanding).min().unwrap();
            let index = pick(&workers, request(prefix, prompt)).unwrap();
            prop_assert!(workers[index].outstanding <= least + least / EXCESS + prompt);
            workers[index].outstanding += prompt + answer;
            workers[index].streams += 1;
            live.push((index, prompt + answer));
            for (index, tokens) in live.drain(..ended.min(live.len())) {
                workers[index].outstanding -= tokens;
                workers[index].streams -= 1;
            }
        }
    }

    #[test]
    fn work_that_never_ends_is_spread(prefix in any::<u64>(), prompt in 1..100u64, count in 1..6usize) {
        let mut workers = idle(count);
        for _ in 0..400 {
            let index = pick(&workers, request(prefix, prompt)).unwrap();
            workers[index].outstanding += prompt + 100;
        }
        let least = workers.iter().map(|it| it.outstanding).min().unwrap();
        let most = workers.iter().map(|it| it.outstanding).max().unwrap();
        // The bound was met before the last request came.
        prop_assert!(most <= bound(least, prompt) + prompt + 100, "{workers:?}");
    }

    #[test]
    fn a_prefix_keeps_its_worker_while_load_allows(
        prefix in any::<u64>(),
        prompt in 0..500u64,
        outstanding in prop::collection::vec(0..100u64, 1..6),
    ) {
        let mut workers = idle(outstanding.len());
        let own = picked(&workers, request(prefix, prompt));
        for (worker, outstanding) in workers.iter_mut().zip(outstanding) {
            worker.outstanding = 1000 + outstanding;
        }
        prop_assert_eq!(picked(&workers, request(prefix, prompt)), own);
    }

    #[test]
    fn a_dead_workers_prefixes_go_to_all_others_and_come_back(dead in 0..4usize, seed in any::<u64>()) {
        let all = idle(4);
        let left: Vec<_> = all.iter().copied().filter(|it| it.number != dead).collect();
        let mut heirs = [0; 4];
        for prefix in (0..400u64).map(|it| seed.wrapping_add(it)) {
            let (own, now) = (picked(&all, request(prefix, 0)), picked(&left, request(prefix, 0)));
            if own == dead {
                heirs[now] += 1;
            } else {
                prop_assert_eq!(own, now, "the others keep theirs");
            }
        }
        let expected = 400 / 4 / 3;
        for worker in left {
            prop_assert!(heirs[worker.number] > expected / 4, "{heirs:?}");
        }
        prop_assert_eq!(heirs[dead], 0);
    }
}
