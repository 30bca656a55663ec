//! Where a node's pool secret comes from: a file, which is read again while the node runs, or a variable.

use std::{
    fs::{self, File},
    io::{self, Read},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use clap::Args;
use zeroize::Zeroizing;

use super::Failure;
use crate::node::PoolSecret;

/// The variable that holds the secrets themselves. It is no flag, for others on the machine can read those.
const VARIABLE: &str = "LAMPLIGHT_POOL_SECRET";
/// Longest file; what is longer is no file of secrets.
const FILE_BYTES_MAX: u64 = 64 << 10;
/// How often the file is looked at. Its content is compared, so it does not matter how it is replaced.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Flags of the pool's secret.
#[derive(Args, Debug)]
#[allow(clippy::doc_markdown, reason = "it is printed as the help of the program")]
pub struct SecretArgs {
    /// File with the secret that all nodes of the pool share, of 16 bytes or more: a node without it cannot link to this
    /// one, or read the links. One a line: the first is proved to others, all are accepted, and changes of the file are
    /// taken without a restart. To change the secret, first add the new one as the second line on every node, then move it to
    /// the first on every node, then take the old one out. Or put the lines in LAMPLIGHT_POOL_SECRET.
    #[arg(long, env = "LAMPLIGHT_POOL_SECRET_FILE", value_name = "FILE")]
    pool_secret_file: Option<PathBuf>,
}

impl SecretArgs {
    /// The secrets that the node starts with, or none. From within a runtime: a file is watched from here on.
    pub fn load(self) -> Result<PoolSecret, Failure> {
        let variable = std::env::var_os(VARIABLE).filter(|value| !value.is_empty());
        match (self.pool_secret_file, variable) {
            (None, None) => Ok(PoolSecret::none()),
            (Some(_), Some(_)) => Err(Failure::new(format!(
                "the pool secret comes from a file and from {VARIABLE}: leave one of them out"
            ))),
            (None, Some(value)) => {
                let text = Zeroizing::new(value.into_encoded_bytes());
                PoolSecret::new(&text).map_err(|why| Failure::new(format!("{VARIABLE}: {why}")))
            }
            (Some(file), None) => {
                let text = read(&file).map_err(|error| {
                    Failure::new(format!("cannot read the pool secret from {}: {error}", file.display()))
                })?;
                let secret = PoolSecret::new(&text)
                    .map_err(|why| Failure::new(format!("the pool secret file {}: {why}", file.display())))?;
                if fs::metadata(&file).is_ok_and(|found| found.permissions().mode() & 0o004 != 0) {
                    tracing::warn!(file = %file.display(), "others on this machine can read the pool secret: chmod o-r");
                }
                tokio::spawn(follow(file, secret.clone()));
                Ok(secret)
            }
        }
    }
}

/// Takes what the file says as it changes. Where it says nothing that can be used, what it said last still holds: a node
/// must not fall open, or silent, for a file that is just being written.
async fn follow(file: PathBuf, secret: PoolSecret) {
    let mut said = String::new();
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let (path, shared) = (file.clone(), secret.clone());
        let looked = tokio::task::spawn_blocking(move || {
            let text = read(&path).map_err(|error| error.to_string())?;
            shared.replace(&text).map_err(|why| why.to_string())
        });
        match looked.await {
            Ok(Ok(changed)) => {
                said.clear();
                if changed {
                    tracing::info!(accepted = secret.count(), "the pool secrets have changed");
                }
            }
            Ok(Err(why)) if why != said => {
                tracing::warn!(
                    file = %file.display(),
                    why,
                    "the pool secret file cannot be used as it is: the secrets that it held before still hold"
                );
                said = why;
            }
            Ok(Err(_)) => {}
            // The runtime ends.
            Err(_) => return,
        }
    }
}

fn read(file: &Path) -> io::Result<Zeroizing<Vec<u8>>> {
    // A pipe would keep its reader waiting, and could be read only once.
    if !fs::metadata(file)?.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    // With room for all of it, so that no copy is left behind by growing.
    let mut text = Zeroizing::new(Vec::with_capacity(FILE_BYTES_MAX as usize + 1));
    File::open(file)?.take(FILE_BYTES_MAX + 1).read_to_end(&mut text)?;
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(io::Error::other(format!("it has more than {FILE_BYTES_MAX} bytes")));
    }
    Ok(text)
}
