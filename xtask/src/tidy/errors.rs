//! The rule about error messages: Display says what failed, `source` says why, and neither says both.
//!
//! Top levels print an error with all of its sources. An error whose message repeats its source then says it twice.

use std::path::Path;

use proc_macro2::TokenStream;
use syn::{
    Attribute, Fields, Item, LitStr, Meta,
    parse::ParseStream,
    visit::{self, Visit},
};

use super::Finding;

/// Finds messages of `thiserror` in `text` that show the error's source.
pub(super) fn check(file: &Path, text: &str) -> Vec<Finding> {
    // What is not Rust, the compiler reports.
    let Ok(parsed) = syn::parse_file(text) else { return Vec::new() };
    let mut search = Search { file, findings: Vec::new() };
    search.visit_file(&parsed);
    search.findings
}

struct Search<'a> {
    file: &'a Path,
    findings: Vec<Finding>,
}

impl Search<'_> {
    /// `attributes` of an error, or of one of its variants, which has `fields`.
    fn check(&mut self, attributes: &[Attribute], fields: &Fields) {
        for attribute in attributes.iter().filter(|it| it.path().is_ident("error")) {
            let Some((message, arguments)) = message(attribute) else { continue };
            for source in sources(fields) {
                if shows(&message.value(), &source) || names(&arguments, &source) {
                    let finding = format!(
                        "this message shows its source `{source}`, which is printed anyway; say only what failed"
                    );
                    self.findings.push(Finding::new(self.file, message.span().start().line, finding));
                }
            }
        }
    }
}

impl<'ast> Visit<'ast> for Search<'_> {
    fn visit_item(&mut self, item: &'ast Item) {
        match item {
            Item::Enum(it) => {
                it.variants.iter().for_each(|variant| self.check(&variant.attrs, &variant.fields));
            }
            Item::Struct(it) => self.check(&it.attrs, &it.fields),
            _ => {}
        }
        visit::visit_item(self, item);
    }
}

/// The format string of `#[error("…", …)]`, and its arguments as text.
fn message(attribute: &Attribute) -> Option<(LitStr, String)> {
    let Meta::List(list) = &attribute.meta else { return None };
    // Arguments are not all Rust's expressions: `.0` is a field.
    let parse = |input: ParseStream<'_>| Ok((input.parse()?, input.parse::<TokenStream>()?.to_string()));
    list.parse_args_with(parse).ok()
}

/// Names of the fields that `thiserror` takes as the source; the positions of unnamed ones.
fn sources(fields: &Fields) -> Vec<String> {
    let is_source = |field: &&syn::Field| {
        field.ident.as_ref().is_some_and(|name| name == "source")
            || field.attrs.iter().any(|it| it.path().is_ident("source") || it.path().is_ident("from"))
    };
    let named = |(index, field): (usize, &syn::Field)| match &field.ident {
        Some(name) => name.to_string(),
        None => index.to_string(),
    };
    fields.iter().enumerate().filter(|(_, field)| is_source(field)).map(named).collect()
}

/// Whether the format string `message` has a placeholder for `field`.
fn shows(message: &str, field: &str) -> bool {
    let message = message.replace("{{", "");
    message.split('{').skip(1).any(|rest| {
        let end = rest.find(['}', ':']).unwrap_or(rest.len());
        rest[..end].trim() == field
    })
}

/// Whether `arguments` name `field`: `source`, `.source` or, by its position, `.0`.
fn names(arguments: &str, field: &str) -> bool {
    let mut words = arguments.split_whitespace().flat_map(|word| word.split_inclusive('.'));
    let by_position = field.parse::<usize>().is_ok();
    let mut after_dot = false;
    words.any(|word| {
        let found = word.trim_matches([',', '.']) == field && (after_dot || !by_position);
        after_dot = word.ends_with('.');
        found
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &str) -> Vec<usize> {
        check(Path::new("a.rs"), text).into_iter().map(|finding| finding.line).collect()
    }

    #[test]
    fn a_message_with_its_source_is_found_in_every_form() {
        let text = r##"
            #[derive(thiserror::Error)]
            enum E {
                #[error("cannot read {path}: {source}")]
                Named { path: String, source: std::io::Error },
                #[error("broken: {0}")]
                From(#[from] std::io::Error),
                #[error(
                    "line {line}: {cause:?}"
                )]
                Attribute { line: usize, #[source] cause: Other },
                #[error("{} and {}", .0, .1)]
                Second(u32, #[source] Other),
            }
            mod inner {
                #[derive(thiserror::Error)]
                #[error("no: {source}")]
                struct S { source: Other }
            }
        "##;
        assert_eq!(lines(text), [4, 6, 9, 12, 17]);
    }

    #[test]
    fn other_fields_and_escaped_braces_are_fine() {
        let text = r##"
            enum E {
                #[error("cannot read {path}")]
                A { path: String, source: std::io::Error },
                #[error("{{source}} of {0}")]
                B(String),
                #[error(transparent)]
                C(#[from] std::io::Error),
                #[error("{sources}")]
                D { sources: usize, source: Other },
            }
        "##;
        assert!(lines(text).is_empty());
    }
}
