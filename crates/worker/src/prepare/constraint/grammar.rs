//! What a client asks for, as a grammar.

use anyhow::{Context, ensure};
use llguidance::api::{GrammarWithLexer, TopLevelGrammar};
use protocol::message::ConstraintKind;
use serde_json::{Value, json};

use super::factors;

/// Whitespace between the parts of JSON. It ends somewhere: a small model may else write nothing but line ends.
const WHITESPACE: &str = r"[ \t\n\r]{1,64}";

/// Where a schema says how it is compiled, in llguidance's terms.
const OPTIONS: &str = "x-guidance";

/// By which name the grammar around it knows that of an answer.
const ANSWER: &str = "answer";

/// What outputs have to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Demand {
    /// What the client asks for.
    pub(super) kind: ConstraintKind,
    /// A grammar of outputs in which that is a part, named `@answer`; `None` if it is all of the output.
    pub(super) around: Option<&'static str>,
}

/// The grammar of outputs.
pub(super) fn of(demand: &Demand) -> anyhow::Result<TopLevelGrammar> {
    let mut grammar = of_answer(&demand.kind)?;
    if let Some(around) = demand.around {
        for answer in &mut grammar.grammars {
            answer.name = Some(ANSWER.to_owned());
        }
        grammar.grammars.insert(0, GrammarWithLexer::from_lark(around.to_owned()));
    }
    Ok(grammar)
}

/// The grammar of an answer, which is one.
fn of_answer(kind: &ConstraintKind) -> anyhow::Result<TopLevelGrammar> {
    Ok(match kind {
        ConstraintKind::JsonObject => TopLevelGrammar::from_json_schema(schema(json!({"type": "object"}))),
        ConstraintKind::JsonSchema(text) => {
            let asked = serde_json::from_str(text).context("it is not JSON, or nested too deeply")?;
            ensure!(factors::are_small(&asked), "its values of `multipleOf` are too large, or too many");
            TopLevelGrammar::from_json_schema(schema(asked))
        }
        ConstraintKind::Regex(text) => {
            let backslashes = text.bytes().rev().take_while(|&byte| byte == b'\\').count();
            ensure!(backslashes % 2 == 0, "the last backslash escapes nothing");
            TopLevelGrammar::from_regex(text)
        }
        ConstraintKind::Choice(choices) => TopLevelGrammar::from_lark(one_of(choices)?),
        ConstraintKind::Grammar(text) => {
            ensure!(!text.contains("%json"), "schemas inside a grammar are not supported");
            TopLevelGrammar::from_lark(text.clone())
        }
    })
}

/// Why a constraint can't be compiled, with what most likely helps.
pub(super) fn explain(kind: &ConstraintKind, reason: String) -> String {
    match kind {
        ConstraintKind::Grammar(text) if text.contains("::=") => {
            format!("grammars are in Lark's notation, and this looks like GBNF: {reason}")
        }
        _ => reason,
    }
}

/// A schema with the whitespace of this server, unless it says how it wants to be compiled.
fn schema(mut schema: Value) -> Value {
    if let Value::Object(fields) = &mut schema
        && !fields.contains_key(OPTIONS)
    {
        fields.insert(OPTIONS.into(), json!({"whitespace_pattern": WHITESPACE}));
    }
    schema
}

/// A grammar of nothing but these texts. As one terminal they are one automaton, however many they are.
fn one_of(choices: &[String]) -> anyhow::Result<String> {
    ensure!(!choices.is_empty(), "there is nothing to choose from");
    // Lark writes texts as JSON does.
    let texts: Vec<String> = choices.iter().map(serde_json::to_string).collect::<Result<_, _>>()?;
    Ok(format!("start: CHOICE\nCHOICE: {}\n", texts.join(" | ")))
}
