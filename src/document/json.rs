//! Canonical JSON: one text for each value, so that nodes may compare and hash documents as bytes.
//!
//! Rests on RFC 8259 and on `serde_json` for syntax, strings and the shortest spelling of a double. The canonical text
//! has no white space, object keys ascending by their UTF-8 bytes, and integers wherever a number is an integer of 64
//! bits. Whatever two readers could read differently is refused, not repaired.
//!
//! It is deliberately not RFC 8785 (JCS), which has no integers past 2^53 and sorts keys by UTF-16.

#![expect(missing_docs, reason = "the doc of a variant speaks of its fields")]

use std::borrow::Cow;
use std::cell::Cell;
use std::fmt;
use std::io::{self, Write as _};
use std::ops::{Add, Sub};

use serde::Serialize;
use serde::de::{DeserializeSeed, MapAccess, SeqAccess, Visitor};
use serde_json::{Number, Value};

/// Most bytes of canonical text a document may have. A protocol constant: every node must judge alike.
pub const DOCUMENT_BYTES_MAX: usize = 1 << 20;

/// Most levels of arrays and objects a document may have, see [`depth`]. A protocol constant. It also bounds every
/// recursion over a document.
pub const DEPTH_MAX: usize = 64;

/// Units that a value within another costs beside its bytes, see [`Size::units`]. A protocol constant.
pub const VALUE_UNITS: usize = 8;

/// Most characters of the user's text repeated in an error.
const EXCERPT_CHARS_MAX: usize = 64;

/// A decimal of 17 significant digits names one double; a longer one is cut by some readers and kept by others, unless it is a
/// double itself.
const DIGITS_MAX: usize = 17;

/// Most significant digits that a double has in full.
const DOUBLE_DIGITS_MAX: usize = 767;

/// Why a text is not a document. Nothing was changed in any case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JsonError {
    /// The text is not JSON (RFC 8259), not UTF-8, holds a lone surrogate, or goes on after the value. Lines count
    /// from 1, columns are bytes within the line.
    Malformed { line: usize, column: usize, message: String },
    /// One object has the same key twice, after escapes are resolved.
    DuplicateKey { key: String },
    /// A number which two readers could read differently: one of more than 17 significant digits that is neither an integer of
    /// `i64` or `u64` nor exactly a double, one that overflows to infinity, or a nonzero one that vanishes to zero.
    InexactNumber { text: String },
    /// More than [`DEPTH_MAX`] arrays and objects within one another.
    TooDeep,
    /// The canonical text would have more than [`DOCUMENT_BYTES_MAX`] bytes.
    TooLarge,
}

impl fmt::Display for JsonError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Malformed { line, column, message } => {
                write!(f, "not JSON at line {line}, column {column}: {message}; mend the text there")
            }
            Self::DuplicateKey { key } => {
                write!(f, "the key {key:?} stands twice in one object; keep one")
            }
            Self::InexactNumber { text } => write!(
                f,
                "readers would disagree about the number {text}; write it as a string, or as an integer of at most \
                 64 bits, or with at most {DIGITS_MAX} significant digits within the range of a double"
            ),
            Self::TooDeep => {
                write!(f, "more than {DEPTH_MAX} arrays and objects within one another; flatten the value")
            }
            Self::TooLarge => write!(f, "more than {DOCUMENT_BYTES_MAX} bytes of canonical text; split the document"),
        }
    }
}

impl std::error::Error for JsonError {}

/// Reads one JSON value strictly, with its numbers normalised (see [`number`]): two texts mean the same exactly if
/// their `Value`s are equal.
///
/// Documents are read by this function only, canonical ones too: `serde_json` itself takes a first key
/// `$serde_json::private::RawValue` for its own once some crate turns `raw_value` on, and fails or misreads.
///
/// The length of `text` is the caller's to bound; the stack is bounded by [`DEPTH_MAX`].
///
/// # Errors
/// Every [`JsonError`] but `TooLarge`.
pub fn parse(text: &[u8]) -> Result<Value, JsonError> {
    parse_within(text, DEPTH_MAX)
}

/// As [`parse`], for a message that has documents as its parts: it may have `levels` of arrays and objects, which bound
/// the stack. [`write`] judges each part.
///
/// # Errors
/// As [`parse`].
pub fn parse_within(text: &[u8], levels: usize) -> Result<Value, JsonError> {
    let text = std::str::from_utf8(text).map_err(|error| not_utf8(text, error.valid_up_to()))?;
    let value = read(text, levels)?;
    check_numbers(text).map(|()| value)
}

/// The value of a canonical text, whose numbers were checked when it was made.
///
/// # Errors
/// As [`parse`] for a text that is not canonical, but not for each of them.
pub fn read_canonical(text: &str) -> Result<Value, JsonError> {
    read(text, DEPTH_MAX)
}

fn read(text: &str, levels: usize) -> Result<Value, JsonError> {
    let fault = Cell::new(None);
    let level = Level { room: levels, fault: &fault };
    let mut reader = serde_json::Deserializer::from_str(text);
    let parsed = level.deserialize(&mut reader).and_then(|value| reader.end().map(|()| value));
    parsed.map_err(|error| fault.take().unwrap_or_else(|| malformed(text, &error)))
}

/// The canonical text of the value that `text` spells.
///
/// # Errors
/// As [`parse`], and `TooLarge` when the canonical text passes [`DOCUMENT_BYTES_MAX`].
pub fn canonical(text: &[u8]) -> Result<String, JsonError> {
    write(&parse(text)?)
}

