//! A node's data directory: the journal, and whether it can be trusted to hold all that the node has issued.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    path::{Path, PathBuf},
    time::Instant,
};

use clap::ValueEnum;
use uuid::Uuid;

use super::{Failure, ids::Ids, node_key};
use crate::{
    node::NodeKey,
    op::NodeId,
    replica::{Config, Recovery, Replica},
    storage::{Found, Layout, Options, Store, SyncMode},
};

/// In a directory that may hold less than its node has issued: during which boot of the machine it did not.
const LOOSE: &str = "unsynced";

/// When a write is acknowledged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Sync {
    /// Once it is on the disk, which writers that come together share. A power cut loses nothing.
    #[default]
    Always,
    /// Once the system has it, which puts it on the disk each second. A kill loses nothing, a power cut the last second.
    Interval,
    /// Once the system has it, which puts it on the disk when it likes. A kill loses nothing, a power cut more.
    Never,
}

/// How to keep a node's data.
#[derive(Clone, Copy, Debug)]
pub struct Keeping {
    /// When a write is acknowledged.
    pub sync: Sync,
    /// Whether the directory keeps a key of its node, which a pool with a secret needs.
    pub keyed: bool,
    /// How much the journal grows before a snapshot takes the place of what is in it: [`Layout::snapshot_bytes`].
    pub snapshot_bytes: u64,
}

/// A data directory in use.
#[derive(Debug)]
pub struct Data {
    store: Store,
    dir: PathBuf,
    key: Option<NodeKey>,
    mark: Option<Mark>,
}

/// The file that says that a directory may hold less than its node has issued.
#[derive(Debug)]
pub struct Mark {
    path: PathBuf,
    sync: Sync,
}

impl Data {
    /// Where it is.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The node's secret key, if the directory keeps one.
    pub fn key(&self) -> Option<NodeKey> {
        self.key.clone()
    }

    /// The journal, and the mark if there is one.
    pub fn into_parts(self) -> (Store, Option<Mark>) {
        (self.store, self.mark)
    }
}

impl Mark {
    /// The node is a member under the id that its journal names: from here on only a power cut can cost ops, and that
    /// only where the disk is not waited for.
    pub fn settle(&self) -> io::Result<()> {
        if self.sync == Sync::Always { self.clear() } else { self.write(&this_boot()) }
    }

    /// The node has ended well: all it had is on the disk.
    pub fn clear(&self) -> io::Result<()> {
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            removed => removed,
        }
    }

    fn write(&self, boot: &str) -> io::Result<()> {
        let mut file = File::create(&self.path)?;
        file.write_all(boot.as_bytes())?;
        file.sync_all()?;
        File::open(self.path.parent().expect("it lies in a directory"))?.sync_all()
    }
}

/// The ids of a node that keeps its data in memory: kept in a directory, if one is given. Where that cannot be used, the node
/// runs all the same, and nobody takes its place without being told.
pub fn ids(dir: Option<&Path>) -> Ids {
    let Some(dir) = dir else { return Ids::new() };
    Ids::kept_in(dir).unwrap_or_else(|why| {
        tracing::warn!(
            why,
            "the ids of this node are not kept: once it has stopped, the pool may wait for it until it is evicted"
        );
        Ids::new()
    })
}

