//! What holds for every format.
#![allow(clippy::unwrap_used)]

use std::{collections::BTreeSet, panic::catch_unwind};

use proptest::prelude::*;

use super::*;
use crate::ParserEvent;

/// The events of an output that comes in these pieces, with deltas that belong together joined.
///
/// # Panics
/// The events break a rule of [`ParserEvent`].
fn events(mut parser: Box<dyn OutputParser>, pieces: &[&str]) -> Vec<ParserEvent> {
    let mut events = Vec::new();
    pieces.iter().for_each(|piece| parser.push((*piece).to_owned(), &mut events));
    parser.finish(&mut events);
    check(&events);
    joined(events)
}

fn joined(events: Vec<ParserEvent>) -> Vec<ParserEvent> {
    let mut joined: Vec<ParserEvent> = Vec::new();
    for event in events {
        match (joined.last_mut(), event) {
            (Some(ParserEvent::Text(text)), ParserEvent::Text(more))
            | (Some(ParserEvent::Reasoning(text)), ParserEvent::Reasoning(more))
            | (
                Some(ParserEvent::ToolCallArguments { json: text, .. }),
                ParserEvent::ToolCallArguments { json: more, .. },
            ) => text.push_str(&more),
            (_, event) => joined.push(event),
        }
    }
    joined
}

/// No delta is empty, and calls are numbered, end, and contain nothing but arguments.
fn check(events: &[ParserEvent]) {
    let (mut calls, mut open) = (0, None);
    for event in events {
        match event {
            ParserEvent::Text(text) | ParserEvent::Reasoning(text) => {
                assert!(!text.is_empty() && open.is_none(), "{events:?}");
            }
            ParserEvent::ToolCallStart { index, name } => {
                assert!(!name.is_empty() && open.is_none() && *index == calls, "{events:?}");
                (calls, open) = (calls + 1, Some(*index));
            }
            ParserEvent::ToolCallArguments { index, json } => {
                assert!(!json.is_empty() && open == Some(*index), "{events:?}");
            }
            ParserEvent::ToolCallEnd { index } => {
                assert_eq!(open.take(), Some(*index), "{events:?}");
            }
        }
    }
    assert_eq!(open, None, "a call never ends: {events:?}");
}

/// `text` cut at the character boundaries at or below `cuts`.
fn cut<'a>(text: &'a str, cuts: &[usize]) -> Vec<&'a str> {
    let ends: BTreeSet<usize> = cuts.iter().map(|cut| text.floor_char_boundary(*cut)).collect();
    let mut pieces = Vec::new();
    let mut from = 0;
    for end in ends.into_iter().chain([text.len()]) {
        pieces.push(&text[from..end]);
        from = end;
    }
    pieces
}

fn every_character(text: &str) -> Vec<&str> {
    text.split_inclusive(|_: char| true).collect()
}

fn cuts_do_not_matter(new: fn() -> Box<dyn OutputParser>, text: &str, cuts: &[usize]) {
    let whole = events(new(), &[text]);
    assert_eq!(events(new(), &cut(text, cuts)), whole, "{text:?} cut at {cuts:?}");
    assert_eq!(events(new(), &every_character(text)), whole, "{text:?} by characters");
}

/// Samples of all formats and arbitrary text in any order, each whole or broken off.
fn output() -> impl Strategy<Value = String> {
    let samples: Vec<&str> = FORMATS.iter().flat_map(|format| format.samples).copied().collect();
    let sample = prop::sample::select(samples);
    let broken = (sample.clone(), any::<prop::sample::Index>())
        .prop_map(|(sample, at)| sample[..sample.floor_char_boundary(at.index(sample.len() + 1))].to_owned());
    let part = prop_oneof![sample.prop_map(str::to_owned), broken, ".{0,12}"];
    prop::collection::vec(part, 0..6).prop_map(|parts| parts.concat())
}

#[test]
fn formats_have_different_names_and_are_found_by_them() {
    let names: Vec<&str> = names().collect();
    assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), names.len(), "{names:?}");
    assert!(names.iter().all(|name| parser(name).is_some()));
    assert!(parser("no such format").is_none());
}

#[test]
fn plain_output_is_text_and_nothing_else() {
    assert_eq!(
        events(parser(PLAIN).unwrap(), &["a", "", "<think>b"]),
        [ParserEvent::Text("a<think>b".into())]
    );
    assert_eq!(events(parser(PLAIN).unwrap(), &["", ""]), []);
}

#[test]
fn samples_are_parsed_alike_at_every_single_cut() {
    for format in FORMATS {
        for sample in format.samples {
            for at in 0..=sample.len() {
                cuts_do_not_matter(format.new, sample, &[at]);
            }
        }
    }
}

proptest! {
    #[test]
    fn cuts_do_not_matter_to_any_format(
        text in output(),
        cuts in prop::collection::vec(0..200_usize, 0..8),
    ) {
        for format in FORMATS {
            cuts_do_not_matter(format.new, &text, &cuts);
        }
    }
}

/// Finds a marker only if it is not cut.
struct Forgetful;

impl OutputParser for Forgetful {
    fn push(&mut self, piece: String, events: &mut Vec<ParserEvent>) {
        let reasons = piece.contains("<think>");
        events.push(if reasons { ParserEvent::Reasoning(piece) } else { ParserEvent::Text(piece) });
    }

    fn finish(self: Box<Self>, _: &mut Vec<ParserEvent>) {}
}

/// Leaves a call open.
struct Unfinished;

impl OutputParser for Unfinished {
    fn push(&mut self, piece: String, events: &mut Vec<ParserEvent>) {
        events.push(ParserEvent::ToolCallStart { index: 0, name: piece });
    }

    fn finish(self: Box<Self>, _: &mut Vec<ParserEvent>) {}
}

#[test]
fn the_checks_find_parsers_that_are_wrong() {
    let forgetful = || cuts_do_not_matter(|| Box::new(Forgetful), "a<think>b", &[3]);
    assert!(catch_unwind(forgetful).is_err());
    assert!(catch_unwind(|| events(Box::new(Unfinished), &["f"])).is_err());
    assert!(catch_unwind(|| events(Box::new(Unfinished), &["f", "g"])).is_err());
    assert!(catch_unwind(|| events(Box::new(Forgetful), &[""])).is_err(), "an empty delta");
}
