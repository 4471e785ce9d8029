//! Where a template's tags and expressions are, and the tokens inside them.

use super::error::{MAX_SOURCE, Unusable};

/// Most tokens of one tag. The engine's compiler recurses over chains of operators; published templates stay far below.
const MAX_TAG_TOKENS: usize = 10_000;

/// Most `elif` of a template: the compiler recurses over them too.
const MAX_ELIFS: usize = 5_000;

/// A `{% … %}` or `{{ … }}`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Tag {
    /// `{% … %}`: a statement.
    pub(super) statement: bool,
    /// What is between its delimiters.
    pub(super) tokens: Vec<Token>,
}

/// One token of a tag, by its place in the source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Token {
    pub(super) kind: Kind,
    pub(super) start: usize,
    pub(super) end: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Name,
    Number,
    Text,
    Operator,
}

/// The tags of `source`, without those in comments and raw blocks.
///
/// # Errors
/// A tag is not closed, or has too many tokens.
pub(super) fn tags(source: &str) -> Result<Vec<Tag>, Unusable> {
    if source.len() > MAX_SOURCE {
        return Err(Unusable::TooLong(source.len()));
    }
    let mut scanner = Scanner { source, at: 0 };
    let (mut tags, mut elifs) = (Vec::new(), 0);
    while let Some(opening) = scanner.next_opening() {
        if opening == "{#" {
            scanner.skip_past("#}", "a comment")?;
            continue;
        }
        let tag = scanner.tag(opening == "{%")?;
        match tag.tokens.as_slice() {
            [name] if tag.statement && name.of(source) == "raw" => scanner.skip_raw()?,
            [name, ..] if tag.statement && name.of(source) == "elif" => elifs += 1,
            _ => {}
        }
        if elifs > MAX_ELIFS {
            return Err(Unusable::Syntax(format!("more than {MAX_ELIFS} elif branches")));
        }
        tags.push(tag);
    }
    Ok(tags)
}

impl Token {
    /// Its text.
    pub(super) fn of<'a>(&self, source: &'a str) -> &'a str {
        source.get(self.start..self.end).unwrap_or_default()
    }
}

struct Scanner<'a> {
    source: &'a str,
    at: usize,
}

impl<'a> Scanner<'a> {
    fn rest(&self) -> &'a str {
        self.source.get(self.at..).unwrap_or_default()
    }

    /// Moves past the next opening delimiter.
    fn next_opening(&mut self) -> Option<&'a str> {
        loop {
            let rest = self.rest();
            let brace = rest.find('{')?;
            let opening = rest.get(brace..brace + 2).filter(|it| matches!(*it, "{%" | "{{" | "{#"));
            self.at += brace + opening.map_or(1, str::len);
            if opening.is_some() {
                return opening;
            }
        }
    }

    fn skip_past(&mut self, end: &str, what: &str) -> Result<(), Unusable> {
        let Some(found) = self.rest().find(end) else { return Err(self.unclosed(what)) };
        self.at += found + end.len();
        Ok(())
    }

    /// Moves past the `{% endraw %}` that ends a raw block.
    fn skip_raw(&mut self) -> Result<(), Unusable> {
        loop {
            self.skip_past("{%", "a raw block")?;
            let rest = self.rest().trim_start_matches(['-', '+']).trim_start();
            if let Some(after) = rest.strip_prefix("endraw")
                && after.trim_start().trim_start_matches(['-', '+']).starts_with("%}")
            {
                return self.skip_past("%}", "a raw block");
            }
        }
    }

    /// The tag whose opening delimiter was just passed.
    fn tag(&mut self, statement: bool) -> Result<Tag, Unusable> {
        let end = if statement { "%}" } else { "}}" };
        let mut tokens = Vec::new();
        let mut depth = 0_usize;
        if self.rest().starts_with(['-', '+']) {
            self.at += 1;
        }
        loop {
            self.at += self.rest().len() - self.rest().trim_start().len();
            let rest = self.rest();
            // Inside brackets, `}}` closes two dictionaries.
            let signed = rest.strip_prefix(['-', '+']).is_some_and(|rest| rest.starts_with(end));
            if depth == 0 && (rest.starts_with(end) || signed) {
                self.at += end.len() + usize::from(signed);
                return Ok(Tag { statement, tokens });
            }
            let token = self.token()?;
            match token.of(self.source) {
                "(" | "[" | "{" => depth += 1,
                ")" | "]" | "}" => depth = depth.saturating_sub(1),
                _ => {}
            }
            tokens.push(token);
            if tokens.len() > MAX_TAG_TOKENS {
                return Err(Unusable::Syntax(format!("a tag has more than {MAX_TAG_TOKENS} tokens")));
            }
        }
    }

    fn token(&mut self) -> Result<Token, Unusable> {
        let rest = self.rest();
        let Some(first) = rest.chars().next() else { return Err(self.unclosed("a tag")) };
        let length = |part: &str| part.len();
        let (kind, len) = if first == '"' || first == '\'' {
            let Some(len) = text_len(rest, first) else { return Err(self.unclosed("a text")) };
            (Kind::Text, len)
        } else if first.is_ascii_digit() {
            (Kind::Number, number_len(rest))
        } else if is_word(first) {
            (Kind::Name, rest.find(|c| !is_word(c)).unwrap_or(rest.len()))
        } else {
            let long = ["==", "!=", "<=", ">=", "//", "**"].into_iter().find(|it| rest.starts_with(it));
            (Kind::Operator, long.map_or(first.len_utf8(), length))
        };
        let start = self.at;
        self.at += len;
        Ok(Token { kind, start, end: self.at })
    }

    fn unclosed(&self, what: &str) -> Unusable {
        let line = self.source.get(..self.at).unwrap_or_default().matches('\n').count() + 1;
        Unusable::Syntax(format!("{what} is not closed (line {line})"))
    }
}

