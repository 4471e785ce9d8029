//! JSON values of one kind, in every way in which clients write them.

use std::{borrow::Cow, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{self, Unexpected, Visitor},
};

/// Any number.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(in crate::http) struct Number(pub(in crate::http) f64);

/// A whole number, also written as `2.0`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::http) struct Whole(pub(in crate::http) i128);

/// True or false.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::http) struct Flag(pub(in crate::http) bool);

/// A text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::http) struct Text(pub(in crate::http) String);

/// One text or a list of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::http) struct Texts(pub(in crate::http) Vec<String>);

/// An object's key, without a copy where it can be borrowed.
pub(in crate::http) struct Key<'de>(pub(in crate::http) Cow<'de, str>);

/// Beyond this not every whole number can be written as `2.0`.
const MAX_WHOLE_FLOAT: f64 = (1u64 << 53) as f64;

/// `deserialize` of a type whose values are `$visit`ed.
macro_rules! values {
    ($type:ty, $expecting:literal, $($visit:item)*) => {
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Values;
                impl<'de> Visitor<'de> for Values {
                    type Value = $type;

                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str($expecting)
                    }

                    $($visit)*
                }
                deserializer.deserialize_any(Values)
            }
        }
    };
}

values! { Number, "a number",
    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Number, E> {
        Ok(Number(value as f64))
    }
    fn visit_i64<E: de::Error>(self, value: i64) -> Result<Number, E> {
        Ok(Number(value as f64))
    }
    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Number, E> {
        Ok(Number(value))
    }
}

values! { Whole, "a whole number",
    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Whole, E> {
        Ok(Whole(value.into()))
    }
    fn visit_i64<E: de::Error>(self, value: i64) -> Result<Whole, E> {
        Ok(Whole(value.into()))
    }
    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Whole, E> {
        if value.fract() == 0.0 && value.abs() <= MAX_WHOLE_FLOAT {
            return Ok(Whole(value as i128));
        }
        Err(E::invalid_value(Unexpected::Float(value), &self))
    }
}

values! { Flag, "true or false",
    fn visit_bool<E: de::Error>(self, value: bool) -> Result<Flag, E> {
        Ok(Flag(value))
    }
}

values! { Text, "a string",
    fn visit_str<E: de::Error>(self, value: &str) -> Result<Text, E> {
        Ok(Text(value.to_owned()))
    }
    fn visit_string<E: de::Error>(self, value: String) -> Result<Text, E> {
        Ok(Text(value))
    }
}

values! { Texts, "a string or a list of strings",
    fn visit_str<E: de::Error>(self, value: &str) -> Result<Texts, E> {
        Ok(Texts(vec![value.to_owned()]))
    }
    fn visit_seq<A: de::SeqAccess<'de>>(self, mut list: A) -> Result<Texts, A::Error> {
        let mut texts = Vec::new();
        while let Some(Text(text)) = list.next_element()? {
            texts.push(text);
        }
        Ok(Texts(texts))
    }
}

impl<'de> Deserialize<'de> for Key<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Keys;
        impl<'de> Visitor<'de> for Keys {
            type Value = Key<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }

            fn visit_borrowed_str<E: de::Error>(self, key: &'de str) -> Result<Key<'de>, E> {
                Ok(Key(Cow::Borrowed(key)))
            }

            fn visit_str<E: de::Error>(self, key: &str) -> Result<Key<'de>, E> {
                Ok(Key(Cow::Owned(key.to_owned())))
            }
        }
        deserializer.deserialize_str(Keys)
    }
}
