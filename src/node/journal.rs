//! The node's journal as its task sees it: on disk, or none.

use tokio::sync::watch;

use crate::{
    record::Record,
    storage::{Status, Store},
};

/// Where the records go.
#[derive(Debug)]
pub(super) enum Journal {
    /// Nowhere: the data ends with the process.
    Memory,
    /// To a disk.
    Disk(Store, watch::Receiver<Status>),
}

impl Journal {
    pub(super) fn new(store: Option<Store>) -> Journal {
        store.map_or(Journal::Memory, |store| {
            let status = store.status();
            Journal::Disk(store, status)
        })
    }

    pub(super) fn append(&mut self, record: &Record) {
        if let Journal::Disk(store, _) = self {
            store.append(record);
        }
    }

    /// Lets the disk begin with what was appended.
    pub(super) fn flush(&mut self) {
        if let Journal::Disk(store, _) = self {
            store.flush();
        }
    }

    /// The place behind the last record.
    pub(super) fn end(&self) -> u64 {
        match self {
            Journal::Memory => 0,
            Journal::Disk(store, _) => store.end(),
        }
    }

    /// The place up to which all is stored.
    pub(super) fn stored(&self) -> u64 {
        match self {
            Journal::Memory => 0,
            Journal::Disk(_, status) => status.borrow().stored,
        }
    }

    /// Whether it takes one more op.
    pub(super) fn has_room(&self) -> bool {
        match self {
            Journal::Memory => true,
            Journal::Disk(store, _) => store.room(),
        }
    }

    /// Whether it takes one more op that only deletes.
    pub(super) fn has_deletion_room(&self) -> bool {
        match self {
            Journal::Memory => true,
            Journal::Disk(store, _) => store.deletion_room(),
        }
    }

    /// Whether it has grown so long that a snapshot should take the place of what is in it.
    pub(super) fn is_long(&self) -> bool {
        match self {
            Journal::Memory => false,
            Journal::Disk(store, _) => store.is_long(),
        }
    }

    /// Whether it takes the next records of a snapshot, and one more op behind them.
    pub(super) fn has_snapshot_room(&self) -> bool {
        match self {
            Journal::Memory => false,
            Journal::Disk(store, _) => store.snapshot_room(),
        }
    }

    /// Waits until more is stored, there is room again, or it fails.
    pub(super) async fn changed(&mut self) {
        let Journal::Disk(_, status) = self else { return std::future::pending().await };
        if status.changed().await.is_err() {
            // Its thread is gone, which its status has told.
            std::future::pending::<()>().await;
        }
    }

    /// Why nothing is stored any more.
    pub(super) fn failure(&self) -> Option<String> {
        match self {
            Journal::Memory => None,
            Journal::Disk(_, status) => status.borrow().failed.clone(),
        }
    }

    /// Stores what is left. Waits for the disk.
    pub(super) async fn close(self) -> Result<(), String> {
        let Journal::Disk(store, _) = self else { return Ok(()) };
        match tokio::task::spawn_blocking(|| store.close()).await {
            Ok(closed) => closed.map_err(|error| error.to_string()),
            Err(panic) => Err(panic.to_string()),
        }
    }
}
