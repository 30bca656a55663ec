//! `GET /v1/backup`: all that a node holds, as the records of a journal, while it goes on working.
//!
//! What is sent is fixed at the first look: the ops up to the heads of that moment. They rest on nothing else, so in
//! stamp order they make a whole journal, whatever comes in meanwhile.

use std::collections::BTreeMap;

use axum::{body::Body, extract::State, http::Uri, http::header, response::IntoResponse};
use bytes::Bytes;
use futures_util::stream;

use super::{Api, Problem, query::Query};
use crate::{
    node::{Node, Stopped},
    op::NodeId,
    record::{Identity, Record},
    replica::{Refused, Replica},
};

/// One look at the log takes ops of about this many bytes: some hundreds of microseconds of the node's task.
const LOOK_BYTES: usize = 256 << 10;

/// How far a backup is.
struct Progress {
    node: Node,
    /// Of each origin, the seq that was sent last and the one that is the last to be.
    heads: BTreeMap<NodeId, (u64, u64)>,
    /// What goes before the ops; taken once it is sent.
    first: Option<Bytes>,
    ended: bool,
}

/// `GET /v1/backup`: each record as its length (four bytes, little-endian) and its bytes; a length of 0 ends the whole,
/// so that a stream which broke off is not taken for one.
pub async fn show(State(api): State<Api>, uri: Uri) -> Result<impl IntoResponse, Problem> {
    Query::of(&uri, &[])?;
    let (identity, heads) = api
        .read(|replica| {
            let (pool, pool_name) = replica.pool().cloned()?;
            let heads = replica.log().heads().map(|(origin, head)| (origin, (0, head.seq))).collect();
            Some((Identity { node: replica.node(), pool, pool_name }, heads))
        })
        .await?
        .ok_or(Refused::NotReady)?;
    let first = framed([Record::Identity(identity)].into_iter());
    let progress = Progress { node: api.node, heads, first: Some(first), ended: false };
    let pieces = stream::unfold(progress, |mut progress| async {
        let piece = progress.next().await?;
        Some((piece, progress))
    });
    Ok(([(header::CONTENT_TYPE, "application/octet-stream")], Body::from_stream(pieces)))
}

impl Progress {
    async fn next(&mut self) -> Option<Result<Bytes, StoppedEarly>> {
        if let Some(first) = self.first.take() {
            return Some(Ok(first));
        }
        if self.ended {
            return None;
        }
        let heads = std::mem::take(&mut self.heads);
        match self.node.read(move |replica, _| look(replica, heads)).await {
            Ok((heads, bytes)) if bytes.is_empty() => {
                (self.heads, self.ended) = (heads, true);
                Some(Ok(Bytes::from_static(&[0; 4])))
            }
            Ok((heads, bytes)) => {
                self.heads = heads;
                Some(Ok(bytes))
            }
            Err(Stopped) => {
                self.ended = true;
                Some(Err(StoppedEarly))
            }
        }
    }
}

/// The next ops in stamp order, and how far it is then.
fn look(replica: &Replica, mut heads: BTreeMap<NodeId, (u64, u64)>) -> (BTreeMap<NodeId, (u64, u64)>, Bytes) {
    let behind = heads.iter().filter(|(_, (sent, last))| sent < last).map(|(origin, (sent, _))| (*origin, *sent));
    let behind: Vec<(NodeId, u64)> = behind.collect();
    let (mut found, mut bytes) = (Vec::new(), 0);
    for op in replica.log().beyond(behind.into_iter()) {
        let Some((sent, last)) = heads.get_mut(&op.origin()) else { continue };
        // Past its head an origin has only newer ops; the others may still have older ones.
        if op.id().seq > *last {
            continue;
        }
        *sent = op.id().seq;
        bytes += op.bytes().len();
        found.push(op.clone());
        if bytes >= LOOK_BYTES {
            break;
        }
    }
    (heads, framed(found.into_iter().map(Record::Op)))
}

fn framed(records: impl Iterator<Item = Record>) -> Bytes {
    let mut bytes = Vec::new();
    for record in records {
        let start = bytes.len();
        bytes.extend_from_slice(&[0; 4]);
        record.encode(&mut bytes);
        let length = u32::try_from(bytes.len() - start - 4).expect("an op is far shorter");
        bytes[start..start + 4].copy_from_slice(&length.to_le_bytes());
    }
    bytes.into()
}

/// The node stops before all is sent; the client sees the stream break off.
#[derive(Debug)]
struct StoppedEarly;

impl std::fmt::Display for StoppedEarly {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the node has stopped")
    }
}

impl std::error::Error for StoppedEarly {}
