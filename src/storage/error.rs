//! Why a journal cannot be opened, read or written.

use std::{
    error, fmt, io,
    path::{Path, PathBuf},
};

/// Why it could not be done. Unless said otherwise nothing was changed.
#[derive(Debug)]
pub enum StoreError {
    /// Another process uses the directory.
    Locked(PathBuf),
    /// A segment is of a newer version of the format.
    Newer(PathBuf, u32),
    /// A sound record is of a kind that only a newer version knows.
    NewerRecord(PathBuf),
    /// The directory holds a journal already, where a new one was to be written.
    Exists(PathBuf),
    /// A file operation failed. What was stored before is still there.
    Io {
        /// What was to be done, as in "open".
        doing: &'static str,
        /// With which file or directory.
        path: PathBuf,
        /// What the system says.
        error: io::Error,
    },
    /// The disk is full: records that were appended last are not stored.
    Full(PathBuf),
    /// The journal has failed before, in these words: records that were appended last may not be stored.
    Failed(String),
}

impl StoreError {
    /// For `map_err`.
    pub(super) fn io(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StoreError {
        let path = path.to_owned();
        move |error| StoreError::Io { doing, path, error }
    }
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StoreError::Locked(dir) => write!(f, "another process uses {}", dir.display()),
            StoreError::Newer(path, version) => {
                write!(f, "{} is of version {version}, which only a newer lamplight can read", path.display())
            }
            StoreError::NewerRecord(path) => {
                write!(f, "{} has a record that only a newer lamplight can read", path.display())
            }
            StoreError::Exists(dir) => write!(f, "{} holds a journal already", dir.display()),
            StoreError::Io { doing, path, error } => write!(f, "cannot {doing} {}: {error}", path.display()),
            StoreError::Full(dir) => write!(f, "the disk of {} is full", dir.display()),
            StoreError::Failed(why) => f.write_str(why),
        }
    }
}

impl error::Error for StoreError {}
