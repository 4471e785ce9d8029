//! Jinja's grammar of statements: where the expressions are in a `{% … %}`.

use super::{
    dict::is_private,
    edit::Edit,
    grammar::{Grammar, Parsed},
};

impl Grammar<'_> {
    /// What a `{% … %}` holds.
    pub(super) fn statement(&mut self) -> Parsed<()> {
        let keyword = self.text();
        self.at += 1;
        match keyword {
            "for" => self.for_head()?,
            "if" | "elif" => drop(self.tuple(false)?),
            "set" => self.set_head()?,
            "with" => self.assignments(&[])?,
            "macro" => {
                self.name()?;
                self.parameters()?;
            }
            "call" => {
                if self.text() == "(" {
                    self.parameters()?;
                }
                self.tuple(true)?;
            }
            "filter" => {
                self.filter_name()?;
                self.filters()?;
            }
            "do" => drop(self.tuple(true)?),
            "generation" => self.rename("with"),
            "endgeneration" => self.rename("endwith"),
            // Of these the engine sees to the rest.
            "include" | "extends" | "import" | "from" | "autoescape" => {
                self.tuple(false)?;
                self.at = self.tokens.len();
            }
            // They have no expression.
            _ => self.at = self.tokens.len(),
        }
        Ok(())
    }

    fn for_head(&mut self) -> Parsed<()> {
        while self.text() != "in" {
            if self.at == self.tokens.len() {
                return Err("a for without in".into());
            }
            self.at += 1;
        }
        self.at += 1;
        let items = self.tuple(false)?;
        self.wrap(items, "_kr_iter((", "))");
        if self.eat("if") {
            self.expression(true)?;
        }
        self.eat("recursive");
        Ok(())
    }

    /// `x = …`, or the head of a block: `x | filter`.
    fn set_head(&mut self) -> Parsed<()> {
        loop {
            match self.text() {
                "=" => {
                    let private = self.private_target();
                    self.at += 1;
                    let value = self.tuple(true)?;
                    if let Some(name) = private {
                        self.wrap(value, &format!("_kr_private({name:?}, ("), "))");
                    }
                    return Ok(());
                }
                "|" => return self.filters(),
                _ if self.at == self.tokens.len() => return Ok(()),
                _ => self.at += 1,
            }
        }
    }

    /// The name in `ns._name =`.
    fn private_target(&self) -> Option<String> {
        let text = |at: usize| self.tokens.get(at).map_or("", |token| token.of(self.source));
        let names = (2..self.at).filter(|at| text(at - 1) == ".");
        names.map(text).find(|name| is_private(name)).map(str::to_owned)
    }

    /// `a = 1, b = 2`, until a token of `ends`. A value may be absent where the engine allows it.
    fn assignments(&mut self, ends: &[&str]) -> Parsed<()> {
        while self.at < self.tokens.len() && !ends.contains(&self.text()) {
            self.at += 1;
            if self.eat("=") {
                self.expression(true)?;
            }
        }
        Ok(())
    }

    fn parameters(&mut self) -> Parsed<()> {
        self.expect("(")?;
        self.assignments(&[")"])?;
        self.expect(")")
    }

    fn rename(&mut self, name: &str) {
        if let Some(token) = self.tokens.first() {
            self.edits.push(Edit::replace(token.start, token.end, name));
        }
    }
}
