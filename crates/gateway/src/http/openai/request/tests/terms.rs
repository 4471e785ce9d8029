//! Priorities and timeouts.

use super::*;

#[test]
fn a_priority_is_a_name_or_a_number() {
    let priority = |value: Value| chat_with(json!({"priority": value})).map(|request| request.priority);
    for (value, expected) in [
        (json!("high"), Priority::HIGH),
        (json!("normal"), Priority::default()),
        (json!("low"), Priority::LOW),
        (json!("5"), Priority(5)),
        (json!(5), Priority(5)),
        (json!(-1e30), Priority(i32::MIN)),
        (json!(u64::MAX), Priority(i32::MAX)),
    ] {
        assert_eq!(priority(value.clone()).unwrap(), expected, "{value}");
    }
    for value in [json!("urgent"), json!(1.5), json!(true), json!([1])] {
        assert_eq!(error(chat_with(json!({"priority": value}))).0, "priority", "{value}");
    }
}

#[test]
fn a_timeout_is_a_number_of_seconds() {
    for value in [json!(0), json!(-1), json!(1e9), json!(1e300)] {
        assert_eq!(error(chat_with(json!({"timeout": value}))).0, "timeout", "{value}");
    }
    assert_eq!(asked_with(json!({})).unwrap().timeout, None);
}
