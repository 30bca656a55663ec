//! Values in the cells of a CSV file, so that what is written reads back as the same.
//!
//! A cell without characters is a field that is not there; one that reads as JSON is that value; any other is a string as
//! it stands: also digits of an integer past 64 bits, and an exponent without a sign, which may be a code and not a number.
//! So a string that would read as JSON, and the empty one, are written in the quotes of JSON.

use serde_json::Value;

use crate::document::json;

/// The cell of a value.
pub fn write(value: &Value) -> String {
    match value {
        Value::String(text) if read(text).is_some_and(|read| read == *value) => text.clone(),
        value => value.to_string(),
    }
}

/// What a cell holds, if it holds anything.
pub fn read(cell: &str) -> Option<Value> {
    let read = || json::parse(cell.as_bytes()).ok().filter(|value| !value.is_f64() || !may_be_code(cell));
    (!cell.is_empty()).then(|| read().unwrap_or_else(|| Value::String(cell.to_string())))
}

/// Returns true for an integer that is spelled out, and for an exponent without a sign: no program writes one, and `557e92` is a
/// colour.
fn may_be_code(cell: &str) -> bool {
    let exponent = cell.split_once(['e', 'E']).map(|(_, exponent)| exponent);
    let is_digits = cell.bytes().all(|byte| byte.is_ascii_digit() || byte == b'-');
    is_digits || exponent.is_some_and(|exponent| exponent.starts_with(|first: char| first.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_value_reads_back_as_what_it_was() {
        let check = |value: Value, cell: &str| {
            assert_eq!(write(&value), cell);
            assert_eq!(read(cell), Some(value), "{cell}");
        };
        check(json!("milk"), "milk");
        check(json!("two\nlines, \"quoted\""), "two\nlines, \"quoted\"");
        check(json!("007"), "007");
        check(json!("7"), "\"7\"");
        check(json!(" 7 "), "\" 7 \"");
        check(json!(""), "\"\"");
        check(json!("\"milk\""), "\"\\\"milk\\\"\"");
        check(json!("\"milk"), "\"milk");
        check(json!("null"), "\"null\"");
        check(json!("18446744073709551616"), "18446744073709551616");
        check(json!("-12345678901234567000000"), "-12345678901234567000000");
        check(json!(u64::MAX), "18446744073709551615");
        check(json!(-1.5e300), "-1.5e+300");
        check(json!(1.5e-7), "1.5e-7");
        check(json!("557e92"), "557e92");
        check(Value::Null, "null");
        check(json!(true), "true");
        check(json!([1, { "a": "b" }]), "[1,{\"a\":\"b\"}]");
        assert_eq!(read(""), None);
    }
}
