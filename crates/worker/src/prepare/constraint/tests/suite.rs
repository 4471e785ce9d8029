//! The JSON Schema Test Suite, draft 2020-12: which keywords are enforced, and which are refused.
//!
//! A constraint generates, and does not validate: it may be stricter than the schema, such as about the order of fields.
//! But what a schema forbids must not be generated, unless the schema was refused.
//!
//! `cargo test -p worker --lib suite -- --nocapture` prints the table of docs/json-schema.md.

use std::{collections::BTreeMap, fmt::Write, fs, path::PathBuf};

use serde::Deserialize;

use super::*;

/// What a keyword's groups came to.
#[derive(Debug, Default, PartialEq, Eq)]
struct Found {
    groups: u32,
    refused: u32,
    /// Valid instances of schemas that were not refused, and those of them that can be generated.
    valid: u32,
    valid_accepted: u32,
    /// Invalid ones.
    invalid: u32,
    invalid_accepted: u32,
}

#[derive(Deserialize)]
struct Group {
    description: String,
    schema: Value,
    tests: Vec<Test>,
}

#[derive(Deserialize)]
struct Test {
    description: String,
    data: Value,
    valid: bool,
}

/// Forbidden by a schema, and generated all the same.
const WRONG: &[&str] = &[];

fn folder() -> PathBuf {
    std::env::var_os("KR_TEST_JSON_SUITE")
        .expect("KR_TEST_JSON_SUITE names no folder with the test suite: run `cargo xtask test`, which makes and sets it")
        .into()
}

impl Model {
    /// Whether the whole text can be an output.
    fn generates(&self, schema: &Value, text: &str) -> bool {
        let mut constraint = self.compile(super::schema(schema)).unwrap();
        let tokens = self.tokenizer.tokenizer().encode(text, false).unwrap();
        for &token in tokens.get_ids() {
            if !constraint.mask().is_ok_and(|mask| mask.allows(token)) {
                return false;
            }
            if constraint.accept(token).unwrap() {
                return token == *tokens.get_ids().last().unwrap();
            }
        }
        self.eos_tokens.iter().any(|token| constraint.mask().is_ok_and(|mask| mask.allows(token)))
    }

    fn run(&self, keyword: &str, group: &Group, found: &mut Found, wrong: &mut Vec<String>) {
        found.groups += 1;
        if self.compile(super::schema(&group.schema)).is_err() {
            found.refused += 1;
            return;
        }
        for test in &group.tests {
            let generated = self.generates(&group.schema, &test.data.to_string());
            if test.valid {
                found.valid += 1;
                found.valid_accepted += u32::from(generated);
            } else {
                found.invalid += 1;
                found.invalid_accepted += u32::from(generated);
                if generated {
                    wrong.push(format!("{keyword}: {}: {}", group.description, test.description));
                }
            }
        }
    }
}

#[test]
fn what_a_schema_forbids_is_not_generated() {
    let model = Model::new(&samples::byte_level());
    let (mut table, mut wrong) = (BTreeMap::<String, Found>::new(), Vec::new());
    for file in fs::read_dir(folder().join("draft2020-12")).unwrap() {
        let path = file.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "json") {
            continue;
        }
        let keyword = path.file_stem().unwrap().to_str().unwrap();
        let groups: Vec<Group> = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        let found = table.entry(keyword.to_owned()).or_default();
        groups.iter().for_each(|group| model.run(keyword, group, found, &mut wrong));
    }
    let mut text = String::from(
        "| keyword | schemas | refused | forbidden, of them possible | allowed, of them possible |\n",
    );
    for (keyword, Found { groups, refused, valid, valid_accepted, invalid, invalid_accepted }) in &table {
        writeln!(
            text,
            "| {keyword} | {groups} | {refused} | {invalid}, {invalid_accepted} | {valid}, {valid_accepted} |"
        )
        .unwrap();
    }
    println!("{text}");
    assert!(table.len() > 40, "{} keywords", table.len());
    wrong.sort_unstable();
    assert_eq!(wrong, WRONG);
}
