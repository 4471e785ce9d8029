//! `multipleOf`, which can cost far more than its length says: the library makes a state for each remainder of a
//! division, and no limit of its own counts them. 10000000 takes minutes and gigabytes.

use serde_json::Value;

/// Remainders of all divisions that a schema may ask for. They take half a second.
const MAX_REMAINDERS: u64 = 100_000;

/// Whether a schema's divisors are small enough. They are multiplied by each other where schemas are combined, and a
/// divisor counts wherever it is referred to; so the bound is that of the worst combination.
pub(super) fn are_small(schema: &Value) -> bool {
    let mut found = Found { together: 1, places: 0, divisors: 0 };
    found.read(schema);
    found.divisors == 0 || found.together.saturating_mul(found.places) <= MAX_REMAINDERS
}

struct Found {
    /// The least common multiple of all divisors, without their decimal points.
    together: u64,
    /// Divisors and references.
    places: u64,
    divisors: u64,
}

impl Found {
    fn read(&mut self, schema: &Value) {
        match schema {
            Value::Object(fields) => {
                for (name, value) in fields {
                    match (name.as_str(), value) {
                        ("multipleOf", Value::Number(divisor)) => {
                            self.together =
                                least_common_multiple(self.together, digits(&divisor.to_string()));
                            self.divisors += 1;
                            self.places += 1;
                        }
                        ("$ref", Value::String(_)) => self.places += 1,
                        _ => self.read(value),
                    }
                }
            }
            Value::Array(items) => items.iter().for_each(|item| self.read(item)),
            _ => {}
        }
    }
}

/// The digits of a number as an integer: 0.25 is 25, and 1e3 is 1000.
fn digits(number: &str) -> u64 {
    let (mantissa, exponent) = number.split_once(['e', 'E']).unwrap_or((number, "0"));
    let whole: String = mantissa.chars().filter(char::is_ascii_digit).collect();
    let power = exponent.parse::<i32>().map_or(u32::MAX, |exponent| exponent.max(0).unsigned_abs());
    let scale = 10_u64.checked_pow(power).unwrap_or(u64::MAX);
    whole.parse().map_or(u64::MAX, |whole: u64| whole.max(1).saturating_mul(scale))
}

fn least_common_multiple(a: u64, b: u64) -> u64 {
    let (mut divisor, mut rest) = (a, b);
    while rest != 0 {
        (divisor, rest) = (rest, divisor % rest);
    }
    (a / divisor).saturating_mul(b)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn numbers_are_read_in_every_form() {
        for (number, expected) in
            [("7", 7), ("0.25", 25), ("1e3", 1000), ("1.5e-7", 15), ("0.0", 1), ("1e300", u64::MAX)]
        {
            assert_eq!(digits(number), expected, "{number}");
        }
        assert_eq!(digits("123456789012345678901234567890"), u64::MAX);
    }

    #[test]
    fn divisors_count_together_and_wherever_they_are_used() {
        let small =
            json!({"properties": {"a": {"multipleOf": 60}, "b": {"multipleOf": 0.01}, "c": {"$ref": "#"}}});
        assert!(are_small(&small));
        assert!(are_small(&json!({"multipleOf": 100_000})) && !are_small(&json!({"multipleOf": 100_001})));
        assert!(!are_small(&json!({"allOf": [{"multipleOf": 997}, {"multipleOf": 991}]})));
        let used: Vec<_> = (0..2000).map(|_| json!({"$ref": "#/$defs/m"})).collect();
        assert!(!are_small(&json!({"$defs": {"m": {"multipleOf": 60}}, "anyOf": used})));
        assert!(are_small(&json!({"$defs": {"m": {"minimum": 60}}, "anyOf": used})));
    }
}
