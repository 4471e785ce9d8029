//! Rules about which crate may depend on which.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fs,
    path::Path,
};

use anyhow::{Context, Result};
use serde_json::Value;

use super::{Finding, manifest, relative};

/// What one of our crates may depend on, besides crates of others.
struct Rule {
    name: &'static str,
    /// Our crates it may name itself.
    own: &'static [&'static str],
    /// Whether MLX may be anywhere below it.
    mlx: bool,
    why: &'static str,
}

const RULES: &[Rule] = &[
    Rule { name: "protocol", own: &[], mlx: false, why: "it is what the processes share, and nothing more" },
    Rule {
        name: "artifact-store",
        own: &[],
        mlx: false,
        why: "models are kept without MLX and without a server",
    },
    Rule {
        name: "settings",
        own: &[],
        mlx: false,
        why: "each program that reads the configuration links it",
    },
    Rule { name: "mlx-ext", own: &[], mlx: true, why: "it completes MLX and knows nothing of serving" },
    Rule {
        name: "telemetry",
        own: &["protocol"],
        mlx: false,
        why: "it writes logs and traces, whatever they are about",
    },
    Rule { name: "chat", own: &[], mlx: false, why: "it turns text into events, whoever produced the text" },
    Rule {
        name: "test-support",
        own: &["protocol"],
        mlx: false,
        why: "it plays the processes beside the one under test, from outside",
    },
    Rule {
        name: "gateway",
        own: &["protocol", "settings", "telemetry"],
        mlx: false,
        why: "a fault in MLX or in a model's file must not reach it",
    },
    Rule {
        name: "worker",
        own: &["protocol", "artifact-store", "chat", "mlx-ext", "telemetry"],
        mlx: true,
        why: "it runs models and speaks to the gateway in messages",
    },
    Rule {
        name: "cache-tool",
        own: &["artifact-store", "settings"],
        mlx: false,
        why: "it works where neither MLX nor a server runs",
    },
    // Only measurements and tests start these two. No crate may name them: they are in nobody's list.
    Rule {
        name: "bench-worker",
        own: &["protocol"],
        mlx: false,
        why: "it stands in for a worker, and what is measured is the gateway",
    },
    Rule { name: "load", own: &[], mlx: false, why: "it sees of a gateway what clients see" },
    Rule { name: "e2e", own: &[], mlx: false, why: "it tests programs from outside" },
    Rule { name: "xtask", own: &[], mlx: false, why: "it has to be built before anything else can be" },
];

/// Our crates that only tests may use: any member may name them under [dev-dependencies], and nowhere else but for the
/// members listed here.
const FOR_TESTS: &[(&str, &[&str])] = &[
    // Their benchmarks start the same servers, and look at processes in the same way.
    ("test-support", &["load", "xtask"]),
];

/// Crates that nothing may bring in, and what to use.
const FORBIDDEN: &[(&str, &str)] = &[
    ("serde_yaml", "it has ended; use serde-saphyr"),
    ("serde_yml", "it is unsound; use serde-saphyr"),
    ("openssl-sys", "it needs a system library; switch the feature to rustls"),
    ("native-tls", "it needs a system library; switch the feature to rustls"),
];

/// Crates only one member may name.
const ONLY: &[(&str, &[&str])] =
    &[("bincode", &["protocol"]), ("mlx-rs", &["mlx-ext", "worker"]), ("mlx-sys", &["mlx-ext", "worker"])];

/// Who depends on whom, by name.
#[derive(Default)]
struct Graph {
    members: BTreeSet<String>,
    /// Members: what their manifests name for any kind and target. Others: what this machine builds, without dev.
    edges: BTreeMap<String, BTreeSet<String>>,
    /// What members name under [dev-dependencies] only.
    dev: BTreeMap<String, BTreeSet<String>>,
}

/// A rule broken by `member`, to be shown where it names `dependency`.
struct Broken {
    member: String,
    dependency: String,
    message: String,
}

