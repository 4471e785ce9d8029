//! How likely tokens were, by the real model.

use super::*;

const COMPLETIONS: &str = "/v1/completions";

/// What a chat's answer says of its tokens, whole or streamed, and its text.
fn of_chat(server: &Server, mut request: Value) -> (Vec<Value>, String) {
    let whole = server.client.post(CHAT, &request).json;
    let choice = &whole["choices"][0];
    let tokens = choice["logprobs"]["content"].as_array().unwrap_or_else(|| panic!("{whole}")).clone();
    let text = choice["message"]["content"].as_str().unwrap().to_owned();
    assert_eq!(whole["usage"]["completion_tokens"], tokens.len());

    request["stream"] = true.into();
    let mut events = server.client.stream(CHAT, &request).rest();
    assert_eq!(events.pop().unwrap(), "[DONE]");
    let events: Vec<Value> = events.iter().map(|event| serde_json::from_str(event).unwrap()).collect();
    let choices = || events.iter().map(|event| &event["choices"][0]);
    let streamed = choices().filter_map(|choice| choice["logprobs"]["content"].as_array()).flatten();
    assert_eq!(streamed.cloned().collect::<Vec<_>>(), tokens);
    let streamed: String = choices().filter_map(|choice| choice["delta"]["content"].as_str()).collect();
    assert_eq!(streamed, text);
    (tokens, text)
}

fn bytes(token: &Value) -> Vec<u8> {
    token["bytes"].as_array().unwrap().iter().map(|byte| byte.as_u64().unwrap() as u8).collect()
}

#[test]
fn a_greedy_answer_is_of_the_most_likely_tokens() {
    let server = Server::start();
    let mut request = chat(CAPITAL, 32);
    request["logprobs"] = true.into();
    request["top_logprobs"] = 20.into();
    // Text that is held back, for a stop string that never comes.
    request["stop"] = "Paris, the city".into();
    let (tokens, text) = of_chat(&server, request);
    let shown: Vec<u8> = tokens[..tokens.len() - 1].iter().flat_map(bytes).collect();
    assert_eq!(String::from_utf8(shown).unwrap(), text, "all but the one that ends it");
    assert_eq!(tokens[tokens.len() - 1]["token"], "<|im_end|>");
    for token in &tokens {
        let top = token["top_logprobs"].as_array().unwrap();
        assert_eq!((&top[0]["token"], &top[0]["logprob"]), (&token["token"], &token["logprob"]));
        let logprobs: Vec<f64> = top.iter().map(|it| it["logprob"].as_f64().unwrap()).collect();
        assert!(logprobs.len() == 20 && logprobs.is_sorted_by(|a, b| a >= b), "{logprobs:?}");
        let sum: f64 = logprobs.iter().map(|logprob| logprob.exp()).sum();
        assert!((0.3..1.0 + 1e-5).contains(&sum), "{sum} of {token}");
    }

    // Without being asked, and of tokens that are drawn.
    let plain = server.client.post(CHAT, &chat(CAPITAL, 32)).json;
    assert_eq!(
        (&plain["choices"][0]["logprobs"], plain["choices"][0]["message"]["content"].as_str()),
        (&Value::Null, Some(&*text))
    );
    let mut warm = chat(CAPITAL, 24);
    warm["temperature"] = 1.5.into();
    warm["seed"] = 11.into();
    let drawn = server.client.post(CHAT, &warm).json["choices"][0]["message"]["content"].clone();
    warm["logprobs"] = true.into();
    let (tokens, text) = of_chat(&server, warm);
    assert_eq!(drawn, text, "asking changes no token");
    assert!(tokens.iter().all(|token| token["top_logprobs"] == json!([])));
}

/// On the CPU only, where a prompt's last logits are those of a token that was generated, to the bit.
#[cfg(not(target_os = "macos"))]
#[test]
fn a_token_is_as_likely_behind_a_prompt_with_those_before_it() {
    let server = Server::start();
    let ask = |prompt: &Value, max_tokens: usize| {
        let answer = server.client.post(
            COMPLETIONS,
            &json!({
                "model": MODEL, "prompt": prompt, "max_tokens": max_tokens, "temperature": 0.9, "seed": 3,
                "logprobs": 3, "repetition_penalty": 1.2,
            }),
        );
        assert_eq!(answer.status, 200, "{}", answer.json);
        answer.json["choices"][0].clone()
    };
    let prompt = "The three largest cities are";
    let whole = ask(&json!(prompt), 8);
    let logprobs = &whole["logprobs"];
    let (tokens, offsets) =
        (logprobs["tokens"].as_array().unwrap(), logprobs["text_offset"].as_array().unwrap());
    let text: Vec<char> = whole["text"].as_str().unwrap().chars().collect();
    for (token, offset) in tokens.iter().zip(offsets) {
        let token = token.as_str().unwrap();
        let there: String = text[offset.as_u64().unwrap() as usize..].iter().collect();
        assert!(there.starts_with(token), "{token:?} at {offset} of {text:?}");
    }
    let tokenized = server.client.post("/v1/tokenize", &json!({"model": MODEL, "prompt": prompt})).json;
    let mut ids = tokenized["tokens"].as_array().unwrap().clone();
    let of_text = server
        .client
        .post("/v1/tokenize", &json!({"model": MODEL, "prompt": whole["text"], "add_special_tokens": false}))
        .json;
    let of_text = of_text["tokens"].as_array().unwrap().clone();
    assert_eq!(of_text.len(), tokens.len(), "the text is cut as it was generated");
    for (n, id) in of_text.into_iter().enumerate() {
        let top = &ask(&json!(ids), 1)["logprobs"];
        let alone = top["top_logprobs"][0].as_object().unwrap();
        let there = logprobs["top_logprobs"][n].as_object().unwrap();
        let common = there.keys().filter(|token| alone.contains_key(*token)).inspect(|token| {
            assert_eq!(alone[*token], there[*token], "{token:?} at {n}");
        });
        assert!(common.count() >= 3, "{alone:?} and {there:?} at {n}");
        ids.push(id);
    }
}
