//! Rust source without what only people read: comments and literals become blanks, lines stay where they are.

/// Replaces comments and the insides of string and character literals by spaces.
pub(super) fn mask(source: &str) -> String {
    let mut masked = String::with_capacity(source.len());
    let mut rest = source;
    let mut previous = ' ';
    while let Some(first) = rest.chars().next() {
        let length = literal_or_comment(rest, previous);
        let taken = if length == 0 { first.len_utf8() } else { length };
        let (now, after) = rest.split_at(taken);
        if length == 0 {
            masked.push(first);
        } else {
            masked.extend(now.chars().map(|character| if character == '\n' { '\n' } else { ' ' }));
        }
        previous = if length == 0 { first } else { ' ' };
        rest = after;
    }
    masked
}

/// The length in bytes of the literal or comment that `text` starts with; 0 if it starts with neither.
fn literal_or_comment(text: &str, previous: char) -> usize {
    if text.starts_with("//") {
        return text.find('\n').unwrap_or(text.len());
    }
    if text.starts_with("/*") {
        return block_comment(text);
    }
    if text.starts_with('"') {
        return quoted(text, '"');
    }
    if text.starts_with('\'') {
        return character(text);
    }
    // `r` and `b` begin a literal only where they begin a word.
    if previous.is_alphanumeric() || previous == '_' {
        return 0;
    }
    let prefix = text.find(|character| !matches!(character, 'r' | 'b' | 'c')).unwrap_or(0);
    if prefix == 0 || prefix > 2 {
        return 0;
    }
    let (letters, after) = text.split_at(prefix);
    match after.chars().next() {
        Some('"' | '#') if letters.ends_with('r') => raw(after).map_or(0, |length| prefix + length),
        Some('"') => prefix + quoted(after, '"'),
        _ => 0,
    }
}

fn block_comment(text: &str) -> usize {
    let mut depth = 0_usize;
    let mut at = 0;
    while let Some(found) = text[at..].find(['/', '*']) {
        at += found;
        let pair = text.get(at..at + 2);
        match pair {
            Some("/*") => depth += 1,
            Some("*/") => depth -= 1,
            _ => {
                at += 1;
                continue;
            }
        }
        at += 2;
        if depth == 0 {
            return at;
        }
    }
    text.len()
}

/// A literal that ends at the next `quote` without a backslash.
fn quoted(text: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, character) in text.char_indices().skip(1) {
        if escaped {
            escaped = false;
        } else if character == '\\' {
            escaped = true;
        } else if character == quote {
            return at + 1;
        }
    }
    text.len()
}

/// `'a'` and `'\n'`, but not the lifetime `'a`.
fn character(text: &str) -> usize {
    let mut characters = text.char_indices().skip(1);
    match (characters.next(), characters.next()) {
        (Some((_, '\\')), _) => quoted(text, '\''),
        (Some(_), Some((at, '\''))) => at + 1,
        _ => 0,
    }
}

/// `"..."` or `#"..."#` and so on, after the `r`; `None` for a raw identifier such as `r#type`.
fn raw(text: &str) -> Option<usize> {
    let hashes = text.find(|character| character != '#')?;
    if !text[hashes..].starts_with('"') {
        return None;
    }
    let end = format!("\"{}", "#".repeat(hashes));
    let body = hashes + 1;
    Some(text[body..].find(&end).map_or(text.len(), |at| body + at + end.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(source: &str) -> String {
        mask(source).split_whitespace().collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn comments_vanish_and_lines_stay() {
        assert_eq!(kept("a // unsafe\nb /* x /* y */ unsafe */ c"), "a b c");
        assert_eq!(mask("a\n/* b\n */c").lines().count(), 3);
    }

    #[test]
    fn strings_vanish() {
        assert_eq!(kept(r#"a("un\"safe", b"unsafe", 'x', b'\'') + c"#), "a( , , , b ) + c");
        assert_eq!(kept(r##"let s = r#"un"safe"#; t"##), "let s = ; t");
    }

    #[test]
    fn lifetimes_and_raw_identifiers_stay() {
        assert_eq!(kept("fn f<'a>(x: &'a str) { r#type }"), "fn f<'a>(x: &'a str) { r#type }");
        assert_eq!(kept("for \"s\" bar(rb)"), "for bar(rb)");
    }

    #[test]
    fn open_ends_do_not_run_past_the_text() {
        for source in ["\"open", "/* open", "r#\"open", "'\\", "'", "b", "r#"] {
            assert_eq!(mask(source).len(), source.len(), "{source}");
        }
    }
}
