//! How a node leaves its pool when it stops: once its peers hold what it has, it retires, and goes when a peer holds that.

use std::time::Duration;

use tokio::time::{Instant, sleep, timeout_at};

use crate::{
    node::{ASK_EVERY, Client, Node},
    op::{Command, OpId},
    replica::{Draft, Now, Refused, Replica, Unfit, Unshared},
};

/// How long it waits, in all, for a peer that holds what the node has, and then its retirement.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(5);

/// Why a node has not left.
enum Stays {
    Unshared(Unshared),
    Because(String),
}

/// Retires. What comes of it is said in the log, and the node stops in any case.
pub async fn leave(node: &Node) {
    let end = Instant::now() + LEAVE_TIMEOUT;
    let op = match retire(node, end).await {
        Ok(op) => op,
        Err(Stays::Because(why)) => return tracing::warn!("it has not left the pool: {why}"),
        Err(Stays::Unshared(Unshared { own: 0, orphans: 0, unheard: false, .. })) => {
            return tracing::warn!(
                "it has not left the pool: it was another member before, which it has yet to evict. Start it again, or evict both \
                 on another member (lamplight members lists them)"
            );
        }
        Err(Stays::Unshared(Unshared { own, orphans, .. })) => {
            return tracing::warn!(
                operations = own + orphans as u64,
                "it has not left the pool, for no other member has said that it holds all that this one has: start it again \
                 with this data directory where it reaches the others, and they get that. If it is evicted meanwhile it joins \
                 again as another, with what only it had; without its data directory that is lost"
            );
        }
    };
    match timeout_at(end, held_by_a_peer(node, op)).await {
        Ok(Ok(())) => tracing::info!("it has left the pool: started with --join it joins again, as another node"),
        Ok(Err(why)) => tracing::warn!("it has retired, and stops: {why}"),
        Err(_) => tracing::warn!(
            "no peer has said that it holds that this node has left; all else that it had another member holds. If lamplight \
             members still shows it on the others, evict it there, or start it with --join: it tells them then"
        ),
    }
}

/// Issues the op once another member holds what the node has; or says why not. None if it had retired before.
async fn retire(node: &Node, end: Instant) -> Result<Option<OpId>, Stays> {
    let stopped = |_| Stays::Because("the node has stopped already".into());
    let because = |why: &str| Err(Stays::Because(why.into()));
    let draft = || Draft { key: None, guards: Vec::new(), commands: vec![Command::Retire], present: false };
    loop {
        let refused = match node.submit(Client::READS, draft()).await.map_err(stopped)? {
            Ok(receipt) => return Ok(Some(receipt.op)),
            Err(refused) => refused,
        };
        let needed = matches!(refused, Refused::Membership(_, Unfit::Needed));
        match refused {
            Refused::Retired => return Ok(None),
            Refused::NotReady => return because("it has not become a member"),
            Refused::Membership(_, Unfit::Last) => return because("it is the last member"),
            Refused::Membership(_, Unfit::Needed | Unfit::Unshared(_)) => {}
            Refused::DiskFull => return because("its disk has no room to note it"),
            refused => return because(&format!("it was refused: {refused:?}")),
        }
        let left = end.saturating_duration_since(Instant::now());
        let unshared = node.share(left).await.map_err(stopped)?;
        if !unshared.is_nothing() {
            return Err(Stays::Unshared(unshared));
        }
        if needed && left.is_zero() {
            return because("members are silent, and without this one the others could not evict them");
        }
        if needed {
            // A sign of life of another member may have come late.
            sleep(left.min(ASK_EVERY)).await;
        }
    }
}

/// Waits until a peer holds the op by which the node has retired.
async fn held_by_a_peer(node: &Node, op: Option<OpId>) -> Result<(), String> {
    let Some(op) = op else { return Ok(()) };
    let stopped = |_| "the node has stopped already".to_string();
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
