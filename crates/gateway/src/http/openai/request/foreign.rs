//! Fields that this server doesn't offer: OpenAI's others, and those of other servers.
//!
//! One that would change the answer is refused, unless its value asks for what happens anyway. One that only concerns
//! where, when or for whom a request is computed is ignored. An unknown field is refused: most likely
//! it is a typing error.

mod neutral;
pub(super) mod rules;

use self::rules::RULES;
use crate::http::{
    error::ApiError,
    json::{Probe, unsupported},
};

/// The first field that can't be allowed.
#[derive(Debug, Default)]
pub(in crate::http::openai) struct Foreign {
    refused: Option<Refused>,
}

#[derive(Debug)]
enum Refused {
    Known { name: &'static str, what: &'static str },
    Unknown(String),
}

/// Bytes of an unknown name that are repeated to the client.
const MAX_NAME: usize = 100;

impl Foreign {
    /// Looks at a field that is none of ours.
    pub(in crate::http::openai) fn take(&mut self, name: &str, value: &Probe) {
        if self.refused.is_some() || *value == Probe::Null {
            return;
        }
        let known = RULES.iter().find_map(|(names, neutral, what)| {
            names.iter().find(|it| **it == name).map(|name| (*name, neutral, *what))
        });
        self.refused = match known {
            Some((_, neutral, _)) if neutral.covers(value) => None,
            Some((name, _, what)) => Some(Refused::Known { name, what }),
            None => Some(Refused::Unknown(name[..name.floor_char_boundary(MAX_NAME)].to_owned())),
        };
    }

    /// The error, if there was such a field.
    pub(in crate::http::openai) fn check(self) -> Result<(), ApiError> {
        match self.refused {
            None => Ok(()),
            Some(Refused::Known { name, what }) => Err(unsupported(name, what)),
            Some(Refused::Unknown(param)) => Err(ApiError::Unknown { param }),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::collections::HashSet;

    use serde_json::{Value, json};

    use super::{neutral::Neutral::Any, *};

    fn probe(value: &Value) -> Probe {
        serde_json::from_value(value.clone()).unwrap()
    }

    #[test]
    fn no_name_has_two_rules() {
        let mut seen = HashSet::new();
        for name in RULES.iter().flat_map(|(names, ..)| *names) {
            assert!(seen.insert(name), "{name}");
        }
    }

    #[test]
    fn every_rule_lets_null_pass_and_refuses_something_unless_it_is_harmless() {
        for (names, neutral, what) in RULES {
            assert!(neutral.covers(&Probe::Null), "{names:?}");
            let asks = [json!({"type": "x", "a": 1}), json!(["x", "y"]), json!(7), json!("x"), json!(true)];
            let refused = asks.iter().filter(|value| !neutral.covers(&probe(value))).count();
            assert_eq!(refused > 0, *neutral != Any, "{names:?}");
            assert_eq!(what.is_empty(), *neutral == Any, "{names:?}");
        }
    }

    #[test]
    fn values_that_look_empty_may_ask_for_something() {
        for (name, value) in [
            ("schema", json!({})),
            ("web_search_options", json!({})),
            ("ebnf", json!("none")),
            ("suffix", json!("none")),
            ("eos_token_id", json!(0)),
            ("prompt_logprobs", json!(0)),
            ("skip_special_tokens", json!(false)),
            ("do_sample", json!(false)),
        ] {
            let mut foreign = Foreign::default();
            foreign.take(name, &probe(&value));
            assert!(foreign.check().is_err(), "{name}");
        }
    }

    #[test]
    fn defaults_of_other_servers_ask_for_nothing() {
        for (name, value) in [
            ("tfs_z", json!(1.0)),
            ("mirostat", json!(0)),
            ("mirostat_tau", json!(5.0)),
            ("xtc_probability", json!(0.0)),
            ("dry_multiplier", json!(0)),
            ("top_n_sigma", json!(-1)),
            ("length_penalty", json!(1)),
            ("min_length", json!(0)),
            ("stop_tokens", json!([])),
            ("bad_words", json!([])),
            ("skip_special_tokens", json!(true)),
            ("schema", json!(null)),
            ("chat_template_kwargs", json!({})),
            ("use_beam_search", json!(false)),
            ("modalities", json!(["text"])),
            ("ebnf", json!("")),
            ("n_probs", json!(0)),
            ("reasoning_format", json!("auto")),
        ] {
            let mut foreign = Foreign::default();
            foreign.take(name, &probe(&value));
            foreign.check().unwrap();
        }
    }
}
