#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;

/// A part of the output, or the text of a special token.
#[derive(Clone, Debug)]
enum Piece {
    Shown(String),
    Hidden(String),
}

fn scan(stops: &[&str], pieces: &[Piece]) -> (String, bool) {
    scan_with(stops, pieces, false)
}

fn scan_with(stops: &[&str], pieces: &[Piece], shows_stop: bool) -> (String, bool) {
    let stops: Vec<String> = stops.iter().map(ToString::to_string).collect();
    let mut scanner = Scanner::new(StopStrings::new(&stops, |stop| stop.contains("<s>")));
    if shows_stop {
        scanner.show_stop();
    }
    let mut output = String::new();
    for piece in pieces {
        let scanned = match piece {
            Piece::Shown(text) => scanner.push(text),
            Piece::Hidden(text) => scanner.push_hidden(text),
        };
        match scanned {
            Scanned::Text(text) => output.push_str(&text),
            Scanned::Stopped(text) => return (output + &text, true),
        }
    }
    match scanner.finish() {
        Scanned::Text(text) => (output + &text, false),
        Scanned::Stopped(text) => (output + &text, true),
    }
}

fn shown(stops: &[&str], pieces: &[&str]) -> (String, bool) {
    let pieces: Vec<Piece> = pieces.iter().map(|piece| Piece::Shown((*piece).into())).collect();
    scan(stops, &pieces)
}

/// The earliest beginning of any stop string in the whole output.
fn naive(stops: &[&str], text: &str) -> (String, bool) {
    match stops.iter().filter(|stop| !stop.is_empty()).filter_map(|stop| text.find(stop)).min() {
        Some(at) => (text[..at].to_owned(), true),
        None => (text.to_owned(), false),
    }
}

/// The same, up to the end of the one that begins there and ends first.
fn naive_shown(stops: &[&str], text: &str) -> (String, bool) {
    let found =
        stops.iter().filter(|stop| !stop.is_empty()).filter_map(|stop| Some((text.find(stop)?, stop.len())));
    match found.min() {
        Some((at, len)) => (text[..at + len].to_owned(), true),
        None => (text.to_owned(), false),
    }
}

fn pieces(text: &str, cuts: &[usize]) -> Vec<String> {
    let chars: Vec<char> = text.chars().collect();
    let mut cuts: Vec<usize> = cuts.iter().map(|&cut| cut.min(chars.len())).collect();
    cuts.extend([0, chars.len()]);
    cuts.sort_unstable();
    cuts.windows(2).map(|w| chars[w[0]..w[1]].iter().collect()).collect()
}

#[test]
fn a_stop_string_over_several_pieces_is_found_and_not_shown() {
    assert_eq!(shown(&["END"], &["a E", "N", "D b"]), ("a ".to_string(), true));
    assert_eq!(shown(&["END"], &["a E", "N", "X"]), ("a ENX".to_string(), false));
    assert_eq!(shown(&["é!", "\n\n"], &["caf", "é", "?\n"]), ("café?\n".to_string(), false));
    assert_eq!(shown(&[""], &["a"]), ("a".to_string(), false));
}

#[test]
fn the_one_that_begins_earliest_wins() {
    assert_eq!(shown(&["abc", "b"], &["xab", "c"]), ("x".to_string(), true));
    assert_eq!(shown(&["abc", "b"], &["xab", "d"]), ("xa".to_string(), true));
    assert_eq!(shown(&["abc", "b"], &["xab"]), ("xa".to_string(), true));
}

#[test]
fn texts_of_special_tokens_stop_and_are_not_shown() {
    let piece = |text: &str| Piece::Shown(text.into());
    let special = Piece::Hidden("<s>".into());
    let output = [piece("a"), special.clone(), piece("b")];
    assert_eq!(scan(&["<s>"], &output), ("a".to_string(), true));
    assert_eq!(scan(&["a<s>"], &output), (String::new(), true));
    assert_eq!(scan(&["a<s>b"], &output), (String::new(), true));
    assert_eq!(scan(&["a<s>c", "b"], &output), ("a".to_string(), true));
    // What is not shown is not between what is.
    assert_eq!(scan(&["ab"], &output), (String::new(), true));
    assert_eq!(scan(&["s>"], &output), ("ab".to_string(), false));
    assert_eq!(scan(&["<s>"], &[piece("x<"), piece("s>y")]), ("x".to_string(), true));
    assert_eq!(
        scan(&["<s><s>b"], &[piece("a"), special.clone(), special, piece("b")]),
        ("a".to_string(), true)
    );
}

