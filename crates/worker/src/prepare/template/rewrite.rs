//! From Jinja as transformers reads it to what the engine reads.
//!
//! The engine can't be told how operators work or which tags there are. So the few that must behave as Python's, or that
//! must not walk values without a bound, are turned into calls of functions (see [`operators`](super::operators)), in
//! place: everything else in the source stays where it was.

use super::{
    edit::{Edit, apply},
    error::Unusable,
    grammar::Grammar,
    scan::{self, Tag},
};

/// What the engine compiles.
///
/// # Errors
/// The source is not Jinja, or too large.
pub(super) fn rewritten(source: &str) -> Result<String, Unusable> {
    // As Jinja does before anything else.
    let source = source.replace("\r\n", "\n").replace('\r', "\n");
    let mut edits = Vec::new();
    for tag in scan::tags(&source)? {
        edits.extend(edits_of(&source, &tag)?);
    }
    Ok(apply(&source, edits))
}

fn edits_of(source: &str, tag: &Tag) -> Result<Vec<Edit>, Unusable> {
    let mut grammar = Grammar::new(source, &tag.tokens);
    let parsed = if tag.statement { grammar.statement() } else { grammar.tuple(true).map(drop) };
    parsed.and_then(|()| grammar.end()).map_err(|problem| {
        let at = grammar.position();
        let line = source.get(..at).unwrap_or_default().matches('\n').count() + 1;
        Unusable::Syntax(format!("{problem} (line {line})"))
    })?;
    Ok(grammar.into_edits())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn operators_become_calls_and_the_rest_stays() {
        for (source, expected) in [
            ("a {{ x }} b", "a {{ x }} b"),
            ("{{ a ~ b ~ c }}", "{{ _kr_concat(a , b , c) }}"),
            ("{{ a ~ b == c }}", "{{ _kr_compare(_kr_concat(a , b) ,'==', c) }}"),
            ("{{ a not  in b }}", "{{ _kr_compare(a ,'not in', b) }}"),
            ("{{ '%s' % x|f ~ 'y' }}", "{{ _kr_concat(_kr_modulo('%s' , x|f) , 'y') }}"),
            ("{{ a % b % c }}", "{{ _kr_modulo(a , b , c) }}"),
            ("{{ a + b - c + d * 2 }}", "{{ _kr_add(_kr_add(a , b) - c , d * 2) }}"),
            (
                "{{ a + b + c }}{{ loop.changed(x) }}",
                "{{ _kr_add(a , b , c) }}{{ loop.changed(_kr_checked(x)) }}",
            ),
            ("{{ a[b] }}{{ a['b'] }}{{ a[1:] }}", "{{ a[_kr_key(b)] }}{{ a['b'] }}{{ a[1:] }}"),
            ("{{ {k: 1, 'x': y} }}", "{{ {_kr_key(k): 1, 'x': y} }}"),
            ("{% for a, b in x if a > 1 %}", "{% for a, b in _kr_iter((x)) if _kr_compare(a ,'>', 1) %}"),
            ("{% for a in b.c() recursive %}", "{% for a in _kr_iter((b.c())) recursive %}"),
            ("{%- generation -%}x{% endgeneration %}", "{%- with -%}x{% endwith %}"),
            ("{{ '{% generation %}' }}", "{{ '{% generation %}' }}"),
            ("{{ 'a' 'b' \"it's\" ~ 'x' }}", "{{ _kr_concat('abit\\'s' , 'x') }}"),
            ("{% macro f(a, b=1 ~ 2) %}", "{% macro f(a, b=_kr_concat(1 , 2)) %}"),
            ("{% set x.y = a if b ~ c else d %}", "{% set x.y = a if _kr_concat(b , c) else d %}"),
            ("{% call(x) f(a ~ b) %}", "{% call(x) f(_kr_concat(a , b)) %}"),
            ("{{ x is divisibleby 3 and not y is none }}", "{{ x is divisibleby 3 and not y is none }}"),
            ("a\r\nb\rc", "a\nb\nc"),
        ] {
            assert_eq!(rewritten(source).unwrap(), expected, "{source}");
        }
    }

    #[test]
    fn what_is_no_expression_is_an_error() {
        for source in [
            "{{ }}",
            "{{ a b }}",
            "{{ a ~ }}",
            "{{ (a }}",
            "{% if %}",
            "{% set x = %}",
            "{{ a | }}",
            "{{ f(a b) }}",
        ] {
            assert!(rewritten(source).is_err(), "{source}");
        }
    }

    #[test]
    fn nesting_is_bounded() {
        for source in ["(", "[", "-", "not ", "x if y else "] {
            let source = format!("{{{{ {} x }}}}", source.repeat(5000));
            assert!(rewritten(&source).is_err(), "{source:.20}");
        }
    }
}
