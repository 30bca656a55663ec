//! Which documents a listing shows and in which order: selectors (`filter`) and sorts (`sort`).
//!
//! Rests on values of [`super::json::parse`], whose equality is numeric equality. A field is named by a dotted path,
//! which goes into objects by their keys, never to a key that itself holds a dot, and into arrays by the number of an
//! element, from 0. A document that is neither has no fields.
//!
//! The client's own judgement (static/selector.js) is the same, and tests/fixtures/selector.json holds both to it. There are
//! deliberately no regular expressions and no indexes.

#![expect(missing_docs, reason = "the doc of a variant speaks of its fields")]

use std::borrow::Cow;
use std::cmp::Ordering;
use std::fmt;

use serde_json::{Number, Value};

use super::json::{self, DEPTH_MAX, Size};

/// Most levels of `$and`, `$or`, `$not` and field conditions within one another.
pub const SELECTOR_DEPTH_MAX: usize = 16;

/// Most parts of one selector: operators, field conditions and values of `$in`. It bounds the work for each document.
pub const SELECTOR_NODES_MAX: usize = 256;

/// Parts that one within `$contains` counts as, for it is judged for each element of an array.
const ELEMENT_WEIGHT: usize = 8;

/// Most bytes of a selector's canonical text, and values within it at every depth. They bound what it takes of memory.
pub const SELECTOR_BYTES_MAX: usize = 64 << 10;
pub const SELECTOR_VALUES_MAX: usize = 4_096;

const SELECTOR_OPERATORS: &str = "$and, $or, $not";
const FIELD_OPERATORS: &str = "$gt, $gte, $lt, $lte, $ne, $in, $exists, $contains, $not";

/// Most keys of a sort.
pub const SORT_KEYS_MAX: usize = 8;
/// The field that stands for a document's own id where the document has none of that name.
const ID: &str = "id";

type Result<T, E = SelectorError> = std::result::Result<T, E>;

/// A condition on documents.
///
/// At the top and within `$and`, `$or`, `$not`: an object of which every member must hold, so `{}` matches everything.
/// `"$and": [selector, …]` and `"$or": [selector, …]` take at least one, `"$not": selector` takes one. Any other key
/// without `$` is a field with its condition:
///
/// | condition | holds when the field |
/// |---|---|
/// | a value, also an object without `$` keys | is there and equals it (`null` does not match an absent field) |
/// | `"$gt" "$gte" "$lt" "$lte"`: number or string | is there, of the same type and so ordered, strings by code point |
/// | `"$in"`: list | is there and equals one of the values |
/// | `"$exists"`: bool | is there, or is not |
/// | `"$contains"`: any condition | is an array of which an element meets it |
/// | `"$ne"`: value | is absent or differs |
/// | `"$not"`: any condition | does not meet it, be it by being absent |
///
/// Several operators in one object must all hold.
#[derive(Debug, Clone, PartialEq)]
pub struct Selector(Node);

impl Selector {
    /// Reads a selector from a value of [`json::parse`].
    ///
    /// # Errors
    /// See [`SelectorError`].
    pub fn parse(selector: &Value) -> Result<Self, SelectorError> {
        let size = Size::of(selector);
        if size.bytes > SELECTOR_BYTES_MAX || size.values > SELECTOR_VALUES_MAX {
            return Err(SelectorError::TooLarge);
        }
        Node::parse(selector, &mut Reading { depth: 0, nodes: 0, weight: 1 }).map(Self)
    }

    /// Whether the document meets every condition.
    #[must_use]
    pub fn matches(&self, document: &Value) -> bool {
        self.0.holds(Some(document))
    }
}

/// Why a value is not a selector.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SelectorError {
    /// A selector, at the top or within `$and`, `$or`, `$not`, is not an object.
    NotAnObject,
    /// A key with `$` that is no operator there. `known` lists those that are.
    UnknownOperator { operator: String, known: &'static str },
    /// A condition has keys with and without `$`, so it is neither operators nor a value.
    Mixed { field: String },
    /// An operator stands within a value that the field is compared with. `path` leads to where it stands.
    Nested { operator: String, path: String },
    /// An operator stands in the name of a field.
    InPath { field: String },
    /// An operator's operand is of the wrong type, or an empty list.
    BadOperand { operator: String, expected: &'static str },
    /// A path of more than [`DEPTH_MAX`] keys, deeper than any document.
    LongPath { field: String },
    /// More than [`SELECTOR_DEPTH_MAX`] levels.
    TooDeep,
    /// More than [`SELECTOR_NODES_MAX`] parts.
    TooMany,
    /// More than [`SELECTOR_BYTES_MAX`] bytes, or [`SELECTOR_VALUES_MAX`] values.
    TooLarge,
}

impl fmt::Display for SelectorError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotAnObject => f.write_str("a filter is an object such as {\"field\":1}"),
            Self::UnknownOperator { operator, known } => {
                write!(f, "unknown operator {operator:?} here; use {known}")
            }
            Self::Mixed { field } => write!(
                f,
                "the condition on {field:?} mixes operators and plain keys; use $in with a list of one for a value \
                 whose keys start with $"
            ),
            Self::Nested { operator, path } => write!(
                f,
                "{operator} stands within a value, where it would be compared as it is; write {{{path:?}:{{\"{operator}\":…}}}}, or \
                 $in with a list of one for a value whose keys start with $"
            ),
            Self::InPath { field } => {
                write!(f, "the field {field:?} holds an operator; write {{\"field\":{{\"$gt\":…}}}}")
            }
            Self::BadOperand { operator, expected } => write!(f, "{operator} needs {expected}"),
            Self::LongPath { field } => {
                write!(f, "{field:?} is deeper than {DEPTH_MAX} levels, where no document has a field")
            }
            Self::TooDeep => {
                write!(f, "more than {SELECTOR_DEPTH_MAX} levels of operators; flatten the filter")
            }
            Self::TooMany => {
                write!(f, "more than {SELECTOR_NODES_MAX} conditions; ask in several filters")
            }
            Self::TooLarge => {
                write!(
                    f,
                    "more than {SELECTOR_BYTES_MAX} bytes or {SELECTOR_VALUES_MAX} values; ask in several filters"
                )
            }
        }
    }
}

