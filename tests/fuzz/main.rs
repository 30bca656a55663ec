//! Every decoder of bytes from outside, on its corpus and on mutations of it.
//!
//! The same inputs each time: `LAMPLIGHT_FUZZ_SEED` gives others, `LAMPLIGHT_FUZZ_INPUTS` more of them. What fails is written
//! to `target/fuzz`; put it into the corpus of its target with the repair, and it is tried ever after. Under libFuzzer:
//! `libfuzzer/README.md`.
#![allow(clippy::unwrap_used, reason = "a test that fails should say where")]

mod mutation;
mod targets;

use std::{fs, panic, path::Path, sync::Mutex};

use mutation::mutated;
use targets::{ALL, Target};

/// Inputs made for each target.
const INPUTS: u32 = 5_000;
/// What is written to a file is named after its content.
const NAME_CHARS: usize = 16;
/// The allocator counts for all threads, so one target runs at a time.
static ALONE: Mutex<()> = Mutex::new(());

fn number(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).map_or(otherwise, |text| text.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

/// The files of a target's corpus, in the order of their names.
fn corpus(name: &str) -> Vec<Vec<u8>> {
    let dir = Path::new("tests/fuzz/corpus").join(name);
    let mut paths: Vec<_> = fs::read_dir(&dir).unwrap().map(|file| file.unwrap().path()).collect();
    paths.sort();
    assert!(!paths.is_empty(), "{} is empty", dir.display());
    paths.into_iter().map(|path| fs::read(path).unwrap()).collect()
}

fn run(target: &Target) {
    let _alone = ALONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    // Panics within the library of texts are caught there, and those of a target are told below.
    panic::set_hook(Box::new(|_| {}));
    let corpus = corpus(target.name);
    // What is made once is made before anything is measured.
    let _ = target.check(&corpus[0]);
    let mut chance = fastrand::Rng::with_seed(number("LAMPLIGHT_FUZZ_SEED", 7));
    let inputs = number("LAMPLIGHT_FUZZ_INPUTS", u64::from(INPUTS));
    let made = (0..inputs).map(|_| mutated(&corpus, &mut chance));
    let failed = corpus.iter().cloned().chain(made).find_map(|input| {
        let why = target.check(&input).err()?;
        Some((input, why))
    });
    drop(panic::take_hook());
    if let Some((input, why)) = failed {
        let dir = Path::new("target/fuzz").join(target.name);
        fs::create_dir_all(&dir).unwrap();
        let path = dir.join(&blake3::hash(&input).to_hex()[..NAME_CHARS]);
        fs::write(&path, &input).unwrap();
        panic!("{}: {why}\nthe input is {}", target.name, path.display());
    }
}

macro_rules! targets {
    ($($name:ident),* $(,)?) => {
        $(#[test]
        fn $name() {
            run(ALL.iter().find(|target| target.name == stringify!($name)).unwrap());
        })*

        #[test]
        fn all_targets_are_tests() {
            assert_eq!(ALL.map(|target| target.name), [$(stringify!($name)),*]);
        }
    };
}

targets![
    frame, peer, proof, dialler, sealed, secret, json, patch, merge, selector, delta, update, yjs, ws, websocket, http,
    cursor, token, record, backup, journal,
];