/// Checks `cargo metadata`.
pub(super) fn check_all(metadata: &Value, root: &Path) -> Result<Vec<Finding>> {
    let graph = Graph::read(metadata).context("`cargo metadata` has an unknown form")?;
    let mut findings = Vec::new();
    for broken in graph.check() {
        let manifest = manifest_of(metadata, &broken.member).context("a member has a manifest")?;
        let text = fs::read_to_string(manifest).with_context(|| format!("cannot read {manifest}"))?;
        let declared = manifest::declared(&text).with_context(|| format!("cannot parse {manifest}"))?;
        let line = declared.iter().find(|it| it.name == broken.dependency).map_or(1, |it| it.line);
        findings.push(Finding::new(relative(Path::new(manifest), root)?, line, broken.message));
    }
    Ok(findings)
}

fn manifest_of<'a>(metadata: &'a Value, member: &str) -> Option<&'a str> {
    let packages = metadata["packages"].as_array()?;
    packages.iter().find(|it| it["name"] == member && it["source"].is_null())?["manifest_path"].as_str()
}

impl Graph {
    fn read(metadata: &Value) -> Option<Self> {
        let mut graph = Self::default();
        let mut names = BTreeMap::new();
        for package in metadata["packages"].as_array()? {
            let name = package["name"].as_str()?;
            names.insert(package["id"].as_str()?, name);
            // Without a source it is one of ours, since the root allows no other path dependencies.
            if !package["source"].is_null() {
                continue;
            }
            graph.members.insert(name.to_owned());
            for dependency in package["dependencies"].as_array()? {
                let map = if dependency["kind"] == "dev" { &mut graph.dev } else { &mut graph.edges };
                map.entry(name.to_owned()).or_default().insert(dependency["name"].as_str()?.to_owned());
            }
        }
        for node in metadata["resolve"]["nodes"].as_array()? {
            let name = names.get(node["id"].as_str()?)?;
            if graph.members.contains(*name) {
                continue;
            }
            for dependency in node["deps"].as_array()? {
                let target = names.get(dependency["pkg"].as_str()?)?;
                graph.edges.entry((*name).to_owned()).or_default().insert((*target).to_owned());
            }
        }
        Some(graph)
    }

    fn check(&self) -> Vec<Broken> {
        self.members.iter().flat_map(|member| self.check_member(member)).collect()
    }

    fn check_member(&self, member: &str) -> Vec<Broken> {
        let Some(rule) = RULES.iter().find(|rule| rule.name == member) else {
            let message = format!(
                "{member} is new; say in xtask/src/tidy/dependencies.rs what it may depend on, and why"
            );
            return vec![Broken { member: member.to_owned(), dependency: String::new(), message }];
        };
        let direct: BTreeSet<&String> =
            [&self.edges, &self.dev].into_iter().filter_map(|map| map.get(member)).flatten().collect();
        let mut broken = Vec::new();
        for dependency in &direct {
            if let Some((_, others)) = FOR_TESTS.iter().find(|(name, _)| name == dependency) {
                let outside_tests = self.edges.get(member).is_some_and(|edges| edges.contains(*dependency));
                if outside_tests && !others.contains(&member) {
                    let message = format!(
                        "{dependency} is for tests; {member} may name it under [dev-dependencies] only"
                    );
                    let (member, dependency) = (member.to_owned(), (*dependency).clone());
                    broken.push(Broken { member, dependency, message });
                }
                continue;
            }
            let unwanted_own = self.members.contains(*dependency) && !rule.own.contains(&dependency.as_str());
            let unwanted_other =
                ONLY.iter().any(|(name, members)| name == dependency && !members.contains(&member));
            if unwanted_own || unwanted_other {
                let message = format!("{member} may not depend on {dependency}: {}", rule.why);
                broken.push(Broken { member: member.to_owned(), dependency: (*dependency).clone(), message });
            }
        }
        for path in self.paths_below(member) {
            let Some(last) = path.last() else { continue };
            let what = if let Some((_, instead)) = FORBIDDEN.iter().find(|(name, _)| name == last) {
                format!("{last} comes in ({}); {instead}", path.join(" -> "))
            } else if !rule.mlx && last.starts_with("mlx-") {
                format!("MLX comes in ({}): {member} may not have it, {}", path.join(" -> "), rule.why)
            } else {
                continue;
            };
            let dependency = path.get(1).cloned().unwrap_or_default();
            broken.push(Broken { member: member.to_owned(), dependency, message: what });
        }
        broken
    }

