//! What turns one JSON value into another, as a JSON Patch (RFC 6902) of `add`, `remove` and `replace`.
//!
//! Own code: whatever it gives must be a patch that [`super::patch`] takes, within its bounds, and that gives exactly the
//! other value; both are asked of each patch before it is given. It is short rather than shortest: an array is compared
//! from both ends, and what lies between is replaced place by place.

use serde_json::{Map, Value, json};

use super::{
    json::DOCUMENT_BYTES_MAX,
    patch::{Patch, STEPS_MAX},
};

/// A JSON Patch that turns `from` into `to`, as its list of steps. Where going step by step would pass the bounds of a
/// patch, it is one step that replaces the whole.
pub fn diff(from: &Value, to: &Value) -> Value {
    let mut steps = Steps::default();
    compare(&mut String::new(), from, to, &mut steps);
    let short = !steps.are_too_many();
    let patch = Value::Array(steps.list);
    if short && leads(&patch, from, to) { patch } else { json!([{ "op": "replace", "path": "", "value": to }]) }
}

/// The steps so far, and the bytes of their paths: a long key may stand in each of them.
#[derive(Default)]
struct Steps {
    list: Vec<Value>,
    path_bytes: usize,
}

impl Steps {
    fn push(&mut self, op: &str, path: &str, value: Option<&Value>) {
        if self.are_too_many() {
            return;
        }
        self.path_bytes += path.len();
        self.list.push(match value {
            Some(value) => json!({ "op": op, "path": path, "value": value }),
            None => json!({ "op": op, "path": path }),
        });
    }

    fn are_too_many(&self) -> bool {
        self.list.len() > STEPS_MAX || self.path_bytes > DOCUMENT_BYTES_MAX
    }
}

fn leads(patch: &Value, from: &Value, to: &Value) -> bool {
    let mut value = from.clone();
    Patch::parse(&patch.to_string()).is_ok_and(|patch| patch.apply(&mut value).is_ok()) && value == *to
}

/// Adds the steps from one value at `path` to the other; more than a patch takes are not looked for.
fn compare(path: &mut String, from: &Value, to: &Value, steps: &mut Steps) {
    if steps.are_too_many() || from == to {
        return;
    }
    match (from, to) {
        (Value::Object(from), Value::Object(to)) => compare_objects(path, from, to, steps),
        (Value::Array(from), Value::Array(to)) => compare_arrays(path, from, to, steps),
        _ => steps.push("replace", path, Some(to)),
    }
}

fn compare_objects(path: &mut String, from: &Map<String, Value>, to: &Map<String, Value>, steps: &mut Steps) {
    for (key, value) in from {
        within(path, key, |path| match to.get(key) {
            Some(other) => compare(path, value, other, steps),
            None => steps.push("remove", path, None),
        });
    }
    for (key, value) in to.iter().filter(|(key, _)| !from.contains_key(*key)) {
        within(path, key, |path| steps.push("add", path, Some(value)));
    }
}

fn compare_arrays(path: &mut String, from: &[Value], to: &[Value], steps: &mut Steps) {
    let head = from.iter().zip(to).take_while(|(one, other)| one == other).count();
    let ends = from[head..].iter().rev().zip(to[head..].iter().rev());
    let tail = ends.take_while(|(one, other)| one == other).count();
    let (between, wanted) = (&from[head..from.len() - tail], &to[head..to.len() - tail]);
    for (index, (one, other)) in between.iter().zip(wanted).enumerate() {
        within(path, &(head + index).to_string(), |path| compare(path, one, other, steps));
    }
    // From the end, so that no step moves what another names.
    for index in (wanted.len()..between.len()).rev() {
        within(path, &(head + index).to_string(), |path| steps.push("remove", path, None));
    }
    for (index, value) in wanted.iter().enumerate().skip(between.len()) {
        let add = |path: &mut String| steps.push("add", path, Some(value));
        within(path, &(head + index).to_string(), add);
    }
}

