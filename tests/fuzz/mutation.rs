//! Inputs made of others, without knowing what they mean.

use fastrand::Rng;

/// Longest input that is made, in bytes.
const INPUT_BYTES_MAX: usize = 4 << 10;
/// Values at which counts and lengths go wrong.
const EDGES: [u8; 8] = [0, 1, 0x7f, 0x80, 0xff, b'"', b'[', b'\n'];

/// One of these, changed at a few places.
pub fn mutated(corpus: &[Vec<u8>], chance: &mut Rng) -> Vec<u8> {
    let mut input = corpus[chance.usize(..corpus.len())].clone();
    for _ in 0..=chance.usize(..6) {
        change(&mut input, corpus, chance);
    }
    input.truncate(INPUT_BYTES_MAX);
    input
}

fn change(input: &mut Vec<u8>, corpus: &[Vec<u8>], chance: &mut Rng) {
    let at = chance.usize(..=input.len());
    let end = at + chance.usize(..=(input.len() - at).min(32));
    match chance.u8(..8) {
        0 => drop(input.splice(at..end, [])),
        1 => drop(input.splice(at..at, [EDGES[chance.usize(..EDGES.len())]])),
        2 => drop(input.splice(at..at, std::iter::repeat_with(|| chance.u8(..)).take(4).collect::<Vec<u8>>())),
        // Again what stands there, once or many times: depth and length.
        3 => {
            let part = input[at..end].repeat(1 << chance.u8(..6));
            drop(input.splice(at..at, part));
        }
        4 => {
            let other = &corpus[chance.usize(..corpus.len())];
            let from = chance.usize(..=other.len());
            input.truncate(at);
            input.extend_from_slice(&other[from..]);
        }
        // A bit, a byte, a step up or down.
        kind => {
            let Some(byte) = input.get_mut(at) else { return };
            *byte = match kind {
                5 => *byte ^ (1 << chance.u8(..8)),
                6 => EDGES[chance.usize(..EDGES.len())],
                _ => byte.wrapping_add(if chance.bool() { 1 } else { 255 }),
            };
        }
    }
}