fn is_word(c: char) -> bool {
    c == '_' || c.is_alphanumeric()
}

/// Bytes of a text literal, with its quotes.
fn text_len(rest: &str, quote: char) -> Option<usize> {
    let mut chars = rest.char_indices().skip(1);
    while let Some((at, c)) = chars.next() {
        match c {
            '\\' => drop(chars.next()),
            _ if c == quote => return Some(at + c.len_utf8()),
            _ => {}
        }
    }
    None
}

/// Bytes of a number: `1_000`, `0x1f`, `1.5`, `1e-7`.
fn number_len(rest: &str) -> usize {
    let bytes = rest.as_bytes();
    let is = |at: usize, test: fn(&u8) -> bool| bytes.get(at).is_some_and(test);
    let word = |mut at: usize| {
        while is(at, |b| b.is_ascii_alphanumeric() || *b == b'_') {
            at += 1;
        }
        at
    };
    let mut at = word(0);
    let decimal = !rest.starts_with("0x") && !rest.starts_with("0X");
    if decimal && is(at, |b| *b == b'.') && is(at + 1, u8::is_ascii_digit) {
        at = word(at + 1);
    }
    if decimal
        && is(at - 1, |b| matches!(b, b'e' | b'E'))
        && is(at, |b| matches!(b, b'-' | b'+'))
        && is(at + 1, u8::is_ascii_digit)
    {
        at = word(at + 1);
    }
    at
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn words(source: &str) -> Vec<Vec<&str>> {
        let tags = tags(source).unwrap();
        tags.iter().map(|tag| tag.tokens.iter().map(|token| token.of(source)).collect()).collect()
    }

    #[test]
    fn tags_have_tokens() {
        assert_eq!(
            words("a { {{- x.y|f('}}', 1.5e-3) -}} {%- if a!=b -%} {{ {'k': {1: 2}} }}"),
            [
                vec!["x", ".", "y", "|", "f", "(", "'}}'", ",", "1.5e-3", ")"],
                vec!["if", "a", "!=", "b"],
                vec!["{", "'k'", ":", "{", "1", ":", "2", "}", "}"],
            ]
        );
        assert_eq!(words("{{ l[1:2] }}{{ m[0].x }}{{ 1-1 }}{{ 'it\\'s' }}").len(), 4);
    }

    #[test]
    fn comments_and_raw_blocks_have_none() {
        assert_eq!(
            words("{# {{ x }} #}{% raw %}{{ y }}{% if %}{%- endraw -%}{{ z }}"),
            [vec!["raw"], vec!["z"]]
        );
    }

    #[test]
    fn what_is_not_closed_is_an_error() {
        for source in ["{{ x", "{% if x", "{# x", "{{ 'x }}", "{% raw %}x", "{{ (x }}"] {
            assert!(tags(source).is_err(), "{source}");
        }
    }

    #[test]
    fn sizes_are_bounded() {
        assert!(tags(&"x".repeat(MAX_SOURCE + 1)).is_err());
        assert!(tags(&format!("{{{{ {} }}}}", "a+".repeat(MAX_TAG_TOKENS))).is_err());
        assert!(tags(&"{% elif a %}".repeat(MAX_ELIFS + 1)).is_err());
    }
}
