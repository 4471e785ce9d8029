//! Several choices of one request.

use super::*;

fn completion_asked(more: Value) -> Result<Asked<Context>, ApiError> {
    completion(with(json!({"model": "m", "prompt": "hi"}), more).as_bytes())
}

/// How many are generated, how many are shown, and what is asked of the worker for it.
fn of(asked: Result<Asked<Context>, ApiError>) -> (usize, usize, Option<u8>) {
    let asked = asked.unwrap();
    (asked.choices, asked.context.shown, asked.request.sampling.logprobs)
}

#[test]
fn as_many_are_generated_as_are_shown_or_the_best_are_chosen() {
    assert_eq!(of(asked_with(json!({}))), (1, 1, None));
    assert_eq!(of(asked_with(json!({"n": 8}))), (8, 8, None));
    assert_eq!(of(asked_with(json!({"n_cmpl": 2, "stream": true}))), (2, 2, None));
    assert_eq!(of(completion_asked(json!({"n": 3, "best_of": 3, "stream": true}))), (3, 3, None));
    assert_eq!(of(completion_asked(json!({"best_of": 5}))), (5, 1, Some(0)));
    assert_eq!(of(completion_asked(json!({"n": 2, "best_of": 5, "logprobs": 4}))), (5, 2, Some(4)));
    assert!(!completion_asked(json!({"best_of": 5})).unwrap().context.logprobs, "they are not shown");
}

#[test]
fn what_can_not_be_chosen_is_refused_by_name() {
    let request = |asked: Result<Asked<Context>, ApiError>| asked.map(|asked| asked.request);
    for (wrong, param) in [
        (json!({"n": 9}), "n"),
        (json!({"n": 0}), "n"),
        (json!({"n": 2, "n_cmpl": 3}), "n"),
        (json!({"best_of": 9}), "best_of"),
        (json!({"n": 3, "best_of": 2}), "best_of"),
    ] {
        assert_eq!(error(request(completion_asked(wrong.clone()))).0, param, "{wrong}");
        assert_eq!(error(chat_with(wrong.clone())).0, param, "{wrong}");
    }
    assert!(error(chat_with(json!({"n": 9}))).1.contains("from 1 to 8"));
    assert_eq!(error(chat_with(json!({"best_of": 2}))).0, "best_of");
    let (param, message) = error(request(completion_asked(json!({"best_of": 2, "stream": true}))));
    assert!(param == "best_of" && message.contains("`stream`"), "{message}");
}

#[test]
fn a_completion_may_begin_with_its_prompt() {
    assert!(completion_asked(json!({"echo": true, "n": 2, "stream": true})).unwrap().echo);
    assert!(!completion_asked(json!({"echo": false, "logprobs": 1})).unwrap().echo);
    let request = |asked: Result<Asked<Context>, ApiError>| asked.map(|asked| asked.request);
    let (param, message) = error(request(completion_asked(json!({"echo": true, "logprobs": 0}))));
    assert!(param == "echo" && message.contains("log probabilities of the prompt"), "{message}");
    assert_eq!(error(chat_with(json!({"echo": true}))).0, "echo");
}
