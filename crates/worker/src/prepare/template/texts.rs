//! What Python's methods of texts do, as functions of texts.

/// Python's `str.isspace`, which takes four separators more than Unicode's white space.
pub(super) fn is_space(c: char) -> bool {
    c.is_whitespace() || matches!(c, '\u{1c}'..='\u{1f}')
}

/// A digit of a decimal number.
pub(super) fn is_decimal(c: char) -> bool {
    c.is_ascii_digit() || (c.is_numeric() && !c.is_ascii() && !is_other_number(c))
}

/// A digit, raised ones too.
pub(super) fn is_digit(c: char) -> bool {
    is_decimal(c)
        || matches!(c, '\u{b2}' | '\u{b3}' | '\u{b9}' | '\u{2070}' | '\u{2074}'..='\u{2079}' | '\u{2080}'..='\u{2089}' | '\u{2460}'..='\u{2468}')
}

/// Fractions, raised and encircled numbers, numerals of letters and of Chinese.
fn is_other_number(c: char) -> bool {
    matches!(
        u32::from(c),
        0xb2 | 0xb3 | 0xb9 | 0xbc..=0xbe | 0x9f4..=0x9f9 | 0xb72..=0xb77 | 0xbf0..=0xbf2 | 0xf2a..=0xf33
            | 0x1369..=0x137c | 0x16ee..=0x16f0 | 0x17f0..=0x17f9 | 0x2070..=0x218b | 0x2460..=0x249b
            | 0x24ea..=0x24ff | 0x2776..=0x2793 | 0x2cfd | 0x3007..=0x3038 | 0x3192..=0x3195 | 0x3220..=0x32bf
            | 0x3400..=0x9fff | 0xf900..=0xfaff | 0x10107..=0x1018b | 0x1f100..=0x1f10c
    )
}

pub(super) fn strip<'a>(text: &'a str, chars: Option<&str>, left: bool, right: bool) -> &'a str {
    let goes = |c: char| chars.map_or_else(|| is_space(c), |chars| chars.contains(c));
    let text = if left { text.trim_start_matches(goes) } else { text };
    if right { text.trim_end_matches(goes) } else { text }
}

/// Splits at a separator, or at white space; at most `limit` times, from the left or from the right.
pub(super) fn split(text: &str, separator: Option<&str>, limit: usize, from_right: bool) -> Vec<String> {
    let mut parts: Vec<&str> = match (separator, from_right) {
        (Some(separator), false) => text.splitn(limit.saturating_add(1), separator).collect(),
        (Some(separator), true) => text.rsplitn(limit.saturating_add(1), separator).collect(),
        (None, false) => words(text, limit),
        (None, true) => words_from_right(text, limit),
    };
    if from_right {
        parts.reverse();
    }
    parts.into_iter().map(str::to_owned).collect()
}

fn words(text: &str, limit: usize) -> Vec<&str> {
    let mut rest = text.trim_start_matches(is_space);
    let mut parts = Vec::new();
    while parts.len() < limit
        && let Some(end) = rest.find(is_space)
    {
        let (word, after) = rest.split_at(end);
        parts.push(word);
        rest = after.trim_start_matches(is_space);
    }
    if !rest.is_empty() {
        // Of a rest that was not split, Python keeps the white space at its end.
        parts.push(rest);
    }
    parts
}

/// The last word first.
fn words_from_right(text: &str, limit: usize) -> Vec<&str> {
    let mut rest = text.trim_end_matches(is_space);
    let mut parts = Vec::new();
    while parts.len() < limit
        && let Some((start, space)) = rest.char_indices().rev().find(|&(_, c)| is_space(c))
    {
        let (before, word) = rest.split_at(start + space.len_utf8());
        parts.push(word);
        rest = before.trim_end_matches(is_space);
    }
    if !rest.is_empty() {
        parts.push(rest);
    }
    parts
}

