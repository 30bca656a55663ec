//! An update in chunks, so that no call of the library takes long.
//!
//! Where a struct goes is found by a walk over those that were put at the same place: an update of n structs can take n² steps,
//! and the library neither counts them nor gives up. One struct takes at most as many steps as the text has structs. So an update
//! is cut into small ones, and between two of them the work so far is compared with what is allowed.
//!
//! A chunk must hold all that it builds on, or find it in the text. The structs are taken in an order in which that is so, as
//! `integrateStructs` of Yjs does it: from one client after the other, and where a struct lacks its foundation, first from the
//! client that has it.

use std::{
    collections::{BTreeMap, VecDeque},
    mem,
};

use smallvec::SmallVec;

use super::update::{Clocks, Malformed, Reader, Section, Shape};

/// Most parts of a chunk.
const PARTS_MAX: usize = 256;
/// Most steps of a chunk: its parts times those of the text. Some ten milliseconds.
pub(super) const STEPS_MAX: usize = 1 << 16;

/// An update of few parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Chunk {
    pub(super) update: Vec<u8>,
    pub(super) parts: usize,
}

/// An update that is to be cut.
pub(super) struct Chunks<'u> {
    reader: Reader<'u>,
    lines: BTreeMap<u64, Line<'u>>,
    deletions: Vec<(u64, u64, u64)>,
}

/// What one client brings, in the order of its clock.
#[derive(Default)]
struct Line<'u> {
    sections: VecDeque<Section<'u>>,
    head: Option<Found<'u>>,
    /// Whether its head waits for the head of another.
    waits: bool,
}

/// A struct of an update.
struct Found<'u> {
    clock: u64,
    length: u64,
    bytes: &'u [u8],
    origins: SmallVec<[(u64, u64); 2]>,
}

impl<'u> Chunks<'u> {
    /// Reads the form of an update.
    pub(super) fn of(update: &'u [u8]) -> Result<Chunks<'u>, Malformed> {
        let (mut reader, _) = Reader::read(update)?;
        let mut lines: BTreeMap<u64, Line<'u>> = BTreeMap::new();
        for section in mem::take(&mut reader.sections) {
            lines.entry(section.client).or_default().sections.push_back(section);
        }
        let deletions = mem::take(&mut reader.deletions);
        Ok(Chunks { reader, lines, deletions })
    }

    /// What the update builds on, and brings.
    pub(super) fn take_shape(&mut self) -> Shape {
        mem::take(&mut self.reader.shape)
    }

    /// The chunks, in the order in which they are to be put into a text of so many parts that holds these clocks. What it holds
    /// already is left out.
    pub(super) fn cut(mut self, clocks: &Clocks, parts: usize) -> Result<Vec<Chunk>, Malformed> {
        let mut writer = Writer::new((STEPS_MAX / parts.max(1)).clamp(1, PARTS_MAX));
        let deletions = mem::take(&mut self.deletions);
        self.order(clocks, &mut writer)?;
        for deletion in deletions {
            writer.delete(deletion);
        }
        Ok(writer.end())
    }

    /// Gives the structs that are new, each behind those that it builds on.
    fn order(mut self, clocks: &Clocks, writer: &mut Writer<'u>) -> Result<(), Malformed> {
        let (mut then, mut stack) = (Clocks::new(), Vec::new());
        loop {
            let next = || self.lines.last_key_value().map(|(client, _)| *client);
            let Some(client) = stack.last().copied().or_else(next) else { return Ok(()) };
            let line = self.lines.get_mut(&client).ok_or(Malformed::Circle)?;
            let Some(head) = line.head(&mut self.reader)? else {
                self.lines.remove(&client);
                stack.pop();
                continue;
            };
            let held = |client: &u64| then.get(client).or_else(|| clocks.get(client)).copied().unwrap_or(0);
            let (begin, end) = (head.clock, head.clock + head.length);
            if end <= held(&client) {
                line.head = None;
                continue;
            }
            let missing = head.origins.iter().find(|(client, clock)| *clock >= held(client)).map(|(client, _)| *client);
            if begin > held(&client) {
                return Err(Malformed::Circle);
            }
            if let Some(other) = missing {
                if stack.is_empty() {
                    stack.push(client);
                }
                line.waits = true;
                match self.lines.get(&other) {
                    Some(line) if !line.waits => stack.push(other),
                    _ => return Err(Malformed::Circle),
                }
            } else {
                then.insert(client, end);
                line.waits = false;
                line.head.take().into_iter().for_each(|found| writer.put(client, &found));
                stack.pop();
            }
        }
    }
}

impl<'u> Line<'u> {
    /// The next struct; none behind the last.
    fn head(&mut self, reader: &mut Reader<'u>) -> Result<Option<&Found<'u>>, Malformed> {
        while self.head.is_none() {
            let Some(section) = self.sections.front_mut() else { return Ok(None) };
            if section.structs == 0 {
                self.sections.pop_front();
                continue;
            }
            reader.go_on_with(section.bytes);
            let (length, is_gap) = reader.block()?;
            let (bytes, rest) = section.bytes.split_at(reader.at());
            let clock = section.clock;
            section.bytes = rest;
            section.structs -= 1;
            section.clock += length;
            self.head = (!is_gap).then(|| Found { clock, length, bytes, origins: mem::take(&mut reader.origins) });
        }
        Ok(self.head.as_ref())
    }
}

/// Writes chunks of so many parts.
struct Writer<'u> {
    most: usize,
    done: Vec<Chunk>,
    parts: usize,
    /// By client: its first clock, the clock behind its last, and its structs.
    structs: BTreeMap<u64, (u64, u64, Vec<&'u [u8]>)>,
    deletions: BTreeMap<u64, Vec<(u64, u64)>>,
}

impl<'u> Writer<'u> {
    fn new(most: usize) -> Writer<'u> {
        Writer { most, done: Vec::new(), parts: 0, structs: BTreeMap::new(), deletions: BTreeMap::new() }
    }

