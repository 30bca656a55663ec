//! What every decoder of bytes from outside must do with any bytes at all: not panic, ask for no more memory than in
//! proportion to them, and give what it understood in a form that is understood again as the same.
//!
//! A target is a function of bytes that asserts this. `tests/fuzz/main.rs` runs them on the corpora and on mutations of
//! them, `tests/fuzz/libfuzzer` under libFuzzer.

mod core;
mod disk;
mod link;
mod memory;
mod node;
mod replica;
mod text;

use std::panic::{AssertUnwindSafe, catch_unwind};

/// A decoder under test.
#[derive(Clone, Copy)]
pub struct Target {
    /// As its corpus is called.
    pub name: &'static str,
    /// Bytes of memory that it may take whatever the input, and for each byte of the input, at once.
    pub memory: (usize, usize),
    /// Fails, by a panic, where the decoder does what it must not.
    pub run: fn(&[u8]),
}

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;

/// What `serde` makes room for before it has seen whether the elements come that a length promises.
const PROMISED: usize = MIB;

/// What the longest message makes room for as soon as its head has come, in the library of the WebSocket.
const MESSAGE: usize = 4 * MIB;

/// All of them. Most take a tenth of this; bounds far above what is seen would hide what grows.
pub const ALL: [Target; 21] = [
    Target { name: "frame", memory: (PROMISED + 64 * KIB, 64), run: core::frame },
    Target { name: "peer", memory: (PROMISED + 128 * KIB, 256), run: replica::peer },
    Target { name: "proof", memory: (512 * KIB, 16), run: link::proof },
    Target { name: "dialler", memory: (512 * KIB, 16), run: link::dialler },
    // One frame of the longest message of Noise goes over it, with copies at both ends.
    Target { name: "sealed", memory: (1024 * KIB, 64), run: link::sealed },
    Target { name: "secret", memory: (8 * KIB, 16), run: core::secret },
    Target { name: "json", memory: (16 * KIB, 256), run: core::json },
    // What steps copy is bounded by the cost of an op, COST_MAX, whatever the length of the patch.
    Target { name: "patch", memory: (64 * MIB, 1024), run: core::patch },
    Target { name: "merge", memory: (128 * KIB, 1024), run: core::merge },
    Target { name: "selector", memory: (64 * KIB, 512), run: core::selector },
    Target { name: "delta", memory: (128 * KIB, 1024), run: text::delta },
    Target { name: "update", memory: (128 * KIB, 1024), run: text::update },
    Target { name: "yjs", memory: (MIB, 1024), run: node::yjs },
    Target { name: "ws", memory: (MIB, 1024), run: node::ws },
    Target { name: "websocket", memory: (MESSAGE + MIB, 64), run: node::websocket },
    Target { name: "http", memory: (MIB, 1024), run: node::http },
    Target { name: "cursor", memory: (512 * KIB, 256), run: node::cursor },
    Target { name: "token", memory: (512 * KIB, 256), run: node::token },
    Target { name: "record", memory: (PROMISED + 64 * KIB, 64), run: disk::record },
    Target { name: "backup", memory: (PROMISED + 256 * KIB, 256), run: disk::backup },
    Target { name: "journal", memory: (MIB, 256), run: disk::journal },
];

impl Target {
    /// Why the decoder fails on these bytes, if it does.
    pub fn check(&self, input: &[u8]) -> Result<(), String> {
        let begin = memory::begin();
        let outcome = catch_unwind(AssertUnwindSafe(|| (self.run)(input)));
        let peak = memory::peak_since(begin);
        outcome.map_err(|panic| {
            let words = panic.downcast_ref::<String>().map(String::as_str);
            words.or(panic.downcast_ref::<&str>().copied()).unwrap_or("a panic without words").to_string()
        })?;
        let most = self.memory.0 + self.memory.1 * input.len();
        if peak > most {
            return Err(format!("{peak} bytes of memory at once for {} bytes of input: at most {most}", input.len()));
        }
        Ok(())
    }
}
