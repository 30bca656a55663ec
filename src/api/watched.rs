//! Files that are read again when they change: tokens, keys, certificates.
//!
//! They are looked at once a second; what cannot be read leaves in force what was read before, and the log says so.

use std::{
    fs::{File, Metadata},
    io::Read,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{
        Arc, PoisonError, RwLock, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{task::spawn_blocking, time::interval};

/// How often the files are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Longest file: some ten thousand tokens, far more than any chain of certificates.
const FILE_BYTES_MAX: u64 = 4 << 20;

/// What some files hold.
#[derive(Debug)]
pub struct Watched<T>(Arc<Held<T>>);

#[derive(Debug)]
struct Held<T> {
    now: RwLock<Arc<T>>,
    /// Looks at which the files had changed and could not be used.
    refused: AtomicU64,
}

/// Makes of the files' contents what they hold, given what they held before; or says why it cannot.
type Reading<T> = dyn Fn(&[PathBuf], Option<&T>) -> Result<T, String> + Send + Sync;

/// Tells states of the files apart; none of one that is not there.
type Marks = Vec<Option<(u64, u64, i64, i64)>>;

impl<T: Send + Sync + 'static> Watched<T> {
    /// Reads the files, and goes on looking at them; must be called within a runtime.
    pub fn open(
        paths: Vec<PathBuf>,
        reading: impl Fn(&[PathBuf], Option<&T>) -> Result<T, String> + Send + Sync + 'static,
    ) -> Result<Watched<T>, String> {
        Watched::open_then(paths, reading, |_, _| ())
    }

    /// The same, and tells what was replaced by what, once that is in force.
    pub fn open_then(
        paths: Vec<PathBuf>,
        reading: impl Fn(&[PathBuf], Option<&T>) -> Result<T, String> + Send + Sync + 'static,
        replaced: impl Fn(&T, &T) + Send + Sync + 'static,
    ) -> Result<Watched<T>, String> {
        // Before they are read: what changes meanwhile is seen by the next look.
        let marks = marks(&paths);
        let now = RwLock::new(Arc::new(reading(&paths, None)?));
        let held = Arc::new(Held { now, refused: AtomicU64::new(0) });
        tokio::spawn(follow(Arc::downgrade(&held), paths, Arc::new(reading), replaced, marks));
        Ok(Watched(held))
    }

    /// What they hold now.
    pub fn now(&self) -> Arc<T> {
        self.0.now()
    }

    /// How often they were looked at and could not be used.
    pub fn refused(&self) -> u64 {
        self.0.refused.load(Ordering::Relaxed)
    }
}

impl<T> Held<T> {
    fn now(&self) -> Arc<T> {
        // Nothing panics while it is held.
        Arc::clone(&self.now.read().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The bytes of a file, or why it cannot be read.
pub fn read(path: &Path) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    let file = File::open(path).and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes));
    match file {
        Err(error) => Err(format!("cannot read {}: {error}", path.display())),
        Ok(length) if length as u64 > FILE_BYTES_MAX => {
            Err(format!("{} has more than {FILE_BYTES_MAX} bytes: it cannot be the right file", path.display()))
        }
        Ok(_) => Ok(bytes),
    }
}

fn marks(paths: &[PathBuf]) -> Marks {
    let mark = |data: Metadata| (data.ino(), data.len(), data.mtime(), data.mtime_nsec());
    paths.iter().map(|path| std::fs::metadata(path).ok().map(mark)).collect()
}

/// Looks at the files for as long as somebody holds what they hold.
async fn follow<T: Send + Sync + 'static>(
    held: Weak<Held<T>>,
    paths: Vec<PathBuf>,
    reading: Arc<Reading<T>>,
    replaced: impl Fn(&T, &T) + Send,
    mut known: Marks,
) {
    let mut looks = interval(LOOK_EVERY);
    let mut complaint = None;
    loop {
        looks.tick().await;
        let Some(held) = held.upgrade() else { return };
        let (paths, reading, before, failing) =
            (paths.clone(), Arc::clone(&reading), known.clone(), complaint.is_some());
        let current = held.now();
        let looked = spawn_blocking(move || {
            let marks = marks(&paths);
            // A file that could not be read is tried again as it is: it may have been half written.
            let read = (marks != before || failing).then(|| reading(&paths, Some(&current)));
            (marks, read, paths)
        });
        // The runtime is ending.
        let Ok((marks, read, paths)) = looked.await else { return };
        known = marks;
        let files = paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ");
        match read {
            Some(Ok(read)) => {
                let read = Arc::new(read);
                let before = {
                    let mut now = held.now.write().unwrap_or_else(PoisonError::into_inner);
                    std::mem::replace(&mut *now, Arc::clone(&read))
                };
                replaced(&before, &read);
                complaint = None;
                tracing::info!(files, "read again, for it has changed");
            }
            Some(Err(why)) => {
                held.refused.fetch_add(1, Ordering::Relaxed);
                // The same complaint is not made again.
                if complaint.as_ref() != Some(&why) {
                    tracing::error!(
                        files,
                        why,
                        "it has changed and cannot be used: what it said before stays in force"
                    );
                    complaint = Some(why);
                }
            }
            // Nothing has changed.
            None => {}
        }
    }
}
