//! How likely tokens were.

use super::*;

#[test]
fn a_chat_asks_with_a_flag_and_a_number() {
    let asked = |more: Value| chat_with(more).map(|request| request.sampling.logprobs);
    assert_eq!(asked(json!({"logprobs": true})).unwrap(), Some(0));
    assert_eq!(asked(json!({"logprobs": true, "top_logprobs": 20})).unwrap(), Some(20));
    for nothing in [json!({}), json!({"logprobs": false, "top_logprobs": 0}), json!({"top_logprobs": null})] {
        assert_eq!(asked(nothing.clone()).unwrap(), None, "{nothing}");
        assert!(!asked_with(nothing).unwrap().context.logprobs);
    }
    for (wrong, param) in [
        (json!({"logprobs": true, "top_logprobs": 21}), "top_logprobs"),
        (json!({"logprobs": true, "top_logprobs": -1}), "top_logprobs"),
        (json!({"top_logprobs": 1}), "top_logprobs"),
        (json!({"logprobs": 5}), "logprobs"),
        (json!({"logprobs": "yes"}), "logprobs"),
    ] {
        assert_eq!(error(chat_with(wrong.clone())).0, param, "{wrong}");
    }
}

#[test]
fn a_completion_asks_with_a_number() {
    let asked = |more: Value| completion_with(more).map(|request| request.sampling.logprobs);
    assert_eq!(asked(json!({"logprobs": 0})).unwrap(), Some(0));
    assert_eq!(asked(json!({"logprobs": 5.0})).unwrap(), Some(5));
    for nothing in [json!({}), json!({"logprobs": null}), json!({"logprobs": false, "top_logprobs": 0})] {
        assert_eq!(asked(nothing.clone()).unwrap(), None, "{nothing}");
    }
    for (wrong, param) in [
        (json!({"logprobs": true}), "logprobs"),
        (json!({"logprobs": 21}), "logprobs"),
        (json!({"logprobs": 0.5}), "logprobs"),
        (json!({"logprobs": -1}), "logprobs"),
        (json!({"logprobs": 1, "top_logprobs": 1}), "top_logprobs"),
    ] {
        assert_eq!(error(completion_with(wrong.clone())).0, param, "{wrong}");
    }
}
