//! What a value that the server can't use looks like, without keeping it.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{self, IgnoredAny, MapAccess, SeqAccess, Visitor},
};

/// The outline of a JSON value of any size.
#[derive(Clone, Debug, Default, PartialEq)]
pub(in crate::http) enum Probe {
    /// Null, which is also a missing field.
    #[default]
    Null,
    /// True or false.
    Flag(bool),
    /// A number.
    Number(f64),
    /// A text; a long one is cut.
    Text(String),
    /// A list.
    List {
        /// Its length.
        len: usize,
        /// The first item, if it is a text.
        first: Option<String>,
    },
    /// An object.
    Object {
        /// How many keys it has.
        len: usize,
    },
}

/// No word that is looked for is longer.
const MAX_TEXT: usize = 64;

impl Probe {
    /// Whether it has something in it, or says anything at all.
    pub(in crate::http) fn is_filled(&self) -> bool {
        match self {
            Self::Null => false,
            Self::List { len, .. } | Self::Object { len } => *len > 0,
            Self::Text(text) => !text.is_empty(),
            Self::Flag(_) | Self::Number(_) => true,
        }
    }

    fn text(&self) -> Option<String> {
        if let Self::Text(text) = self { Some(text.clone()) } else { None }
    }
}

impl<'de> Deserialize<'de> for Probe {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Outline { deeper: true })
    }
}

/// `deeper`: looks into lists, one level only. Foreign values may be nested deeply.
#[derive(Clone, Copy)]
struct Outline {
    deeper: bool,
}

/// The outline of an item. Whatever it holds is skipped, not descended into.
struct Item(Probe);

impl<'de> Deserialize<'de> for Item {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Outline { deeper: false }).map(Self)
    }
}

impl<'de> Visitor<'de> for Outline {
    type Value = Probe;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_unit<E: de::Error>(self) -> Result<Probe, E> {
        Ok(Probe::Null)
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<Probe, E> {
        Ok(Probe::Flag(value))
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Probe, E> {
        Ok(Probe::Number(value as f64))
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<Probe, E> {
        Ok(Probe::Number(value as f64))
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Probe, E> {
        Ok(Probe::Number(value))
    }

    fn visit_str<E: de::Error>(self, value: &str) -> Result<Probe, E> {
        Ok(Probe::Text(value[..value.floor_char_boundary(MAX_TEXT)].to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Probe, A::Error> {
        let (mut len, mut first) = (0, None);
        if self.deeper
            && let Some(Item(item)) = list.next_element()?
        {
            (len, first) = (1, item.text());
        }
        while list.next_element::<IgnoredAny>()?.is_some() {
            len += 1;
        }
        Ok(Probe::List { len, first })
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Probe, A::Error> {
        let mut len = 0;
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {
            len += 1;
        }
        Ok(Probe::Object { len })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn probe(json: &str) -> Probe {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn outlines_are_small_whatever_the_value_is() {
        assert_eq!(probe("null"), Probe::Null);
        assert_eq!(probe("-1"), Probe::Number(-1.0));
        assert_eq!(probe("[]"), Probe::List { len: 0, first: None });
        assert_eq!(probe("[\"text\", 1, {}]"), Probe::List { len: 3, first: Some("text".into()) });
        assert_eq!(probe("{\"a\": [1], \"type\": {\"b\": 1}}"), Probe::Object { len: 2 });
        let Probe::Text(text) = probe(&format!("\"{}\"", "é".repeat(1000))) else { unreachable!() };
        assert_eq!(text.len(), MAX_TEXT);
        let deep = format!("[{}{}]", "[".repeat(100), "]".repeat(100));
        assert_eq!(probe(&deep), Probe::List { len: 1, first: None });
    }
}
