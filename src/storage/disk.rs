//! The file operations of a journal that change anything. Reading needs no seam: it goes to the files directly.
//!
//! It is a trait so that tests can give a disk that is full, that fails to sync, or that forgets what was not synced.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::{FileExt, MetadataExt},
    path::Path,
};

use rustix::fs::{Advice, FallocateFlags};

/// What a journal asks of a file system.
pub trait Disk: Send + Sync {
    /// Opens a file for writing, and makes it if it is not there.
    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>>;
    /// Gives a file another name; a file that has it already is replaced.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Gives a file a second name.
    fn link(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Waits until the names in a directory are on the disk.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
}

/// What a journal asks of a file.
pub trait DiskFile: Send {
    /// Writes all of `bytes` at `offset`.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;
    /// Makes the file `length` bytes long, all of them backed by space of its own; what is new is zeros.
    fn preallocate(&self, length: u64) -> io::Result<()>;
    /// Cuts the file, or fills it up with zeros that have no space of their own.
    fn truncate(&self, length: u64) -> io::Result<()>;
    /// Waits until content and length are on the disk.
    fn sync(&self) -> io::Result<()>;
    /// Whether it is the file that has this name: not where it was removed, or moved away, while it is open.
    fn is_at(&self, path: &Path) -> io::Result<bool>;
    /// Forgets what is held of the file in memory, so that the next read asks the disk: after a sync that failed, memory
    /// may hold what the disk does not.
    fn forget(&self);
}

/// The file system of this machine.
#[derive(Clone, Copy, Debug, Default)]
pub struct RealDisk;

impl Disk for RealDisk {
    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let file = File::options().read(true).write(true).create(true).truncate(false).open(path)?;
        Ok(Box::new(file))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::hard_link(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        File::open(dir)?.sync_all()
    }
}

impl DiskFile for File {
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.write_all_at(bytes, offset)
    }

    fn preallocate(&self, length: u64) -> io::Result<()> {
        match rustix::fs::fallocate(self, FallocateFlags::empty(), 0, length) {
            Ok(()) => Ok(()),
            // Some file systems (NFS before 4.2, ZFS) cannot: there, writing zeros is what comes nearest.
            Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => fill(self, length),
            Err(error) => Err(error.into()),
        }
    }

    fn truncate(&self, length: u64) -> io::Result<()> {
        self.set_len(length)
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_data()
    }

    fn is_at(&self, path: &Path) -> io::Result<bool> {
        let place = |file: fs::Metadata| (file.dev(), file.ino());
        match fs::metadata(path) {
            Ok(named) => Ok(place(named) == place(self.metadata()?)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn forget(&self) {
        // Advice: where it is not taken, reading still works.
        let _ = rustix::fs::fadvise(self, 0, None, Advice::DontNeed);
    }
}

fn fill(file: &File, length: u64) -> io::Result<()> {
    static ZEROS: [u8; 64 << 10] = [0; 64 << 10];
    let mut at = file.metadata()?.len();
    while at < length {
        let step = (ZEROS.len() as u64).min(length - at);
        file.write_all_at(&ZEROS[..step as usize], at)?;
        at += step;
    }
    Ok(())
}

/// Whether an operation failed for want of space, which can come back.
pub fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}