impl std::error::Error for SelectorError {}

/// The fields to sort by, the first that differs first, each upwards or downwards.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sort(Vec<SortField>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct SortField {
    path: Path,
    descending: bool,
}

impl Sort {
    /// Reads `field` or `-field`, or several of them with commas between, with a dotted path for a field. One leading `-` is
    /// always the direction.
    ///
    /// # Errors
    /// See [`SortError`].
    pub fn parse(text: &str) -> Result<Self, SortError> {
        let mut fields: Vec<SortField> = Vec::new();
        for part in text.split(',') {
            let field = SortField::parse(part)?;
            if fields.len() == SORT_KEYS_MAX {
                return Err(SortError::TooMany);
            }
            // A key holds copies of its fields, which together are no larger than the document.
            if fields.iter().any(|earlier| earlier.path.overlaps(&field.path)) {
                return Err(SortError::Overlap);
            }
            fields.push(field);
        }
        Ok(Self(fields))
    }

    /// The place in this sort of the document under an id.
    #[must_use]
    pub fn key(&self, id: &str, document: &Value) -> SortKey {
        SortKey(self.0.iter().map(|field| field.key(id, document)).collect())
    }
}

impl SortField {
    fn parse(text: &str) -> Result<Self, SortError> {
        let (descending, field) = match text.strip_prefix('-') {
            Some(field) => (true, field),
            None => (false, text),
        };
        if field.is_empty() {
            return Err(SortError::NoField);
        }
        if is_of_another_language(field) {
            return Err(SortError::OtherSpelling);
        }
        let path = Path::parse(field).ok_or(SortError::LongPath)?;
        Ok(Self { path, descending })
    }

    fn key(&self, id: &str, document: &Value) -> PartKey {
        let found = self.path.find(document).cloned();
        let own_id = || (self.path.0 == [ID]).then(|| Value::String(id.to_owned()));
        PartKey { value: found.or_else(own_id), descending: self.descending }
    }
}

/// Returns true for a field as other query languages write it with its direction. No document has such a field, so the sort
/// would order nothing.
fn is_of_another_language(field: &str) -> bool {
    let lower = field.to_ascii_lowercase();
    field.trim() != field
        || field.starts_with(['+', '{', '[', '"'])
        || [":asc", ":desc", " asc", " desc", ":1", ":-1"].iter().any(|end| lower.ends_with(end))
}

/// Why a text is no sort, or a value no sort key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SortError {
    /// The field's name is empty.
    NoField,
    /// The field is written as in another query language.
    OtherSpelling,
    /// The same field stands there twice, or one of them lies within another.
    Overlap,
    /// More than [`SORT_KEYS_MAX`] fields.
    TooMany,
    /// A path of more than [`DEPTH_MAX`] keys.
    LongPath,
    /// Not what [`SortKey::to_json`] makes.
    BadKey,
}

impl fmt::Display for SortError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoField => {
                f.write_str("name a field to sort by, as in sort=field, sort=-field or sort=first,-second")
            }
            Self::OtherSpelling => f.write_str("write sort=field, or sort=-field from the greatest, without blanks"),
            Self::Overlap => {
                f.write_str("a field orders once, with all that lies within it: sort=field, and another one behind it")
            }
            Self::TooMany => write!(f, "a sort has at most {SORT_KEYS_MAX} keys"),
            Self::LongPath => write!(f, "sort by a field at most {DEPTH_MAX} levels deep"),
            Self::BadKey => f.write_str("not a place in this sort; start again without it"),
        }
    }
}

impl std::error::Error for SortError {}

/// A document's place in a sort. Ascending keys of one [`Sort`] list documents in its order, whichever its direction;
/// equal keys leave the tie to the caller, who sorts by id.
///
/// Upwards: absent < null < false < true < numbers < strings < arrays < objects. Numbers compare by their exact values,
/// strings by code point, arrays element by element, objects as their members (key, then value) in ascending order of
/// keys; what is a beginning of another comes before it.
///
/// It holds the whole fields, so it may be as large as a document.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct SortKey(Vec<PartKey>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct PartKey {
    value: Option<Value>,
    descending: bool,
}

impl SortKey {
    /// The key as JSON: a list with `["up"]` or `["down"]` for each field, and in it the field's value unless that is absent.
    #[must_use]
    pub fn to_json(&self) -> Value {
        self.0.iter().map(PartKey::to_json).collect()
    }

    /// Reads what [`SortKey::to_json`] made, parsed by [`json::parse`] so that its numbers are normalised.
    ///
    /// # Errors
    /// [`SortError::BadKey`] for anything else.
    pub fn from_json(json: &Value) -> Result<Self, SortError> {
        let parts =
            json.as_array().filter(|parts| (1..=SORT_KEYS_MAX).contains(&parts.len())).ok_or(SortError::BadKey)?;
        parts.iter().map(PartKey::from_json).collect::<Result<_, _>>().map(Self)
    }