#[test]
fn a_stop_string_that_ends_while_nothing_may_end_does_not_count() {
    let mut scanner = Scanner::new(StopStrings::new(&["ab".into(), "cd".into()], |_| false));
    scanner.set_armed(false);
    assert_eq!(scanner.push("xab"), Scanned::Text("xab".into()));
    assert_eq!(scanner.push("yc"), Scanned::Text("y".into()));
    scanner.set_armed(true);
    assert_eq!(scanner.push("dz"), Scanned::Stopped(String::new()), "it ends now");
}

/// A stop string as long as this one was searched for from its beginning for each token.
#[test]
fn what_is_held_back_is_not_looked_at_again() {
    let len = 200_000;
    let stop = "a".repeat(len) + "b";
    let mut scanner = Scanner::new(StopStrings::new(&[stop], |_| false));
    let mut shown = 0;
    for _ in 0..2 * len {
        match scanner.push("a") {
            Scanned::Text(text) => shown += text.len(),
            Scanned::Stopped(_) => panic!("it has not come"),
        }
    }
    assert_eq!(shown, len);
    assert!(scanner.held.len() <= 2 * len + 2);
}

proptest! {
    #[test]
    fn pieces_do_not_matter(
        text in "[ab\u{e9}]{0,30}",
        stops in prop::collection::vec("[ab\u{e9}]{0,5}", 0..6),
        cuts in prop::collection::vec(0_usize..30, 0..10),
    ) {
        let stops: Vec<&str> = stops.iter().map(String::as_str).collect();
        let pieces = pieces(&text, &cuts);
        let pieces: Vec<&str> = pieces.iter().map(String::as_str).collect();
        prop_assert_eq!(shown(&stops, &pieces), naive(&stops, &text));
        let pieces: Vec<Piece> = pieces.iter().map(|piece| Piece::Shown((*piece).into())).collect();
        prop_assert_eq!(scan_with(&stops, &pieces, true), naive_shown(&stops, &text));
    }

    #[test]
    fn special_tokens_between_do_not_matter(
        text in "[ab]{0,20}",
        stops in prop::collection::vec("[ab]{1,4}", 0..4),
        specials in prop::collection::vec(("[ab]{0,2}<s>[ab]{0,2}", Just(())), 0..3),
        cuts in prop::collection::vec(0_usize..20, 0..8),
    ) {
        // The output with and without special tokens, each at a cut.
        let mut all = String::new();
        let mut output = Vec::new();
        let mut positions = Vec::new();
        for (n, piece) in pieces(&text, &cuts).iter().enumerate() {
            positions.extend((0..piece.len()).map(|at| (all.len() + at, output_len(&output) + at)));
            all.push_str(piece);
            output.push(Piece::Shown(piece.clone()));
            if n % 2 == 0 {
                positions.extend((0..3).map(|at| (all.len() + at, output_len(&output))));
                all.push_str("<s>");
                output.push(Piece::Hidden("<s>".into()));
            }
        }
        let with: Vec<&str> = specials.iter().map(|(stop, ())| stop.as_str()).collect();
        let in_all = with.iter().filter_map(|stop| all.find(stop)).map(|at| {
            positions.iter().find(|&&(position, _)| position == at).unwrap().1
        });
        let plain: Vec<&str> = stops.iter().map(String::as_str).collect();
        let in_text = plain.iter().filter_map(|stop| text.find(stop));
        let expected = match in_all.chain(in_text).min() {
            Some(at) => (text[..at].to_owned(), true),
            None => (text.clone(), false),
        };
        let every: Vec<&str> = plain.iter().chain(&with).copied().collect();
        prop_assert_eq!(scan(&every, &output), expected);
    }
}

fn output_len(output: &[Piece]) -> usize {
    output.iter().map(|piece| if let Piece::Shown(text) = piece { text.len() } else { 0 }).sum()
}
