//! Imports against the table of rules.

use std::collections::BTreeSet;

use super::{
    super::Finding,
    graph::{Edge, Graph},
    names::Target,
    references::Kind,
    rules::{Limit, Rule},
    tree::Tree,
};

/// One finding for a file, a rule and what is named against it, where that happens first.
pub(super) fn check(tree: &Tree, graph: &Graph, rules: &[Rule]) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut seen = BTreeSet::new();
    for (number, rule) in rules.iter().enumerate().filter(|(_, rule)| rule.krate == tree.krate) {
        for edge in &graph.edges {
            let from = tree.path_of(&Target::Own { module: edge.from, item: None });
            let to = tree.path_of(&edge.to);
            let Some(broken) = broken(&rule.limit, &from, edge, &to) else { continue };
            if seen.insert((number, edge.place.file.clone(), broken.what)) {
                let to = to.join("::");
                let message = format!("`{to}` is named here, but {}: {}", broken.message, rule.why);
                findings.push(Finding::new(&edge.place.file, edge.place.line, message));
            }
        }
    }
    findings
}

/// How an edge breaks a limit.
struct Broken {
    /// One finding tells of all that a file names below it.
    what: String,
    message: String,
}

fn broken(limit: &Limit, from: &[String], edge: &Edge, to: &[String]) -> Option<Broken> {
    let names = |what: &str| is_in(to, what) || edge.kind == Kind::Glob && is_above(to, what);
    match *limit {
        Limit::Layers(layers) => {
            let own = layers.iter().position(|layer| is_in(from, layer))?;
            let what = layers[..own].iter().find(|layer| names(layer))?;
            let order: Vec<&str> = layers.iter().map(|it| it.trim_start_matches("crate::")).collect();
            let message = format!("{} is below it ({})", layers[own], order.join(" > "));
            Some(Broken { what: (*what).to_owned(), message })
        }
        Limit::Apart(parts) => {
            let own = parts.iter().find(|part| is_in(from, part))?;
            let what = parts.iter().find(|part| *part != own && names(part))?;
            Some(Broken { what: (*what).to_owned(), message: format!("{own} may not name {what}") })
        }
        Limit::Never { of, what } => {
            let what = what.iter().find(|what| is_in(from, of) && names(what))?;
            Some(Broken { what: (*what).to_owned(), message: format!("{of} may not name {what}") })
        }
        Limit::Only { of, what: allowed } => {
            let Target::Own { module: _, item } = &edge.to else { return None };
            // The way to what is allowed may be imported as well: `use crate::model;`
            let is_allowed =
                |path: &[String], it: &str| is_in(path, it) || item.is_none() && is_above(path, it);
            let may = |it: &&str| is_allowed(to, it) || is_allowed(&edge.written, it);
            if !is_in(from, of) || allowed.iter().chain([&of]).any(may) {
                return None;
            }
            // All of a module at once, unless some of it is allowed.
            let module = &to[..to.len() - usize::from(item.is_some())];
            let what = if allowed.iter().any(|it| is_above(module, it)) { to } else { module };
            let message = format!("{of} names only {}", allowed.join(", "));
            Some(Broken { what: what.join("::"), message })
        }
        Limit::Reserved { what, by } => {
            // Who has it from somebody else does not name it.
            let is_named = names(what) && is_written_in(edge);
            let is_free = !is_named || by.iter().any(|by| is_in(from, by));
            (!is_free).then(|| Broken {
                what: what.to_owned(),
                message: format!("only {} may name {what}", by.join(", ")),
            })
        }
    }
}

/// Whether the module has what it names from no other module of its crate.
fn is_written_in(edge: &Edge) -> bool {
    match &edge.to {
        Target::Foreign { named_in, .. } => *named_in == edge.from,
        Target::Own { .. } => true,
    }
}

/// Whether `path` is `prefix` or below it.
fn is_in(path: &[String], prefix: &str) -> bool {
    let mut path = path.iter();
    prefix.split("::").all(|name| path.next().is_some_and(|it| it == name))
}

/// Whether `below` is below `path`.
fn is_above(path: &[String], below: &str) -> bool {
    let mut below = below.split("::");
    path.iter().all(|name| below.next().is_some_and(|it| it == name)) && below.next().is_some()
}
