//! Jinja's grammar of expressions: finds where they begin and end, and makes the [edits](super::edit::Edit) of a tag.

use super::{
    edit::Edit,
    scan::{Kind, Token},
};

/// Deepest nesting of one tag. The engine refuses more than 150.
const MAX_DEPTH: usize = 200;

/// Most operands of one call.
const MAX_ARGUMENTS: usize = 100;

/// Where an expression is in the source.
pub(super) type Span = (usize, usize);

pub(super) type Parsed<T = Span> = Result<T, String>;

/// Reads the tokens of one tag.
pub(super) struct Grammar<'a> {
    pub(super) source: &'a str,
    pub(super) tokens: &'a [Token],
    pub(super) at: usize,
    depth: usize,
    pub(super) edits: Vec<Edit>,
}

impl<'a> Grammar<'a> {
    pub(super) fn new(source: &'a str, tokens: &'a [Token]) -> Self {
        Self { source, tokens, at: 0, depth: 0, edits: Vec::new() }
    }

    pub(super) fn into_edits(self) -> Vec<Edit> {
        self.edits
    }

    /// Where in the source it has arrived.
    pub(super) fn position(&self) -> usize {
        self.tokens.get(self.at).or(self.tokens.last()).map_or(0, |token| token.start)
    }

    /// Nothing may be left.
    pub(super) fn end(&self) -> Parsed<()> {
        if self.at == self.tokens.len() { Ok(()) } else { Err(format!("unexpected {:?}", self.text())) }
    }

    /// `a`, `a, b`, `a,`: an expression or the items of a tuple.
    pub(super) fn tuple(&mut self, conditional: bool) -> Parsed {
        let mut span = self.expression(conditional)?;
        while self.eat(",") {
            span.1 = self.previous_end();
            if self.at == self.tokens.len() || matches!(self.text(), ")" | "if" | "recursive") {
                break;
            }
            span.1 = self.expression(conditional)?.1;
        }
        Ok(span)
    }

    /// `a if b else c`, and all that binds tighter.
    pub(super) fn expression(&mut self, conditional: bool) -> Parsed {
        let mut span = self.or()?;
        while conditional && self.eat("if") {
            span.1 = self.or()?.1;
            if self.eat("else") {
                span.1 = self.deeper(|this| this.expression(true))?.1;
            }
        }
        Ok(span)
    }

    fn or(&mut self) -> Parsed {
        self.chain(&["or"], |this| this.chain(&["and"], Self::not))
    }

    fn not(&mut self) -> Parsed {
        let start = self.position();
        if self.eat("not") {
            return Ok((start, self.deeper(Self::not)?.1));
        }
        self.comparison()
    }

    fn comparison(&mut self) -> Parsed {
        let mut span = self.sum()?;
        let mut compares = false;
        while let Some((end, operator)) = self.comparator() {
            let start = self.position();
            self.at += if operator == "not in" { 2 } else { 1 };
            self.edits.push(Edit::replace(start, end, format!(",'{operator}',")));
            span.1 = self.sum()?.1;
            compares = true;
        }
        if compares {
            self.wrap(span, "_kr_compare(", ")");
        }
        Ok(span)
    }

    fn comparator(&self) -> Option<(usize, &'a str)> {
        let next = self.tokens.get(self.at + 1);
        match self.text() {
            "not" => next.filter(|it| it.of(self.source) == "in").map(|it| (it.end, "not in")),
            operator @ ("==" | "!=" | "<" | "<=" | ">" | ">=" | "in") => {
                self.tokens.get(self.at).map(|it| (it.end, operator))
            }
            _ => None,
        }
    }

    fn sum(&mut self) -> Parsed {
        self.calls(&["-"], "+", "_kr_add(", Self::concatenation)
    }

    fn concatenation(&mut self) -> Parsed {
        self.calls(&[], "~", "_kr_concat(", Self::product)
    }

    fn product(&mut self) -> Parsed {
        self.calls(&["*", "/", "//"], "%", "_kr_modulo(", Self::power)
    }

