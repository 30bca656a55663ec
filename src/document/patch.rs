//! Changes to a document: JSON Merge Patch (RFC 7396), and JSON Patch (RFC 6902) with an `increment` of our own.
//!
//! Rests on [`super::json`] for reading and measuring. Every outcome, failure included, depends on the document and the
//! patch alone: no clock, no pointer width, no order of hashing, so all nodes get byte-equal results.
//!
//! Own code, for the crate json-patch 5.0.0 panics ("unable to undo applied patches") when a step fails after a valid
//! `move` of a child over its parent. It also leaves growth by `copy` unbounded, and bounding it from outside means to
//! walk and measure each path again.

#![expect(missing_docs, reason = "the doc of a variant speaks of its fields")]

use std::fmt;

use serde_json::{Map, Number, Value};

use super::{
    cost::{COST_MAX, Cost, TooCostly},
    json::{self, DEPTH_MAX, DOCUMENT_BYTES_MAX, JsonError, Size},
};

/// Most steps of one patch. A protocol constant.
pub const STEPS_MAX: usize = 1000;

/// Applies a JSON Merge Patch (RFC 7396): members of `patch` replace those of `target`, `null` removes, objects merge,
/// anything else replaces `target` as a whole.
///
/// Both values are as [`json::parse`] gives them; the recursion goes no deeper than the patch. The result is no deeper
/// than the deeper of the two, but may be larger than a document: [`json::write`] judges that.
pub fn merge(target: &mut Value, patch: Value) {
    let mut size = Size::of(target);
    merge_sized(target, &mut size, patch);
}

/// As [`merge`], within a document whose size is known; it is kept up to date.
pub fn merge_sized(target: &mut Value, size: &mut Size, patch: Value) {
    let Value::Object(members) = patch else {
        *size = *size - Size::of(target) + Size::of(&patch);
        *target = patch;
        return;
    };
    if !target.is_object() {
        let empty = Value::Object(Map::new());
        *size = *size - Size::of(target) + Size::of(&empty);
        *target = empty;
    }
    let Value::Object(object) = target else {
        return;
    };
    for (key, value) in members {
        if value.is_null() {
            if let Some(removed) = object.remove(&key) {
                *size = *size - member_size(&key, Size::of(&removed), object.len());
            }
            continue;
        }
        let added = member_size(&key, Size::of(&Value::Null), object.len());
        let member = object.entry(key).or_insert_with(|| {
            *size = *size + added;
            Value::Null
        });
        merge_sized(member, size, value);
    }
}

/// A JSON Patch (RFC 6902) of well-formed steps: `add`, `remove`, `replace`, `move`, `copy`, `test`, and
/// `{"op":"increment","path":P,"by":N}`, which adds a number to the number at `P`.
#[derive(Debug, Clone, PartialEq)]
pub struct Patch(Vec<Step>);

impl Patch {
    /// Reads a patch from JSON text, an array of at most [`STEPS_MAX`] objects. Members a step does not know are
    /// ignored (RFC 6902, section 4).
    ///
    /// # Errors
    /// Everything wrong with a patch whatever the document, see [`PatchError`].
    pub fn parse(text: &str) -> Result<Self, PatchError> {
        let Value::Array(steps) = json::parse(text.as_bytes()).map_err(PatchError::Json)? else {
            return Err(PatchError::NotAList);
        };
        if steps.len() > STEPS_MAX {
            return Err(PatchError::TooManySteps { steps: steps.len() });
        }
        let step = |(index, step)| Step::parse(step).map_err(|why| PatchError::Step { index, why });
        steps.into_iter().enumerate().map(step).collect::<Result<_, _>>().map(Self)
    }

    /// Applies all steps in order to a document of [`json::parse`], within its bounds before and after every step. The cost
    /// counts from zero.
    ///
    /// # Errors
    /// The first step that fails. The steps before it **have** changed `document`; the caller throws it away, which is
    /// cheaper than undoing since it came from stored text anyway.
    pub fn apply(&self, document: &mut Value) -> Result<(), StepFailure> {
        self.apply_within(document, &mut Size::of(document), &mut Cost::default())
    }

    /// As [`Patch::apply`], to a document whose size is known; it is kept up to date. Charges what the steps copy, move and
    /// shift before they do it.
    pub fn apply_within(&self, document: &mut Value, size: &mut Size, cost: &mut Cost) -> Result<(), StepFailure> {
        let mut draft = Draft { document, size, cost };
        for (index, step) in self.0.iter().enumerate() {
            draft.take(step).map_err(|why| StepFailure { index, why })?;
        }
        debug_assert_eq!(*draft.size, Size::of(draft.document), "the size was kept exactly");
        Ok(())
    }
}

/// Why a text is not a patch. Nothing was applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PatchError {
    /// The text is not strict JSON.
    Json(JsonError),
    /// The patch is not an array of steps.
    NotAList,
    /// More than [`STEPS_MAX`] steps.
    TooManySteps { steps: usize },
    /// The step at `index`, from 0, is malformed.
    Step { index: usize, why: StepError },
}

impl fmt::Display for PatchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Json(error) => error.fmt(f),
            Self::NotAList => f.write_str("a JSON Patch is an array of steps; send it in [ ]"),
            Self::TooManySteps { steps } => {
                write!(f, "{steps} steps; send at most {STEPS_MAX} in one patch")
            }
            Self::Step { index, why } => write!(f, "step {index} (from 0): {why}"),
        }
    }
}

impl std::error::Error for PatchError {}

/// Why a step is malformed, whatever the document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StepError {
    /// The step is not an object.
    NotAnObject,
    /// `op` is none of those known.
    UnknownOperation { op: String },
    /// A member which the operation needs is absent or of another type.
    BadMember { member: &'static str, expected: &'static str },
    /// Not a JSON Pointer (RFC 6901), or one of more than [`DEPTH_MAX`] tokens, which no document can hold.
    BadPointer { pointer: String },
    /// `move` to a place within the value moved (RFC 6902, section 4.4).
    MoveIntoItself,
}

