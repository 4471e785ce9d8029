//! What holds for every format.
#![allow(clippy::unwrap_used)]

use std::{collections::BTreeSet, panic::catch_unwind};

use proptest::prelude::*;

use super::*;
use crate::ParserEvent;

/// A part of an output, as tokens give it.
#[derive(Clone, Copy, Debug)]
enum Piece<'a> {
    Text(&'a str),
    Special(&'a str),
}

/// The events of an output that comes in these pieces, with deltas that belong together joined.
///
/// # Panics
/// The events break a rule of [`ParserEvent`].
fn events(mut parser: Box<dyn OutputParser>, pieces: &[Piece<'_>]) -> Vec<ParserEvent> {
    let mut events = Vec::new();
    for piece in pieces {
        match piece {
            Piece::Text(text) => parser.push((*text).to_owned(), &mut events),
            Piece::Special(text) => parser.push_special(text, &mut events),
        }
    }
    parser.finish(&mut events);
    check(&events);
    joined(events)
}

/// An output, of which everything that looks like one is a special token.
fn pieces(mut text: &str) -> Vec<Piece<'_>> {
    let mut pieces = Vec::new();
    while let Some((before, rest)) = text.split_once("<|") {
        let Some((name, _)) = rest.split_once("|>").filter(|(name, _)| name.chars().all(char::is_lowercase))
        else {
            break;
        };
        let (start, end) = (before.len(), before.len() + name.len() + 4);
        pieces.extend([Piece::Text(before), Piece::Special(&text[start..end])]);
        text = &text[end..];
    }
    pieces.push(Piece::Text(text));
    pieces
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

/// The text pieces cut at the character boundaries at or below `cuts`, each of them at the same ones.
fn cut<'a>(whole: &[Piece<'a>], cuts: &[usize]) -> Vec<Piece<'a>> {
    let mut pieces = Vec::new();
    for &piece in whole {
        let Piece::Text(text) = piece else {
            pieces.push(piece);
            continue;
        };
        let ends: BTreeSet<usize> = cuts.iter().map(|cut| text.floor_char_boundary(*cut)).collect();
        let mut from = 0;
        for end in ends.into_iter().chain([text.len()]) {
            pieces.push(Piece::Text(&text[from..end]));
            from = end;
        }
    }
    pieces
}

fn cuts_do_not_matter(new: fn() -> Box<dyn OutputParser>, text: &str, cuts: &[usize]) {
    let pieces = pieces(text);
    let whole = events(new(), &pieces);
    assert_eq!(events(new(), &cut(&pieces, cuts)), whole, "{text:?} cut at {cuts:?}");
    let everywhere: Vec<usize> = (0..text.len()).collect();
    assert_eq!(events(new(), &cut(&pieces, &everywhere)), whole, "{text:?} by characters");
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
fn a_template_tells_the_format() {
    let names: BTreeSet<&str> = FORMATS.iter().map(|format| format.name).collect();
    assert_eq!(names.len(), FORMATS.len(), "{names:?}");
    let of = |source| Format::of_template(source).name;
    assert_eq!(of("<|start|>{{ role }}<|channel|>final<|message|>{{ content }}<|end|>"), "harmony");
    assert_eq!(of("<|start|>{{ role }}<|message|>{{ content }}<|end|>"), "plain");
    assert_eq!(of("{{ messages }}"), "plain");
    assert!(PLAIN.is_plain() && !HARMONY.is_plain());
}

#[test]
fn plain_output_is_text_and_nothing_else() {
    let of = |text| events(PLAIN.parser(), &pieces(text));
    assert_eq!(of("a<think>b"), [ParserEvent::Text("a<think>b".into())]);
    assert_eq!(of("a<|channel|>b"), [ParserEvent::Text("ab".into())]);
    assert_eq!(of(""), []);
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
#[derive(Debug)]
struct Forgetful;

impl OutputParser for Forgetful {
    fn push(&mut self, piece: String, events: &mut Vec<ParserEvent>) {
        let reasons = piece.contains("<think>");
        events.push(if reasons { ParserEvent::Reasoning(piece) } else { ParserEvent::Text(piece) });
    }

    fn push_special(&mut self, _: &str, _: &mut Vec<ParserEvent>) {}

    fn in_answer(&self) -> bool {
        true
    }

    fn finish(&mut self, _: &mut Vec<ParserEvent>) {}
}

/// Leaves a call open.
#[derive(Debug)]
struct Unfinished;

impl OutputParser for Unfinished {
    fn push(&mut self, piece: String, events: &mut Vec<ParserEvent>) {
        events.push(ParserEvent::ToolCallStart { index: 0, name: piece });
    }

    fn push_special(&mut self, _: &str, _: &mut Vec<ParserEvent>) {}

    fn in_answer(&self) -> bool {
        false
    }

    fn finish(&mut self, _: &mut Vec<ParserEvent>) {}
}

#[test]
fn the_checks_find_parsers_that_are_wrong() {
    let forgetful = || cuts_do_not_matter(|| Box::new(Forgetful), "a<think>b", &[3]);
    assert!(catch_unwind(forgetful).is_err());
    assert!(catch_unwind(|| events(Box::new(Unfinished), &[Piece::Text("f")])).is_err());
    assert!(catch_unwind(|| events(Box::new(Unfinished), &[Piece::Text("f"), Piece::Text("g")])).is_err());
    assert!(catch_unwind(|| events(Box::new(Forgetful), &[Piece::Text("")])).is_err(), "an empty delta");
}