    /// Returns true if it is of this sort.
    #[must_use]
    pub fn is_of(&self, sort: &Sort) -> bool {
        let directions = self.0.iter().map(|part| part.descending);
        directions.eq(sort.0.iter().map(|field| field.descending))
    }
}

impl PartKey {
    fn to_json(&self) -> Value {
        let direction = if self.descending { "down" } else { "up" };
        match &self.value {
            Some(value) => serde_json::json!([direction, value]),
            None => serde_json::json!([direction]),
        }
    }

    fn from_json(json: &Value) -> Result<Self, SortError> {
        let (direction, value) = match json.as_array().map(Vec::as_slice) {
            Some([direction]) => (direction, None),
            Some([direction, value]) => (direction, Some(value.clone())),
            _ => return Err(SortError::BadKey),
        };
        let descending = match direction.as_str() {
            Some("up") => false,
            Some("down") => true,
            _ => return Err(SortError::BadKey),
        };
        Ok(Self { value, descending })
    }
}

impl Ord for PartKey {
    fn cmp(&self, other: &Self) -> Ordering {
        let upwards = match (&self.value, &other.value) {
            (Some(left), Some(right)) => compare(left, right),
            (left, right) => left.is_some().cmp(&right.is_some()),
        };
        // Keys of two directions do not belong together; the flag first keeps the order total even then.
        let of_direction = if self.descending { upwards.reverse() } else { upwards };
        self.descending.cmp(&other.descending).then(of_direction)
    }
}

impl PartialOrd for PartKey {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// How deep the reading of a selector is, and how many nodes it has made so far.
struct Reading {
    depth: usize,
    nodes: usize,
    /// The nodes that one counts as.
    weight: usize,
}

impl Reading {
    fn pay(&mut self, nodes: usize) -> Result<()> {
        self.nodes += nodes * self.weight;
        if self.nodes > SELECTOR_NODES_MAX {
            return Err(SelectorError::TooMany);
        }
        Ok(())
    }

    /// Reads one node, a level further down. After an error the whole reading is over, so nothing is taken back.
    fn inner<T>(&mut self, read: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        self.pay(1)?;
        if self.depth == SELECTOR_DEPTH_MAX {
            return Err(SelectorError::TooDeep);
        }
        self.depth += 1;
        let node = read(self)?;
        self.depth -= 1;
        Ok(node)
    }
}

/// What a value must meet: the document, or within `Field` the field, which may be absent.
#[derive(Debug, Clone, PartialEq)]
enum Node {
    All(Vec<Node>),
    Any(Vec<Node>),
    Not(Box<Node>),
    Field(Path, Box<Node>),
    Equal(Value),
    /// Of the same type as the value, and in one of these orders to it.
    Ordered(&'static [Ordering], Value),
    In(Vec<Value>),
    Exists(bool),
    /// An array of which an element meets this.
    Contains(Box<Node>),
}

impl Node {
    fn parse(selector: &Value, reading: &mut Reading) -> Result<Self> {
        let members = selector.as_object().ok_or(SelectorError::NotAnObject)?;
        reading.inner(|reading| {
            let member = |(key, value): (&String, _)| Self::parse_member(key, value, reading);
            let nodes = members.iter().map(member).collect::<Result<_, _>>();
            nodes.map(Self::All)
        })
    }

    fn parse_member(key: &str, value: &Value, reading: &mut Reading) -> Result<Self> {
        match key {
            "$and" => Self::parse_list(key, value, reading).map(Self::All),
            "$or" => Self::parse_list(key, value, reading).map(Self::Any),
            "$not" => Self::parse(value, reading).map(Self::negation),
            key if key.starts_with('$') => Err(unknown(key, SELECTOR_OPERATORS)),
            field => {
                let long = || SelectorError::LongPath { field: json::excerpt(field) };
                let path = Path::parse(field).ok_or_else(long)?;
                if path.0.iter().any(|key| FIELD_OPERATORS.split(", ").any(|operator| operator == key)) {
                    return Err(SelectorError::InPath { field: json::excerpt(field) });
                }
                let condition = Self::parse_condition(field, value, reading)?;
                Ok(Self::Field(path, Box::new(condition)))
            }
        }
    }

    fn parse_list(operator: &str, list: &Value, reading: &mut Reading) -> Result<Vec<Self>> {
        match list.as_array() {
            Some(list) if !list.is_empty() => {
                let selectors = list.iter().map(|selector| Self::parse(selector, reading));
                selectors.collect()
            }
            _ => Err(operand(operator, "a list of at least one filter")),
        }
    }

    fn parse_condition(field: &str, value: &Value, reading: &mut Reading) -> Result<Self> {
        let operators = match value.as_object() {
            Some(members) if has_operators(value) => members,
            _ => {
                if let Some((operator, path)) = operator_within(value) {
                    let path = [field, &path].join(".");
                    return Err(SelectorError::Nested {
                        operator: json::excerpt(operator),
                        path: json::excerpt(&path),
                    });
                }
                return reading.inner(|_| Ok(Self::Equal(value.clone())));
            }
        };
        if !operators.keys().all(|key| key.starts_with('$')) {
            let field = json::excerpt(field);
            return Err(SelectorError::Mixed { field });
        }
        reading.inner(|reading| {
            let operator = |(operator, value): (&String, _)| {
                reading.pay(1)?;
                Self::parse_operator(field, operator, value, reading)
            };
            let nodes = operators.iter().map(operator).collect::<Result<_, _>>();
            nodes.map(Self::All)
        })
    }