impl fmt::Display for StepError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotAnObject => f.write_str("a step is an object with \"op\" and \"path\""),
            Self::UnknownOperation { op } => {
                write!(f, "unknown op {op:?}; use add, remove, replace, move, copy, test or increment")
            }
            Self::BadMember { member, expected } => write!(f, "{member:?} must be {expected}"),
            Self::BadPointer { pointer } => write!(
                f,
                "{pointer:?} is no JSON Pointer; write \"\" for the document or \"/key/0\" for a place within it, with \
                 ~ in a key as ~0 and / as ~1, at most {DEPTH_MAX} levels"
            ),
            Self::MoveIntoItself => f.write_str("a value cannot move into itself; choose another path"),
        }
    }
}

/// The step that failed, counted from 0, and why. The document is half patched, see [`Patch::apply`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StepFailure {
    pub index: usize,
    pub why: Why,
}

impl fmt::Display for StepFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "step {} (from 0): {}", self.index, self.why)
    }
}

impl std::error::Error for StepFailure {}

/// Why a well-formed step does not fit the document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Why {
    /// There is no value at `pointer`; or, for a place to add to, nothing around it that could hold it there.
    Missing { pointer: String },
    /// `test` found another value.
    Differs { pointer: String },
    /// `remove`, or `move` elsewhere, of the whole document.
    WholeDocument,
    /// `increment` of what is not a number.
    NotANumber { pointer: String },
    /// `increment` of an integer by an integer past 64 bits, or of a double past its range.
    Overflow { pointer: String },
    /// The document would pass [`DOCUMENT_BYTES_MAX`].
    TooLarge,
    /// The document would pass [`DEPTH_MAX`].
    TooDeep,
    /// The op would pass [`COST_MAX`].
    TooCostly,
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing { pointer } => {
                write!(f, "the document has no {pointer:?}; read it again and mend the path")
            }
            Self::Differs { pointer } => {
                write!(f, "{pointer:?} holds another value than tested; read it again")
            }
            Self::WholeDocument => f.write_str("the whole document cannot be taken away; delete the document instead"),
            Self::NotANumber { pointer } => {
                write!(f, "{pointer:?} holds no number; replace it by one first")
            }
            Self::Overflow { pointer } => {
                write!(f, "{pointer:?} would pass 64 bits or the range of a double; increment by less")
            }
            Self::TooLarge => write!(f, "more than {DOCUMENT_BYTES_MAX} bytes; split it"),
            Self::TooDeep => write!(f, "more than {DEPTH_MAX} levels; flatten it"),
            Self::TooCostly => {
                write!(f, "more than {COST_MAX} units of cost; send it as several, or put the whole document")
            }
        }
    }
}

#[derive(Debug, Clone, PartialEq)]
enum Step {
    Add { path: Pointer, value: Value },
    Remove { path: Pointer },
    Replace { path: Pointer, value: Value },
    Move { from: Pointer, path: Pointer },
    Copy { from: Pointer, path: Pointer },
    Test { path: Pointer, value: Value },
    Increment { path: Pointer, by: Number },
}

impl Step {
    fn parse(step: Value) -> Result<Self, StepError> {
        let Value::Object(mut members) = step else {
            return Err(StepError::NotAnObject);
        };
        let op = string(&mut members, "op")?;
        let path = Pointer::parse(&string(&mut members, "path")?)?;
        match op.as_str() {
            "add" => value(&mut members).map(|value| Self::Add { path, value }),
            "remove" => Ok(Self::Remove { path }),
            "replace" => value(&mut members).map(|value| Self::Replace { path, value }),
            "test" => value(&mut members).map(|value| Self::Test { path, value }),
            "move" => {
                let from = Pointer::parse(&string(&mut members, "from")?)?;
                if path.0.len() > from.0.len() && path.0.starts_with(&from.0) {
                    return Err(StepError::MoveIntoItself);
                }
                Ok(Self::Move { from, path })
            }
            "copy" => {
                let from = Pointer::parse(&string(&mut members, "from")?)?;
                Ok(Self::Copy { from, path })
            }
            "increment" => match members.remove("by") {
                Some(Value::Number(by)) => Ok(Self::Increment { path, by }),
                _ => Err(bad_member("by", "a number")),
            },
            _ => Err(StepError::UnknownOperation { op: json::excerpt(&op) }),
        }
    }
}

impl Step {
    /// The tokens of its paths.
    fn tokens(&self) -> usize {
        match self {
            Step::Move { from, path } | Step::Copy { from, path } => from.0.len() + path.0.len(),
            Step::Add { path, .. }
            | Step::Remove { path }
            | Step::Replace { path, .. }
            | Step::Test { path, .. }
            | Step::Increment { path, .. } => path.0.len(),
        }
    }
}

fn string(members: &mut Map<String, Value>, member: &'static str) -> Result<String, StepError> {
    match members.remove(member) {
        Some(Value::String(string)) => Ok(string),
        _ => Err(bad_member(member, "a string")),
    }
}

fn value(members: &mut Map<String, Value>) -> Result<Value, StepError> {
    let value = members.remove("value");
    value.ok_or(bad_member("value", "there, any JSON value"))
}

fn bad_member(member: &'static str, expected: &'static str) -> StepError {
    StepError::BadMember { member, expected }
}

/// A JSON Pointer (RFC 6901) as its tokens, with `~0` and `~1` resolved.
#[derive(Debug, Clone, PartialEq)]
struct Pointer(Vec<String>);

impl Pointer {
    fn parse(text: &str) -> Result<Self, StepError> {
        let bad = |token: &str| token.split('~').skip(1).any(|rest| !rest.starts_with(['0', '1']));
        // `~1` before `~0`, so that `~01` becomes `~1` (RFC 6901, section 4).
        let token = |token: &str| (!bad(token)).then(|| token.replace("~1", "/").replace("~0", "~"));
        let mut parts = text.split('/');
        let rooted = parts.next() == Some("");
        // One token more than allowed is enough to know, however long the text is.
        match parts.take(DEPTH_MAX + 1).map(token).collect::<Option<Vec<_>>>() {
            Some(tokens) if rooted && tokens.len() <= DEPTH_MAX => Ok(Self(tokens)),
            _ => Err(StepError::BadPointer { pointer: json::excerpt(text) }),
        }
    }

    /// The pointer as text, cut to a length fit for an error.
    fn excerpt(&self) -> String {
        let token = |token: &String| format!("/{}", token.replace('~', "~0").replace('/', "~1"));
        json::excerpt(&self.0.iter().map(token).collect::<String>())
    }

    fn missing(&self) -> Why {
        let pointer = self.excerpt();
        Why::Missing { pointer }
    }
}