    /// A chain of operators of which `called` becomes a call.
    fn calls(
        &mut self,
        kept: &[&str],
        called: &str,
        open: &str,
        operand: impl Fn(&mut Self) -> Parsed,
    ) -> Parsed {
        let mut span = operand(self)?;
        // One call for many that follow each other: the engine limits both arguments and calls in calls.
        let mut operands = 1;
        loop {
            let is_called = self.text() == called;
            if operands == MAX_ARGUMENTS || (operands > 1 && !is_called) {
                self.wrap(span, open, ")");
                operands = 1;
            }
            if is_called {
                self.comma();
                operands += 1;
            } else if kept.contains(&self.text()) {
                self.at += 1;
            } else {
                return Ok(span);
            }
            span.1 = operand(self)?.1;
        }
    }

    fn power(&mut self) -> Parsed {
        self.chain(&["**"], Self::unary)
    }

    fn unary(&mut self) -> Parsed {
        let start = self.position();
        if self.eat("-") || self.eat("+") {
            return Ok((start, self.deeper(Self::unary)?.1));
        }
        self.primary()?;
        self.postfix()?;
        self.filters()?;
        Ok((start, self.previous_end()))
    }

    fn primary(&mut self) -> Parsed<()> {
        let Some(token) = self.tokens.get(self.at) else { return Err("an expression is missing".into()) };
        match (token.kind, token.of(self.source)) {
            (Kind::Text, _) => self.texts(),
            (Kind::Name | Kind::Number, _) => self.at += 1,
            (_, "(") => self.bracketed(")", |this| this.expression(true).map(drop))?,
            (_, "[") => self.bracketed("]", |this| this.expression(true).map(drop))?,
            (_, "{") => self.bracketed("}", Self::entry)?,
            (_, other) => return Err(format!("unexpected {other:?}")),
        }
        Ok(())
    }

    /// Adjacent string literals are one string.
    fn texts(&mut self) {
        let (first, quote) = (self.at, self.text().chars().next().unwrap_or('\''));
        let mut joined = String::new();
        while let Some(token) = self.tokens.get(self.at).filter(|token| token.kind == Kind::Text) {
            let content = self.source.get(token.start + 1..token.end - 1).unwrap_or_default();
            if self.text().starts_with(quote) {
                joined.push_str(content);
            } else {
                joined.push_str(&content.replace(quote, &format!("\\{quote}")));
            }
            self.at += 1;
        }
        if self.at > first + 1 {
            // The first quote stays.
            let start = self.tokens.get(first).map_or(0, |token| token.start + 1);
            joined.push(quote);
            self.edits.push(Edit::replace(start, self.previous_end(), joined));
        }
    }

    fn entry(&mut self) -> Parsed<()> {
        let literal = self.tokens.get(self.at).is_some_and(|it| matches!(it.kind, Kind::Text | Kind::Number));
        let first = self.at;
        let key = self.expression(true)?;
        if !literal || self.at != first + 1 {
            self.wrap(key, "_kr_key(", ")");
        }
        self.expect(":")?;
        self.expression(true).map(drop)
    }

    fn postfix(&mut self) -> Parsed<()> {
        loop {
            match self.text() {
                "." => {
                    self.at += 2;
                    let method = self.tokens.get(self.at - 1).map_or("", |token| token.of(self.source));
                    // The engine compares the arguments with those before.
                    if method == "changed" && self.text() == "(" {
                        self.bracketed(")", |this| {
                            let span = this.expression(true)?;
                            this.wrap(span, "_kr_checked(", ")");
                            Ok(())
                        })?;
                    }
                }
                "[" => self.subscript()?,
                "(" => self.call()?,
                _ => return Ok(()),
            }
        }
    }

    fn subscript(&mut self) -> Parsed<()> {
        self.expect("[")?;
        let first = self.at;
        let literal = self.tokens.get(self.at).is_some_and(|it| matches!(it.kind, Kind::Text | Kind::Number));
        let mut slice = false;
        let mut key = None;
        while self.text() != "]" {
            if self.eat(":") {
                slice = true;
            } else {
                key = Some(self.deeper(|this| this.tuple(true))?);
            }
        }
        let plain = slice || (literal && self.at == first + 1);
        if let Some(key) = key.filter(|_| !plain) {
            self.wrap(key, "_kr_key(", ")");
        }
        self.expect("]")
    }