    fn parse_operator(field: &str, operator: &str, value: &Value, reading: &mut Reading) -> Result<Self> {
        let ordered = |orders| match value {
            Value::Number(_) | Value::String(_) => Ok(Self::Ordered(orders, value.clone())),
            _ => Err(operand(operator, "a number or a string")),
        };
        match (operator, value) {
            ("$gt", _) => ordered(&[Ordering::Greater]),
            ("$gte", _) => ordered(&[Ordering::Greater, Ordering::Equal]),
            ("$lt", _) => ordered(&[Ordering::Less]),
            ("$lte", _) => ordered(&[Ordering::Less, Ordering::Equal]),
            ("$ne", _) if has_operators(value) || operator_within(value).is_some() => {
                Err(operand(operator, "a value without operators; $not takes a condition"))
            }
            ("$ne", _) => Ok(Self::negation(Self::Equal(value.clone()))),
            ("$in", Value::Array(list)) => {
                reading.pay(list.len())?;
                Ok(Self::In(list.clone()))
            }
            ("$in", _) => Err(operand(operator, "a list")),
            ("$exists", Value::Bool(there)) => Ok(Self::Exists(*there)),
            ("$exists", _) => Err(operand(operator, "true or false")),
            ("$contains", _) => Self::parse_contains(field, value, reading),
            ("$not", _) => Self::parse_condition(field, value, reading).map(Self::negation),
            _ => Err(unknown(operator, FIELD_OPERATORS)),
        }
    }

    fn parse_contains(field: &str, value: &Value, reading: &mut Reading) -> Result<Self> {
        let outer = std::mem::replace(&mut reading.weight, ELEMENT_WEIGHT);
        let condition = match reading.inner(|reading| Self::parse_condition(field, value, reading)) {
            Err(SelectorError::Nested { .. }) => {
                return Err(operand(
                    "$contains",
                    "a value that an element equals, or operators that stand directly in it",
                ));
            }
            condition => condition?,
        };
        reading.weight = outer;
        Ok(Self::Contains(Box::new(condition)))
    }

    fn negation(node: Self) -> Self {
        Self::Not(Box::new(node))
    }

    fn holds(&self, value: Option<&Value>) -> bool {
        match (self, value) {
            (Self::All(nodes), _) => nodes.iter().all(|node| node.holds(value)),
            (Self::Any(nodes), _) => nodes.iter().any(|node| node.holds(value)),
            (Self::Not(node), _) => !node.holds(value),
            (Self::Exists(there), _) => value.is_some() == *there,
            (_, None) => false,
            (Self::Field(path, node), Some(value)) => node.holds(path.find(value)),
            (Self::Equal(own), Some(value)) => own == value,
            (Self::Contains(node), Some(value)) => {
                value.as_array().is_some_and(|elements| elements.iter().any(|element| node.holds(Some(element))))
            }
            (Self::In(list), Some(value)) => list.contains(value),
            (Self::Ordered(orders, own), Some(value)) => {
                rank(value) == rank(own) && orders.contains(&compare(value, own))
            }
        }
    }
}

fn unknown(operator: &str, known: &'static str) -> SelectorError {
    let operator = json::excerpt(operator);
    SelectorError::UnknownOperator { operator, known }
}

fn operand(operator: &str, expected: &'static str) -> SelectorError {
    let operator = operator.to_owned();
    SelectorError::BadOperand { operator, expected }
}

fn has_operators(value: &Value) -> bool {
    value.as_object().is_some_and(|members| members.keys().any(|key| key.starts_with('$')))
}

/// The first operator in an object within the value, and the dotted path to that. It recurses no deeper than a document.
fn operator_within(value: &Value) -> Option<(&str, String)> {
    let members: Vec<(Cow<'_, str>, &Value)> = match value {
        Value::Object(members) => members.iter().map(|(key, member)| (key.as_str().into(), member)).collect(),
        Value::Array(elements) => {
            elements.iter().enumerate().map(|(index, one)| (index.to_string().into(), one)).collect()
        }
        _ => return None,
    };
    members.into_iter().find_map(|(key, member)| {
        let direct = member.as_object().and_then(|members| members.keys().find(|key| key.starts_with('$')));
        direct
            .map(|operator| (operator.as_str(), key.to_string()))
            .or_else(|| operator_within(member).map(|(operator, path)| (operator, format!("{key}.{path}"))))
    })
}

/// The keys from the document down to a field, at least one, any of which may be empty.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Path(Vec<String>);

impl Path {
    /// `None` for a path deeper than any document.
    fn parse(dotted: &str) -> Option<Self> {
        let keys: Vec<_> = dotted.split('.').take(DEPTH_MAX + 1).map(str::to_owned).collect();
        (keys.len() <= DEPTH_MAX).then_some(Self(keys))
    }

    /// Returns true if one of the two lies within the other, or they are the same.
    fn overlaps(&self, other: &Self) -> bool {
        self.0.iter().zip(&other.0).all(|(own, other)| own == other)
    }

    fn find<'a>(&self, document: &'a Value) -> Option<&'a Value> {
        self.0.iter().try_fold(document, |value, key| match value {
            Value::Object(members) => members.get(key),
            Value::Array(elements) => elements.get(index(key)?),
            _ => None,
        })
    }
}

/// The number of an element, in its one spelling.
fn index(key: &str) -> Option<usize> {
    let is_canonical = key == "0" || !key.starts_with(['0', '+']);
    key.parse().ok().filter(|_| is_canonical)
}

/// The order of types, and of the values that are types of their own.
fn rank(value: &Value) -> u8 {
    match value {
        Value::Null => 0,
        Value::Bool(false) => 1,
        Value::Bool(true) => 2,
        Value::Number(_) => 3,
        Value::String(_) => 4,
        Value::Array(_) => 5,
        Value::Object(_) => 6,
    }
}

