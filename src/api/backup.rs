//! `GET /v1/backup`: all that a node holds, as the records of a journal, while it goes on working.
//!
//! What is sent is fixed at the first look: a snapshot, and the ops behind it. The node keeps these ops in its log for as
//! long as somebody reads on.

use axum::{body::Body, extract::State, http::Uri, response::IntoResponse};
use bytes::Bytes;
use futures_util::stream;

use super::{Api, Problem, query::Query, shape};
use crate::{
    node::{Node, Stopped},
    replica::{Dump, DumpGone, Refused, Replica},
    storage::{STREAM_END, streamed},
};

/// How far a backup is.
struct Progress {
    node: Node,
    dump: Dump,
    ended: bool,
}

/// `GET /v1/backup`: a stream of records.
pub async fn show(State(api): State<Api>, uri: Uri) -> Result<impl IntoResponse, Problem> {
    Query::of(&uri, &[])?;
    // What the copy begins with must not be forgotten before it is known what that is.
    api.node.pin(0).await?;
    let dump = api.read(Replica::dump).await?.ok_or(Refused::NotReady)?;
    let progress = Progress { node: api.node, dump, ended: false };
    let pieces = stream::unfold(progress, |mut progress| async {
        let piece = progress.next().await?;
        Some((piece, progress))
    });
    Ok((shape::streaming("application/octet-stream"), Body::from_stream(pieces)))
}

impl Progress {
    async fn next(&mut self) -> Option<Result<Bytes, BrokenOff>> {
        if self.ended {
            return None;
        }
        let piece = self.look().await;
        self.ended = piece.as_ref().map_or(true, |piece| **piece == STREAM_END);
        Some(piece)
    }

    /// The next records, or the end.
    async fn look(&mut self) -> Result<Bytes, BrokenOff> {
        // Anew with each piece: nothing is kept for a client that has gone away.
        self.node.pin(self.dump.time()).await?;
        let mut dump = self.dump.clone();
        let look = self.node.read(move |replica, _| replica.dump_next(&mut dump).map(|records| (dump, records)));
        let (dump, records) = look.await??;
        self.dump = dump;
        if records.is_empty() {
            return Ok(Bytes::from_static(&STREAM_END));
        }
        Ok(streamed(&records).into())
    }
}

/// Why a backup is not sent to its end; the client sees the stream break off.
#[derive(Debug)]
enum BrokenOff {
    /// The node stops.
    Stopped,
    /// The client took so long over a piece that the node no longer keeps the next ones.
    TooSlow,
}

impl From<Stopped> for BrokenOff {
    fn from(_: Stopped) -> BrokenOff {
        BrokenOff::Stopped
    }
}

impl From<DumpGone> for BrokenOff {
    fn from(_: DumpGone) -> BrokenOff {
        BrokenOff::TooSlow
    }
}

impl std::fmt::Display for BrokenOff {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            BrokenOff::Stopped => "the node has stopped",
            BrokenOff::TooSlow => "the backup was read too slowly",
        })
    }
}

impl std::error::Error for BrokenOff {}
