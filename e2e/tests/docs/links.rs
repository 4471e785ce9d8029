//! Links from one document to another.

/// Targets of the links in `text` that lead to a place in the repository.
pub(crate) fn links(text: &str) -> Vec<&str> {
    let outside_fences = text.split("```").step_by(2);
    let targets = outside_fences.flat_map(|part| part.split("](").skip(1));
    targets.filter_map(|rest| rest.split(')').next()).filter(|target| !target.contains("://")).collect()
}

/// What can follow `#` in a link to `text`: its headings, as GitHub names them.
pub(crate) fn anchors(text: &str) -> Vec<String> {
    let outside_fences = text.split("```").step_by(2).flat_map(str::lines);
    let headings =
        outside_fences.filter(|line| line.starts_with('#')).map(|line| line.trim_start_matches('#'));
    headings
        .map(|heading| {
            let kept = heading.trim().chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
            kept.map(|c| if c == ' ' { '-' } else { c.to_ascii_lowercase() }).collect()
        })
        .collect()
}

#[test]
fn links_and_anchors_are_found() {
    let text =
        "# Why `a` - b?\n[x](y.md#z) and [w](https://w.org), [v](#v)\n```text\n# no\n[u](u.md)\n```\n## A\n";
    assert_eq!(links(text), ["y.md#z", "#v"]);
    assert_eq!(anchors(text), ["why-a---b", "a"]);
}