/// The order of [`SortKey`]. It recurses no deeper than a document.
fn compare(left: &Value, right: &Value) -> Ordering {
    match (left, right) {
        (Value::Number(left), Value::Number(right)) => compare_numbers(left, right),
        (Value::String(left), Value::String(right)) => left.cmp(right),
        (Value::Array(left), Value::Array(right)) => {
            let elements = left.iter().zip(right).map(|(left, right)| compare(left, right));
            first_difference(elements).then(left.len().cmp(&right.len()))
        }
        (Value::Object(left), Value::Object(right)) => {
            let members = left.iter().zip(right).map(|((left_key, left), (right_key, right))| {
                left_key.cmp(right_key).then_with(|| compare(left, right))
            });
            first_difference(members).then(left.len().cmp(&right.len()))
        }
        _ => rank(left).cmp(&rank(right)),
    }
}

fn first_difference(mut orders: impl Iterator<Item = Ordering>) -> Ordering {
    orders.find(|order| order.is_ne()).unwrap_or(Ordering::Equal)
}

/// Compares by exact value: no integer is rounded to a double, so the order stays transitive past 2^53.
fn compare_numbers(left: &Number, right: &Number) -> Ordering {
    let double = |number: &Number| number.as_f64().unwrap_or_default();
    match (left.as_i128(), right.as_i128()) {
        (Some(left), Some(right)) => left.cmp(&right),
        (Some(left), None) => compare_mixed(left, double(right)),
        (None, Some(right)) => compare_mixed(right, double(left)).reverse(),
        (None, None) => double(left).total_cmp(&double(right)),
    }
}

