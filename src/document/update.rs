//! The form of a Yjs update (version 1 of its encoding, as `yjs/src/utils/encoding.js` writes it), checked before a library
//! reads it.
//!
//! An update is `clients × (structs, client, clock, struct × structs)` and then a delete set, `clients × (client, ranges,
//! (clock, length) × ranges)`; numbers are LEB128. What it needs and gives is found on the way: whether all that it builds
//! on is there decides whether it can be taken. One that cannot would wait inside the library, grow there, and can make
//! it panic later.

use std::{collections::BTreeMap, fmt, ops::Range};

use smallvec::SmallVec;

use super::{incarnation::Incarnation, json::DEPTH_MAX};

/// Most structs and ranges of one update.
const PARTS_MAX: usize = 1 << 20;
/// Clocks of a client stay below this: it is the number of characters that it ever wrote.
const CLOCK_MAX: u64 = 1 << 31;

/// How much of each client's work is there: the state vector.
pub type Clocks = BTreeMap<u64, u64>;

/// What an update builds on, and what it brings.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shape {
    /// Runs of structs without a gap: client, first clock, clock behind the last.
    runs: Vec<(u64, u64, u64)>,
    /// The clock behind the greatest that is referred to, of each client.
    needs: Clocks,
    /// How many structs and ranges of deletions it has.
    parts: usize,
}

/// A mark or an embed of a text, which is a struct of an update.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Inline {
    /// From here on the text has an attribute: its name, and its value as JSON.
    Mark(String, String),
    /// What stands there in the place of a character, as JSON.
    Embed(String),
}

/// An update in which an embed stands for each mark of the text, so that a library gives them in their order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LaidOpen {
    /// The update. The embeds in it are numbers, indices of `inlines`.
    pub update: Vec<u8>,
    /// The marks and embeds.
    pub inlines: Vec<Inline>,
    /// How many structs the update has.
    pub structs: usize,
}

/// Why bytes are no update that can be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Malformed {
    /// They end too early, go on too long, or count more than they hold.
    Form,
    /// A kind of content that is not kept here: subdocuments, and what Yjs before version 13 wrote.
    Kind,
    /// Numbers or nesting out of bounds.
    Bounds,
    /// Structs that build on each other in a circle.
    Circle,
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Malformed::Form => "this is no Yjs update (version 1 of the encoding)",
            Malformed::Kind => "it has subdocuments or a kind of content that is not kept here",
            Malformed::Bounds => "a clock, a count or the nesting is out of bounds",
            Malformed::Circle => "its parts build on each other in a circle",
        })
    }
}

impl LaidOpen {
    /// Puts an embed in the place of each mark of an update.
    pub fn of(update: &[u8]) -> Result<LaidOpen, Malformed> {
        let (reader, structs) = Reader::read(update)?;
        let (mut open, mut copied) = (LaidOpen { structs, ..LaidOpen::default() }, 0);
        for Place { info, content } in reader.inlines {
            let mut parts = Reader::new(&update[content.clone()]);
            let mut part = || parts.text().map(str::to_string);
            let is_mark = update[info] & KIND == MARK;
            let inline = if is_mark { Inline::Mark(part()?, part()?) } else { Inline::Embed(part()?) };
            open.update.extend_from_slice(&update[copied..info]);
            open.update.push(update[info] & !KIND | EMBED);
            open.update.extend_from_slice(&update[info + 1..content.start]);
            let index = open.inlines.len().to_string();
            // Less than 128 digits, so its length is one byte.
            open.update.push(index.len() as u8);
            open.update.extend_from_slice(index.as_bytes());
            open.inlines.push(inline);
            copied = content.end;
        }
        open.update.extend_from_slice(&update[copied..]);
        Ok(open)
    }
}

impl Shape {
    /// Reads the form of an update.
    pub fn of(update: &[u8]) -> Result<Shape, Malformed> {
        Reader::read(update).map(|(reader, _)| reader.shape)
    }

    /// The number of its parts: structs, and ranges of what it deletes.
    pub fn parts(&self) -> usize {
        self.parts
    }

    /// Whether it brings and deletes nothing at all.
    pub fn is_empty(&self) -> bool {
        self.runs.is_empty() && self.needs.is_empty()
    }

