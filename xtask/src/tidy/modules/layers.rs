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
    /// The path of the rule that is named.
    what: &'static str,
    message: String,
}

fn broken(limit: &Limit, from: &[String], edge: &Edge, to: &[String]) -> Option<Broken> {
    let names = |what: &str| is_in(to, what) || edge.kind == Kind::Glob && is_above(to, what);
    match *limit {
        Limit::Layers(layers) => {
            let own = layers.iter().position(|layer| is_in(from, layer))?;
            let what = layers[..own].iter().find(|layer| names(layer))?;
            let order = layers.map_names().join(" > ");
            let message = format!("{} is below it ({order})", layers[own]);
            Some(Broken { what, message })
        }
        Limit::Apart(parts) => {
            let own = parts.iter().find(|part| is_in(from, part))?;
            let what = parts.iter().find(|part| *part != own && names(part))?;
            Some(Broken { what, message: format!("{own} may not name {what}") })
        }
        Limit::Never { of, what } => {
            let what = what.iter().find(|what| is_in(from, of) && names(what))?;
            Some(Broken { what, message: format!("{of} may not name {what}") })
        }
        Limit::Only { of, what } => {
            let is_own = matches!(edge.to, Target::Own { .. });
            let is_module = matches!(edge.to, Target::Own { item: None, .. });
            // The way to what is allowed may be imported as well: `use crate::model;`
            let is_allowed = |it: &&str| is_in(to, it) || is_module && is_above(to, it);
            if !is_own || !is_in(from, of) || what.iter().chain([&of]).any(|it| is_allowed(&it)) {
                return None;
            }
            Some(Broken { what: of, message: format!("{of} names only {}", what.join(", ")) })
        }
        Limit::Reserved { what, by } => {
            let is_free = !names(what) || by.iter().any(|by| is_in(from, by));
            (!is_free).then(|| Broken { what, message: format!("only {} may name {what}", by.join(", ")) })
        }
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

trait LayerNames {
    fn map_names(&self) -> Vec<&str>;
}

impl LayerNames for [&'static str] {
    fn map_names(&self) -> Vec<&str> {
        self.iter().map(|layer| layer.rsplit("::").next().unwrap_or(layer)).collect()
    }
}
