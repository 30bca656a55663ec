//! The ids of nodes that keep their data in memory, in a directory: a node that starts there knows under which ids the ones before
//! it were members, so that it can take their place.
//!
//! Each start writes its ids down before anyone hears of them: the one that it begins with, and some for when it must come back
//! as another. However soon it ends, the next start knows them.

use std::{
    fs::{self, File},
    io::{self, Read as _, Write as _},
    path::Path,
};

use uuid::Uuid;

use crate::{
    op::NodeId,
    storage::{Lock, lock},
};

/// The file, in which each line has the ids of one start.
const FILE: &str = "ids";
/// The same while it is written.
const UNFINISHED: &str = "ids.new";
/// Most starts that are remembered: members of earlier ones have long been replaced.
const STARTS_MAX: usize = 64;
/// How many ids a start has.
const IDS: usize = 8;
/// Longest file that is read, far past what is written.
const FILE_BYTES_MAX: u64 = 1 << 16;

/// The ids of a directory.
#[derive(Debug)]
pub struct Ids {
    /// Those of earlier starts.
    pub had: Vec<NodeId>,
    /// Those of this one.
    pub own: Vec<NodeId>,
    /// Keeps other processes out, where there is a directory.
    _lock: Option<Lock>,
}

impl Ids {
    /// Draws ids that nobody knows yet.
    pub fn new() -> Ids {
        Ids { had: Vec::new(), own: (0..IDS).map(|_| NodeId(Uuid::new_v4())).collect(), _lock: None }
    }

    /// Draws ids and writes them down in a directory, which is made if it is not there; or says why that cannot be.
    pub fn kept_in(dir: &Path) -> Result<Ids, String> {
        let lock = lock(dir).map_err(|error| error.to_string())?;
        let starts = read(dir).map_err(|error| unusable(dir, &error))?;
        let new = Ids::new();
        let earlier = &starts[starts.len().saturating_sub(STARTS_MAX - 1)..];
        write(dir, earlier.iter().chain([&new.own])).map_err(|error| unusable(dir, &error))?;
        Ok(Ids { had: earlier.concat(), _lock: Some(lock), ..new })
    }

    /// The ids that nodes with their data in memory have had in a directory.
    pub fn left_in(dir: &Path) -> io::Result<Vec<NodeId>> {
        Ok(read(dir)?.concat())
    }
}

fn unusable(dir: &Path, error: &io::Error) -> String {
    format!("cannot keep the ids of nodes in {}: {error}", dir.display())
}

/// The ids of each start. What is no id is passed over.
fn read(dir: &Path) -> io::Result<Vec<Vec<NodeId>>> {
    let file = match File::open(dir.join(FILE)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        opened => opened?,
    };
    let mut bytes = Vec::new();
    file.take(FILE_BYTES_MAX).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let ids = |line: &str| line.split(' ').filter_map(|word| word.parse().ok()).take(IDS).collect();
    Ok(text.lines().map(ids).collect())
}

fn write<'i>(dir: &Path, starts: impl Iterator<Item = &'i Vec<NodeId>>) -> io::Result<()> {
    let line = |ids: &Vec<NodeId>| ids.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ") + "\n";
    let unfinished = dir.join(UNFINISHED);
    let mut file = File::create(&unfinished)?;
    file.write_all(starts.map(line).collect::<String>().as_bytes())?;
    file.sync_all()?;
    fs::rename(&unfinished, dir.join(FILE))?;
    File::open(dir)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A directory that is gone with the test.
    struct Scratch(std::path::PathBuf);

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn scratch(name: &str) -> Scratch {
        Scratch(std::env::temp_dir().join(format!("lamplight-ids-{name}-{}", std::process::id())))
    }

    #[test]
    fn each_start_knows_the_ids_of_those_before_it_as_far_back_as_is_remembered() {
        let scratch = scratch("starts");
        let mut all: Vec<NodeId> = Vec::new();
        for start in 0..2 * STARTS_MAX {
            let ids = Ids::kept_in(&scratch.0).unwrap();
            let remembered = start.min(STARTS_MAX - 1) * IDS;
            assert_eq!(ids.had, all[all.len() - remembered..], "start {start}");
            assert_eq!(ids.own.len(), IDS);
            assert!(ids.own.iter().all(|id| !all.contains(id)));
            all.extend(&ids.own);
        }
        assert_eq!(Ids::left_in(&scratch.0).unwrap(), all[all.len() - STARTS_MAX * IDS..]);
    }

    #[test]
    fn a_second_process_is_kept_out_and_what_is_no_id_is_passed_over() {
        let scratch = scratch("bad");
        let first = Ids::kept_in(&scratch.0).unwrap();
        assert!(Ids::kept_in(&scratch.0).unwrap_err().contains("another process uses"));
        let own = first.own.clone();
        drop(first);
        let line = own.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
        fs::write(scratch.0.join(FILE), [b"\xff nonsense ", line.as_bytes(), b" more \n\n\0"].concat()).unwrap();
        assert_eq!(Ids::kept_in(&scratch.0).unwrap().had, own);
    }
}