    fn put(&mut self, client: u64, found: &Found<'u>) {
        if self.structs.get(&client).is_some_and(|(_, end, _)| *end != found.clock) {
            self.flush();
        }
        let (_, end, structs) = self.structs.entry(client).or_insert((found.clock, 0, Vec::new()));
        *end = found.clock + found.length;
        structs.push(found.bytes);
        self.count();
    }

    fn delete(&mut self, (client, clock, length): (u64, u64, u64)) {
        self.deletions.entry(client).or_default().push((clock, length));
        self.count();
    }

    fn count(&mut self) {
        self.parts += 1;
        if self.parts >= self.most {
            self.flush();
        }
    }

    fn flush(&mut self) {
        if self.parts == 0 {
            return;
        }
        let mut update = Vec::new();
        write(&mut update, self.structs.len() as u64);
        // The greatest client first, as Yjs has it.
        for (client, (clock, _, structs)) in mem::take(&mut self.structs).into_iter().rev() {
            [structs.len() as u64, client, clock].into_iter().for_each(|number| write(&mut update, number));
            structs.into_iter().for_each(|bytes| update.extend_from_slice(bytes));
        }
        write_deletions(&mut update, mem::take(&mut self.deletions));
        self.done.push(Chunk { update, parts: mem::take(&mut self.parts) });
    }

    fn end(mut self) -> Vec<Chunk> {
        self.flush();
        self.done
    }
}

/// One update of several, of which each goes on where those before it have ended.
pub(super) fn joined(updates: &[Vec<u8>]) -> Result<Vec<u8>, Malformed> {
    if let [only] = updates {
        return Ok(only.clone());
    }
    let (mut structs, mut deletions): (BTreeMap<u64, (u64, usize, Vec<u8>)>, BTreeMap<u64, Vec<(u64, u64)>>) =
        Default::default();
    for update in updates {
        let (reader, _) = Reader::read(update)?;
        for section in &reader.sections {
            let mut walk = Reader::new(section.bytes);
            for _ in 0..section.structs {
                walk.block()?;
            }
            let (_, count, bytes) = structs.entry(section.client).or_insert((section.clock, 0, Vec::new()));
            *count += section.structs;
            bytes.extend_from_slice(&section.bytes[..walk.at()]);
        }
        for (client, clock, length) in reader.deletions {
            deletions.entry(client).or_default().push((clock, length));
        }
    }
    let mut joined = Vec::new();
    write(&mut joined, structs.len() as u64);
    for (client, (clock, count, bytes)) in structs.into_iter().rev() {
        [count as u64, client, clock].into_iter().for_each(|number| write(&mut joined, number));
        joined.extend_from_slice(&bytes);
    }
    write_deletions(&mut joined, deletions);
    Ok(joined)
}

/// The ranges of a client ascend and do not touch: editors rely on that.
fn write_deletions(update: &mut Vec<u8>, deletions: BTreeMap<u64, Vec<(u64, u64)>>) {
    write(update, deletions.len() as u64);
    for (client, mut ranges) in deletions {
        ranges.sort_unstable();
        let mut merged: Vec<(u64, u64)> = Vec::with_capacity(ranges.len());
        for (clock, length) in ranges {
            match merged.last_mut() {
                Some((begin, so_far)) if clock <= *begin + *so_far => {
                    *so_far = (*so_far).max(clock + length - *begin);
                }
                _ => merged.push((clock, length)),
            }
        }
        write(update, client);
        write(update, merged.len() as u64);
        merged.into_iter().flat_map(|(clock, length)| [clock, length]).for_each(|number| write(update, number));
    }
}

/// A number as the encoding has it.
pub(super) fn write(update: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        update.push(number as u8 | 0x80);
        number >>= 7;
    }
    update.push(number as u8);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An update of one section for each client: its first clock, and structs of one character, each behind another.
    fn update(sections: &[(u64, u64, &[(u64, u64)])]) -> Vec<u8> {
        let mut update = Vec::new();
        write(&mut update, sections.len() as u64);
        for (client, clock, structs) in sections {
            [structs.len() as u64, *client, *clock].into_iter().for_each(|number| write(&mut update, number));
            for (origin, at) in *structs {
                update.push(0x84);
                [*origin, *at, 1].into_iter().for_each(|number| write(&mut update, number));
                update.push(b'x');
            }
        }
        update.push(0);
        update
    }

