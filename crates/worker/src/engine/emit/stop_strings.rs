//! Strings that end a generation.
//!
//! The output ends where the stop string that begins earliest begins, wherever the tokens' boundaries fall: as if the whole
//! output had been searched at once. So a stop string that was found waits while one that began before it may still come.
//! Of several that begin at the same place the one that ends first is meant; it matters only if it is shown.
//!
//! Each byte is looked at once for each stop string that may be under way: the work of a token grows neither with the
//! length of the stop strings nor with what was generated before.

use std::collections::VecDeque;

/// The stop strings of a request, prepared for searching. Made where requests are prepared: it takes time for long ones.
#[derive(Clone, Debug, Default)]
pub struct StopStrings {
    patterns: Vec<Pattern>,
}

/// One stop string, for the search of Knuth, Morris and Pratt.
#[derive(Clone, Debug)]
struct Pattern {
    bytes: Vec<u8>,
    /// For each length of a beginning, the next shorter one that it also ends with.
    shorter: Vec<u32>,
    /// It contains the text of a special token, which is in no output. So it is searched for in the output with them.
    special: bool,
}

/// Searches a growing output for [`StopStrings`].
#[derive(Debug, Default)]
pub struct Scanner {
    stops: StopStrings,
    /// How much of each pattern the output ends with now.
    partial: Vec<usize>,
    /// Patterns with a part.
    active: Vec<usize>,
    /// Output that is not certain yet, after some that was shown already.
    held: String,
    /// How much of `held` was shown.
    gone: usize,
    /// Where in the output `held` begins.
    base: usize,
    /// Hidden texts: where in the output they stood, and their bytes. Those that a pattern may still go back to.
    hidden: VecDeque<(usize, usize)>,
    /// Where the earliest stop string found so far begins and ends, as positions in the output.
    found: Option<(usize, usize)>,
    /// The stop string is shown.
    shows_stop: bool,
    /// A stop string that ends now ends nothing.
    disarmed: bool,
}

/// What the next part of the output led to.
#[derive(Debug, PartialEq, Eq)]
pub enum Scanned {
    /// This much is certain to be output.
    Text(String),
    /// This is output, and then a stop string came.
    Stopped(String),
}

impl StopStrings {
    /// Empty strings stop nothing. `is_special` tells whether a string contains the text of a special token.
    pub fn new(stops: &[String], is_special: impl Fn(&str) -> bool) -> Self {
        let mut stops: Vec<&String> = stops.iter().filter(|stop| !stop.is_empty()).collect();
        stops.sort_unstable();
        stops.dedup();
        Self { patterns: stops.into_iter().map(|stop| Pattern::new(stop, is_special(stop))).collect() }
    }

    fn is_empty(&self) -> bool {
        self.patterns.is_empty()
    }
}

impl Pattern {
    fn new(stop: &str, special: bool) -> Self {
        let bytes = stop.as_bytes().to_vec();
        let mut shorter = vec![0_u32; bytes.len() + 1];
        let mut len = 0;
        for at in 1..bytes.len() {
            while len > 0 && bytes[at] != bytes[len] {
                len = shorter[len] as usize;
            }
            len += usize::from(bytes[at] == bytes[len]);
            shorter[at + 1] = len as u32;
        }
        Self { bytes, shorter, special }
    }

    /// How much of it is there after `byte`, if `len` was before.
    fn next(&self, mut len: usize, byte: u8) -> usize {
        while len > 0 && (len == self.bytes.len() || self.bytes[len] != byte) {
            len = self.shorter[len] as usize;
        }
        len + usize::from(self.bytes[len] == byte)
    }
}

impl Scanner {
    /// At the beginning of an output.
    pub fn new(stops: StopStrings) -> Self {
        Self { partial: vec![0; stops.patterns.len()], stops, ..Self::default() }
    }

    /// From now on the stop string is shown, up to its end.
    pub fn show_stop(&mut self) {
        self.shows_stop = true;
    }

    /// Whether a stop string may end the output with what comes next. One that has begun before may, too.
    pub fn set_armed(&mut self, armed: bool) {
        self.disarmed = !armed;
    }

    /// Takes the next part of the output.
    pub fn push(&mut self, piece: &str) -> Scanned {
        if self.stops.is_empty() {
            return Scanned::Text(piece.to_owned());
        }
        let before = self.end();
        self.held.push_str(piece);
        for (n, &byte) in piece.as_bytes().iter().enumerate() {
            if self.take(byte, before + n + 1, false) {
                return self.stopped();
            }
        }
        Scanned::Text(self.certain())
    }