/// Goes into a member and back. In a JSON Pointer `~` and `/` stand as `~0` and `~1` (RFC 6901, section 3).
fn within(path: &mut String, token: &str, then: impl FnOnce(&mut String)) {
    let length = path.len();
    path.push('/');
    path.push_str(&token.replace('~', "~0").replace('/', "~1"));
    then(path);
    path.truncate(length);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(from: Value, to: Value, expected: Value) {
        let patch = diff(&from, &to);
        assert!(leads(&patch, &from, &to), "{from} to {to}: {patch}");
        assert_eq!(patch, expected, "{from} to {to}");
    }

    #[test]
    fn members_are_removed_replaced_and_added() {
        check(json!({ "a": 1 }), json!({ "a": 1 }), json!([]));
        check(
            json!({ "a": 1, "b": { "c": 2 }, "d/~": 3 }),
            json!({ "b": { "c": 4 }, "e": null }),
            json!([
                { "op": "remove", "path": "/a" },
                { "op": "replace", "path": "/b/c", "value": 4 },
                { "op": "remove", "path": "/d~1~0" },
                { "op": "add", "path": "/e", "value": null },
            ]),
        );
        check(json!([]), json!({}), json!([{ "op": "replace", "path": "", "value": {} }]));
        check(json!({ "": 1 }), json!({ "": 2 }), json!([{ "op": "replace", "path": "/", "value": 2 }]));
    }

    #[test]
    fn arrays_are_compared_from_both_ends() {
        check(json!([1, 2, 3]), json!([1, 9, 2, 3]), json!([{ "op": "add", "path": "/1", "value": 9 }]));
        check(
            json!([1, 2, 3, 4]),
            json!([1, 4]),
            json!([{ "op": "remove", "path": "/2" }, { "op": "remove", "path": "/1" }]),
        );
        check(json!([{ "a": 1 }, 2]), json!([{ "a": 2 }, 2]), json!([{ "op": "replace", "path": "/0/a", "value": 2 }]));
    }

    #[test]
    fn what_a_patch_cannot_do_step_by_step_it_replaces() {
        let numbers = |first: usize| Value::from((0..=STEPS_MAX).map(|n| n + first).collect::<Vec<_>>());
        check(numbers(0), numbers(7), json!([{ "op": "replace", "path": "", "value": numbers(7) }]));
    }

    #[test]
    fn a_long_key_is_not_written_once_for_each_member_behind_it() {
        let of = |n: usize| {
            let members: Map<String, Value> = (0..500).map(|at| (at.to_string(), n.into())).collect();
            json!({ "k".repeat(DOCUMENT_BYTES_MAX / 2): members })
        };
        check(of(0), of(1), json!([{ "op": "replace", "path": "", "value": of(1) }]));
    }

    fn random(rng: &mut fastrand::Rng, depth: usize) -> Value {
        match rng.u8(..if depth == 0 { 5 } else { 8 }) {
            0 => Value::Null,
            1 => rng.bool().into(),
            2 => rng.i64(-3..3).into(),
            3 => 0.5.into(),
            4 => ["", "a", "/", "~", "~1"][rng.usize(..5)].into(),
            5 | 6 => (0..rng.usize(..5)).map(|_| random(rng, depth - 1)).collect(),
            _ => {
                let key = |rng: &mut fastrand::Rng| ["", "a", "b", "0", "-", "/", "~", "é"][rng.usize(..8)].to_string();
                Value::Object((0..rng.usize(..5)).map(|_| (key(rng), random(rng, depth - 1))).collect())
            }
        }
    }

    /// Another value that has much in common with the first.
    fn altered(rng: &mut fastrand::Rng, value: &Value) -> Value {
        match value {
            Value::Array(items) if rng.u8(..4) > 0 => {
                let mut items: Vec<Value> =
                    items.iter().map(|item| if rng.bool() { altered(rng, item) } else { item.clone() }).collect();
                if rng.bool() {
                    items.insert(rng.usize(..=items.len()), random(rng, 1));
                }
                if rng.bool() && !items.is_empty() {
                    items.remove(rng.usize(..items.len()));
                }
                Value::Array(items)
            }
            Value::Object(members) if rng.u8(..4) > 0 => {
                let kept = members.iter().filter(|_| rng.u8(..4) > 0).map(|(key, value)| (key.clone(), value.clone()));
                let kept: Vec<(String, Value)> = kept.collect();
                Value::Object(kept.into_iter().map(|(key, value)| (key, altered(rng, &value))).collect())
            }
            other if rng.bool() => other.clone(),
            _ => random(rng, 2),
        }
    }

    #[test]
    fn a_patch_applied_gives_exactly_the_other_value() {
        let mut rng = fastrand::Rng::with_seed(11);
        for _ in 0..20_000 {
            let from = random(&mut rng, 4);
            let to = if rng.bool() { altered(&mut rng, &from) } else { random(&mut rng, 4) };
            let mut steps = Steps::default();
            compare(&mut String::new(), &from, &to, &mut steps);
            let steps = Value::Array(steps.list);
            assert!(leads(&steps, &from, &to), "{from} to {to}: {steps}");
        }
    }
}
