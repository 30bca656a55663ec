//! The targets of `tests/fuzz` under libFuzzer; which one, the variable `TARGET` says.
#![no_main]

#[path = "../targets/mod.rs"]
mod targets;

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use targets::{ALL, Target};

static TARGET: LazyLock<Target> = LazyLock::new(|| {
    // Panics that the program catches, within the library of texts, are none of a target's.
    std::panic::set_hook(Box::new(|_| {}));
    let name = std::env::var("TARGET").expect("TARGET names one");
    let target = *ALL.iter().find(|target| target.name == name).expect("TARGET is one of tests/fuzz/targets");
    // What is made once is made before anything is measured.
    (target.run)(b"");
    target
});

fuzz_target!(|input: &[u8]| {
    if let Err(why) = TARGET.check(input) {
        eprintln!("{}: {why}", TARGET.name);
        std::process::abort();
    }
});
