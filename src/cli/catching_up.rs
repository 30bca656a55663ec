//! What `serve` shows while its node catches up: a bar on a terminal, else a line in the log now and then.

use std::{convert::Infallible, time::Duration};

use indicatif::{ProgressBar, ProgressFinish, ProgressStyle};
use tokio::time::{Instant, sleep};

use crate::{node::Node, replica::Replica};

/// How often it looks how far the node is.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// How often it says so in the log.
const SAY_EVERY: Duration = Duration::from_secs(5);

/// How far a node is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Progress {
    held: u64,
    of: u64,
    what: &'static str,
}

impl Progress {
    /// The documents of a snapshot, while one comes in, for the operations come behind it; else the operations.
    fn of(replica: &Replica) -> Option<Progress> {
        let docs = replica.fetch_progress().map(|(held, of)| Progress { held, of, what: "documents" });
        docs.or_else(|| replica.catch_up_progress().map(|(held, of)| Progress { held, of, what: "operations" }))
    }
}

/// Shows how far a node is until it is dropped; that clears the bar.
pub async fn show(node: &Node) -> Infallible {
    let (mut bar, mut said) = (None, Instant::now());
    loop {
        sleep(LOOK_EVERY).await;
        // A node that has stopped is dropped with this.
        let Ok(Some(Progress { held, of, what })) = node.read(|replica, _| Progress::of(replica)).await else {
            continue;
        };
        let bar = bar.get_or_insert_with(bar_on_terminal);
        bar.set_message(what);
        bar.set_length(of);
        bar.set_position(held);
        if bar.is_hidden() && said.elapsed() >= SAY_EVERY {
            said = Instant::now();
            tracing::info!("catching up: {held} of {of} {what} are here");
        }
    }
}

/// indicatif shows it on terminals only.
fn bar_on_terminal() -> ProgressBar {
    let style = ProgressStyle::with_template("{bar:40} {pos} of {len} {msg}, {eta} left").expect("a constant template");
    ProgressBar::new(0).with_style(style).with_finish(ProgressFinish::AndClear)
}