/// Whether `text` is exactly what [`canonical`] makes of it. Made for texts from peers, whose every op asks it: the text is
/// read and compared with its canonical form piece by piece, and no value is built.
#[must_use]
pub fn is_canonical(text: &str) -> bool {
    if text.len() > DOCUMENT_BYTES_MAX {
        return false;
    }
    let mut rest = Rest(text.as_bytes());
    let mut reader = serde_json::Deserializer::from_str(text);
    let read = Canonical { room: DEPTH_MAX, rest: &mut rest }.deserialize(&mut reader);
    // A number that readers could read differently is not written as it stands here.
    read.is_ok() && reader.end().is_ok() && rest.0.is_empty()
}

/// The canonical text of a value of [`parse`], or of one made from such values by a merge or a patch.
///
/// # Errors
/// `TooDeep` and `TooLarge`, which a value grown since it was parsed may be.
///
/// # Panics
/// Never: a `Value` has string keys only, so it serialises.
pub fn write(value: &Value) -> Result<String, JsonError> {
    if depth(value) > DEPTH_MAX {
        return Err(JsonError::TooDeep);
    }
    let text = serde_json::to_string(value).expect("a Value has string keys only, so it serialises");
    if text.len() > DOCUMENT_BYTES_MAX {
        return Err(JsonError::TooLarge);
    }
    Ok(text)
}

/// The canonical text of a value, of which the length is known, within the bounds of a document.
///
/// # Panics
/// Never: a `Value` has string keys only, so it serialises, and JSON is UTF-8.
#[must_use]
pub fn write_sized(value: &Value, size: Size) -> String {
    let mut text = Vec::with_capacity(size.bytes);
    serde_json::to_writer(&mut text, value).expect("a Value has string keys only, so it serialises");
    String::from_utf8(text).expect("JSON is UTF-8")
}

/// How many arrays and objects lie within one another at the deepest place: 0 for a scalar, 1 for `[]` and `[1]`, 2
/// for `[{}]`. Never more than `DEPTH_MAX + 1`, where it stops looking, so neither stack nor time depend on the rest.
#[must_use]
pub fn depth(value: &Value) -> usize {
    depth_within(value, DEPTH_MAX + 1)
}

/// Bytes of the canonical text of a `Value` or of a key, without making it.
///
/// # Panics
/// Never for a `Value` or a `str`; their serialisation cannot fail.
#[must_use]
pub fn size<T: Serialize + ?Sized>(value: &T) -> usize {
    let mut count = Count(0);
    serde_json::to_writer(&mut count, value).expect("values and strings serialise, and counting never fails");
    count.0
}

/// The size of a value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Size {
    /// The bytes of its canonical text.
    pub bytes: usize,
    /// The values within it: elements of arrays, and keys and values of objects, at every depth.
    pub values: usize,
}

impl Size {
    /// The size of a value, found without writing its text.
    ///
    /// # Panics
    /// Never for a `Value`, whose serialisation cannot fail.
    #[must_use]
    pub fn of(value: &Value) -> Size {
        let (mut bytes, mut values) = (Count(0), Values(0));
        let mut serializer = serde_json::Serializer::with_formatter(&mut bytes, &mut values);
        value.serialize(&mut serializer).expect("values serialise, and counting never fails");
        Size { bytes: bytes.0, values: values.0 }
    }

    /// The size of the value of a canonical text, found without parsing it.
    #[must_use]
    pub fn of_text(text: &str) -> Size {
        let bytes = text.as_bytes();
        let (mut at, mut values) = (0, 0);
        while let Some(byte) = bytes.get(at) {
            at += 1;
            match byte {
                b'"' => at = string_end(bytes, at),
                b',' | b':' => values += 1,
                b'[' | b'{' => values += usize::from(!matches!(bytes.get(at), Some(b']' | b'}'))),
                _ => {}
            }
        }
        Size { bytes: bytes.len(), values }
    }

    /// What parsing, copying or writing it costs: a unit for each byte, and [`VALUE_UNITS`] for each value within it.
    #[must_use]
    pub fn units(self) -> usize {
        self.bytes + VALUE_UNITS * self.values
    }
}

impl Add for Size {
    type Output = Size;

    fn add(self, other: Size) -> Size {
        Size { bytes: self.bytes + other.bytes, values: self.values + other.values }
    }
}

impl Sub for Size {
    type Output = Size;

    fn sub(self, part: Size) -> Size {
        Size { bytes: self.bytes - part.bytes, values: self.values - part.values }
    }
}

/// The one spelling of a double: the integer it equals if that fits `i64` or `u64`, else the double itself. `None` when
/// it is not finite. So numerically equal numbers are equal `Number`s.
#[must_use]
pub fn number(double: f64) -> Option<Number> {
    // Both bounds are exact doubles. The upper one of `u64` and all above are left out, as is what has a fraction.
    const TWO_TO_63: f64 = 9_223_372_036_854_775_808.0;
    const TWO_TO_64: f64 = 18_446_744_073_709_551_616.0;
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "an integral double within the range converts exactly"
    )]
    if double.fract() != 0.0 {
        Number::from_f64(double)
    } else if (0.0..TWO_TO_64).contains(&double) {
        Some(Number::from(double as u64))
    } else if (-TWO_TO_63..0.0).contains(&double) {
        Some(Number::from(double as i64))
    } else {
        Number::from_f64(double)
    }
}