/// A document while steps change it, with its exact size and the cost so far.
struct Draft<'a> {
    document: &'a mut Value,
    size: &'a mut Size,
    cost: &'a mut Cost,
}

impl Draft<'_> {
    fn take(&mut self, step: &Step) -> Result<(), Why> {
        self.cost.charge_path(step.tokens())?;
        match step {
            Step::Add { path, value } => self.add(path, value.clone(), Size::of(value)),
            Step::Remove { path } => self.remove(path).map(drop),
            Step::Replace { path, value } => self.replace(path, value.clone(), Size::of(value)),
            Step::Move { from, path } if from == path => self.find(from).map(drop),
            Step::Move { from, path } => {
                let (value, size) = self.remove(from)?;
                self.cost.charge_value(size)?;
                self.add(path, value, size)
            }
            Step::Copy { from, path } => {
                let size = Size::of(self.find(from)?);
                self.cost.charge_value(size)?;
                let value = self.find(from)?.clone();
                self.add(path, value, size)
            }
            Step::Test { path, value } if self.find(path)? == value => Ok(()),
            Step::Test { path, .. } => Err(Why::Differs { pointer: path.excerpt() }),
            Step::Increment { path, by } => {
                let Value::Number(number) = self.find(path)? else {
                    return Err(Why::NotANumber { pointer: path.excerpt() });
                };
                let sum = sum(number, by).ok_or_else(|| Why::Overflow { pointer: path.excerpt() })?;
                let sum = Value::Number(sum);
                let size = Size::of(&sum);
                self.replace(path, sum, size)
            }
        }
    }

    fn find(&self, path: &Pointer) -> Result<&Value, Why> {
        path.0
            .iter()
            .try_fold(&*self.document, |value, token| match value {
                Value::Object(object) => object.get(token),
                Value::Array(array) => array.get(index(token)?),
                _ => None,
            })
            .ok_or_else(|| path.missing())
    }

    fn add(&mut self, path: &Pointer, value: Value, added: Size) -> Result<(), Why> {
        let Some((last, parents)) = path.0.split_last() else {
            return self.replace(path, value, added);
        };
        check_depth(path, &value)?;
        match walk(self.document, parents).ok_or_else(|| path.missing())? {
            Value::Object(object) => {
                let size = match object.get(last) {
                    Some(old) => *self.size - Size::of(old) + added,
                    None => *self.size + member_size(last, added, object.len()),
                };
                *self.size = within_bound(size)?;
                object.insert(last.clone(), value);
            }
            Value::Array(array) => {
                let length = array.len();
                let at = match last.as_str() {
                    "-" => Some(length),
                    token => index(token).filter(|at| *at <= length),
                };
                let at = at.ok_or_else(|| path.missing())?;
                *self.size = within_bound(*self.size + element_size(added, length))?;
                self.cost.charge_shift(length - at)?;
                array.insert(at, value);
            }
            _ => return Err(path.missing()),
        }
        Ok(())
    }

    /// Takes a value away, and returns it with its size.
    fn remove(&mut self, path: &Pointer) -> Result<(Value, Size), Why> {
        let (last, parents) = path.0.split_last().ok_or(Why::WholeDocument)?;
        let (value, size) = match walk(self.document, parents) {
            Some(Value::Object(object)) => {
                let value = object.remove(last).ok_or_else(|| path.missing())?;
                let size = Size::of(&value);
                *self.size = *self.size - member_size(last, size, object.len());
                (value, size)
            }
            Some(Value::Array(array)) => {
                let at = index(last).filter(|at| *at < array.len());
                let at = at.ok_or_else(|| path.missing())?;
                self.cost.charge_shift(array.len() - at)?;
                let value = array.remove(at);
                let size = Size::of(&value);
                *self.size = *self.size - element_size(size, array.len());
                (value, size)
            }
            _ => return Err(path.missing()),
        };
        Ok((value, size))
    }

    fn replace(&mut self, path: &Pointer, value: Value, added: Size) -> Result<(), Why> {
        check_depth(path, &value)?;
        let place = walk(self.document, &path.0).ok_or_else(|| path.missing())?;
        *self.size = within_bound(*self.size - Size::of(place) + added)?;
        *place = value;
        Ok(())
    }
}

fn walk<'a>(document: &'a mut Value, tokens: &[String]) -> Option<&'a mut Value> {
    tokens.iter().try_fold(document, |value, token| match value {
        Value::Object(object) => object.get_mut(token),
        Value::Array(array) => array.get_mut(index(token)?),
        _ => None,
    })
}

/// An array index (RFC 6901, section 4): digits without a leading zero. One too large for this machine is past the end
/// of every array, as it is on any other machine.
fn index(token: &str) -> Option<usize> {
    let digits = !token.is_empty() && token.bytes().all(|byte| byte.is_ascii_digit());
    let plain = digits && (token == "0" || !token.starts_with('0'));
    plain.then(|| token.parse().unwrap_or(usize::MAX))
}

/// What a member adds to an object that has `others`: its key, a colon, its value, and a comma if it is not alone.
fn member_size(key: &str, value: Size, others: usize) -> Size {
    let element = element_size(value, others);
    Size { bytes: json::size(key) + 1 + element.bytes, values: element.values + 1 }
}

/// What an element adds to an array that has `others`: its value, and a comma if it is not alone.
fn element_size(value: Size, others: usize) -> Size {
    Size { bytes: value.bytes + usize::from(others > 0), values: value.values + 1 }
}

fn within_bound(size: Size) -> Result<Size, Why> {
    let small = size.bytes <= DOCUMENT_BYTES_MAX;
    small.then_some(size).ok_or(Why::TooLarge)
}

fn check_depth(path: &Pointer, value: &Value) -> Result<(), Why> {
    let shallow = path.0.len() + json::depth(value) <= DEPTH_MAX;
    shallow.then_some(()).ok_or(Why::TooDeep)
}

impl From<TooCostly> for Why {
    fn from(_: TooCostly) -> Why {
        Why::TooCostly
    }
}

