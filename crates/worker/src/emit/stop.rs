//! Texts that end a generation.

/// Holds back output that may turn out to be the beginning of a stop text.
#[derive(Debug, Default)]
pub struct StopTexts {
    stops: Vec<String>,
    held: String,
}

/// What a piece of output led to.
#[derive(Debug, PartialEq, Eq)]
pub enum Scanned {
    /// This much is certain to be output.
    Text(String),
    /// This is output, and then a stop text came.
    Stopped(String),
}

impl StopTexts {
    /// Empty texts stop nothing.
    pub fn new(stops: &[String]) -> Self {
        Self { stops: stops.iter().filter(|stop| !stop.is_empty()).cloned().collect(), held: String::new() }
    }

    /// Takes the next piece.
    pub fn push(&mut self, piece: &str) -> Scanned {
        self.held.push_str(piece);
        if let Some(at) = self.stops.iter().filter_map(|stop| self.held.find(stop.as_str())).min() {
            self.held.truncate(at);
            return Scanned::Stopped(std::mem::take(&mut self.held));
        }
        let keep = self.stops.iter().map(|stop| overlap(&self.held, stop)).max().unwrap_or(0);
        let tail = self.held.split_off(self.held.len() - keep);
        Scanned::Text(std::mem::replace(&mut self.held, tail))
    }

    /// What was held back, when no more comes.
    pub fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }
}

/// Bytes of the longest end of `text` with which `stop` begins.
fn overlap(text: &str, stop: &str) -> usize {
    stop.char_indices()
        .map(|(at, _)| at)
        .skip(1)
        .filter(|&len| text.ends_with(&stop[..len]))
        .max()
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;

    fn scan(stops: &[&str], pieces: &[&str]) -> (String, bool) {
        let stops: Vec<String> = stops.iter().map(ToString::to_string).collect();
        let mut scanner = StopTexts::new(&stops);
        let mut output = String::new();
        for piece in pieces {
            match scanner.push(piece) {
                Scanned::Text(text) => output.push_str(&text),
                Scanned::Stopped(text) => return (output + &text, true),
            }
        }
        (output + &scanner.finish(), false)
    }

    #[test]
    fn a_stop_text_over_several_pieces_is_found_and_not_shown() {
        assert_eq!(scan(&["END"], &["a E", "N", "D b"]), ("a ".to_string(), true));
        assert_eq!(scan(&["END"], &["a E", "N", "X"]), ("a ENX".to_string(), false));
        assert_eq!(scan(&["é!", "\n\n"], &["caf", "é", "?\n"]), ("café?\n".to_string(), false));
        assert_eq!(scan(&[""], &["a"]), ("a".to_string(), false));
    }

    proptest! {
        #[test]
        fn pieces_do_not_matter(
            text in "[ab\u{e9}]{0,30}",
            stops in prop::collection::vec("[ab\u{e9}]{1,4}", 0..3),
            cuts in prop::collection::vec(0_usize..30, 0..10),
        ) {
            let stops: Vec<&str> = stops.iter().map(String::as_str).collect();
            let chars: Vec<char> = text.chars().collect();
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(chars.len())).collect();
            cuts.extend([0, chars.len()]);
            cuts.sort_unstable();
            let pieces: Vec<String> = cuts.windows(2).map(|w| chars[w[0]..w[1]].iter().collect()).collect();
            let pieces: Vec<&str> = pieces.iter().map(String::as_str).collect();
            // The first end of a stop text decides, so compare with character-wise feeding.
            let single: Vec<String> = chars.iter().map(ToString::to_string).collect();
            let single: Vec<&str> = single.iter().map(String::as_str).collect();
            let whole = scan(&stops, &pieces);
            let by_char = scan(&stops, &single);
            prop_assert_eq!(whole.1, by_char.1);
            if stops.len() <= 1 {
                prop_assert_eq!(whole.0, by_char.0);
            }
        }
    }
}