/// The beginning of a text, short enough to repeat in an error.
#[must_use]
pub fn excerpt(text: &str) -> String {
    match text.char_indices().nth(EXCERPT_CHARS_MAX) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// Builds one value with `room` levels left for it. What `serde_json` has no error for goes into `fault`.
#[derive(Clone, Copy)]
struct Level<'a> {
    room: usize,
    fault: &'a Cell<Option<JsonError>>,
}

impl Level<'_> {
    fn inner<E: serde::de::Error>(self) -> Result<Self, E> {
        match self.room.checked_sub(1) {
            Some(room) => Ok(Self { room, ..self }),
            None => Err(self.refuse(JsonError::TooDeep)),
        }
    }

    fn refuse<E: serde::de::Error>(self, fault: JsonError) -> E {
        self.fault.set(Some(fault));
        E::custom("refused")
    }
}

impl<'de> DeserializeSeed<'de> for Level<'_> {
    type Value = Value;

    fn deserialize<D: serde::Deserializer<'de>>(self, reader: D) -> Result<Value, D::Error> {
        reader.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Level<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, truth: bool) -> Result<Value, E> {
        Ok(Value::Bool(truth))
    }

    fn visit_i64<E>(self, integer: i64) -> Result<Value, E> {
        Ok(Value::from(integer))
    }

    fn visit_u64<E>(self, integer: u64) -> Result<Value, E> {
        Ok(Value::from(integer))
    }

    fn visit_f64<E: serde::de::Error>(self, double: f64) -> Result<Value, E> {
        number(double).map(Value::Number).ok_or_else(|| E::custom("number out of range"))
    }

    fn visit_str<E>(self, string: &str) -> Result<Value, E> {
        Ok(Value::String(string.to_owned()))
    }

    fn visit_string<E>(self, string: String) -> Result<Value, E> {
        Ok(Value::String(string))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Value, A::Error> {
        let inner = self.inner()?;
        let mut array = Vec::new();
        while let Some(element) = elements.next_element_seed(inner)? {
            array.push(element);
        }
        Ok(Value::Array(array))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Value, A::Error> {
        let inner = self.inner()?;
        // A map is built at once from members in the order of their keys, four times as fast as one member at a time.
        let mut all: Vec<(String, Value)> = Vec::new();
        while let Some(key) = members.next_key()? {
            all.push((key, members.next_value_seed(inner)?));
        }
        if !all.is_sorted_by(|one, next| one.0 < next.0) {
            all.sort_by(|one, other| one.0.cmp(&other.0));
            if let Some(equal) = all.windows(2).find(|pair| pair[0].0 == pair[1].0) {
                let key = excerpt(&equal[0].0);
                return Err(self.refuse(JsonError::DuplicateKey { key }));
            }
        }
        Ok(Value::Object(all.into_iter().collect()))
    }
}

/// Reads a text that must be canonical, and takes what it reads away from `rest` as its canonical text.
struct Canonical<'r, 'a> {
    room: usize,
    rest: &'r mut Rest<'a>,
}

impl<'a> Canonical<'_, 'a> {
    /// Takes the bracket that opens an array or an object.
    fn open<E: serde::de::Error>(&mut self, bracket: &[u8]) -> Result<(), E> {
        self.room = self.room.checked_sub(1).ok_or_else(|| E::custom("too deep"))?;
        self.take(bracket)
    }

    fn inner(&mut self) -> Canonical<'_, 'a> {
        Canonical { room: self.room, rest: &mut *self.rest }
    }

    fn take<E: serde::de::Error>(&mut self, mark: &[u8]) -> Result<(), E> {
        self.rest.write_all(mark).map_err(E::custom)
    }

    fn take_value<E: serde::de::Error>(&mut self, value: &(impl Serialize + ?Sized)) -> Result<(), E> {
        serde_json::to_writer(&mut *self.rest, value).map_err(E::custom)
    }
}

impl<'de> DeserializeSeed<'de> for Canonical<'_, '_> {
    type Value = ();

    fn deserialize<D: serde::Deserializer<'de>>(self, reader: D) -> Result<(), D::Error> {
        reader.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Canonical<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E: serde::de::Error>(mut self) -> Result<(), E> {
        self.take(b"null")
    }

    fn visit_bool<E: serde::de::Error>(mut self, truth: bool) -> Result<(), E> {
        self.take_value(&truth)
    }

    fn visit_i64<E: serde::de::Error>(mut self, integer: i64) -> Result<(), E> {
        self.take_value(&integer)
    }

    fn visit_u64<E: serde::de::Error>(mut self, integer: u64) -> Result<(), E> {
        self.take_value(&integer)
    }

    fn visit_f64<E: serde::de::Error>(mut self, double: f64) -> Result<(), E> {
        let number = number(double).ok_or_else(|| E::custom("number out of range"))?;
        self.take_value(&number)
    }

    fn visit_str<E: serde::de::Error>(mut self, string: &str) -> Result<(), E> {
        self.take_value(string)
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut elements: A) -> Result<(), A::Error> {
        self.open(b"[")?;
        while elements.next_element_seed(self.inner())?.is_some() {
            // The comma in front of the next element; the one that is missing before the end is not there to be taken.
            self.rest.take_comma();
        }
        self.take(b"]")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut members: A) -> Result<(), A::Error> {
        self.open(b"{")?;
        let mut before: Option<Cow<'de, str>> = None;
        while let Some(key) = members.next_key_seed(Key)? {
            if let Some(before) = before {
                if before >= key {
                    return Err(serde::de::Error::custom("a key out of order"));
                }
                self.take(b",")?;
            }
            self.take_value(&*key)?;
            self.take(b":")?;
            members.next_value_seed(self.inner())?;
            before = Some(key);
        }
        self.take(b"}")
    }
}