    fn clients(chunks: &[Chunk]) -> Vec<Vec<(u64, u64, usize)>> {
        let sections = |chunk: &Chunk| {
            let (reader, _) = Reader::read(&chunk.update).unwrap();
            reader.sections.iter().map(|section| (section.client, section.clock, section.structs)).collect()
        };
        chunks.iter().map(sections).collect()
    }

    #[track_caller]
    fn cut(update: &[u8], clocks: &Clocks, parts: usize) -> Result<Vec<Chunk>, Malformed> {
        Chunks::of(update)?.cut(clocks, parts)
    }

    #[test]
    fn each_struct_comes_behind_those_that_it_builds_on() {
        // The second character of client 9 stands behind the first of client 2, which stands behind the first of client 9.
        let crossed = update(&[(9, 0, &[(1, 0), (2, 5)]), (2, 5, &[(9, 0)])]);
        let clocks = Clocks::from([(1, 1), (2, 5)]);
        let single = cut(&crossed, &clocks, STEPS_MAX).unwrap();
        assert_eq!(clients(&single), [[(9, 0, 1)], [(2, 5, 1)], [(9, 1, 1)]]);
        let whole = cut(&crossed, &clocks, 1).unwrap();
        assert_eq!(clients(&whole), [[(9, 0, 2), (2, 5, 1)]]);
    }

    #[test]
    fn what_builds_on_itself_or_in_a_circle_is_no_update() {
        let clocks = Clocks::from([(1, 1)]);
        for circle in [&[(9, 0, &[(9, 0)][..])][..], &[(9, 0, &[(2, 0)]), (2, 0, &[(9, 0)])], &[(9, 0, &[(3, 0)])]] {
            assert_eq!(cut(&update(circle), &clocks, 1), Err(Malformed::Circle), "{circle:?}");
        }
    }

    #[test]
    fn the_longer_the_text_the_smaller_are_the_chunks_and_what_is_held_is_left_out() {
        let structs: Vec<(u64, u64)> = (0..1_000).map(|_| (1, 0)).collect();
        let long = update(&[(2, 0, &structs)]);
        let clocks = Clocks::from([(1, 1)]);
        let counts = |parts| cut(&long, &clocks, parts).unwrap().iter().map(|chunk| chunk.parts).collect::<Vec<_>>();
        assert_eq!(counts(0), [256, 256, 256, 232]);
        assert_eq!(counts(STEPS_MAX / 100), [100; 10]);
        assert_eq!(counts(10 * STEPS_MAX).len(), 1_000);
        let held = Clocks::from([(1, 1), (2, 990)]);
        assert_eq!(clients(&cut(&long, &held, 0).unwrap()), [[(2, 990, 10)]]);
        assert_eq!(cut(&long, &Clocks::from([(1, 1), (2, 1_000)]), 0), Ok(vec![]));
    }

    #[test]
    fn chunks_joined_again_are_the_update() {
        let structs: Vec<(u64, u64)> = (0..600).map(|_| (1, 0)).collect();
        let mut long = update(&[(7, 0, &structs), (2, 3, &structs)]);
        long.pop();
        long.extend([1, 1, 2, 0, 2, 5, 1]);
        let chunks = cut(&long, &Clocks::from([(1, 9), (2, 3)]), 0).unwrap();
        let updates: Vec<Vec<u8>> = chunks.into_iter().map(|chunk| chunk.update).collect();
        assert!(updates.len() > 4);
        assert_eq!(joined(&updates).as_ref(), Ok(&long));
    }

    #[test]
    fn deletions_ascend_and_do_not_touch() {
        let parts = [vec![0, 1, 1, 2, 4, 2, 9, 1], vec![0, 1, 1, 3, 0, 2, 2, 2, 5, 4]];
        assert_eq!(joined(&parts), Ok(vec![0, 1, 1, 1, 0, 10]));
    }
}