/// Integers add up exactly within 64 bits. As soon as one of the two is a double both are, rounded to nearest.
fn sum(number: &Number, by: &Number) -> Option<Number> {
    if let (Some(left), Some(right)) = (number.as_i128(), by.as_i128()) {
        let sum = left + right;
        let negative = || i64::try_from(sum).ok().map(Number::from);
        return u64::try_from(sum).ok().map(Number::from).or_else(negative);
    }
    json::number(number.as_f64()? + by.as_f64()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(text: &str) -> Value {
        json::parse(text.as_bytes()).unwrap()
    }

    fn applied(input: &str, patch: &str) -> Result<Value, StepFailure> {
        let mut document = value(input);
        let patch = json::canonical(patch.as_bytes()).unwrap();
        Patch::parse(&patch).unwrap().apply(&mut document)?;
        Ok(document)
    }

    /// The patch makes `expected` of the input, byte for byte.
    fn check(input: &str, patch: &str, expected: &str) {
        let document = applied(input, patch).unwrap_or_else(|failure| panic!("{patch}: {failure}"));
        let text = json::write(&document).unwrap();
        assert!(text == json::canonical(expected.as_bytes()).unwrap(), "{patch}: {}", json::excerpt(&text));
        assert!(document == value(expected), "{patch}");
    }

    /// The step at `index` is the first to fail.
    fn check_fails(input: &str, patch: &str, index: usize, why: Why) {
        let failure = StepFailure { index, why };
        assert_eq!(applied(input, patch).map(drop), Err(failure), "{}", json::excerpt(patch));
    }

    fn check_missing(input: &str, patch: &str, pointer: &str) {
        let pointer = pointer.to_owned();
        check_fails(input, patch, 0, Why::Missing { pointer });
    }

    fn check_bad(step: &str, why: StepError) {
        let patch = format!(r#"[{{"op":"test","path":"","value":0}},{step}]"#);
        assert_eq!(Patch::parse(&patch), Err(PatchError::Step { index: 1, why }), "{step}");
    }

    fn check_merge(target: &str, patch: &str, expected: &str) {
        let mut document = value(target);
        merge(&mut document, value(patch));
        assert_eq!(document, value(expected), "{target} and {patch}");
    }

    #[test]
    fn merge_does_the_examples_of_rfc_7396() {
        // Appendix A, in its order.
        check_merge(r#"{"a":"b"}"#, r#"{"a":"c"}"#, r#"{"a":"c"}"#);
        check_merge(r#"{"a":"b"}"#, r#"{"b":"c"}"#, r#"{"a":"b","b":"c"}"#);
        check_merge(r#"{"a":"b"}"#, r#"{"a":null}"#, "{}");
        check_merge(r#"{"a":"b","b":"c"}"#, r#"{"a":null}"#, r#"{"b":"c"}"#);
        check_merge(r#"{"a":["b"]}"#, r#"{"a":"c"}"#, r#"{"a":"c"}"#);
        check_merge(r#"{"a":"c"}"#, r#"{"a":["b"]}"#, r#"{"a":["b"]}"#);
        check_merge(r#"{"a":{"b":"c"}}"#, r#"{"a":{"b":"d","c":null}}"#, r#"{"a":{"b":"d"}}"#);
        check_merge(r#"{"a":[{"b":"c"}]}"#, r#"{"a":[1]}"#, r#"{"a":[1]}"#);
        check_merge(r#"["a","b"]"#, r#"["c","d"]"#, r#"["c","d"]"#);
        check_merge(r#"{"a":"b"}"#, r#"["c"]"#, r#"["c"]"#);
        check_merge(r#"{"a":"foo"}"#, "null", "null");
        check_merge(r#"{"a":"foo"}"#, r#""bar""#, r#""bar""#);
        check_merge(r#"{"e":null}"#, r#"{"a":1}"#, r#"{"e":null,"a":1}"#);
        check_merge("[1,2]", r#"{"a":"b","c":null}"#, r#"{"a":"b"}"#);
        check_merge("{}", r#"{"a":{"bb":{"ccc":null}}}"#, r#"{"a":{"bb":{}}}"#);
    }

    #[test]
    fn merge_does_the_example_of_rfc_7396_section_3() {
        check_merge(
            r#"{"title":"Goodbye!","author":{"givenName":"John","familyName":"Doe"},"tags":["example","sample"],
                "content":"This will be unchanged"}"#,
            r#"{"title":"Hello!","phoneNumber":"+01-123-456-7890","author":{"familyName":null},"tags":["example"]}"#,
            r#"{"title":"Hello!","author":{"givenName":"John"},"tags":["example"],"content":"This will be unchanged",
                "phoneNumber":"+01-123-456-7890"}"#,
        );
    }

    #[test]
    fn merge_keeps_nulls_within_arrays() {
        check_merge("{}", r#"{"a":[null,{"b":null}]}"#, r#"{"a":[null,{"b":null}]}"#);
    }

    #[test]
    fn patches_do_the_examples_of_rfc_6902() {
        // Appendix A.1 to A.5.
        check(r#"{"foo":"bar"}"#, r#"[{"op":"add","path":"/baz","value":"qux"}]"#, r#"{"baz":"qux","foo":"bar"}"#);
        check(
            r#"{"foo":["bar","baz"]}"#,
            r#"[{"op":"add","path":"/foo/1","value":"qux"}]"#,
            r#"{"foo":["bar","qux","baz"]}"#,
        );
        check(r#"{"baz":"qux","foo":"bar"}"#, r#"[{"op":"remove","path":"/baz"}]"#, r#"{"foo":"bar"}"#);
        check(r#"{"foo":["bar","qux","baz"]}"#, r#"[{"op":"remove","path":"/foo/1"}]"#, r#"{"foo":["bar","baz"]}"#);
        check(
            r#"{"baz":"qux","foo":"bar"}"#,
            r#"[{"op":"replace","path":"/baz","value":"boo"}]"#,
            r#"{"baz":"boo","foo":"bar"}"#,
        );
    }

    #[test]
    fn patches_do_the_later_examples_of_rfc_6902() {
        // Appendix A.6 to A.16, those which fail last. A.13, a key twice, never gets past the strict reading of JSON.
        check(
            r#"{"foo":{"bar":"baz","waldo":"fred"},"qux":{"corge":"grault"}}"#,
            r#"[{"op":"move","from":"/foo/waldo","path":"/qux/thud"}]"#,
            r#"{"foo":{"bar":"baz"},"qux":{"corge":"grault","thud":"fred"}}"#,
        );
        check(
            r#"{"foo":["all","grass","cows","eat"]}"#,
            r#"[{"op":"move","from":"/foo/1","path":"/foo/3"}]"#,
            r#"{"foo":["all","cows","eat","grass"]}"#,
        );
        check(
            r#"{"baz":"qux","foo":["a",2,"c"]}"#,
            r#"[{"op":"test","path":"/baz","value":"qux"},{"op":"test","path":"/foo/1","value":2}]"#,
            r#"{"baz":"qux","foo":["a",2,"c"]}"#,
        );
        check(
            r#"{"foo":"bar"}"#,
            r#"[{"op":"add","path":"/child","value":{"grandchild":{}}}]"#,
            r#"{"foo":"bar","child":{"grandchild":{}}}"#,
        );
        check(
            r#"{"foo":"bar"}"#,
            r#"[{"op":"add","path":"/baz","value":"qux","xyz":123}]"#,
            r#"{"foo":"bar","baz":"qux"}"#,
        );
        check(r#"{"/":9,"~1":10}"#, r#"[{"op":"test","path":"/~01","value":10}]"#, r#"{"/":9,"~1":10}"#);
        check(
            r#"{"foo":["bar"]}"#,
            r#"[{"op":"add","path":"/foo/-","value":["abc","def"]}]"#,
            r#"{"foo":["bar",["abc","def"]]}"#,
        );
        check_fails(
            r#"{"baz":"qux"}"#,
            r#"[{"op":"test","path":"/baz","value":"bar"}]"#,
            0,
            Why::Differs { pointer: "/baz".into() },
        );
        check_missing(r#"{"foo":"bar"}"#, r#"[{"op":"add","path":"/baz/bat","value":"qux"}]"#, "/baz/bat");
        check_fails(
            r#"{"/":9,"~1":10}"#,
            r#"[{"op":"test","path":"/~01","value":"10"}]"#,
            0,
            Why::Differs { pointer: "/~01".into() },
        );
    }

    #[test]
    fn pointers_do_the_examples_of_rfc_6901() {
        // Section 5; the documents of its key "" and of the whole document come last.
        let document = r#"{"foo":["bar","baz"],"":0,"a/b":1,"c%d":2,"e^f":3,"g|h":4,"i\\j":5,"k\"l":6," ":7,"m~n":8}"#;
        let check = |pointer: &str, expected: &str| {
            let test = format!(r#"[{{"op":"test","path":"{pointer}","value":{expected}}}]"#);
            check(document, &test, document);
        };
        check("/foo", r#"["bar","baz"]"#);
        check("/foo/0", r#""bar""#);
        check("/a~1b", "1");
        check("/c%d", "2");
        check("/e^f", "3");
        check("/g|h", "4");
        check(r"/i\\j", "5");
        check(r#"/k\"l"#, "6");
        check("/ ", "7");
        check("/m~0n", "8");
        check("/", "0");
        check("", document);
    }

    #[test]
    fn the_whole_document_can_be_added_replaced_copied_and_tested() {
        check("1", r#"[{"op":"add","path":"","value":[2]}]"#, "[2]");
        check("1", r#"[{"op":"replace","path":"","value":{"a":2}}]"#, r#"{"a":2}"#);
        check(r#"{"a":[1]}"#, r#"[{"op":"copy","from":"/a","path":""}]"#, "[1]");
        check(r#"{"a":[1]}"#, r#"[{"op":"copy","from":"","path":"/b"}]"#, r#"{"a":[1],"b":{"a":[1]}}"#);
        check(r#"{"a":[1],"b":2}"#, r#"[{"op":"move","from":"/a","path":""}]"#, "[1]");
        check(r#"{"a":1}"#, r#"[{"op":"move","from":"","path":""}]"#, r#"{"a":1}"#);
        check("[]", r#"[{"op":"add","path":"/-","value":1},{"op":"test","path":"","value":[1]}]"#, "[1]");
        check_fails("1", r#"[{"op":"remove","path":""}]"#, 0, Why::WholeDocument);
    }

    #[test]
    fn add_puts_members_and_elements() {
        check("{}", r#"[{"op":"add","path":"/","value":1}]"#, r#"{"":1}"#);
        check(r#"{"a":{}}"#, r#"[{"op":"add","path":"/a/","value":1}]"#, r#"{"a":{"":1}}"#);
        check(r#"{"a":1}"#, r#"[{"op":"add","path":"/a","value":null}]"#, r#"{"a":null}"#);
        check("{}", r#"[{"op":"add","path":"/0","value":1}]"#, r#"{"0":1}"#);
        check("{}", r#"[{"op":"add","path":"/-","value":1}]"#, r#"{"-":1}"#);
        check("[]", r#"[{"op":"add","path":"/0","value":1}]"#, "[1]");
        check("[1,2]", r#"[{"op":"add","path":"/0","value":0}]"#, "[0,1,2]");
        check("[1,2]", r#"[{"op":"add","path":"/2","value":3}]"#, "[1,2,3]");
        check("[1,[2]]", r#"[{"op":"add","path":"/1/-","value":3}]"#, "[1,[2,3]]");
        check("{}", r#"[{"op":"add","path":"/é~1~0","value":1}]"#, r#"{"é/~":1}"#);
        check_missing("[1,2]", r#"[{"op":"add","path":"/3","value":0}]"#, "/3");
        check_missing("[[1]]", r#"[{"op":"add","path":"/-/0","value":0}]"#, "/-/0");
        check_missing(r#"{"a":"b"}"#, r#"[{"op":"add","path":"/a/b","value":0}]"#, "/a/b");
        check_missing("1", r#"[{"op":"add","path":"/a~1~0","value":0}]"#, "/a~1~0");
    }

    #[test]
    fn array_indexes_are_plain_digits() {
        for index in ["+1", "01", "00", "-1", "1e0", "1.0", "0x1", " 1", "1 ", "", "a", "１", "99999999999999999999"] {
            let pointer = format!("/{index}");
            for op in ["add", "replace", "remove", "test", "increment"] {
                let patch = format!(r#"[{{"op":"{op}","path":"{pointer}","value":1,"by":1}}]"#);
                check_missing("[1,2]", &patch, &pointer);
            }
            let copy = format!(r#"[{{"op":"copy","from":"{pointer}/0","path":""}}]"#);
            check_missing("[[1],[2]]", &copy, &format!("{pointer}/0"));
        }
        for op in ["replace", "remove", "test", "increment"] {
            let patch = |pointer| format!(r#"[{{"op":"{op}","path":"{pointer}","value":1,"by":1}}]"#);
            check_missing("[1,2]", &patch("/-"), "/-");
            check_missing("[1,2]", &patch("/2"), "/2");
        }
    }

    #[test]
    fn remove_and_replace_need_an_existing_target() {
        check("[1,2,3]", r#"[{"op":"remove","path":"/0"},{"op":"remove","path":"/1"}]"#, "[2]");
        check("[1]", r#"[{"op":"remove","path":"/0"}]"#, "[]");
        check(r#"{"a":null}"#, r#"[{"op":"remove","path":"/a"}]"#, "{}");
        check(r#"{"a":null}"#, r#"[{"op":"replace","path":"/a","value":[]}]"#, r#"{"a":[]}"#);
        check(r#"[{"a":1}]"#, r#"[{"op":"replace","path":"/0/a","value":null}]"#, r#"[{"a":null}]"#);
        check_missing("{}", r#"[{"op":"remove","path":"/a"}]"#, "/a");
        check_missing("{}", r#"[{"op":"replace","path":"/a","value":1}]"#, "/a");
        check_missing(r#"{"a":1}"#, r#"[{"op":"remove","path":"/a/b"}]"#, "/a/b");
    }

    #[test]
    fn test_compares_values_not_texts() {
        check(
            r#"{"a":{"x":1,"y":[2]}}"#,
            r#"[{"op":"test","path":"/a","value":{"y":[2.0],"x":1e0}}]"#,
            r#"{"a":{"x":1,"y":[2]}}"#,
        );
        check("null", r#"[{"op":"test","path":"","value":null}]"#, "null");
        check(r#""\u00e9""#, r#"[{"op":"test","path":"","value":"é"}]"#, r#""é""#);
        let differs = |input, expected| {
            let patch = format!(r#"[{{"op":"test","path":"","value":{expected}}}]"#);
            check_fails(input, &patch, 0, Why::Differs { pointer: String::new() });
        };
        differs("1", "\"1\"");
        differs("[1,2]", "[2,1]");
        differs("[1,2]", "[1]");
        differs("{}", "[]");
        differs("0", "false");
        differs("{\"a\":null}", "{}");
        differs("\"é\"", "\"e\u{301}\"");
        check_missing("{}", r#"[{"op":"test","path":"/a","value":null}]"#, "/a");
        check_missing("{}", r#"[{"op":"test","path":"/a/b","value":null}]"#, "/a/b");
    }

    #[test]
    fn move_and_copy_take_the_value_as_it_then_is() {
        check(r#"{"a":1}"#, r#"[{"op":"move","from":"/a","path":"/ab"}]"#, r#"{"ab":1}"#);
        check(r#"{"a":1}"#, r#"[{"op":"move","from":"/a","path":"/a"}]"#, r#"{"a":1}"#);
        check(r#"{"a":{"b":1}}"#, r#"[{"op":"move","from":"/a/b","path":"/a"}]"#, r#"{"a":1}"#);
        check("[1,2,3]", r#"[{"op":"move","from":"/0","path":"/-"}]"#, "[2,3,1]");
        check("[1,2,3]", r#"[{"op":"move","from":"/2","path":"/0"}]"#, "[3,1,2]");
        check("[[1],[2]]", r#"[{"op":"move","from":"/0","path":"/0"}]"#, "[[1],[2]]");
        check("[[1],[2]]", r#"[{"op":"move","from":"/0","path":"/1"}]"#, "[[2],[1]]");
        check(
            r#"{"a":[1],"b":2}"#,
            r#"[{"op":"copy","from":"/a","path":"/b"},{"op":"add","path":"/b/0","value":0}]"#,
            r#"{"a":[1],"b":[0,1]}"#,
        );
        check(r#"{"a":{}}"#, r#"[{"op":"copy","from":"/a","path":"/a/a"}]"#, r#"{"a":{"a":{}}}"#);
        check("[1,2]", r#"[{"op":"copy","from":"/1","path":"/0"}]"#, "[2,1,2]");
        check_missing("[1,2]", r#"[{"op":"move","from":"/0","path":"/2"}]"#, "/2");
        check_missing("{}", r#"[{"op":"move","from":"/a","path":"/a"}]"#, "/a");
        check_missing("{}", r#"[{"op":"move","from":"/a","path":"/b"}]"#, "/a");
        check_missing("{}", r#"[{"op":"copy","from":"/a","path":"/b"}]"#, "/a");
        check_missing(r#"{"a":1}"#, r#"[{"op":"copy","from":"/a","path":"/b/c"}]"#, "/b/c");
    }

    #[test]
    fn a_failure_after_a_move_over_the_parent_is_a_failure_like_any_other() {
        // json-patch 5.0.0 panics here while it undoes the first step.
        let patch = r#"[{"op":"move","from":"/a/b","path":"/a"},{"op":"test","path":"/a","value":2}]"#;
        check_fails(r#"{"a":{"b":1}}"#, patch, 1, Why::Differs { pointer: "/a".into() });
    }

    #[test]
    fn an_empty_patch_changes_nothing() {
        check(r#"{"a":1}"#, "[]", r#"{"a":1}"#);
    }

    fn check_increment(number: &str, by: &str, expected: &str) {
        let patch = format!(r#"[{{"op":"increment","path":"/n","by":{by}}}]"#);
        check(&format!(r#"{{"n":{number}}}"#), &patch, &format!(r#"{{"n":{expected}}}"#));
    }

    #[test]
    fn increment_is_exact_for_integers_of_64_bits() {
        check_increment("1", "2", "3");
        check_increment("1", "-2", "-1");
        check_increment("9007199254740993", "1", "9007199254740994");
        check_increment("9223372036854775807", "1", "9223372036854775808");
        check_increment("-1", "18446744073709551615", "18446744073709551614");
        check_increment("18446744073709551615", "-9223372036854775808", "9223372036854775807");
        check_increment("-9223372036854775808", "0", "-9223372036854775808");
        check_increment("1", "1.0", "2");
    }

    #[test]
    fn increment_with_a_double_rounds_to_one_and_normalises() {
        check_increment("0.5", "0.5", "1");
        check_increment("0.1", "0.2", "0.30000000000000004");
        check_increment("1", "-0.75", "0.25");
        check_increment("1e300", "1", "1e300");
        check_increment("0.5", "-0.5", "0");
        check_increment("5e-324", "-5e-324", "0");
        check_increment("9007199254740993", "0.5", "9007199254740992");
    }

    #[test]
    fn increment_fails_past_the_range_and_on_what_is_no_number() {
        let fails = |number: &str, by: &str, why: Why| {
            let patch = format!(r#"[{{"op":"increment","path":"/n","by":{by}}}]"#);
            check_fails(&format!(r#"{{"n":{number}}}"#), &patch, 0, why);
        };
        let pointer = || "/n".to_owned();
        fails("18446744073709551615", "1", Why::Overflow { pointer: pointer() });
        fails("-9223372036854775808", "-1", Why::Overflow { pointer: pointer() });
        fails("1.7e308", "1.7e308", Why::Overflow { pointer: pointer() });
        fails("\"1\"", "1", Why::NotANumber { pointer: pointer() });
        fails("null", "1", Why::NotANumber { pointer: pointer() });
        check_missing("{}", r#"[{"op":"increment","path":"/n","by":1}]"#, "/n");
        check("41", r#"[{"op":"increment","path":"","by":1}]"#, "42");
    }

    #[test]
    fn malformed_patches_are_refused_whatever_the_document() {
        let bad = |member, expected| StepError::BadMember { member, expected };
        let absent = || bad("value", "there, any JSON value");
        assert_eq!(Patch::parse("{}"), Err(PatchError::NotAList));
        assert!(matches!(Patch::parse("[1"), Err(PatchError::Json(JsonError::Malformed { .. }))));
        check_bad("1", StepError::NotAnObject);
        check_bad(r#"["add","/a",1]"#, StepError::NotAnObject);
        check_bad("{}", bad("op", "a string"));
        check_bad(r#"{"op":1,"path":""}"#, bad("op", "a string"));
        check_bad(r#"{"op":"spam","path":""}"#, StepError::UnknownOperation { op: "spam".into() });
        check_bad(r#"{"op":"Add","path":"","value":1}"#, StepError::UnknownOperation { op: "Add".into() });
        check_bad(r#"{"op":"remove"}"#, bad("path", "a string"));
        check_bad(r#"{"op":"remove","path":null}"#, bad("path", "a string"));
        check_bad(r#"{"op":"add","path":"/a"}"#, absent());
        check_bad(r#"{"op":"replace","path":"/a"}"#, absent());
        check_bad(r#"{"op":"test","path":"/a"}"#, absent());
        check_bad(r#"{"op":"move","path":"/a"}"#, bad("from", "a string"));
        check_bad(r#"{"op":"copy","path":"/a"}"#, bad("from", "a string"));
        check_bad(r#"{"op":"increment","path":"/a"}"#, bad("by", "a number"));
        check_bad(r#"{"op":"increment","path":"/a","by":"1"}"#, bad("by", "a number"));
        check_bad(r#"{"op":"move","from":"/a","path":"/a/b"}"#, StepError::MoveIntoItself);
        check_bad(r#"{"op":"move","from":"","path":"/a"}"#, StepError::MoveIntoItself);
    }

    #[test]
    fn pointers_start_with_a_slash_and_escape_tildes() {
        let deep = "/a".repeat(DEPTH_MAX + 1);
        for pointer in ["a", "a/b", "0", "#/a", " /a", "/~", "/~2", "/a~", "/~0~", "/~~0", deep.as_str()] {
            let why = || StepError::BadPointer { pointer: json::excerpt(pointer) };
            check_bad(&format!(r#"{{"op":"remove","path":"{pointer}"}}"#), why());
            check_bad(&format!(r#"{{"op":"copy","path":"","from":"{pointer}"}}"#), why());
        }
    }

    #[test]
    fn a_patch_has_at_most_a_thousand_steps() {
        let patch = |steps| format!("[{}]", vec![r#"{"op":"increment","path":"","by":1}"#; steps].join(","));
        check("0", &patch(STEPS_MAX), "1000");
        assert_eq!(Patch::parse(&patch(STEPS_MAX + 1)), Err(PatchError::TooManySteps { steps: STEPS_MAX + 1 }));
    }

    fn steps(count: usize, step: impl Fn(usize) -> String) -> String {
        format!("[{}]", (0..count).map(step).collect::<Vec<_>>().join(","))
    }

    #[test]
    fn copies_that_double_the_document_fail_at_its_bound() {
        let doubling = steps(40, |_| r#"{"op":"copy","from":"","path":"/-"}"#.to_owned());
        // The n-th copy makes 2^n times the two bytes, and a comma for all but the first.
        check_fails(r#"["0123456789012345"]"#, &doubling, 15, Why::TooLarge);
    }

    #[test]
    fn the_size_bound_holds_after_every_step_to_the_byte() {
        let string = |bytes: usize| format!("\"{}\"", "a".repeat(bytes - 2));
        let document = format!(r#"{{"a":{}}}"#, string(DOCUMENT_BYTES_MAX - 6));
        assert_eq!(value(&document), applied(&document, "[]").unwrap());
        check_fails(&document, r#"[{"op":"add","path":"/b","value":1}]"#, 0, Why::TooLarge);
        let swap = r#"[{"op":"move","from":"/a","path":"/b"},{"op":"copy","from":"/b","path":"/b"}]"#;
        check(&document, swap, &document.replacen("\"a\"", "\"b\"", 1));
        let digit = format!(r#"{{"a":{},"n":9}}"#, string(DOCUMENT_BYTES_MAX - 12));
        check_fails(&digit, r#"[{"op":"increment","path":"/n","by":1}]"#, 0, Why::TooLarge);
        let insert = r#"[{"op":"add","path":"/0","value":1}]"#;
        let array = |bytes| format!("[{}]", string(bytes));
        check_fails(&array(DOCUMENT_BYTES_MAX - 3), insert, 0, Why::TooLarge);
        let full = array(DOCUMENT_BYTES_MAX - 4).replacen('[', "[1,", 1);
        check(&array(DOCUMENT_BYTES_MAX - 4), insert, &full);
    }

    #[test]
    fn depth_is_bounded_after_every_step() {
        let nested = |levels| format!("{}{}", "[".repeat(levels), "]".repeat(levels));
        let deepest = nested(DEPTH_MAX);
        let path = "/0".repeat(DEPTH_MAX - 1);
        check_fails(&deepest, &format!(r#"[{{"op":"add","path":"{path}/-","value":[]}}]"#), 0, Why::TooDeep);
        check(
            &deepest,
            &format!(r#"[{{"op":"add","path":"{path}/-","value":1}},{{"op":"remove","path":"{path}/0"}}]"#),
            &deepest,
        );
        check_fails(
            &format!("[{}]", nested(DEPTH_MAX - 1)),
            r#"[{"op":"copy","from":"","path":"/0"}]"#,
            0,
            Why::TooDeep,
        );
        let beside = format!(r#"{{"a":{},"b":[]}}"#, nested(DEPTH_MAX - 1));
        check_fails(&beside, r#"[{"op":"move","from":"/a","path":"/b/-"}]"#, 0, Why::TooDeep);
    }

    #[test]
    fn copies_moves_and_shifts_are_charged_before_they_are_done() {
        let half = format!(r#"{{"a":"{}","b":0}}"#, "a".repeat(DOCUMENT_BYTES_MAX / 2 - 20));
        let copies = steps(STEPS_MAX, |_| r#"{"op":"copy","from":"/a","path":"/b"}"#.to_owned());
        check_fails(&half, &copies, 12, Why::TooCostly);
        let moves = steps(STEPS_MAX, |at| {
            let (from, path) = if at % 2 == 0 { ("/a", "/c") } else { ("/c", "/a") };
            format!(r#"{{"op":"move","from":"{from}","path":"{path}"}}"#)
        });
        check_fails(&half, &moves, 12, Why::TooCostly);
        let long = format!("[{}0]", "0,".repeat(DOCUMENT_BYTES_MAX / 2 - 2000));
        let inserts = steps(STEPS_MAX, |_| r#"{"op":"add","path":"/0","value":1}"#.to_owned());
        check_fails(&long, &inserts, 24, Why::TooCostly);
        let removals = steps(STEPS_MAX, |_| r#"{"op":"remove","path":"/0"}"#.to_owned());
        check_fails(&long, &removals, 24, Why::TooCostly);
        let list = format!("[{}0]", "0,".repeat(9_999));
        assert!(applied(&list, &inserts).is_ok(), "a thousand at the head of ten thousand");
    }

    #[test]
    fn a_copy_of_many_small_values_costs_more_than_one_of_a_long_string() {
        let cost = |document: &str| {
            let (mut document, mut cost) = (value(document), Cost::default());
            let patch = Patch::parse(r#"[{"op":"copy","from":"/a","path":"/b"}]"#).unwrap();
            let mut size = Size::of(&document);
            patch.apply_within(&mut document, &mut size, &mut cost).unwrap();
            cost.units()
        };
        assert_eq!(cost(r#"{"a":"01234567890"}"#), 13 + 2 * 8);
        assert_eq!(cost(r#"{"a":[0,0,0,[],{}]}"#), 13 + 5 * 8 + 2 * 8);
    }

    #[test]
    fn a_merge_keeps_the_size_exactly() {
        let texts = [
            "null",
            "7",
            "[]",
            "{}",
            r#"{"a":1}"#,
            r#"{"a":null}"#,
            r#"{"a":{"b":[1,2,{"c":0}]},"b":"x"}"#,
            r#"{"a":{"b":null,"é":{}},"b":null}"#,
            r#"{"a":{"b":{"c":null}},"c":[[]]}"#,
        ];
        for target in texts {
            for first in texts {
                for second in texts {
                    let mut document = value(target);
                    let mut size = Size::of(&document);
                    for patch in [first, second] {
                        merge_sized(&mut document, &mut size, value(patch));
                        assert_eq!(size, Size::of(&document), "{target}, {first}, {second}");
                    }
                }
            }
        }
    }

    #[test]
    fn random_patches_keep_the_size_exactly_and_never_panic() {
        const OPS: [&str; 7] = ["add", "remove", "replace", "move", "copy", "test", "increment"];
        const PATHS: [&str; 12] =
            ["", "/a", "/a/b", "/a/0", "/a/-", "/a/1", "/é\"", "/é\"/a", "/-", "/0", "/a/b/0", "/0/0"];
        const VALUES: [&str; 8] =
            ["1", "-0.5", "\"\\u0001é\"", "[]", "{}", "[1,[2],{}]", r#"{"b":[3],"é\"":null}"#, "null"];
        let mut state = 1_u64;
        let mut below = |bound: usize| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            usize::try_from(state >> 33).unwrap() % bound
        };
        let (mut done, mut failed) = (0, 0);
        for _ in 0..5000 {
            let list = (0..=below(6)).map(|_| {
                let value = value(VALUES[below(8)]);
                let (op, path, from) = (OPS[below(7)], PATHS[below(12)], PATHS[below(12)]);
                serde_json::json!({"op": op, "path": path, "from": from, "value": value, "by": 1.5})
            });
            let Ok(patch) = Patch::parse(&list.collect::<Value>().to_string()) else {
                continue;
            };
            let mut document = value(r#"{"a":[{"b":1},2],"é\"":{"a":0.25}}"#);
            let mut again = document.clone();
            // The assertion within compares the size kept with the size measured.
            let outcome = patch.apply(&mut document);
            assert_eq!(patch.apply(&mut again), outcome);
            assert_eq!(json::write(&again), json::write(&document));
            assert!(json::is_canonical(&json::write(&document).unwrap()));
            *(if outcome.is_ok() { &mut done } else { &mut failed }) += 1;
        }
        assert!(done > 300 && failed > 300, "{done} done, {failed} failed");
    }

    #[test]
    fn errors_say_which_step_and_what_to_do() {
        let check = |text: String, expected: &str| assert_eq!(text, expected);
        let bad = Patch::parse(r#"[{"op":"increase","path":"/a"}]"#).unwrap_err();
        check(
            bad.to_string(),
            r#"step 0 (from 0): unknown op "increase"; use add, remove, replace, move, copy, test or increment"#,
        );
        let failure = applied("{}", r#"[{"op":"remove","path":"/a"}]"#).unwrap_err();
        check(failure.to_string(), r#"step 0 (from 0): the document has no "/a"; read it again and mend the path"#);
        let long = format!(r#"[{{"op":"remove","path":"/{}"}}]"#, "a".repeat(9999));
        assert!(applied("{}", &long).unwrap_err().to_string().len() < 200);
    }
}