/// Reads a key, copied only where it holds escapes.
struct Key;

impl<'de> DeserializeSeed<'de> for Key {
    type Value = Cow<'de, str>;

    fn deserialize<D: serde::Deserializer<'de>>(self, reader: D) -> Result<Cow<'de, str>, D::Error> {
        reader.deserialize_str(self)
    }
}

impl<'de> Visitor<'de> for Key {
    type Value = Cow<'de, str>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_borrowed_str<E>(self, key: &'de str) -> Result<Cow<'de, str>, E> {
        Ok(Cow::Borrowed(key))
    }

    fn visit_str<E>(self, key: &str) -> Result<Cow<'de, str>, E> {
        Ok(Cow::Owned(key.to_owned()))
    }
}

/// The part of a text that was not yet written again. Fails where something else is written.
struct Rest<'a>(&'a [u8]);

impl Rest<'_> {
    fn take_comma(&mut self) {
        self.0 = self.0.strip_prefix(b",").unwrap_or(self.0);
    }
}

impl io::Write for Rest<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 = self.0.strip_prefix(bytes).ok_or(io::ErrorKind::InvalidData)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Counts the values within the one that is written.
struct Values(usize);

impl serde_json::ser::Formatter for &mut Values {
    fn begin_array_value<W: io::Write + ?Sized>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        self.0 += 1;
        if first { Ok(()) } else { writer.write_all(b",") }
    }

    fn begin_object_key<W: io::Write + ?Sized>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        self.begin_array_value(writer, first)
    }

    fn begin_object_value<W: io::Write + ?Sized>(&mut self, writer: &mut W) -> io::Result<()> {
        self.0 += 1;
        writer.write_all(b":")
    }
}

/// Counts the bytes written to it.
struct Count(usize);

impl io::Write for Count {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 += bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Looks at every number token of `text`, which is JSON at least up to its first inexact number.
fn check_numbers(text: &str) -> Result<(), JsonError> {
    let bytes = text.as_bytes();
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        match byte {
            b'"' => at = string_end(bytes, at + 1),
            b'-' | b'0'..=b'9' => {
                let length = bytes[at..]
                    .iter()
                    .take_while(|byte| matches!(byte, b'0'..=b'9' | b'+' | b'-' | b'.' | b'e' | b'E'))
                    .count();
                let token = &text[at..at + length];
                if !is_exact(token) {
                    let text = excerpt(token);
                    return Err(JsonError::InexactNumber { text });
                }
                at += length;
            }
            _ => at += 1,
        }
    }
    Ok(())
}

