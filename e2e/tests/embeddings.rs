//! Embeddings over HTTP, of a model that embeds text; and what it and others are not for.

#![allow(clippy::unwrap_used)]

use std::thread;

use serde_json::{Value, json};
use tempfile::TempDir;
use test_support::{Client, Options, Server, chat, import, write_tiny_encoder, write_tiny_model};

const PATH: &str = "/v1/embeddings";
const ENCODER: &str = "test/encoder";
const DECODER: &str = "test/decoder";

/// Both kinds of model in one server.
struct Both {
    server: Server,
    _store: TempDir,
}

impl Both {
    fn start() -> Self {
        let store = tempfile::tempdir().unwrap();
        let folder = tempfile::tempdir().unwrap();
        write_tiny_encoder(&folder.path().join("encoder"));
        write_tiny_model(&folder.path().join("decoder"));
        import(store.path(), &folder.path().join("encoder"), ENCODER);
        import(store.path(), &folder.path().join("decoder"), DECODER);
        let server = Server::start_with(&Options {
            model: ENCODER.to_owned(),
            store: Some(store.path().to_owned()),
            arguments: vec!["--model".into(), DECODER.into()],
            ..Options::default()
        });
        Self { server, _store: store }
    }

    fn client(&self) -> &Client {
        &self.server.client
    }

    fn embed(&self, fields: &Value) -> Value {
        let answer = self.client().post(PATH, &request(fields));
        assert_eq!(answer.status, 200, "{}", answer.json);
        answer.json
    }

    /// Status, code and field of an error.
    fn refused(&self, fields: &Value) -> (u16, String, String) {
        let answer = self.client().post(PATH, &request(fields));
        let text = |name: &str| answer.json["error"][name].as_str().unwrap_or_default().to_owned();
        (answer.status, text("code"), text("param"))
    }
}

fn request(fields: &Value) -> Value {
    let mut body = json!({"model": ENCODER, "input": "w1 w2"});
    body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    body
}

fn vectors(answer: &Value) -> Vec<Vec<f64>> {
    let number = |value: &Value| value.as_f64().unwrap();
    let vector = |item: &Value| item["embedding"].as_array().unwrap().iter().map(number).collect();
    answer["data"].as_array().unwrap().iter().map(vector).collect()
}

fn length(vector: &[f64]) -> f64 {
    vector.iter().map(|value| value * value).sum::<f64>().sqrt()
}

#[test]
fn texts_become_vectors_in_their_order() {
    let both = Both::start();
    let one = both.embed(&json!({"user": "someone"}));
    assert_eq!((&one["object"], &one["model"]), (&json!("list"), &json!(ENCODER)));
    assert_eq!(one["usage"], json!({"prompt_tokens": 4, "total_tokens": 4}));
    let [vector] = &vectors(&one)[..] else { panic!("{one}") };
    assert_eq!(vector.len(), 64);
    assert!((length(vector) - 1.0).abs() < 1e-5);

    // More than one operation has, of several lengths.
    let texts: Vec<String> = (0..50).map(|n| vec![format!("w{n}"); n % 7 + 1].join(" ")).collect();
    let all = both.embed(&json!({"input": texts}));
    let indices: Vec<_> =
        all["data"].as_array().unwrap().iter().map(|item| item["index"].as_u64().unwrap()).collect();
    assert_eq!(indices, (0..50).collect::<Vec<_>>());
    let all = vectors(&all);
    for number in [0, 15, 16, 49] {
        assert_eq!(vectors(&both.embed(&json!({"input": texts[number]})))[0], all[number], "text {number}");
    }
    // [CLS] w1 w2 [SEP]
    for input in [json!([0, 4, 5, 1]), json!([[0, 4, 5, 1]])] {
        assert_eq!(vectors(&both.embed(&json!({ "input": input })))[0], *vector);
    }
    let encoded = both.embed(&json!({"encoding_format": "base64"}));
    let text = encoded["data"][0]["embedding"].as_str().unwrap();
    assert_eq!(text.len(), (64_usize * 4).div_ceil(3) * 4);
}

