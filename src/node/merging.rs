//! The merging of texts' updates at the horizon, beside the node's task.
//!
//! A text that was edited for long would keep every edit. So now and then its updates are merged to one, which takes some
//! milliseconds for a usual text, and no bounded time for one that somebody made to be costly: such a one stays as it is.

use std::time::Duration;

use tokio::{task::spawn_blocking, time::sleep};
use tokio_util::sync::CancellationToken;

use super::{CpuTime, Node, Stopped};

/// How often it is looked whether there is something to merge, once there was nothing.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Merges texts until the node has stopped.
pub(super) async fn merge_texts(node: impl Fn() -> Option<Node>, stopping: CancellationToken) {
    loop {
        let merged = match node() {
            Some(node) => merge_one(&node).await,
            None => return,
        };
        match merged {
            Ok(true) => {}
            Ok(false) => tokio::select! {
                () = sleep(LOOK_EVERY) => {}
                () = stopping.cancelled() => return,
            },
            Err(Stopped) => return,
        }
    }
}

async fn merge_one(node: &Node) -> Result<bool, Stopped> {
    let Some((doc, updates)) = node.look(|replica, _| replica.state().to_merge()).await? else { return Ok(false) };
    let work = updates.clone();
    let merged = spawn_blocking(move || work.merged(&mut CpuTime::for_text()));
    let merged = merged.await.map_err(|_| Stopped)?;
    if let Err(why) = &merged {
        tracing::warn!(collection = %doc.collection, id = %doc.id, %why, "the edits of a text cannot be merged: they are kept one by one");
    }
    node.hand_in_merged(doc, updates, merged.ok()).await?;
    Ok(true)
}