    fn call(&mut self) -> Parsed<()> {
        self.bracketed(")", |this| {
            let named = this.tokens.get(this.at + 1).is_some_and(|it| it.of(this.source) == "=");
            if named {
                this.name()?;
                this.expect("=")?;
            } else if !this.eat("*") {
                this.eat("**");
            }
            this.expression(true).map(drop)
        })
    }

    /// Filters, tests, and calls of what they give.
    pub(super) fn filters(&mut self) -> Parsed<()> {
        loop {
            match self.text() {
                "|" => {
                    self.at += 1;
                    self.filter_name()?;
                }
                "is" => self.test()?,
                "(" => self.call()?,
                _ => return Ok(()),
            }
        }
    }

    pub(super) fn filter_name(&mut self) -> Parsed<()> {
        self.name()?;
        while self.eat(".") {
            self.name()?;
        }
        if self.text() == "(" { self.call() } else { Ok(()) }
    }

    fn test(&mut self) -> Parsed<()> {
        self.expect("is")?;
        self.eat("not");
        self.name()?;
        while self.eat(".") {
            self.name()?;
        }
        let Some(token) = self.tokens.get(self.at) else { return Ok(()) };
        match (token.kind, token.of(self.source)) {
            (_, "(") => self.call(),
            (Kind::Name, "else" | "or" | "and" | "is" | "if" | "in" | "not" | "recursive") => Ok(()),
            (Kind::Operator, "[" | "{") | (Kind::Name | Kind::Number | Kind::Text, _) => {
                self.primary()?;
                self.postfix()
            }
            _ => Ok(()),
        }
    }

    /// Items between brackets, separated by commas.
    fn bracketed(&mut self, close: &str, item: impl Fn(&mut Self) -> Parsed<()>) -> Parsed<()> {
        self.at += 1;
        self.deeper(|this| {
            while this.text() != close {
                item(this)?;
                if !this.eat(",") {
                    break;
                }
            }
            this.expect(close)
        })
    }

    fn chain(&mut self, operators: &[&str], operand: impl Fn(&mut Self) -> Parsed) -> Parsed {
        let mut span = operand(self)?;
        while operators.contains(&self.text()) {
            self.at += 1;
            span.1 = operand(self)?.1;
        }
        Ok(span)
    }

    fn deeper<T>(&mut self, parse: impl FnOnce(&mut Self) -> Parsed<T>) -> Parsed<T> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err("too deeply nested".into());
        }
        let parsed = parse(self);
        self.depth -= 1;
        parsed
    }

    pub(super) fn wrap(&mut self, span: Span, open: &str, close: &str) {
        self.edits.push(Edit::open(span.0, open));
        self.edits.push(Edit::close(span.1, close));
    }

    /// Takes an operator and writes a comma in its place.
    fn comma(&mut self) {
        if let Some(token) = self.tokens.get(self.at) {
            self.edits.push(Edit::replace(token.start, token.end, ","));
            self.at += 1;
        }
    }

    pub(super) fn text(&self) -> &'a str {
        self.tokens.get(self.at).map_or("", |token| token.of(self.source))
    }

    fn previous_end(&self) -> usize {
        self.at.checked_sub(1).and_then(|at| self.tokens.get(at)).map_or(0, |token| token.end)
    }

    pub(super) fn eat(&mut self, text: &str) -> bool {
        let found = self.text() == text;
        self.at += usize::from(found);
        found
    }

    pub(super) fn expect(&mut self, text: &str) -> Parsed<()> {
        if self.eat(text) { Ok(()) } else { Err(format!("expected {text:?}, found {:?}", self.text())) }
    }

    pub(super) fn name(&mut self) -> Parsed<()> {
        let is_name = self.tokens.get(self.at).is_some_and(|token| token.kind == Kind::Name);
        self.at += usize::from(is_name);
        if is_name { Ok(()) } else { Err(format!("expected a name, found {:?}", self.text())) }
    }
}
