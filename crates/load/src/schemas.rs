//! Answers that have to be JSON of some schema, at temperature 1, beside answers that may be anything.

use std::{collections::BTreeMap, sync::Arc, time::Instant};

use anyhow::{Context, Result};
use jsonschema::Validator;
use serde::Serialize;
use serde_json::{Value, json};
use tokio::{sync::Semaphore, task::JoinSet};

use crate::{
    ask::{Ask, Sampling},
    client::{Client, Target},
    prompts::Prompts,
    streamed::Streamed,
    usage::Usage,
};

/// How many requests.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Requests for each schema.
    #[arg(long, default_value_t = 20)]
    pub each: u32,
    /// Requests at the same time, every other one without a schema.
    #[arg(long, default_value_t = 20)]
    pub at_once: usize,
    /// Most tokens of an answer.
    #[arg(long, default_value_t = 600)]
    pub tokens: u32,
}

/// What came of them.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// Requests with a schema.
    pub asked: u32,
    /// Those whose answer the schema accepts.
    pub valid: u32,
    /// Those that had more to say than `--tokens`.
    pub cut: u32,
    /// What was wrong with the others.
    pub faults: BTreeMap<String, u32>,
    /// Requests without a schema, and those of them that were answered.
    pub beside: u32,
    /// See `beside`.
    pub beside_whole: u32,
    /// Tokens of the answers with a schema.
    pub usage: Usage,
    /// All in all.
    pub seconds: f64,
}

/// What is asked, and the schema of the answer. Every text has an end, so that an answer has one, too.
fn schemas() -> [(&'static str, Value); 10] {
    let text = |most: u32| json!({"type": "string", "minLength": 1, "maxLength": most});
    let object = |properties: Value| {
        let required: Vec<&String> = properties.as_object().map(|it| it.keys().collect()).unwrap_or_default();
        json!({"type": "object", "required": required, "properties": properties, "additionalProperties": false})
    };
    [
        (
            "a person",
            object(json!({"name": text(30), "age": {"type": "integer", "minimum": 0, "maximum": 120}})),
        ),
        (
            "the weather",
            object(json!({"degrees": {"type": "number", "minimum": -50, "maximum": 60},
                "sky": {"enum": ["clear", "cloudy", "rain", "snow"]}})),
        ),
        ("three colours", json!({"type": "array", "items": text(12), "minItems": 3, "maxItems": 3})),
        ("whether water is wet", json!({"type": "boolean"})),
        (
            "a call of the tool `search`",
            object(json!({"name": {"const": "search"}, "arguments": object(json!({"query": text(40),
                "limit": {"type": "integer", "minimum": 1, "maximum": 50}}))})),
        ),
        (
            "a date and a time",
            object(json!({"date": {"type": "string", "format": "date"},
                "time": {"type": "string", "pattern": "^([01][0-9]|2[0-3]):[0-5][0-9]$"}})),
        ),
        (
            "a number, a word or nothing",
            json!({"anyOf": [{"type": "integer", "minimum": -9, "maximum": 9}, text(10), {"type": "null"}]}),
        ),
        (
            "a family",
            json!({"$ref": "#/$defs/person", "$defs": {"person": {"type": "object", "properties": {
                "name": text(12), "children": {"type": "array", "maxItems": 0}},
                "required": ["name", "children"], "additionalProperties": false}}}),
        ),
        (
            "points in a plane",
            json!({"type": "array", "minItems": 1, "maxItems": 4, "items": {"type": "array", "minItems": 2,
                "maxItems": 2, "items": {"type": "integer", "minimum": -99, "maximum": 99}}}),
        ),
        (
            "an order",
            object(json!({"id": {"type": "string", "pattern": "^[A-Z]{2}-[0-9]{4}$"},
                "items": {"type": "array", "minItems": 1, "maxItems": 3, "items": object(json!({"what": text(16),
                    "count": {"type": "integer", "minimum": 1, "maximum": 12}}))},
                "paid": {"type": "boolean"}})),
        ),
    ]
}

/// Asks for all of them.
///
/// # Errors
/// A schema is none.
pub async fn run(client: &Client, target: &Target, args: &Args) -> Result<Report> {
    let places = Arc::new(Semaphore::new(args.at_once));
    let (begin, mut asked) = (Instant::now(), JoinSet::new());
    for seed in 0..args.each {
        for (number, (what, schema)) in (0..).zip(schemas()) {
            let validator =
                jsonschema::validator_for(&schema).with_context(|| format!("{what}: no schema"))?;
            let sampling = Sampling { temperature: 1.0, top_p: 1.0 };
            let question = format!("Answer in JSON, with nothing around it: {what}.");
            let ask = Ask::question(&target.model, question, args.tokens);
            let ask = Ask { sampling, seed: seed.into(), exactly: false, schema: Some(schema), ..ask };
            let free = Ask::new(&target.model, Prompts::SHORT.messages(seed * 10 + number), 32);
            for (ask, validator) in [(ask, Some(validator)), (Ask { sampling, ..free }, None)] {
                let (client, places) = (client.clone(), Arc::clone(&places));
                asked.spawn(async move {
                    let _place = places.acquire_owned().await;
                    let streamed = client.stream(Ask { usage: true, ..ask }.body(), |_| {}).await;
                    (what, validator, streamed)
                });
            }
        }
    }
    let mut report = Report::default();
    while let Some(answered) = asked.join_next().await {
        let (what, validator, streamed) = answered.context("a request")?;
        report.count(what, validator.as_ref(), &streamed);
    }
    report.seconds = begin.elapsed().as_secs_f64();
    Ok(report)
}

impl Report {
    fn count(&mut self, what: &str, validator: Option<&Validator>, streamed: &Streamed) {
        let Some(validator) = validator else {
            self.beside += 1;
            self.beside_whole += u32::from(streamed.is_whole());
            return;
        };
        self.asked += 1;
        self.usage += streamed.usage.unwrap_or_default();
        let fault = match (streamed.fault(), serde_json::from_str::<Value>(&streamed.text)) {
            (Some(fault), _) => fault,
            (None, Ok(answer)) if validator.is_valid(&answer) => {
                self.valid += 1;
                return;
            }
            (None, _) if streamed.finish_reason.as_deref() == Some("length") => {
                self.cut += 1;
                return;
            }
            (None, _) => format!("{what}: {}", streamed.text),
        };
        *self.faults.entry(fault).or_default() += 1;
    }
}
