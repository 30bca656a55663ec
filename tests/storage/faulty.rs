//! A disk that fails as it is told to. What it does well it does with the real one.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use lamplight::storage::{Disk, DiskFile, RealDisk};

/// A power cut loses or keeps unsynced bytes in pieces of this size: a sector.
const SECTOR: usize = 512;

#[derive(Default)]
pub struct Faults {
    /// Syncs do nothing: for speed.
    quick: bool,
    /// Writes and preallocation find no space.
    pub full: bool,
    /// Preallocation alone finds no space.
    pub no_spare: bool,
    /// Files cannot be removed.
    pub fail_remove: bool,
    /// The next sync of a file fails.
    pub fail_sync: bool,
    /// The next write fails.
    pub fail_write: bool,
    /// So many operations work, then everything fails.
    pub operations: Option<u64>,
    /// All operations so far.
    pub count: u64,
    /// Syncs of files wait for as long as this is so.
    pub hold_sync: bool,
    /// Syncs of files so far, and the files that the system was to forget.
    pub syncs: u64,
    pub forgotten: Vec<PathBuf>,
    /// What was in the places that were written to and not synced.
    unsynced: Vec<(PathBuf, u64, Vec<u8>)>,
}

#[derive(Clone, Default)]
pub struct FaultyDisk(Arc<Mutex<Faults>>);

struct FaultyFile {
    file: Box<dyn DiskFile>,
    path: PathBuf,
    disk: FaultyDisk,
}

impl FaultyDisk {
    pub fn quick() -> FaultyDisk {
        let disk = FaultyDisk::default();
        disk.set(|faults| faults.quick = true);
        disk
    }

    pub fn set<T>(&self, change: impl FnOnce(&mut Faults) -> T) -> T {
        change(&mut self.0.lock().unwrap())
    }

    /// The process ends here: nothing it still does has an effect.
    pub fn kill(&self) {
        self.set(|faults| faults.operations = Some(0));
    }

    /// The power goes: of what was not synced, some is lost.
    pub fn cut_power(&self, chance: &mut fastrand::Rng) {
        self.kill();
        let unsynced = self.set(|faults| std::mem::take(&mut faults.unsynced));
        for (path, offset, before) in unsynced.into_iter().rev() {
            if chance.bool() {
                let file = File::options().write(true).open(&path).unwrap();
                file.write_all_at(&before, offset).unwrap();
            }
        }
    }

    fn step(&self) -> io::Result<()> {
        self.set(|faults| {
            faults.count += 1;
            match &mut faults.operations {
                Some(0) => Err(io::Error::other("the process was killed")),
                Some(left) => {
                    *left -= 1;
                    Ok(())
                }
                None => Ok(()),
            }
        })
    }
}

fn no_space() -> io::Error {
    io::Error::from(io::ErrorKind::StorageFull)
}

impl Disk for FaultyDisk {
    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        self.step()?;
        Ok(Box::new(FaultyFile { file: RealDisk.open(path)?, path: path.to_owned(), disk: self.clone() }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.step()?;
        RealDisk.rename(from, to)
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.step()?;
        RealDisk.link(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.step()?;
        let fails = self.set(|faults| faults.fail_remove);
        if fails { Err(io::Error::other("a file that stays")) } else { RealDisk.remove(path) }
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.step()?;
        if self.set(|faults| faults.quick) { Ok(()) } else { RealDisk.sync_dir(dir) }
    }
}

impl DiskFile for FaultyFile {
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.disk.step()?;
        self.disk.set(|faults| {
            // Half of it is written, as a full disk or a bad sector has it.
            let fails = faults.full || std::mem::take(&mut faults.fail_write);
            let bytes = if fails { &bytes[..bytes.len() / 2] } else { bytes };
            let mut at = 0;
            while at < bytes.len() {
                let here = offset as usize + at;
                let length = (SECTOR - here % SECTOR).min(bytes.len() - at);
                let content = fs::read(&self.path)?;
                let mut before = vec![0; length];
                let held = content.get(here..content.len().min(here + length)).unwrap_or_default();
                before[..held.len()].copy_from_slice(held);
                faults.unsynced.push((self.path.clone(), here as u64, before));
                at += length;
            }
            self.file.write_at(bytes, offset)?;
            match (faults.full, fails) {
                (true, _) => Err(no_space()),
                (false, true) => Err(io::Error::other("a bad sector")),
                (false, false) => Ok(()),
            }
        })
    }

    fn preallocate(&self, length: u64) -> io::Result<()> {
        self.disk.step()?;
        let full = self.disk.set(|faults| faults.full || faults.no_spare);
        if full { Err(no_space()) } else { self.file.preallocate(length) }
    }

    fn truncate(&self, length: u64) -> io::Result<()> {
        self.disk.step()?;
        self.file.truncate(length)
    }

    fn sync(&self) -> io::Result<()> {
        self.disk.step()?;
        self.disk.set(|faults| faults.syncs += 1);
        while self.disk.set(|faults| faults.hold_sync) {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        self.disk.set(|faults| {
            if std::mem::take(&mut faults.fail_sync) {
                return Err(io::Error::other("a sync that failed"));
            }
            faults.unsynced.retain(|(path, ..)| *path != self.path);
            if faults.quick { Ok(()) } else { self.file.sync() }
        })
    }

    fn is_at(&self, path: &Path) -> io::Result<bool> {
        self.file.is_at(path)
    }

    fn forget(&self) {
        self.disk.set(|faults| faults.forgotten.push(self.path.clone()));
    }
}