/// The place after the closing quote of the string whose content starts at `at`.
fn string_end(bytes: &[u8], mut at: usize) -> usize {
    while let Some(byte) = bytes.get(at) {
        match byte {
            b'"' => return at + 1,
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
    at
}

/// Returns true if all readers agree about a number token: it is an integer of 64 bits, or denotes one double.
fn is_exact(token: &str) -> bool {
    let digits = token.len() - usize::from(token.starts_with('-'));
    if token.bytes().all(|byte| matches!(byte, b'-' | b'0'..=b'9'))
        // Up to 18 digits always fit; this spares most integers the two parses.
        && (digits <= 18 || token.parse::<i64>().is_ok() || token.parse::<u64>().is_ok())
    {
        return true;
    }
    let mantissa = token.split(['e', 'E']).next().unwrap_or(token);
    let significant = mantissa
        .bytes()
        .filter(u8::is_ascii_digit)
        .skip_while(|digit| *digit == b'0')
        .zip(1..)
        .filter(|(digit, _)| *digit != b'0')
        .last()
        .map_or(0, |(_, count)| count);
    let double = token.parse::<f64>().unwrap_or(f64::INFINITY);
    let is_in_range = double.is_finite() && (significant == 0 || double != 0.0);
    is_in_range && (significant <= DIGITS_MAX || Decimal::of(token).is(double.abs()))
}

/// A number token without its sign: its digits, of which neither the first nor the last is 0, and the power of ten of the last.
struct Decimal {
    digits: String,
    power: i64,
}

impl Decimal {
    fn of(token: &str) -> Decimal {
        let (mantissa, exponent) = token.split_once(['e', 'E']).unwrap_or((token, "0"));
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let all = [whole.trim_start_matches('-'), fraction].concat();
        let digits = all.trim_end_matches('0');
        // An exponent that passes 64 bits is one of a number that overflows or vanishes, which is refused as such.
        let power = exponent.parse::<i64>().unwrap_or_default();
        let power = power.saturating_sub(fraction.len() as i64).saturating_add((all.len() - digits.len()) as i64);
        Decimal { digits: digits.trim_start_matches('0').to_owned(), power }
    }

    /// Returns true if it is exactly this positive double.
    fn is(&self, double: f64) -> bool {
        if self.digits.len() > DOUBLE_DIGITS_MAX {
            return false;
        }
        // The exact digits of a double end where its binary digits do: a fraction of so many of these has as many decimal ones.
        let places = usize::try_from(-self.power).unwrap_or_default();
        if self.power < 0 && binary_places(double) != places {
            return false;
        }
        let exact = format!("{double:.places$}").replace('.', "");
        let zeros = usize::try_from(self.power).unwrap_or_default();
        exact
            .trim_start_matches('0')
            .strip_prefix(&*self.digits)
            .is_some_and(|rest| rest.len() == zeros && rest.bytes().all(|digit| digit == b'0'))
    }
}

/// Number of binary digits that a positive double has after the point.
fn binary_places(double: f64) -> usize {
    const FRACTION_BITS: u32 = 52;
    const EXPONENT_BIAS: i64 = 1075;
    let bits = double.to_bits();
    let (biased, fraction) = ((bits >> FRACTION_BITS) as i64, bits & ((1 << FRACTION_BITS) - 1));
    // A subnormal double lacks the leading one, and has the exponent of the smallest normal one.
    let (exponent, mantissa) = if biased == 0 { (1, fraction) } else { (biased, fraction | 1 << FRACTION_BITS) };
    let places = EXPONENT_BIAS - exponent - i64::from(mantissa.trailing_zeros());
    usize::try_from(places).unwrap_or_default()
}

/// The first half of a surrogate pair that stands alone in a string of the text, or a second one: its escape, and where it is.
fn lone_surrogate(text: &str) -> Option<(&str, usize)> {
    const ESCAPE_BYTES: usize = 6;
    let unit = |at: usize| {
        let escape = text.get(at..at + ESCAPE_BYTES)?.strip_prefix("\\u")?;
        u16::from_str_radix(escape, 16).ok()
    };
    let mut at = 0;
    while let Some(found) = text.get(at..)?.find('\\') {
        at += found;
        match unit(at) {
            Some(0xd800..=0xdbff) if matches!(unit(at + ESCAPE_BYTES), Some(0xdc00..=0xdfff)) => at += 2 * ESCAPE_BYTES,
            Some(0xd800..=0xdfff) => return Some((&text[at..at + ESCAPE_BYTES], at)),
            // What follows a backslash may be another one, and then escapes nothing.
            _ => at += 1 + text.get(at + 1..)?.chars().next().map_or(0, char::len_utf8),
        }
    }
    None
}

fn not_utf8(text: &[u8], valid_bytes: usize) -> JsonError {
    let (line, column) = position(&text[..valid_bytes]);
    let message = "invalid UTF-8".to_owned();
    JsonError::Malformed { line, column, message }
}

fn malformed(text: &str, error: &serde_json::Error) -> JsonError {
    let message = error.to_string();
    // The one refusal of a number that serde_json makes itself. Its error does not hold the number's text.
    if message.starts_with("number out of range")
        && let Err(inexact) = check_numbers(text)
    {
        return inexact;
    }
    if (message.contains("surrogate") || message.contains("hex escape"))
        && let Some((escape, at)) = lone_surrogate(text)
    {
        let (line, column) = position(&text.as_bytes()[..at]);
        let message = format!(
            "{escape} is one half of a surrogate pair without the other, a lone surrogate, which is no character: write both \
             halves, or \\ufffd in its place"
        );
        return JsonError::Malformed { line, column, message };
    }
    let message = match message.rfind(" at line ") {
        Some(end) => message[..end].to_owned(),
        None => message,
    };
    JsonError::Malformed { line: error.line(), column: error.column(), message }
}

/// Line, from 1, and bytes within it of the place where `before` ends.
fn position(before: &[u8]) -> (usize, usize) {
    let mut lines = before.rsplit(|byte| *byte == b'\n');
    let column = lines.next().map_or(0, <[u8]>::len) + 1;
    (lines.count() + 1, column)
}

fn depth_within(value: &Value, room: usize) -> usize {
    match value {
        Value::Array(array) => 1 + deepest(array.iter(), room - 1),
        Value::Object(object) => 1 + deepest(object.values(), room - 1),
        _ => 0,
    }
}

/// The greatest depth of the values, as far as there is room.
fn deepest<'a>(values: impl Iterator<Item = &'a Value>, room: usize) -> usize {
    let mut deepest = 0;
    for value in values {
        if deepest == room {
            break;
        }
        deepest = deepest.max(depth_within(value, room));
    }
    deepest
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: &str) {
        assert_eq!(canonical(text.as_bytes()).as_deref(), Ok(expected), "{text}");
        assert!(is_canonical(expected), "{expected}");
        assert_eq!(is_canonical(text), text == expected, "{text}");
        let value = parse(text.as_bytes()).unwrap();
        assert_eq!(size(&value), expected.len(), "{text}");
        assert_eq!(Size::of(&value).bytes, expected.len(), "{text}");
        assert_eq!(Size::of_text(expected), Size::of(&value), "{text}");
        assert_eq!(depth(&value), brackets(expected), "{text}");
    }

    /// Depth as the brackets of a text without brackets in strings tell it.
    fn brackets(text: &str) -> usize {
        let (mut open, mut deepest) = (0_usize, 0);
        for byte in text.bytes() {
            match byte {
                b'[' | b'{' => open += 1,
                b']' | b'}' => open -= 1,
                _ => {}
            }
            deepest = deepest.max(open);
        }
        deepest
    }

    fn refusal(text: impl AsRef<[u8]>) -> JsonError {
        canonical(text.as_ref()).unwrap_err()
    }

    fn check_malformed(text: impl AsRef<[u8]>, place: (usize, usize), words: &str) {
        let JsonError::Malformed { line, column, message } = refusal(&text) else {
            panic!("{:?}", String::from_utf8_lossy(text.as_ref()));
        };
        assert_eq!((line, column, message.as_str()), (place.0, place.1, words));
    }

    fn check_inexact(number: &str) {
        let error = JsonError::InexactNumber { text: excerpt(number) };
        assert_eq!(refusal(number), error);
        assert_eq!(refusal(format!("[\"1e999 \\\"\",1, {number} ]")), error);
        assert_eq!(refusal(format!("{{\"a\":{number}}}")), error);
    }

    #[test]
    fn white_space_goes_and_keys_ascend() {
        check(" null\r\n\t", "null");
        check("true", "true");
        check("[ ]", "[]");
        check("{ }", "{}");
        check("[1 , [ ] , {} ]", "[1,[],{}]");
        check(r#"{"b":1,"a":2,"":3,"B":4}"#, r#"{"":3,"B":4,"a":2,"b":1}"#);
        check(r#"{"a":{"d":1,"c":[{"z":1,"y":2}]}}"#, r#"{"a":{"c":[{"y":2,"z":1}],"d":1}}"#);
    }

    #[test]
    fn keys_are_sorted_whatever_features_dependencies_turn_on() {
        // Fails when some dependency turns on serde_json's `preserve_order`: canonical texts would differ.
        let object = serde_json::json!({"b": 1, "a": 2, "c": 3});
        assert_eq!(write(&object).unwrap(), r#"{"a":2,"b":1,"c":3}"#);
        // Fails with `arbitrary_precision`: numbers would come as maps of this key.
        check(r#"{"$serde_json::private::Number":"1"}"#, r#"{"$serde_json::private::Number":"1"}"#);
        check("1.50", "1.5");
        // With `raw_value`, serde_json's own reading of a `Value` fails here: documents are read by `parse` alone.
        let raw = r#"{"$serde_json::private::RawValue":1}"#;
        check(raw, raw);
    }

    #[test]
    fn keys_ascend_by_utf8_bytes_not_utf16() {
        check("{\"\u{10000}\":1,\"\u{ffff}\":2}", "{\"\u{ffff}\":2,\"\u{10000}\":1}");
    }

    #[test]
    fn strings_have_one_spelling() {
        check(r#""\u0061\/\u00e9""#, "\"a/é\"");
        check(r#""\ud83d\ude00""#, "\"😀\"");
        check(r#""\u0022\u005c\u0008\u000c\u000a\u000d\u0009""#, r#""\"\\\b\f\n\r\t""#);
        check(r#""\u0000\u001F\u007f""#, "\"\\u0000\\u001f\u{7f}\"");
    }

    #[test]
    fn numbers_which_are_equal_have_one_spelling() {
        check("-0", "0");
        check("-0.0", "0");
        check("0e999", "0");
        check("0.000e-99999999999999999999", "0");
        check("1.0", "1");
        check("1e2", "100");
        check("-1.5e1", "-15");
        check("100000e-3", "100");
        check("1E+2", "100");
        check("9223372036854775807", "9223372036854775807");
        check("-9223372036854775808", "-9223372036854775808");
        check("18446744073709551615", "18446744073709551615");
        check("-9.223372036854775e18", "-9223372036854774784");
        check("1.0e19", "10000000000000000000");
        check("1.50", "1.5");
        check("0.1e1", "1");
        check("0.10", "0.1");
    }

    #[test]
    fn doubles_keep_the_spelling_that_all_nodes_agreed_on() {
        // Hashes are made of these texts. If a new serde_json spells a double differently, nodes of two builds would
        // disagree: do not mend this test, keep the old spelling.
        check("0.1", "0.1");
        check("1e-5", "0.00001");
        check("1e-6", "1e-6");
        check("1e-7", "1e-7");
        check("1.25e-5", "0.0000125");
        check("123456.789", "123456.789");
        check("2251799813685248.5", "2251799813685248.5");
        check("1.8446744073709552e19", "1.8446744073709552e+19");
        check("-9.3e18", "-9.3e+18");
        check("1e21", "1e+21");
        check("1e22", "1e+22");
        check("-1e300", "-1e+300");
        check("1.7976931348623157e308", "1.7976931348623157e+308");
        check("5e-324", "5e-324");
        check("2.2250738585072014e-308", "2.2250738585072014e-308");
    }

    #[test]
    fn seventeen_significant_digits_are_read_as_the_nearest_double() {
        check("0.30000000000000004", "0.30000000000000004");
        check("0.10000000000000001", "0.1");
    }

    #[test]
    fn a_number_is_taken_in_every_spelling_that_denotes_one_double() {
        check("100000000000000000000", "1e+20");
        check("-100000000000000000000.000", "-1e+20");
        check("1E20", "1e+20");
        check("123456789012345680000", "1.2345678901234568e+20");
        check("18446744073709551616", "1.8446744073709552e+19");
        check("18446744073709551616.0", "1.8446744073709552e+19");
        check("9223372036854775808000", "9.223372036854776e+21");
        check("0.1000000000000000055511151231257827021181583404541015625", "0.1");
        check("1.000000000000000055511151231257827021181583404541015625e-1", "0.1");
        check(&format!("{:.0}", f64::MAX), "1.7976931348623157e+308");
        check(&format!("{:.1074}", f64::from_bits(1)), "5e-324");
        check(&format!("{:.1074}", f64::MIN_POSITIVE), "2.2250738585072014e-308");
    }

    #[test]
    fn numbers_which_two_readers_could_read_differently_are_refused() {
        check_inexact("18446744073709551617");
        check_inexact("100000000000000000001");
        check_inexact("-9223372036854775809");
        check_inexact(&"9".repeat(400));
        check_inexact("0.123456789012345678");
        check_inexact("123456789.012345678e5");
        check_inexact("100000000000000000.01");
        check_inexact("18446744073709551616.5");
        check_inexact("0.10000000000000000555");
        check_inexact(&format!("0.1{}", "0".repeat(2000) + "1"));
        check_inexact("1e400");
        check_inexact("-1.7976931348623159e308");
        check_inexact(&format!("1{}.0", "0".repeat(400)));
        check_inexact("1e-400");
        check_inexact("-2e-324");
        check_inexact(&format!("0.{}1", "0".repeat(400)));
        check_inexact("1e99999999999999999999");
    }

    #[test]
    fn zeros_around_the_digits_are_not_significant() {
        check("0.00012345678901234567", "0.00012345678901234567");
        check("1.50000000000000000000000000", "1.5");
        check("100000000000000000000e-20", "1");
        check("3e-324", "5e-324");
    }

    #[test]
    fn digits_in_strings_and_keys_are_no_numbers() {
        check(r#"{"1e999":"1e999 \"1e999\\"}"#, r#"{"1e999":"1e999 \"1e999\\"}"#);
    }

    #[test]
    fn a_key_twice_in_one_object_is_refused() {
        let key = || "a".to_owned();
        assert_eq!(refusal(r#"{"a":1,"a":1}"#), JsonError::DuplicateKey { key: key() });
        assert_eq!(refusal(r#"[{"b":{"a":1,"\u0061":1}}]"#), JsonError::DuplicateKey { key: key() });
        check(r#"{"a":{"a":1},"b":{"a":1}}"#, r#"{"a":{"a":1},"b":{"a":1}}"#);
    }

    #[test]
    fn malformed_text_is_refused_with_its_place() {
        check_malformed("", (1, 0), "EOF while parsing a value");
        check_malformed("1 2", (1, 3), "trailing characters");
        check_malformed("{\n\"a\":01}", (2, 6), "invalid number");
        check_malformed("[1,]", (1, 4), "trailing comma");
        check_malformed("{a:1}", (1, 2), "key must be a string");
        check_malformed("\u{feff}1", (1, 1), "expected value");
        check_malformed("NaN", (1, 1), "expected value");
        check_malformed("[+1]", (1, 2), "expected value");
        check_malformed("[.5]", (1, 2), "expected value");
        check_malformed("\"a\nb\"", (2, 0), "control character (\\u0000-\\u001F) found while parsing a string");
        check_malformed(b"[1,\n\"a\xff\"]", (2, 3), "invalid UTF-8");
        check_malformed(b"\xed\xa0\x80", (1, 1), "invalid UTF-8");
        let lone = |escape| {
            format!(
                "{escape} is one half of a surrogate pair without the other, a lone surrogate, which is no character: write both \
                 halves, or \\ufffd in its place"
            )
        };
        check_malformed(r#""\ud83d""#, (1, 2), &lone("\\ud83d"));
        check_malformed(r#""\ude00""#, (1, 2), &lone("\\ude00"));
        check_malformed(r#"{"\ud83d\u0041":1}"#, (1, 3), &lone("\\ud83d"));
    }

    #[test]
    fn depth_is_bounded_however_deep_the_text() {
        let nested = |levels| format!("{}{}", "[".repeat(levels), "]".repeat(levels));
        let objects = |levels| format!("{}1{}", "{\"a\":".repeat(levels), "}".repeat(levels));
        check(&nested(DEPTH_MAX), &nested(DEPTH_MAX));
        check(&objects(DEPTH_MAX), &objects(DEPTH_MAX));
        assert_eq!(refusal(nested(DEPTH_MAX + 1)), JsonError::TooDeep);
        assert_eq!(refusal(objects(DEPTH_MAX + 1)), JsonError::TooDeep);
        assert_eq!(refusal("[".repeat(1_000_000)), JsonError::TooDeep);
    }

    #[test]
    fn depth_stops_one_level_past_the_bound() {
        let nested = |levels| (0..levels).fold(Value::Null, |inner, _| Value::Array(vec![inner, Value::Null]));
        assert_eq!(depth(&nested(DEPTH_MAX)), DEPTH_MAX);
        assert_eq!(depth(&nested(DEPTH_MAX + 1)), DEPTH_MAX + 1);
        assert_eq!(depth(&nested(1000)), DEPTH_MAX + 1);
        assert_eq!(write(&nested(DEPTH_MAX + 1)), Err(JsonError::TooDeep));
    }

    #[test]
    fn size_is_bounded_by_the_canonical_text_not_the_one_sent() {
        let string = |bytes| format!("\"{}\"", "a".repeat(bytes - 2));
        let largest = string(DOCUMENT_BYTES_MAX);
        assert!(is_canonical(&largest));
        assert_eq!(canonical(format!("{largest}  \n").as_bytes()).unwrap(), largest);
        assert_eq!(refusal(string(DOCUMENT_BYTES_MAX + 1)), JsonError::TooLarge);
        assert!(!is_canonical(&string(DOCUMENT_BYTES_MAX + 1)));
    }

    #[test]
    fn errors_say_what_to_do_and_stay_short() {
        let key = "ä".repeat(5000);
        let error = refusal(format!("{{\"{key}\":1,\"{key}\":2}}")).to_string();
        assert!(error.ends_with("ä…\" stands twice in one object; keep one"), "{error}");
        assert!(error.len() < 300, "{error}");
        let error = refusal("7".repeat(5000)).to_string();
        assert!(error.contains("777…; write it as a string"), "{error}");
        assert!(error.len() < 400, "{error}");
    }

    #[test]
    fn a_double_becomes_the_integer_it_equals() {
        let check = |double, expected: Option<Number>| assert_eq!(number(double), expected, "{double}");
        check(1.0, Some(1.into()));
        check(-0.0, Some(0.into()));
        check(-3.0, Some((-3).into()));
        check(0.5, Number::from_f64(0.5));
        check(2_f64.powi(64), Number::from_f64(2_f64.powi(64)));
        check(2_f64.powi(63), Some((1_u64 << 63).into()));
        check(-(2_f64.powi(63)), Some(i64::MIN.into()));
        check(1e300, Number::from_f64(1e300));
        check(f64::NAN, None);
        check(f64::NEG_INFINITY, None);
    }

    /// The generator `SplitMix64`, for the same texts in every run.
    struct Random(u64);

    impl Random {
        fn below(&mut self, bound: usize) -> usize {
            self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut bits = self.0;
            bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            usize::try_from((bits ^ (bits >> 31)) % bound as u64).unwrap()
        }

        fn pick<'a, T: ?Sized>(&mut self, from: &[&'a T]) -> &'a T {
            from[self.below(from.len())]
        }
    }

    /// One value as text, with freedom wherever JSON has some.
    fn spell(random: &mut Random, room: usize, text: &mut String) {
        const SCALARS: [&str; 20] = [
            "null",
            "true",
            "false",
            "0",
            "-0",
            "1.0",
            "1e2",
            "-7",
            "0.1",
            "1e-7",
            "1e21",
            "5e-324",
            "1e400",
            "18446744073709551615",
            "18446744073709551616",
            "\"\"",
            "\"a\"",
            "\"\\u0061\\n\\ud83d\\ude00\"",
            "\"é\\/\u{7f}\"",
            "12345678901234567.5",
        ];
        const KEYS: [&str; 8] =
            ["\"a\"", "\"b\"", "\"\\u0061\"", "\"\"", "\"é\"", "\"😀\"", "\"\u{ffff}\"", "\"1e999\""];
        text.push_str(random.pick(&["", "", " ", "\n\t"]));
        let members = random.below(4);
        match if room == 0 { 0 } else { random.below(4) } {
            0 | 1 => text.push_str(random.pick(&SCALARS)),
            2 => {
                text.push('[');
                for member in 0..members {
                    text.push_str(if member > 0 { "," } else { "" });
                    spell(random, room - 1, text);
                }
                text.push(']');
            }
            _ => {
                text.push('{');
                for member in 0..members {
                    text.push_str(if member > 0 { "," } else { "" });
                    text.push_str(random.pick(&KEYS));
                    text.push(':');
                    spell(random, room - 1, text);
                }
                text.push('}');
            }
        }
        text.push_str(random.pick(&["", "", " ", "\r"]));
    }

    /// Whether the text was JSON of ours. Whatever it is, nothing panics and canonical texts are fixed points.
    fn survives(text: &[u8]) -> bool {
        let Ok(own) = canonical(text) else {
            return false;
        };
        let value = parse(text).unwrap();
        assert_eq!(canonical(own.as_bytes()).as_ref(), Ok(&own));
        assert!(is_canonical(&own), "{own}");
        assert_eq!(parse(own.as_bytes()).as_ref(), Ok(&value), "{own}");
        assert_eq!(size(&value), own.len());
        assert_eq!(std::str::from_utf8(text).is_ok_and(is_canonical), text == own.as_bytes());
        // What we take, any lenient reader takes as well.
        assert!(serde_json::from_slice::<Value>(text).is_ok());
        true
    }

    #[test]
    fn arbitrary_and_mutated_texts_never_panic_and_canonical_is_idempotent() {
        const SPLINTERS: &[u8] = b"\"\\{}[],:0e-.\xff1a";
        let mut random = Random(42);
        let (mut good, mut bad) = (0, 0);
        for _ in 0..20_000 {
            let mut text = String::new();
            spell(&mut random, 4, &mut text);
            let mut bytes = text.into_bytes();
            for _ in 0..random.below(3) {
                let at = random.below(bytes.len() + 1);
                match random.below(3) {
                    0 if at < bytes.len() => drop(bytes.remove(at)),
                    1 if at < bytes.len() => bytes[at] = u8::try_from(random.below(256)).unwrap(),
                    _ => bytes.insert(at, SPLINTERS[random.below(SPLINTERS.len())]),
                }
            }
            *(if survives(&bytes) { &mut good } else { &mut bad }) += 1;
            let noise: Vec<u8> = (0..random.below(12)).map(|_| u8::try_from(random.below(256)).unwrap()).collect();
            survives(&noise);
        }
        assert!(good > 4000 && bad > 4000, "{good} good, {bad} bad");
    }

    #[test]
    fn every_finite_double_survives_canonical_text() {
        let mut random = Random(7);
        for _ in 0..50_000 {
            let half = |random: &mut Random| random.below(1 << 32) as u64;
            let double = f64::from_bits(half(&mut random) << 32 | half(&mut random));
            if let Some(number) = number(double) {
                let text = write(&Value::Number(number)).unwrap();
                assert!(is_canonical(&text), "{text}");
                assert_eq!(text.parse::<f64>(), Ok(double));
                assert_eq!(canonical(format!("{double:e}").as_bytes()), Ok(text));
            }
        }
    }
}