/// Python's `str.splitlines`.
pub(super) fn lines(text: &str, keep_ends: bool) -> Vec<String> {
    let ends = ['\n', '\r', '\u{b}', '\u{c}', '\u{1c}', '\u{1d}', '\u{1e}', '\u{85}', '\u{2028}', '\u{2029}'];
    let mut lines = Vec::new();
    let mut rest = text;
    while let Some(end) = rest.find(ends) {
        let (line, after) = rest.split_at(end);
        let ending =
            if after.starts_with("\r\n") { 2 } else { after.chars().next().map_or(0, char::len_utf8) };
        let (ending, after) = after.split_at(ending);
        lines.push(if keep_ends { format!("{line}{ending}") } else { line.to_owned() });
        rest = after;
    }
    if !rest.is_empty() {
        lines.push(rest.to_owned());
    }
    lines
}

pub(super) fn partition(text: &str, separator: &str, from_right: bool) -> [String; 3] {
    let found = if from_right { text.rsplit_once(separator) } else { text.split_once(separator) };
    let parts = match found {
        Some((before, after)) => [before, separator, after],
        None if from_right => ["", "", text],
        None => [text, "", ""],
    };
    parts.map(str::to_owned)
}

/// Python's `center`, `ljust`, `rjust` and `zfill`.
pub(super) fn padded(text: &str, method: &str, width: usize, fill: char) -> String {
    let missing = width.saturating_sub(text.chars().count());
    let fill = |count: usize| std::iter::repeat_n(if method == "zfill" { '0' } else { fill }, count);
    let mut padded = String::with_capacity(text.len() + missing);
    let (sign, digits) = text.split_at(usize::from(method == "zfill" && text.starts_with(['-', '+'])));
    padded.push_str(sign);
    let before = match method {
        "ljust" => 0,
        // Where one more is needed, it goes left if the width is odd.
        "center" => missing / 2 + (missing & width & 1),
        _ => missing,
    };
    padded.extend(fill(before));
    padded.push_str(digits);
    padded.extend(fill(missing - before));
    padded
}

pub(super) fn expand_tabs(text: &str, size: usize) -> String {
    let mut column = 0;
    let mut expanded = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\t' => {
                let spaces = size.checked_sub(column % size.max(1)).unwrap_or_default();
                expanded.extend(std::iter::repeat_n(' ', spaces));
                column += spaces;
            }
            '\n' | '\r' => {
                expanded.push(c);
                column = 0;
            }
            _ => {
                expanded.push(c);
                column += 1;
            }
        }
    }
    expanded
}

pub(super) fn swap_case(text: &str) -> String {
    let mut swapped = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_uppercase() { swapped.extend(c.to_lowercase()) } else { swapped.extend(c.to_uppercase()) }
    }
    swapped
}

pub(super) fn is_title(text: &str) -> bool {
    let (mut after_letter, mut found) = (false, false);
    for c in text.chars() {
        if (c.is_uppercase() && after_letter) || (c.is_lowercase() && !after_letter) {
            return false;
        }
        after_letter = c.is_uppercase() || c.is_lowercase();
        found |= after_letter;
    }
    found
}

/// The part of a text between two positions as in `text[start:end]`, and how many characters are before it; `None` if
/// it begins behind the end.
pub(super) fn slice(text: &str, start: Option<i64>, end: Option<i64>) -> Option<(usize, &str)> {
    if start.is_none() && end.is_none() {
        return Some((0, text));
    }
    let len = text.chars().count();
    let position = |at: i64| {
        let at = if at < 0 { at.saturating_add(i64::try_from(len).unwrap_or(i64::MAX)) } else { at };
        usize::try_from(at).unwrap_or_default()
    };
    let (start, end) = (start.map_or(0, position), end.map_or(len, position).min(len));
    if start > end {
        return None;
    }
    let byte = |at: usize| text.char_indices().nth(at).map_or(text.len(), |(byte, _)| byte);
    Some((start, text.get(byte(start)..byte(end)).unwrap_or_default()))
}

/// Escaped for HTML, as Jinja does it.
pub(super) fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '\'' => out.push_str("&#39;"),
            '"' => out.push_str("&#34;"),
            c => out.push(c),
        }
    }
    out
}
