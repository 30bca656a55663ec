//! How a node leaves its pool when it stops: it retires, and goes once a peer holds that.

use std::time::Duration;

use tokio::time::{sleep, timeout};

use crate::{
    node::Node,
    op::Command,
    replica::{Draft, Now, Refused, Replica, Unfit},
};

/// How long it waits for a peer that holds its retirement.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(5);
/// How often it asks: a link that has come about since was not asked.
const ASK_EVERY: Duration = Duration::from_millis(500);

/// Retires. What comes of it is said in the log, and the node stops in any case.
pub async fn leave(node: &Node) {
    match timeout(LEAVE_TIMEOUT, retire(node)).await {
        Ok(Ok(())) => {
            tracing::info!(
                "it has left the pool: started with an empty data directory it joins again, as another node"
            );
        }
        Ok(Err(why)) => tracing::warn!("it has not left the pool: {why}"),
        Err(_) => {
            tracing::warn!(
                "no peer has said that it holds that this node has left: if lamplight members still shows it on the \
                 others, evict it there"
            );
        }
    }
}

/// Issues the op, and waits until a peer holds it; or says why there is none.
async fn retire(node: &Node) -> Result<(), String> {
    let stopped = |_| "the node has stopped already".to_string();
    let draft = Draft { key: None, guards: Vec::new(), commands: vec![Command::Retire], present: false };
    let op = match node.submit(draft).await.map_err(stopped)? {
        Ok(receipt) => receipt.op,
        Err(Refused::Retired) => return Ok(()),
        Err(Refused::NotReady) => return Err("it has not become a member".into()),
        Err(Refused::Membership(_, Unfit::Last)) => return Err("it is the last member".into()),
        Err(Refused::DiskFull) => return Err("its disk has no room to note it".into()),
        Err(refused) => return Err(format!("it was refused: {refused:?}")),
    };
    let mut published = node.published();
    loop {
        let look = move |replica: &Replica, _: Now| (replica.holders(op), replica.counters().held);
        let (holders, held) = node.read(look).await.map_err(stopped)?;
        // It is no member any more, and does not count itself.
        if holders > 0 {
            return Ok(());
        }
        node.ask(op.seq).await.map_err(stopped)?;
        tokio::select! {
            answered = published.wait_for(|news| news.held != held) => drop(answered.map_err(|_| "the node has stopped")?),
            () = sleep(ASK_EVERY) => {}
        }
    }
}
