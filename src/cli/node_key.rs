//! The file with a node's secret key, in its data directory. It is made at the first start in a pool with a secret.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
};

use zeroize::Zeroizing;

use super::Failure;
use crate::node::NodeKey;

/// The file.
const FILE: &str = "node-key";
/// The same while it is written.
const UNFINISHED: &str = "node-key.new";
/// Longest file that is read, past what is written.
const FILE_BYTES_MAX: u64 = 1_024;
/// Only its owner may read it.
const MODE: u32 = 0o600;

/// Returns the key of a data directory that no other process uses; makes it if there is none.
pub fn kept_in(dir: &Path) -> Result<NodeKey, Failure> {
    let path = dir.join(FILE);
    let unusable = |error: io::Error| {
        Failure::new(format!(
            "cannot use the node's key {}: {error}. Make the file readable and writable for this user, or remove it: the node \
             then makes a new key, and comes back under a new id",
            path.display()
        ))
    };
    match read(&path) {
        Ok(text) => NodeKey::from_text(&text).map_err(|_| {
            Failure::new(format!(
                "the node's key {} is damaged. Copy the file from a backup of this directory, or remove it: the node then makes a \
                 new key, and comes back under a new id with all its data",
                path.display()
            ))
        }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let key = NodeKey::generate().ok_or_else(|| Failure::new("this machine has no random numbers for a key"))?;
            write(dir, &key).map_err(unusable)?;
            Ok(key)
        }
        Err(error) => Err(unusable(error)),
    }
}

fn read(path: &Path) -> io::Result<Zeroizing<Vec<u8>>> {
    let mut text = Zeroizing::new(Vec::with_capacity(FILE_BYTES_MAX as usize));
    File::open(path)?.take(FILE_BYTES_MAX).read_to_end(&mut text)?;
    Ok(text)
}

/// Writes the key so that it is there whole or not at all.
fn write(dir: &Path, key: &NodeKey) -> io::Result<()> {
    let unfinished = dir.join(UNFINISHED);
    match fs::remove_file(&unfinished) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(MODE).open(&unfinished)?;
    file.write_all(key.to_text().as_bytes())?;
    file.sync_all()?;
    fs::rename(&unfinished, dir.join(FILE))?;
    File::open(dir)?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::op::NodeId;

    /// A directory that is gone with the test.
    struct Scratch(std::path::PathBuf);

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn scratch(name: &str) -> Scratch {
        let dir = std::env::temp_dir().join(format!("lamplight-node-key-{name}-{}", std::process::id()));
        fs::create_dir(&dir).unwrap();
        Scratch(dir)
    }

    #[test]
    fn a_key_is_made_once_and_only_its_owner_can_read_it() {
        let scratch = scratch("once");
        // What a start that was killed left behind does not count.
        fs::write(scratch.0.join(UNFINISHED), "half").unwrap();
        let node = NodeId(uuid::Uuid::from_u128(1));
        let first = kept_in(&scratch.0).unwrap().public(node);
        assert_eq!(kept_in(&scratch.0).unwrap().public(node), first);
        assert_eq!(fs::metadata(scratch.0.join(FILE)).unwrap().permissions().mode() & 0o777, 0o600);
        fs::remove_file(scratch.0.join(FILE)).unwrap();
        assert_ne!(kept_in(&scratch.0).unwrap().public(node), first);
    }

    #[test]
    fn a_damaged_or_unreadable_key_is_an_error_that_names_the_way_out_and_stays_as_it_is() {
        let scratch = scratch("damaged");
        drop(kept_in(&scratch.0).unwrap());
        let path = scratch.0.join(FILE);
        let whole = fs::read(&path).unwrap();
        for damaged in [&whole[..0], &whole[..40], &[&whole[..], b"x"].concat(), &vec![0; 100_000]] {
            fs::write(&path, damaged).unwrap();
            let words = kept_in(&scratch.0).unwrap_err().message;
            assert!(words.contains("is damaged. Copy the file") && words.contains("or remove it"), "{words}");
            assert_eq!(&fs::read(&path).unwrap(), damaged);
        }
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        let words = kept_in(&scratch.0).unwrap_err().message;
        assert!(words.contains("cannot use the node's key") && words.contains("or remove it"), "{words}");
    }
}