/// Many clients at once: what is computed beside an input changes no bit of its embedding on the CPU.
#[cfg(not(target_os = "macos"))]
#[test]
fn clients_that_come_together_get_what_each_would_get_alone() {
    let both = Both::start();
    let inputs: Vec<Value> = (0..12).map(|n| json!(vec![format!("w{n} w{}", n * 3); n % 4 + 1])).collect();
    let alone: Vec<_> = inputs.iter().map(|input| vectors(&both.embed(&json!({ "input": input })))).collect();
    let both = &both;
    let together: Vec<_> = thread::scope(|scope| {
        let asked: Vec<_> = inputs
            .iter()
            .map(|input| scope.spawn(move || vectors(&both.embed(&json!({ "input": input })))))
            .collect();
        asked.into_iter().map(|answer| answer.join().unwrap()).collect()
    });
    assert_eq!(together, alone);
}

#[test]
fn lengths_are_those_that_the_model_offers() {
    let both = Both::start();
    let whole = &vectors(&both.embed(&json!({})))[0];
    let short = &vectors(&both.embed(&json!({"dimensions": 32})))[0];
    assert_eq!(short.len(), 32);
    assert!((length(short) - 1.0).abs() < 1e-5);
    let factor = length(&whole[..32]);
    assert!(short.iter().zip(whole).all(|(short, whole)| (short * factor - whole).abs() < 1e-5));
    assert_eq!(both.refused(&json!({"dimensions": 33})), (400, "invalid_value".into(), "dimensions".into()));

    let long = vec!["w1"; 20].join(" ");
    let refused = both.refused(&json!({"input": long}));
    assert_eq!(refused, (400, "context_length_exceeded".into(), "input".into()));
    let cut = both.embed(&json!({"input": long, "truncate_prompt_tokens": -1}));
    assert_eq!(cut["usage"]["prompt_tokens"], 16);
    let cut = both.embed(&json!({"input": long, "truncate_prompt_tokens": 4}));
    assert_eq!(vectors(&cut), vectors(&both.embed(&json!({"input": "w1 w1"}))));
    let field = |fields: Value| both.refused(&fields).2;
    assert_eq!(field(json!({"truncate_prompt_tokens": 17})), "truncate_prompt_tokens");
    assert_eq!(field(json!({"input": []})), "input");
    assert_eq!(field(json!({"input": [99]})), "input");
    assert_eq!(field(json!({"encoding_format": "int8"})), "encoding_format");
    assert_eq!(both.refused(&json!({"voice": 1})).1, "unknown_parameter");
}

#[test]
fn each_model_does_what_it_is_for() {
    let both = Both::start();
    let client = both.client();
    let list = client.get("/v1/models").json;
    let task = |name: &str| {
        let entry = list["data"].as_array().unwrap().iter().find(|entry| entry["id"] == name).unwrap();
        (entry["task"].clone(), entry["embedding_length"].clone(), entry["context_length"].clone())
    };
    assert_eq!(task(ENCODER), (json!("embed"), json!(64), json!(16)));
    assert_eq!(task(DECODER), (json!("generate"), Value::Null, json!(256)));

    let refused = both.refused(&json!({"model": DECODER}));
    assert_eq!(refused, (400, "invalid_value".into(), "model".into()));
    let mut question = chat("w1", 4);
    question["model"] = ENCODER.into();
    let completion = json!({"model": ENCODER, "prompt": "w1", "max_tokens": 4});
    for (path, body) in [("/v1/chat/completions", question), ("/v1/completions", completion)] {
        let answer = client.post(path, &body);
        assert_eq!(
            (answer.status, &answer.json["error"]["param"]),
            (400, &json!("model")),
            "{}",
            answer.json
        );
        assert!(answer.json["error"]["message"].as_str().unwrap().contains("/v1/embeddings"));
    }
    let tokens = client.post("/tokenize", &json!({"model": ENCODER, "prompt": "w1"}));
    assert_eq!(tokens.json["tokens"], json!([0, 4, 1]), "what needs no generation works");
}