    /// Takes the text of a special token: stop strings may contain it, but it is not output.
    pub fn push_hidden(&mut self, text: &str) -> Scanned {
        if !self.stops.patterns.iter().any(|pattern| pattern.special) {
            return Scanned::Text(String::new());
        }
        let at = self.end();
        if self.hidden.back().is_none_or(|&(last, _)| last != at) {
            self.hidden.push_back((at, 0));
        }
        for &byte in text.as_bytes() {
            if let Some((_, len)) = self.hidden.back_mut() {
                *len += 1;
            }
            if self.take(byte, at, true) {
                return self.stopped();
            }
        }
        Scanned::Text(self.certain())
    }

    /// What was held back, when no more comes.
    pub fn finish(&mut self) -> Scanned {
        if self.found.is_some() {
            return self.stopped();
        }
        let end = self.end();
        Scanned::Text(self.show_until(end))
    }

    /// Something else comes before more of the output: nothing is held back any more, and no stop string is under way.
    pub fn interrupt(&mut self) -> Scanned {
        self.partial.fill(0);
        self.active.clear();
        self.finish()
    }

    /// Whether the stop string began after all output so far.
    pub fn stopped_at_end(&self) -> bool {
        self.found.is_some_and(|(start, _)| start == self.end())
    }

    /// How much output there was, with what is held back.
    fn end(&self) -> usize {
        self.base + self.held.len()
    }

    /// Takes one byte, which ends at `position` of the output. True if the earliest stop string is known.
    fn take(&mut self, byte: u8, position: usize, hidden: bool) -> bool {
        self.advance(byte, hidden);
        for &n in &self.active {
            if self.partial[n] == self.stops.patterns[n].bytes.len() && !self.disarmed {
                let start = self.begin(n, position);
                if self.found.is_none_or(|(found, _)| start < found) {
                    self.found = Some((start, position));
                }
            }
        }
        self.found.is_some_and(|(found, _)| self.earliest(position).is_none_or(|earliest| earliest >= found))
    }

    fn advance(&mut self, byte: u8, hidden: bool) {
        let patterns = &self.stops.patterns;
        self.active.clear();
        for (n, (pattern, partial)) in patterns.iter().zip(&mut self.partial).enumerate() {
            if !hidden || pattern.special {
                *partial = pattern.next(*partial, byte);
            }
            if *partial > 0 {
                self.active.push(n);
            }
        }
    }

    /// Where a stop string that is under way and not complete begins, the first of them.
    fn earliest(&self, position: usize) -> Option<usize> {
        let unfinished = |n: usize| {
            let (pattern, len) = (&self.stops.patterns[n], self.partial[n]);
            // Of one that is complete, a part of it may begin another.
            if len == pattern.bytes.len() { pattern.shorter[len] as usize } else { len }
        };
        let parts = self.active.iter().map(|&n| (n, unfinished(n))).filter(|&(_, len)| len > 0);
        parts.map(|(n, len)| self.back(n, position, len)).min()
    }

    /// Where the part of a pattern begins that ends at `position`.
    fn begin(&self, n: usize, position: usize) -> usize {
        self.back(n, position, self.partial[n])
    }

    /// The position in the output that is `len` bytes before `position`, hidden texts counted if the pattern sees them.
    fn back(&self, n: usize, position: usize, len: usize) -> usize {
        if !self.stops.patterns[n].special {
            return position - len;
        }
        let (mut position, mut left) = (position, len);
        for &(at, hidden) in self.hidden.iter().rev() {
            let between = position.saturating_sub(at);
            if left <= between {
                break;
            }
            left -= between;
            position = at;
            left = left.saturating_sub(hidden);
            if left == 0 {
                return position;
            }
        }
        position.saturating_sub(left)
    }

    /// Takes what can't be part of a stop string any more.
    fn certain(&mut self) -> String {
        let end = self.end();
        let start =
            self.earliest(end).into_iter().chain(self.found.map(|(start, _)| start)).min().unwrap_or(end);
        while self.hidden.front().is_some_and(|&(at, _)| at < start) {
            self.hidden.pop_front();
        }
        self.show_until(start)
    }

    fn stopped(&mut self) -> Scanned {
        let (start, end) = self.found.unwrap_or_default();
        Scanned::Stopped(self.show_until(if self.shows_stop { end } else { start }))
    }

    /// The output up to a position, as far as it was not shown.
    fn show_until(&mut self, position: usize) -> String {
        let until = position.saturating_sub(self.base).clamp(self.gone, self.held.len());
        let text = self.held.get(self.gone..until).unwrap_or_default().to_owned();
        self.gone += text.len();
        // Not every time: what stays can be long.
        if self.gone > self.held.len() / 2 {
            self.held.drain(..self.gone);
            self.base += self.gone;
            self.gone = 0;
        }
        text
    }
}

#[cfg(test)]
mod tests;
