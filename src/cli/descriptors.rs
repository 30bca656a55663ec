//! File descriptors: each connection takes one, and systems give a process few of them unless it asks for more.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// What a node needs beside the connections of its clients: connections that are to be refused, links, files.
const BESIDE: u64 = 1_024;

/// Takes as many as the system lets this process have, and says so where that is less than so many connections need.
pub fn raise(connections: usize) {
    let had = getrlimit(Resource::Nofile);
    let asked = Rlimit { current: had.maximum, maximum: had.maximum };
    let has = setrlimit(Resource::Nofile, asked).map_or(had.current, |()| had.maximum);
    let needed = connections as u64 + BESIDE;
    // None stands for no limit.
    if let Some(has) = has.filter(|has| *has < needed) {
        tracing::warn!(
            has,
            needed,
            "--max-connections needs more open files than the system lets this process have: raise the limit (ulimit -Hn, or \
             LimitNOFILE= of a systemd unit), or lower --max-connections; beyond it connections wait unanswered"
        );
    }
}