    /// A shortest path to each crate below `member`; what it needs for its tests counts for itself, not for others.
    fn paths_below(&self, member: &str) -> Vec<Vec<String>> {
        let mut seen = BTreeSet::from([member.to_owned()]);
        let mut queue = VecDeque::from([vec![member.to_owned()]]);
        let mut paths = Vec::new();
        while let Some(path) = queue.pop_front() {
            let last = path.last().map(String::as_str).unwrap_or_default();
            let dev = self.dev.get(last).filter(|_| last == member);
            for next in self.edges.get(last).into_iter().chain(dev).flatten() {
                if seen.insert(next.clone()) {
                    let longer: Vec<String> = path.iter().chain([next]).cloned().collect();
                    paths.push(longer.clone());
                    queue.push_back(longer);
                }
            }
        }
        paths
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn graph(members: &[&str], edges: &[(&str, &str)], dev: &[(&str, &str)]) -> Graph {
        let map = |pairs: &[(&str, &str)]| {
            let mut map = BTreeMap::<String, BTreeSet<String>>::new();
            for (from, to) in pairs {
                map.entry((*from).to_owned()).or_default().insert((*to).to_owned());
            }
            map
        };
        Graph {
            members: members.iter().map(|it| (*it).to_owned()).collect(),
            edges: map(edges),
            dev: map(dev),
        }
    }

    fn messages(graph: &Graph) -> Vec<String> {
        graph.check().into_iter().map(|broken| broken.message).collect()
    }

    #[test]
    fn the_design_is_clean() {
        let edges = [
            ("gateway", "protocol"),
            ("worker", "mlx-ext"),
            ("mlx-ext", "mlx-rs"),
            ("mlx-rs", "mlx-sys"),
            ("worker", "mlx-rs"),
        ];
        assert!(messages(&graph(&["gateway", "worker", "mlx-ext", "protocol"], &edges, &[])).is_empty());
    }

    #[test]
    fn a_way_to_mlx_is_found_however_long_it_is() {
        let edges = [("gateway", "helper"), ("helper", "more"), ("more", "mlx-sys")];
        let found = messages(&graph(&["gateway"], &edges, &[]));
        assert_eq!(found.len(), 1);
        assert!(found[0].contains("gateway -> helper -> more -> mlx-sys"), "{found:?}");
    }

    #[test]
    fn tests_may_not_cross_the_lines_either() {
        assert_eq!(
            messages(&graph(&["gateway", "artifact-store"], &[], &[("gateway", "artifact-store")])).len(),
            1
        );
    }

    #[test]
    fn crates_for_tests_stay_in_tests() {
        let members = ["gateway", "test-support", "xtask"];
        let pair = [("gateway", "test-support")];
        assert!(messages(&graph(&members, &[("xtask", "test-support")], &pair)).is_empty());
        let found = messages(&graph(&members, &pair, &[]));
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].contains("[dev-dependencies]"), "{found:?}");
    }

    #[test]
    fn what_a_crate_needs_for_its_tests_does_not_count_for_its_users() {
        assert!(
            messages(&graph(
                &["gateway", "protocol"],
                &[("gateway", "protocol")],
                &[("protocol", "serde_json")]
            ))
            .is_empty()
        );
        let paths =
            graph(&["gateway", "protocol"], &[("gateway", "protocol")], &[("protocol", "serde_yaml")])
                .paths_below("gateway");
        assert_eq!(paths, [vec!["gateway".to_owned(), "protocol".to_owned()]]);
    }

    #[test]
    fn forbidden_and_reserved_crates_are_found() {
        let found = messages(&graph(
            &["cache-tool"],
            &[("cache-tool", "x"), ("x", "serde_yaml"), ("cache-tool", "bincode")],
            &[],
        ));
        assert_eq!(found.len(), 2, "{found:?}");
    }

    #[test]
    fn a_new_crate_needs_a_rule() {
        assert!(messages(&graph(&["newcomer"], &[], &[]))[0].contains("newcomer is new"));
    }
}
