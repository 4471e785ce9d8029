#![allow(clippy::unwrap_used)]

use super::*;
use crate::serve::TokenLogprob;

fn output(text: &str, logprobs: &[f32]) -> Output {
    let token = |&logprob: &f32| TokenLogprobs {
        chosen: TokenLogprob { token: 1, logprob, special: false, bytes: text.into() },
        top: Vec::new(),
    };
    Output { text: text.into(), logprobs: logprobs.iter().map(token).collect(), ..Output::default() }
}

#[test]
fn the_best_are_those_with_the_most_likely_tokens_on_average() {
    let outputs = [output("a", &[-3.0]), output("b", &[-1.0; 4]), output("c", &[-2.0]), output("d", &[])];
    let texts = |count| best(&outputs, count).iter().map(|output| output.text.as_str()).collect::<Vec<_>>();
    assert_eq!(texts(2), ["d", "b"]);
    assert_eq!(texts(3), ["d", "b", "c"]);
    assert_eq!(texts(4), ["a", "b", "c", "d"], "all of them are in the order of their seeds");
}

#[test]
fn usage_has_the_prompt_once() {
    let usage = |completion_tokens, cached_tokens| Usage {
        prompt_tokens: 9,
        completion_tokens,
        cached_tokens,
        ..Usage::default()
    };
    let sum = together(Some(together(None, usage(2, 8))), usage(3, 0));
    assert_eq!(sum, usage(5, 0));
}