/// Opens a data directory, or makes it, and the node in it, which `config` describes.
pub fn open(dir: &Path, keeping: Keeping, config: Config) -> Result<(Replica, Data), Failure> {
    let began = Instant::now();
    let wanted = config.pool.clone();
    let mut recovery = Recovery::new(config);
    let Keeping { sync, keyed, snapshot_bytes } = keeping;
    let layout = Layout { snapshot_bytes, ..Layout::default() };
    let options = Options { sync: mode(sync), layout, ..Options::default() };
    let (mut store, found) = Store::open_with(dir, options, &mut |record| recovery.take(record)).map_err(|error| {
        Failure::new(format!("{error}. Choose another directory with --data, or keep no data with --memory"))
    })?;
    report(dir, &found);
    let beginning_lost = found.cut && !recovery.is_whole();
    if beginning_lost {
        // Until there is one, every start is to find out.
        store.lack_beginning();
        let dir = dir.display();
        tracing::error!(%dir, "the beginning of the journal is lost, and no whole snapshot stands in its place; what is sound is kept, the rest is asked of the peers");
    }
    let key = keyed.then(|| node_key::kept_in(dir)).transpose()?;
    let other_key = key.as_ref().zip(recovery.key()).is_some_and(|(key, (node, known))| key.public(node) != known);
    let lost = if !found.damage.is_empty() || beginning_lost {
        Some("the journal is damaged")
    } else if outlived_its_boot(dir) {
        Some("the machine went down while the node ran with --sync interval or never")
    } else if other_key {
        Some("the file node-key was lost or replaced")
    } else {
        None
    };
    let mark = mark(dir, sync, lost.is_some())
        .map_err(|error| Failure::new(format!("cannot write to {}: {error}", dir.display())))?;
    let lacking = recovery.lacking();
    // Nodes may have run here with their data in memory.
    let had = Ids::left_in(dir).map_err(|error| Failure::new(format!("cannot read in {}: {error}", dir.display())))?;
    let replica = recovery.finish(lost.map(|_| NodeId(Uuid::new_v4()))).with_ids(had, Vec::new());
    if replica.is_spoilt() && lacking > 0 {
        tracing::error!(
            about = lacking,
            "documents of the snapshot are lost here: the peers are asked for all of it, and a node that is the only one of its pool goes on without them"
        );
    }
    if let (Some(why), true) = (lost, found.records > 0) {
        tracing::warn!(node = %replica.node(), why, "operations of this node may be lost here: it comes back under a new id, and asks its peers for them");
    }
    if let (Some(wanted), Some((_, held))) = (wanted, replica.pool())
        && wanted != *held
    {
        let dir = dir.display();
        let advice = "choose another directory with --data, or leave --pool out";
        return Err(Failure::new(format!("{dir} holds data of the pool {held:?}, not of {wanted:?}: {advice}")));
    }
    if found.records > 0 {
        let ops = replica.log().len();
        tracing::info!(ops, bytes = found.bytes, ms = began.elapsed().as_millis() as u64, "the journal is read");
    }
    Ok((replica, Data { store, dir: dir.to_owned(), key, mark }))
}

/// Has the next node that starts in a directory come up under a new id.
pub fn leave_new_id(dir: &Path) -> io::Result<()> {
    mark(dir, Sync::Always, true).map(drop)
}

fn mode(sync: Sync) -> SyncMode {
    match sync {
        Sync::Always => SyncMode::Always,
        Sync::Interval => SyncMode::Interval,
        Sync::Never => SyncMode::Never,
    }
}

fn report(dir: &Path, found: &Found) {
    let dir = dir.display();
    for damage in &found.damage {
        tracing::error!(%dir, %damage, "the journal is damaged; what is sound is kept, the rest is asked of the peers, and the bad file is kept aside");
    }
    if let Some(torn) = &found.torn {
        tracing::warn!(%dir, %torn, "the journal ends within a write that was never acknowledged: it is dropped");
    }
}

/// Whether a node ran here without waiting for the disk, and the machine has gone down since: what the node had written
/// last may never have reached the disk.
fn outlived_its_boot(dir: &Path) -> bool {
    fs::read_to_string(dir.join(LOOSE)).is_ok_and(|boot| boot != this_boot())
}

/// Leaves word for the next start, until this run has ended well.
fn mark(dir: &Path, sync: Sync, lost: bool) -> io::Result<Option<Mark>> {
    let mark = Mark { path: dir.join(LOOSE), sync };
    if sync == Sync::Always && !lost {
        // All that the system still had of an earlier run was put on the disk when the journal was opened.
        return mark.clear().map(|()| None);
    }
    // Until the node's new id is on the disk, every start is to give it one.
    mark.write(&if lost { "none".into() } else { this_boot() })?;
    Ok(Some(mark))
}

/// Names the time since the machine was switched on. Where the system does not tell, each start counts as another.
fn this_boot() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_else(|_| Uuid::new_v4().to_string())
}
