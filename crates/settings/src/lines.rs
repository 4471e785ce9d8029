//! Where each key of a file stands.

use std::{collections::BTreeMap, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{IgnoredAny, MapAccess, SeqAccess, Visitor},
};
use serde_saphyr::Spanned;

/// Line numbers, from 1, by key with its parents: `server.port`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Lines(BTreeMap<String, u64>);

/// A value of any type, of which only the keys below it matter.
struct Node(BTreeMap<String, Spanned<Node>>);

impl Lines {
    /// Of a text that was parsed before; of any other there may be none.
    pub(crate) fn of(text: &str) -> Self {
        let mut lines = BTreeMap::new();
        if let Ok(root) = serde_saphyr::from_str::<Node>(text) {
            collect(&root, "", &mut lines);
        }
        Self(lines)
    }

    /// `None`: the key is not in the file.
    pub(crate) fn get(&self, key: &str) -> Option<u64> {
        self.0.get(key).copied()
    }
}

fn collect(node: &Node, parents: &str, lines: &mut BTreeMap<String, u64>) {
    for (name, child) in &node.0 {
        let key = if parents.is_empty() { name.clone() } else { format!("{parents}.{name}") };
        collect(&child.value, &key, lines);
        lines.insert(key, child.referenced.line());
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NodeVisitor)
    }
}

struct NodeVisitor;

impl NodeVisitor {
    fn leaf<E>() -> Result<Node, E> {
        Ok(Node(BTreeMap::new()))
    }
}

impl<'de> Visitor<'de> for NodeVisitor {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Node, A::Error> {
        let mut children = BTreeMap::new();
        while let Some((name, child)) = map.next_entry()? {
            children.insert(name, child);
        }
        Ok(Node(children))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Node, A::Error> {
        while list.next_element::<IgnoredAny>()?.is_some() {}
        Self::leaf()
    }

    fn visit_bool<E>(self, _: bool) -> Result<Node, E> {
        Self::leaf()
    }

    fn visit_i64<E>(self, _: i64) -> Result<Node, E> {
        Self::leaf()
    }

    fn visit_u64<E>(self, _: u64) -> Result<Node, E> {
        Self::leaf()
    }

    fn visit_f64<E>(self, _: f64) -> Result<Node, E> {
        Self::leaf()
    }

    fn visit_str<E>(self, _: &str) -> Result<Node, E> {
        Self::leaf()
    }

    fn visit_unit<E>(self) -> Result<Node, E> {
        Self::leaf()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_key_has_its_line() {
        let lines = Lines::of("# one\na: 1\nb:\n  c: {d: x,\n    e: [1, 2]}\n  f:\n  g: true\nh: 1.5\n");
        for (key, line) in [("a", 2), ("b.c", 4), ("b.c.d", 4), ("b.c.e", 5), ("b.g", 7), ("h", 8)] {
            assert_eq!(lines.get(key), Some(line), "{key}");
        }
        assert_eq!(lines.get("c"), None);
        assert_eq!(Lines::of(""), Lines::default());
    }
}