    /// Whether all that it builds on is there or comes with it.
    pub fn fits(&self, clocks: &Clocks) -> bool {
        let before = |client: &u64| clocks.get(client).copied().unwrap_or(0);
        let mut then = Clocks::new();
        let connected = self.runs.iter().all(|(client, start, end)| {
            let held = then.entry(*client).or_insert_with(|| before(client));
            let joins = start <= held;
            *held = (*end).max(*held);
            joins
        });
        let held = |client: &u64| then.get(client).copied().unwrap_or_else(|| before(client));
        connected && self.needs.iter().all(|(client, clock)| *clock <= held(client))
    }

    /// The incarnations of a text that it brings.
    pub fn incarnations(&self) -> impl Iterator<Item = Incarnation> {
        self.runs.iter().filter_map(|(client, _, end)| Incarnation::at(*client, *end))
    }

    /// Notes what it brings.
    pub fn add_to(&self, clocks: &mut Clocks) {
        for (client, _, end) in &self.runs {
            let held = clocks.entry(*client).or_default();
            *held = (*end).max(*held);
        }
    }
}

/// The bits of a struct's first byte that tell its content, and two kinds of content.
const KIND: u8 = 0x1f;
const EMBED: u8 = 5;
const MARK: u8 = 6;

/// Where a mark or an embed stands in an update: its first byte, and its content.
struct Place {
    info: usize,
    content: Range<usize>,
}

/// The structs of one client in an update: their bytes, the first clock, and how many they are.
pub(super) struct Section<'a> {
    pub(super) client: u64,
    pub(super) clock: u64,
    pub(super) structs: usize,
    pub(super) bytes: &'a [u8],
}

