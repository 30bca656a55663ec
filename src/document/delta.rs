//! Deltas: what to do to a text, step by step, as Quill writes it and Yjs understands it.
//!
//! Counts are of UTF-16 units. A delta from outside is read strictly, and held against the text before anything is done.

use serde_json::Value;
use yrs::{Any, Text as _, TextRef, TransactionMut, any::Number, types::Attrs};

use super::prose::Unfit;

/// A step of a delta.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// Leave so many UTF-16 units, and mark them so.
    Retain(u32, Option<Attrs>),
    /// Write this, marked so.
    Insert(String, Option<Attrs>),
    /// Take so many UTF-16 units away.
    Delete(u32),
}

/// Reads a delta: a list of steps, or an object with such a list as `ops`.
pub fn parse_delta(value: &Value) -> Result<Vec<Step>, Unfit> {
    let steps = value.get("ops").unwrap_or(value).as_array();
    let steps = steps.ok_or_else(|| Unfit::Delta("a delta is a list of steps: retain, insert, delete".into()))?;
    steps.iter().enumerate().map(|(index, step)| parse_step(index, step)).collect()
}

fn parse_step(index: usize, step: &Value) -> Result<Step, Unfit> {
    let wrong = |why: &str| Unfit::Delta(format!("step {index} of the delta: {why}"));
    let members = step.as_object().ok_or_else(|| wrong("it is no object"))?;
    let attributes = match members.get("attributes") {
        None => None,
        Some(Value::Object(marks)) => {
            Some(marks.iter().map(|(name, value)| (name.as_str().into(), any_of(value))).collect::<Attrs>())
        }
        Some(_) => return Err(wrong("\"attributes\" is no object")),
    };
    let others = members.len() - usize::from(attributes.is_some());
    let count = |value: &Value| {
        let count = value.as_u64().filter(|count| *count > 0).and_then(|count| u32::try_from(count).ok());
        count.ok_or_else(|| wrong("a count is a whole number above 0, in UTF-16 units"))
    };
    match (members.get("retain"), members.get("insert"), members.get("delete")) {
        (Some(value), None, None) if others == 1 => Ok(Step::Retain(count(value)?, attributes)),
        (None, Some(Value::String(text)), None) if others == 1 => Ok(Step::Insert(text.clone(), attributes)),
        (None, Some(_), None) => Err(wrong("only text can be inserted here")),
        (None, None, Some(value)) if members.len() == 1 => Ok(Step::Delete(count(value)?)),
        _ => Err(wrong("it must be one of {\"retain\": n}, {\"insert\": \"…\"}, {\"delete\": n}")),
    }
}

/// The delta that makes one text of another, without touching what they begin and end with alike.
pub fn difference(before: &str, after: &str) -> Vec<Step> {
    let units = |text: &str| text.encode_utf16().count() as u32;
    let begin: usize =
        before.chars().zip(after.chars()).take_while(|(one, other)| one == other).map(|(one, _)| one.len_utf8()).sum();
    let (old, new) = (&before[begin..], &after[begin..]);
    let alike = old.chars().rev().zip(new.chars().rev()).take_while(|(one, other)| one == other);
    let end: usize = alike.map(|(one, _)| one.len_utf8()).sum();
    let (old, new) = (&old[..old.len() - end], &new[..new.len() - end]);
    let mut steps = Vec::new();
    if begin > 0 {
        steps.push(Step::Retain(units(&before[..begin]), None));
    }
    if !old.is_empty() {
        steps.push(Step::Delete(units(old)));
    }
    if !new.is_empty() {
        steps.push(Step::Insert(new.to_string(), None));
    }
    steps
}

/// Whether a delta stays within a text, and out of its characters' middles.
pub(super) fn check_delta(text: &[u16], delta: &[Step]) -> Result<(), Unfit> {
    let mut at = 0_usize;
    for (index, step) in delta.iter().enumerate() {
        let (Step::Retain(count, _) | Step::Delete(count)) = step else { continue };
        at += *count as usize;
        if at > text.len() {
            let why = format!("step {index} of the delta goes past the end: the text has {} UTF-16 units", text.len());
            return Err(Unfit::Delta(why));
        }
        let splits = at > 0 && (0xd800..0xdc00).contains(&text[at - 1]) && at < text.len();
        if splits && (0xdc00..0xe000).contains(&text[at]) {
            let why = format!("step {index} of the delta ends within a character (a surrogate pair), at {at}");
            return Err(Unfit::Delta(why));
        }
    }
    Ok(())
}

/// Carries a delta out that was checked.
pub(super) fn apply_delta(text: &TextRef, transaction: &mut TransactionMut<'_>, delta: &[Step]) {
    let mut at = 0;
    for step in delta {
        match step {
            Step::Retain(count, marks) => {
                if let Some(marks) = marks {
                    text.format(transaction, at, *count, marks.clone());
                }
                at += count;
            }
            Step::Insert(written, marks) => {
                match marks {
                    Some(marks) => text.insert_with_attributes(transaction, at, written, marks.clone()),
                    None => text.insert(transaction, at, written),
                }
                at += written.encode_utf16().count() as u32;
            }
            Step::Delete(count) => text.remove_range(transaction, at, *count),
        }
    }
}

fn any_of(value: &Value) -> Any {
    match value {
        Value::Null => Any::Null,
        Value::Bool(value) => Any::Bool(*value),
        Value::Number(value) => match (value.as_i64(), value.as_f64()) {
            (Some(value), _) => Any::Number(Number::Int(value)),
            (None, Some(value)) => Any::Number(Number::Float(value)),
            (None, None) => Any::Null,
        },
        Value::String(text) => Any::String(text.as_str().into()),
        Value::Array(items) => Any::Array(items.iter().map(any_of).collect()),
        Value::Object(members) => {
            Any::Map(std::sync::Arc::new(members.iter().map(|(name, value)| (name.clone(), any_of(value))).collect()))
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::document::prose::Prose;

    fn text(prose: &Prose) -> String {
        prose.plain().unwrap()
    }

    #[test]
    fn the_difference_of_two_texts_makes_one_of_the_other() {
        let texts = ["", "a", "aa", "aba", "tea", "the tea", "😀", "😀😁", "a😀b", "ä\u{1F600}ö", "ab\nc"];
        for before in texts {
            for after in texts {
                let mut prose = Prose::default();
                prose.edit(1, &[Step::Insert(before.into(), None)]).unwrap();
                prose.edit(2, &difference(before, after)).unwrap();
                assert_eq!(text(&prose), after, "from {before:?}");
            }
        }
        assert_eq!(difference("tea", "tea").len(), 1, "a retain, which changes nothing");
    }

    #[test]
    fn a_delta_is_read_or_refused_whole() {
        let steps =
            parse_delta(&json!({"ops": [{"retain": 1}, {"insert": "x", "attributes": {"bold": true}}]})).unwrap();
        assert_eq!(steps.len(), 2);
        for bad in
            [json!({}), json!([1]), json!([{"delete": 1, "attributes": {}}]), json!([{"retain": 4_294_967_296_u64}])]
        {
            assert!(parse_delta(&bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_delta_stays_within_the_text_and_out_of_its_characters() {
        let units: Vec<u16> = "a😀".encode_utf16().collect();
        let check = |count| check_delta(&units, &[Step::Retain(count, None)]).is_ok();
        assert_eq!([1, 2, 3, 4].map(check), [true, false, true, false]);
    }
}
