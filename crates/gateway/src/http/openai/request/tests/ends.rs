//! Where the output ends.

use super::*;

#[test]
fn both_names_of_max_tokens_must_agree() {
    let both = |a: u64, b: u64| chat_with(json!({"max_tokens": a, "max_completion_tokens": b}));
    assert_eq!(both(3, 3).unwrap().max_tokens, Some(3));
    assert_eq!(error(both(3, 4)).0, "max_tokens");
    assert_eq!(chat_with(json!({"max_tokens": u64::MAX})).unwrap().max_tokens, Some(u32::MAX));
}

#[test]
fn least_numbers_of_tokens_fit_the_most() {
    for name in ["min_tokens", "min_new_tokens"] {
        assert_eq!(chat_with(json!({name: 5})).unwrap().min_tokens, 5);
        assert_eq!(chat_with(json!({name: 5, "max_tokens": 5})).unwrap().min_tokens, 5);
        assert_eq!(error(chat_with(json!({name: 5, "max_tokens": 4}))).0, name);
        assert_eq!(error(completion_with(json!({name: 17}))).0, name, "of 16 by default");
        assert_eq!(completion_with(json!({name: 17, "max_tokens": -1})).unwrap().min_tokens, 17);
    }
    assert_eq!(chat_with(json!({"min_tokens": u64::MAX})).unwrap().min_tokens, u32::MAX);
    assert_eq!(error(chat_with(json!({"min_tokens": 5, "min_new_tokens": 6}))).0, "min_tokens");
}

#[test]
fn stop_tokens_are_token_ids() {
    let tokens = |value: Value| chat_with(json!({"stop_token_ids": value})).map(|asked| asked.stop_tokens);
    assert_eq!(tokens(json!([7, 9.0])).unwrap(), [7, 9]);
    assert!(tokens(json!([])).unwrap().is_empty());
    for wrong in [json!([1, -1]), json!([1, "a"]), json!([1, 1u64 << 32])] {
        assert_eq!(error(chat_with(json!({"stop_token_ids": wrong}))).0, "stop_token_ids[1]");
    }
}