pub(super) struct Reader<'a> {
    bytes: &'a [u8],
    length: usize,
    pub(super) shape: Shape,
    inlines: Vec<Place>,
    /// What the last struct builds on: the characters beside it, or its parent.
    pub(super) origins: SmallVec<[(u64, u64); 2]>,
    pub(super) sections: Vec<Section<'a>>,
    /// What is deleted: client, first clock, length.
    pub(super) deletions: Vec<(u64, u64, u64)>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Reader<'a> {
        Reader {
            bytes,
            length: bytes.len(),
            shape: Shape::default(),
            inlines: Vec::new(),
            origins: SmallVec::new(),
            sections: Vec::new(),
            deletions: Vec::new(),
        }
    }

    /// Reads an update; returns how many structs it has, too.
    pub(super) fn read(update: &'a [u8]) -> Result<(Reader<'a>, usize), Malformed> {
        let mut reader = Reader::new(update);
        let (mut structs, mut ranges) = (0, 0);
        for _ in 0..reader.count()? {
            structs += reader.client()?;
        }
        for _ in 0..reader.count()? {
            ranges += reader.deletions()?;
        }
        if !reader.bytes.is_empty() {
            return Err(Malformed::Form);
        }
        reader.shape.parts = structs + ranges;
        if structs + ranges > PARTS_MAX { Err(Malformed::Bounds) } else { Ok((reader, structs)) }
    }

    /// The structs of a client; returns how many these are.
    fn client(&mut self) -> Result<usize, Malformed> {
        let (structs, client, mut clock) = (self.count()?, self.number()?, self.number()?);
        self.sections.push(Section { client, clock, structs, bytes: self.bytes });
        let mut start = clock;
        for _ in 0..structs {
            let (length, is_gap) = self.block()?;
            if is_gap {
                self.run(client, start, clock)?;
                start = clock + length;
            }
            clock += length;
            if clock > CLOCK_MAX {
                return Err(Malformed::Bounds);
            }
        }
        self.run(client, start, clock)?;
        Ok(structs)
    }

    /// What is deleted of a client; returns in how many ranges.
    fn deletions(&mut self) -> Result<usize, Malformed> {
        let (client, ranges) = (self.number()?, self.count()?);
        for _ in 0..ranges {
            let (clock, length) = (self.number()?, self.number()?);
            self.refer(client, clock.saturating_add(length))?;
            self.deletions.push((client, clock, length));
        }
        Ok(ranges)
    }

    /// How many bytes were read.
    pub(super) fn at(&self) -> usize {
        self.length - self.bytes.len()
    }

    fn run(&mut self, client: u64, start: u64, end: u64) -> Result<(), Malformed> {
        if start > CLOCK_MAX {
            return Err(Malformed::Bounds);
        }
        if end > start {
            self.shape.runs.push((client, start, end));
        }
        Ok(())
    }

    /// Notes that something up to this clock is referred to.
    fn refer(&mut self, client: u64, behind: u64) -> Result<(), Malformed> {
        if behind > CLOCK_MAX {
            return Err(Malformed::Bounds);
        }
        let needed = self.shape.needs.entry(client).or_default();
        *needed = behind.max(*needed);
        Ok(())
    }

    /// Goes on with other bytes, of an update that was read before.
    pub(super) fn go_on_with(&mut self, bytes: &'a [u8]) {
        (self.bytes, self.length) = (bytes, bytes.len());
        self.shape.needs.clear();
        self.inlines.clear();
    }

    /// One struct: its length in the clock, and whether it only says that something is left out.
    pub(super) fn block(&mut self) -> Result<(u64, bool), Malformed> {
        let begin = self.at();
        self.origins.clear();
        let info = self.byte()?;
        if info == 10 || info == 0 {
            let length = self.number()?;
            return if length == 0 { Err(Malformed::Form) } else { Ok((length, info == 10)) };
        }
        let (left, right, sub) = (info & 0x80 != 0, info & 0x40 != 0, info & 0x20 != 0);
        let before = if left { Some(self.id()?) } else { None };
        let behind = if right { Some(self.id()?) } else { None };
        // Nothing lies between a character and itself: where the library puts such a one depends on how it came.
        if before.is_some() && before == behind {
            return Err(Malformed::Form);
        }
        if !left && !right {
            match self.number()? {
                1 => drop(self.text()?),
                0 => drop(self.id()?),
                _ => return Err(Malformed::Form),
            }
            if sub {
                self.text()?;
            }
        }
        let content = self.at();
        let length = self.content(info & KIND)?;
        if matches!(info & KIND, EMBED | MARK) {
            self.inlines.push(Place { info: begin, content: content..self.at() });
        }
        if length == 0 { Err(Malformed::Form) } else { Ok((length, false)) }
    }

    fn content(&mut self, kind: u8) -> Result<u64, Malformed> {
        match kind {
            // Deleted, of so many.
            1 => return self.number(),
            // Binary.
            3 => drop(self.buffer()?),
            // String: as long as its UTF-16.
            4 => return Ok(self.text()?.encode_utf16().count() as u64),
            // Embed.
            EMBED => self.json()?,
            // Format: key and value.
            MARK => {
                self.text()?;
                self.json()?;
            }
            // Type: of XML elements and hooks the name follows.
            7 => match self.number()? {
                3 | 5 => drop(self.text()?),
                0..=6 => {}
                _ => return Err(Malformed::Kind),
            },
            // Any, several.
            8 => {
                let count = self.count()?;
                for _ in 0..count {
                    self.any(0)?;
                }
                return Ok(count as u64);
            }
            _ => return Err(Malformed::Kind),
        }
        Ok(1)
    }

    fn any(&mut self, depth: usize) -> Result<(), Malformed> {
        if depth > DEPTH_MAX {
            return Err(Malformed::Bounds);
        }
        match self.byte()? {
            // undefined, null, false, true.
            127 | 126 | 121 | 120 => {}
            // An integer, with its sign in the first byte.
            125 => while self.byte()? >= 0x80 {},
            124 => drop(self.take(4)?),
            123 | 122 => drop(self.take(8)?),
            119 => drop(self.text()?),
            118 => {
                for _ in 0..self.count()? {
                    self.text()?;
                    self.any(depth + 1)?;
                }
            }
            117 => {
                for _ in 0..self.count()? {
                    self.any(depth + 1)?;
                }
            }
            116 => drop(self.buffer()?),
            _ => return Err(Malformed::Kind),
        }
        Ok(())
    }

    /// A JSON text, whose nesting is bounded: the library reads it by recursion.
    fn json(&mut self) -> Result<(), Malformed> {
        let text = self.text()?;
        let (mut depth, mut deepest) = (0_usize, 0);
        for byte in text.bytes() {
            match byte {
                b'[' | b'{' => depth += 1,
                b']' | b'}' => depth = depth.saturating_sub(1),
                _ => {}
            }
            deepest = depth.max(deepest);
        }
        // Brackets within strings count too: that only makes it stricter.
        if deepest > DEPTH_MAX { Err(Malformed::Bounds) } else { Ok(()) }
    }

    fn id(&mut self) -> Result<(u64, u64), Malformed> {
        let (client, clock) = (self.number()?, self.number()?);
        self.refer(client, clock.saturating_add(1))?;
        self.origins.push((client, clock));
        Ok((client, clock))
    }

    fn buffer(&mut self) -> Result<&'a [u8], Malformed> {
        let length = self.count()?;
        self.take(length)
    }

    fn text(&mut self) -> Result<&'a str, Malformed> {
        str::from_utf8(self.buffer()?).map_err(|_| Malformed::Form)
    }

    /// How many follow: each of them has a byte at the least.
    fn count(&mut self) -> Result<usize, Malformed> {
        let count = usize::try_from(self.number()?).map_err(|_| Malformed::Bounds)?;
        if count > self.bytes.len() { Err(Malformed::Form) } else { Ok(count) }
    }

    /// A number of at most 53 bits.
    fn number(&mut self) -> Result<u64, Malformed> {
        let mut number = 0;
        for shift in (0..56).step_by(7) {
            let byte = self.byte()?;
            number |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return if number < 1 << 53 { Ok(number) } else { Err(Malformed::Bounds) };
            }
        }
        Err(Malformed::Bounds)
    }

    fn byte(&mut self) -> Result<u8, Malformed> {
        Ok(self.take(1)?[0])
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.bytes.split_at_checked(count).ok_or(Malformed::Form)?;
        self.bytes = rest;
        Ok(taken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(text: &str) -> Vec<u8> {
        let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
        digits.chunks(2).map(|pair| u8::from_str_radix(str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
    }

    #[track_caller]
    fn check(update: &str, expected: Result<(), Malformed>) {
        assert_eq!(Shape::of(&hex(update)).map(drop), expected, "{update}");
    }

    #[test]
    fn what_is_no_update_is_told_apart() {
        // Client 1 writes "hi" to the root "text".
        check("01 01 01 00 04 01 04 74657874 02 6869 00", Ok(()));
        check("00 00", Ok(()));
        check("", Err(Malformed::Form));
        check("00 00 00", Err(Malformed::Form));
        check("8e809e44", Err(Malformed::Form));
        check("01 8e809e44 01 00", Err(Malformed::Form));
        check("01 01 01 00 09 01 04 74657874 02 6869 77 00", Err(Malformed::Kind));
        check("01 01 01 ffffffff0f 04 01 04 74657874 02 6869 00", Err(Malformed::Bounds));
        check("01 01 01 00 04 01 04 74657874 00 00", Err(Malformed::Form));
        // Client 6 writes "z" between a character and the next, and between one and itself.
        check("01 01 06 00 c4 05 01 05 02 01 7a 00", Ok(()));
        check("01 01 06 00 c4 05 02 05 02 01 7a 00", Err(Malformed::Form));
    }

    #[test]
    fn an_update_that_refers_to_what_it_deletes_itself_needs_that() {
        // The update of the notes that applies and then makes every encoding panic: it waits for what never comes.
        let shape = Shape::of(&hex("01010105 52c43401 01010206 7331f09f 98800101 010101"));
        assert!(shape.is_err() || !shape.unwrap().fits(&Clocks::new()));
    }

    #[test]
    fn an_update_fits_where_all_it_builds_on_is_there() {
        // Client 1 goes on behind (1, 1) at its clock 2.
        let behind = Shape::of(&hex("01 01 01 02 84 01 01 01 78 00")).unwrap();
        assert!(!behind.fits(&Clocks::new()));
        assert!(!behind.fits(&Clocks::from([(1, 1)])));
        assert!(behind.fits(&Clocks::from([(1, 2)])));
        let deletes = Shape::of(&hex("00 01 07 01 02 03")).unwrap();
        assert!(!deletes.fits(&Clocks::from([(7, 4)])));
        assert!(deletes.fits(&Clocks::from([(7, 5)])));
        let mut clocks = Clocks::new();
        Shape::of(&hex("01 01 01 00 04 01 04 74657874 02 6869 00")).unwrap().add_to(&mut clocks);
        assert_eq!(clocks, Clocks::from([(1, 2)]));
    }
}