/// An integer of 64 bits against a double. The cast cuts the double's fraction and saturates beyond 128 bits.
#[expect(clippy::cast_possible_truncation, reason = "the fraction is compared after it")]
fn compare_mixed(integer: i128, double: f64) -> Ordering {
    let fraction = 0.0_f64.partial_cmp(&double.fract());
    integer.cmp(&(double as i128)).then(fraction.unwrap_or(Ordering::Equal))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(text: &str) -> Value {
        json::parse(text.as_bytes()).unwrap()
    }

    fn check(selector: &str, document: &str, expected: bool) {
        let read = Selector::parse(&value(selector)).unwrap();
        assert_eq!(read.matches(&value(document)), expected, "{selector} on {document}");
    }

    fn check_refused(selector: &str, error: SelectorError) {
        assert_eq!(Selector::parse(&value(selector)), Err(error), "{selector}");
    }

    #[test]
    fn a_selector_that_would_take_much_memory_is_refused() {
        let text = |bytes| format!(r#"{{"a":"{}"}}"#, "x".repeat(bytes));
        check_refused(&text(SELECTOR_BYTES_MAX), SelectorError::TooLarge);
        check(&text(SELECTOR_BYTES_MAX - 10), "{}", false);
        let list = |values| format!(r#"{{"a":[{}]}}"#, vec!["0"; values].join(","));
        check_refused(&list(SELECTOR_VALUES_MAX), SelectorError::TooLarge);
        check(&list(SELECTOR_VALUES_MAX - 3), "{}", false);
    }

    #[test]
    fn a_plain_value_is_equality() {
        check(r#"{"a":1}"#, r#"{"a":1,"b":2}"#, true);
        check(r#"{"a":1.0}"#, r#"{"a":1}"#, true);
        check(r#"{"a":1}"#, r#"{"a":"1"}"#, false);
        check(r#"{"a":1}"#, r#"{"b":1}"#, false);
        check(r#"{"a":[1,2]}"#, r#"{"a":[1,2]}"#, true);
        check(r#"{"a":1}"#, r#"{"a":[1,2]}"#, false);
        check(r#"{"a":1,"b":2}"#, r#"{"a":1,"b":2}"#, true);
        check(r#"{"a":1,"b":2}"#, r#"{"a":1,"b":3}"#, false);
        check("{}", r#"{"a":1}"#, true);
        check("{}", "7", true);
    }

    #[test]
    fn an_object_without_operators_is_equality_with_the_whole_object() {
        check(r#"{"a":{"b":1}}"#, r#"{"a":{"b":1}}"#, true);
        check(r#"{"a":{"b":1}}"#, r#"{"a":{"b":1,"c":2}}"#, false);
        check(r#"{"a":{}}"#, r#"{"a":{}}"#, true);
        check(r#"{"a":{}}"#, r#"{"a":1}"#, false);
    }

    #[test]
    fn null_is_not_absence() {
        check(r#"{"a":null}"#, r#"{"a":null}"#, true);
        check(r#"{"a":null}"#, "{}", false);
        check(r#"{"a":{"$exists":true}}"#, r#"{"a":null}"#, true);
        check(r#"{"a":{"$exists":false}}"#, r#"{"a":null}"#, false);
        check(r#"{"a":{"$exists":false}}"#, "{}", true);
        check(r#"{"a":{"$exists":true}}"#, "{}", false);
    }

    #[test]
    fn dotted_paths_go_into_objects() {
        check(r#"{"a.b":1}"#, r#"{"a":{"b":1}}"#, true);
        check(r#"{"a.b.c":1}"#, r#"{"a":{"b":{"c":1}}}"#, true);
        check(r#"{"a.b":1}"#, r#"{"a.b":1}"#, false);
        check(r#"{"a.b":1}"#, r#"{"a":[{"b":1}]}"#, false);
        check(r#"{"a.b":1}"#, r#"{"a":1}"#, false);
        check(r#"{"a.":1}"#, r#"{"a":{"":1}}"#, true);
        check(r#"{"":1}"#, r#"{"":1}"#, true);
        check(r#"{"a":1}"#, "[1]", false);
    }

    #[test]
    fn order_compares_only_within_a_type() {
        check(r#"{"a":{"$gt":1}}"#, r#"{"a":2}"#, true);
        check(r#"{"a":{"$gt":1}}"#, r#"{"a":1}"#, false);
        check(r#"{"a":{"$gte":1}}"#, r#"{"a":1}"#, true);
        check(r#"{"a":{"$lt":1}}"#, r#"{"a":0.5}"#, true);
        check(r#"{"a":{"$lt":1}}"#, r#"{"a":1}"#, false);
        check(r#"{"a":{"$lte":1}}"#, r#"{"a":1}"#, true);
        check(r#"{"a":{"$gt":1,"$lte":9}}"#, r#"{"a":9}"#, true);
        check(r#"{"a":{"$gt":1,"$lte":9}}"#, r#"{"a":10}"#, false);
        check(r#"{"a":{"$gt":"b"}}"#, r#"{"a":"c"}"#, true);
        check(r#"{"a":{"$gt":"b"}}"#, r#"{"a":"B"}"#, false);
        check(r#"{"a":{"$gt":1}}"#, r#"{"a":"2"}"#, false);
        check(r#"{"a":{"$lt":1}}"#, r#"{"a":"2"}"#, false);
        check(r#"{"a":{"$lt":"a"}}"#, r#"{"a":1}"#, false);
        check(r#"{"a":{"$gte":0}}"#, r#"{"a":[1]}"#, false);
        check(r#"{"a":{"$gte":0}}"#, r#"{"a":null}"#, false);
        check(r#"{"a":{"$lt":1}}"#, "{}", false);
    }

    #[test]
    fn order_is_exact_where_doubles_are_not() {
        check(r#"{"a":{"$gt":9007199254740992}}"#, r#"{"a":9007199254740993}"#, true);
        check(r#"{"a":{"$lt":18446744073709551615}}"#, r#"{"a":18446744073709551614}"#, true);
        check(r#"{"a":{"$lt":1e30}}"#, r#"{"a":18446744073709551615}"#, true);
        check(r#"{"a":{"$gt":-0.5}}"#, r#"{"a":0}"#, true);
        check(r#"{"a":{"$gt":-0.5}}"#, r#"{"a":-1}"#, false);
    }

    #[test]
    fn differing_and_negation_hold_for_an_absent_field() {
        check(r#"{"a":{"$ne":1}}"#, r#"{"a":2}"#, true);
        check(r#"{"a":{"$ne":1}}"#, r#"{"a":1}"#, false);
        check(r#"{"a":{"$ne":1}}"#, "{}", true);
        check(r#"{"a":{"$ne":{"b":1}}}"#, r#"{"a":{"b":1}}"#, false);
        check(r#"{"a":{"$not":{"$gt":1}}}"#, "{}", true);
        check(r#"{"a":{"$not":{"$gt":1}}}"#, r#"{"a":1}"#, true);
        check(r#"{"a":{"$not":{"$gt":1}}}"#, r#"{"a":"2"}"#, true);
        check(r#"{"a":{"$not":{"$gt":1}}}"#, r#"{"a":2}"#, false);
        check(r#"{"a":{"$not":{"$gt":1,"$lt":5}}}"#, r#"{"a":7}"#, true);
        check(r#"{"a":{"$not":{"$not":{"$gt":1}}}}"#, r#"{"a":2}"#, true);
        check(r#"{"a":{"$not":1}}"#, r#"{"a":1}"#, false);
        check(r#"{"$not":{"a":1}}"#, "{}", true);
        check(r#"{"$not":{"a":1}}"#, r#"{"a":1}"#, false);
        check(r#"{"$not":{}}"#, "{}", false);
    }

    #[test]
    fn in_holds_for_any_of_its_values() {
        check(r#"{"a":{"$in":[1,"x"]}}"#, r#"{"a":"x"}"#, true);
        check(r#"{"a":{"$in":[1,"x"]}}"#, r#"{"a":2}"#, false);
        check(r#"{"a":{"$in":[null]}}"#, "{}", false);
        check(r#"{"a":{"$in":[]}}"#, r#"{"a":1}"#, false);
        check(r#"{"a":{"$in":[{"$gt":1}]}}"#, r#"{"a":{"$gt":1}}"#, true);
        check(r#"{"a":{"$in":[1]}}"#, r#"{"a":[1]}"#, false);
    }

    #[test]
    fn and_or_combine_selectors_and_stand_beside_fields() {
        check(r#"{"$and":[{"a":1},{"b":2}]}"#, r#"{"a":1,"b":2}"#, true);
        check(r#"{"$and":[{"a":1},{"b":2}]}"#, r#"{"a":1}"#, false);
        check(r#"{"$or":[{"a":1},{"b":2}]}"#, r#"{"b":2}"#, true);
        check(r#"{"$or":[{"a":1},{"b":2}]}"#, r#"{"b":1}"#, false);
        check(r#"{"$or":[{"a":1},{"$and":[{"b":2},{"c":{"$exists":true}}]}],"d":4}"#, r#"{"b":2,"c":0,"d":4}"#, true);
        check(r#"{"$or":[{"a":1},{"b":2}],"d":4}"#, r#"{"b":2}"#, false);
    }

    #[test]
    fn malformed_selectors_are_refused() {
        let unknown = |operator: &str, known| SelectorError::UnknownOperator { operator: operator.into(), known };
        let bad = |operator: &str, expected| SelectorError::BadOperand { operator: operator.into(), expected };
        for selector in ["1", "[]", "null", r#"{"$and":[1]}"#, r#"{"$not":1}"#] {
            check_refused(selector, SelectorError::NotAnObject);
        }
        check_refused(r#"{"$nor":[]}"#, unknown("$nor", SELECTOR_OPERATORS));
        check_refused(r#"{"$gt":1}"#, unknown("$gt", SELECTOR_OPERATORS));
        check_refused(r#"{"a":{"$eq":1}}"#, unknown("$eq", FIELD_OPERATORS));
        check_refused(r#"{"a":{"$and":[]}}"#, unknown("$and", FIELD_OPERATORS));
        check_refused(r#"{"a":{"$gt":1,"b":1}}"#, SelectorError::Mixed { field: "a".into() });
        check_refused(r#"{"a":{"$not":{"$gt":1,"b":1}}}"#, SelectorError::Mixed { field: "a".into() });
        check_refused(r#"{"$and":{}}"#, bad("$and", "a list of at least one filter"));
        check_refused(r#"{"$or":[]}"#, bad("$or", "a list of at least one filter"));
        check_refused(r#"{"a":{"$in":1}}"#, bad("$in", "a list"));
        check_refused(r#"{"a":{"$exists":1}}"#, bad("$exists", "true or false"));
        check_refused(r#"{"a":{"$lt":null}}"#, bad("$lt", "a number or a string"));
        check_refused(r#"{"a":{"$gte":[1]}}"#, bad("$gte", "a number or a string"));
        let field = "a.".repeat(DEPTH_MAX);
        check_refused(&format!(r#"{{"{field}":1}}"#), SelectorError::LongPath { field: json::excerpt(&field) });
    }

    #[test]
    fn an_unknown_operator_is_answered_with_those_known() {
        let error = Selector::parse(&value(r#"{"a":{"$regex":"x"}}"#)).unwrap_err();
        let expected =
            r#"unknown operator "$regex" here; use $gt, $gte, $lt, $lte, $ne, $in, $exists, $contains, $not"#;
        assert_eq!(error.to_string(), expected);
    }

    #[test]
    fn selectors_are_bounded_in_depth_and_size() {
        let nested = |levels: usize| format!("{}{{}}{}", r#"{"$not":"#.repeat(levels - 1), "}".repeat(levels - 1));
        check(&nested(SELECTOR_DEPTH_MAX), "{}", false);
        check_refused(&nested(SELECTOR_DEPTH_MAX + 1), SelectorError::TooDeep);
        let negated =
            |levels: usize| format!(r#"{{"a":{}1{}}}"#, r#"{"$not":"#.repeat(levels - 2), "}".repeat(levels - 2));
        check(&negated(SELECTOR_DEPTH_MAX), r#"{"a":1}"#, true);
        check_refused(&negated(SELECTOR_DEPTH_MAX + 1), SelectorError::TooDeep);
        // The selector and its condition, the operator, and each value.
        let list = |values: usize| format!(r#"{{"a":{{"$in":[{}]}}}}"#, vec!["7"; values].join(","));
        check(&list(SELECTOR_NODES_MAX - 3), r#"{"a":7}"#, true);
        check_refused(&list(SELECTOR_NODES_MAX - 2), SelectorError::TooMany);
        let one_of = |values: usize| format!(r#"{{"a":{{"$contains":{{"$in":[{}]}}}}}}"#, vec!["7"; values].join(","));
        check(&one_of(20), r#"{"a":[7]}"#, true);
        check_refused(&one_of(SELECTOR_NODES_MAX / ELEMENT_WEIGHT), SelectorError::TooMany);
        let any = |selectors: usize| format!(r#"{{"$or":[{}]}}"#, vec![r#"{"a":1}"#; selectors].join(","));
        check(&any(127), r#"{"a":1}"#, true);
        check_refused(&any(128), SelectorError::TooMany);
    }

    #[test]
    fn the_node_holds_for_the_same_documents_as_the_client() {
        let cases: Vec<(Value, Value, bool)> =
            serde_json::from_str(include_str!("../../tests/fixtures/selector.json")).unwrap();
        assert!(cases.len() > 60);
        for (filter, document, expected) in cases {
            check(&filter.to_string(), &document.to_string(), expected);
        }
    }

    #[test]
    fn an_operator_within_a_value_is_refused() {
        let nested =
            |operator: &str, path: &str| SelectorError::Nested { operator: operator.into(), path: path.into() };
        check_refused(r#"{"a":{"b":{"$gt":1}}}"#, nested("$gt", "a.b"));
        check_refused(r#"{"a":{"b":[0,{"c":{"$in":[]}}]}}"#, nested("$in", "a.b.1.c"));
        check_refused(r#"{"a":{"$not":{"b":{"$gt":1}}}}"#, nested("$gt", "a.b"));
        check_refused(r#"{"a.$gt":1}"#, SelectorError::InPath { field: "a.$gt".into() });
        for operator in ["$ne", "$contains"] {
            let error =
                Selector::parse(&value(&format!(r#"{{"a":{{"{operator}":{{"b":{{"$gt":1}}}}}}}}"#))).unwrap_err();
            assert!(matches!(error, SelectorError::BadOperand { .. }), "{error}");
        }
        check(r#"{"a":{"b":{"c":1}}}"#, r#"{"a":{"b":{"c":1}}}"#, true);
    }

    /// Fields in the order of the documentation; those of one row are equal.
    const ASCENDING: &[&[&str]] = &[
        &["{}", "[1]", "7"],
        &[r#"{"f":null}"#],
        &[r#"{"f":false}"#],
        &[r#"{"f":true}"#],
        &[r#"{"f":-1e300}"#],
        &[r#"{"f":-9.3e18}"#],
        &[r#"{"f":-9223372036854775808}"#],
        &[r#"{"f":-2}"#],
        &[r#"{"f":-1.5}"#],
        &[r#"{"f":-1}"#],
        &[r#"{"f":-0.5}"#],
        &[r#"{"f":0}"#, r#"{"f":-0.0}"#],
        &[r#"{"f":5e-324}"#],
        &[r#"{"f":1}"#, r#"{"f":1.0}"#, r#"{"f":10e-1}"#],
        &[r#"{"f":1.5}"#],
        &[r#"{"f":9007199254740992}"#],
        &[r#"{"f":9007199254740993}"#],
        &[r#"{"f":9223372036854775808}"#],
        &[r#"{"f":18446744073709551615}"#],
        &[r#"{"f":1.8446744073709552e19}"#],
        &[r#"{"f":1e300}"#],
        &[r#"{"f":""}"#],
        &[r#"{"f":"B"}"#],
        &[r#"{"f":"a"}"#],
        &[r#"{"f":"ab"}"#],
        &["{\"f\":\"\u{ffff}\"}"],
        &["{\"f\":\"\u{10000}\"}"],
        &[r#"{"f":[]}"#],
        &[r#"{"f":[1]}"#, r#"{"f":[1.0]}"#],
        &[r#"{"f":[1,null]}"#],
        &[r#"{"f":[2]}"#],
        &[r#"{"f":{}}"#],
        &[r#"{"f":{"a":1}}"#, r#"{"f":{"a":1.0}}"#],
        &[r#"{"f":{"a":1,"b":0}}"#, r#"{"f":{"b":0,"a":1}}"#],
        &[r#"{"f":{"a":2}}"#],
        &[r#"{"f":{"b":0}}"#],
    ];

    #[test]
    fn sort_keys_follow_the_order_of_the_types_and_within_them() {
        for (place, row) in ASCENDING.iter().enumerate() {
            for (other_place, other_row) in ASCENDING.iter().enumerate() {
                for (document, other) in row.iter().flat_map(|left| other_row.iter().map(move |right| (left, right))) {
                    let order = |sort: &str| {
                        let sort = Sort::parse(sort).unwrap();
                        sort.key("x", &value(document)).cmp(&sort.key("x", &value(other)))
                    };
                    assert_eq!(order("f"), place.cmp(&other_place), "{document} and {other}");
                    assert_eq!(order("-f"), other_place.cmp(&place), "{document} and {other}, downwards");
                }
            }
        }
    }

    #[test]
    fn sort_keys_survive_a_cursor() {
        for document in ASCENDING.iter().copied().flatten() {
            for sort in ["f", "-f", "f,-g"] {
                let key = Sort::parse(sort).unwrap().key("x", &value(document));
                let text = json::write(&key.to_json()).unwrap();
                assert_eq!(SortKey::from_json(&value(&text)), Ok(key), "{text}");
            }
        }
    }

    #[test]
    fn a_sort_key_is_its_direction_and_the_field_unless_absent() {
        let check = |sort: &str, document: &str, expected: &str| {
            let key = Sort::parse(sort).unwrap().key("x", &value(document));
            assert_eq!(key.to_json(), value(expected));
        };
        check("a.b", r#"{"a":{"b":[1]}}"#, r#"[["up",[1]]]"#);
        check("-a.b", r#"{"a":{"b":null}}"#, r#"[["down",null]]"#);
        check("a.b", r#"{"a.b":1}"#, r#"[["up"]]"#);
        check("--a", r#"{"-a":1}"#, r#"[["down",1]]"#);
        check("a,-b", r#"{"a":1,"b":2}"#, r#"[["up",1],["down",2]]"#);
        check("-id", r#"{"id":7}"#, r#"[["down",7]]"#);
        check("-id", "[]", r#"[["down","x"]]"#);
        for json in
            ["null", "[]", r#"["up"]"#, r#"[["UP"]]"#, r#"[["up",1,2]]"#, r#"[[1,"up"]]"#, r#"[{"up":1}]"#, r#""up""#]
        {
            assert_eq!(SortKey::from_json(&value(json)), Err(SortError::BadKey), "{json}");
        }
    }

    #[test]
    fn keys_of_two_directions_never_equal() {
        let key = |sort: &str| Sort::parse(sort).unwrap().key("x", &value("{}"));
        assert_eq!(key("f").cmp(&key("-f")), Ordering::Less);
        assert_ne!(key("f"), key("-f"));
    }

    #[test]
    fn a_sort_names_a_field() {
        assert_eq!(Sort::parse(""), Err(SortError::NoField));
        assert_eq!(Sort::parse("-"), Err(SortError::NoField));
        assert_eq!(Sort::parse("a,"), Err(SortError::NoField));
        assert_eq!(Sort::parse("a,-a"), Err(SortError::Overlap));
        assert_eq!(Sort::parse("a,b,-a.c"), Err(SortError::Overlap));
        assert_eq!(Sort::parse("a.b.c,a.b"), Err(SortError::Overlap));
        assert!(Sort::parse("a.b,-a.c,ab").is_ok());
        assert_eq!(Sort::parse("a:desc"), Err(SortError::OtherSpelling));
        assert_eq!(Sort::parse(&"abcdefghi".split("").collect::<Vec<_>>()[1..10].join(",")), Err(SortError::TooMany));
        assert_eq!(Sort::parse(&"a.".repeat(DEPTH_MAX)), Err(SortError::LongPath));
    }
}
