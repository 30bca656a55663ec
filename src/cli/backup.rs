//! `backup` and `restore`: a copy of what a running node holds, and a node's data directory made from it.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::mpsc::{SyncSender, sync_channel},
    time::Duration,
};

use bytes::Bytes;
use clap::Args;
use http_body_util::{BodyExt, Empty};
use hyper::{Request, body::Incoming};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;

use super::{
    Failure,
    client::{Client, Target, root},
    data, output,
};
use crate::{
    record::Record,
    snapshot::Part,
    storage::{self, RecordStream, StoreError, Streamed, Unreadable},
};

/// Records that wait to be written; full, they stop the reading.
const RECORDS_MAX: usize = 1_024;

/// Flags of `backup`.
#[derive(Args, Debug)]
#[command(after_help = examples!(
    "  lamplight backup ./monday
  lamplight check --data ./monday"
))]
pub struct BackupArgs {
    /// The directory to write to; it is made, and must hold no data.
    dir: PathBuf,
    #[command(flatten)]
    pub(super) target: Target,
}

/// Flags of `restore`.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  lamplight restore ./monday --data ./lamplight-data && lamplight serve
  lamplight restore ./monday --data ./lamplight-data && lamplight serve --join http://other:7171

The node comes back under a new id. It goes back to its pool where it finds a member of it; where it finds none, or is
started with --found and finds none, it goes on alone with what the backup holds.

Exit codes: 0 done, 1 failed, 2 usage.")]
pub struct RestoreArgs {
    /// A directory that `lamplight backup` has written.
    backup: PathBuf,
    /// The data directory to make; it must hold no data.
    #[arg(long, env = "LAMPLIGHT_DATA", value_name = "DIR", default_value = "lamplight-data")]
    data: PathBuf,
    /// Print JSON for programs.
    #[arg(long)]
    pub(super) json: bool,
}

/// Writes a copy of what a node holds.
pub async fn backup(args: BackupArgs) -> Result<(), Failure> {
    let client = Client::new(&args.target);
    let base = client.ready().await?;
    let request = Request::get(base.at("/v1/backup"))
        .body(Empty::new().map_err(|never| match never {}).boxed_unsync())
        .map_err(|error| Failure::usage(error.to_string()))?;
    let answer = client.stream(base, request).await?;
    let bar = ProgressBar::new_spinner();
    bar.enable_steady_tick(Duration::from_millis(100));
    let style = ProgressStyle::with_template("{spinner} {pos} records, {elapsed}").expect("a constant template");
    let bar = bar.with_style(style);
    let (dir, counter, fresh) = (args.dir.clone(), bar.clone(), !args.dir.exists());
    let (sender, receiver) = sync_channel(RECORDS_MAX);
    let written = tokio::task::spawn_blocking(move || {
        let records = receiver.into_iter().inspect(|_| counter.inc(1));
        storage::copy(&dir, records)
    });
    let read = receive(answer, sender).await;
    let written = written.await.map_err(|panic| Failure::new(panic.to_string()))?;
    let records = bar.position();
    bar.finish_and_clear();
    finish(&args.dir, fresh, written, read)?;
    said("backed up", records, &args.dir, args.target.json)
}

/// Makes a data directory from a backup.
pub async fn restore(args: RestoreArgs) -> Result<(), Failure> {
    let RestoreArgs { backup, data: dir, json } = args;
    let task = tokio::task::spawn_blocking(move || {
        let (sender, receiver) = sync_channel(RECORDS_MAX);
        let (target, fresh) = (dir.clone(), !dir.exists());
        let writer = std::thread::spawn(move || storage::copy(&target, receiver));
        let mut whole = false;
        let found = storage::read(&backup, &mut |record| {
            whole |= matches!(record, Record::Snapshot(Part::Whole(_)));
            // The writer has failed, which it says below.
            let _ = sender.send(record);
        });
        drop(sender);
        let written = writer.join().map_err(|_| Failure::new("the writer of the data directory panicked"))?;
        let read = match found {
            // Also the directory of a node that was stopped is one, whose beginning may be a snapshot.
            Ok(found) if found.damage.is_empty() && found.records > 0 && (whole || !found.cut) => Ok(found.records),
            Ok(_) => Err(Failure::new(format!(
                "{} is no sound backup: lamplight check --data {0} says what is wrong",
                backup.display()
            ))),
            Err(error) => Err(Failure::new(error.to_string())),
        };
        let records = finish(&dir, fresh, written, read)?;
        data::leave_new_id(&dir)
            .map_err(|error| Failure::new(format!("cannot write to {}: {error}", dir.display())))?;
        said("restored", records, &dir, json)
    });
    task.await.map_err(|panic| Failure::new(panic.to_string()))?
}

/// Both halves must have gone well; else nothing is left that could be taken for a whole copy.
fn finish<T>(dir: &Path, fresh: bool, written: Result<(), StoreError>, read: Result<T, Failure>) -> Result<T, Failure> {
    let outcome = match written {
        Err(error) => Err(Failure::new(format!("{error}. Choose another directory"))),
        Ok(()) => read,
    };
    // A directory that was there before may hold what is none of ours.
    if outcome.is_err() && fresh && fs::remove_dir_all(dir).is_err() {
        eprintln!("a part of a copy is left in {}: remove it", dir.display());
    }
    outcome
}

fn said(what: &str, records: u64, dir: &Path, json: bool) -> Result<(), Failure> {
    let dir = dir.display().to_string();
    output::line(&if json {
        json!({ "records": records, "dir": dir }).to_string()
    } else {
        format!("{records} records {what} to {dir}")
    })
}

/// Reads the records of an answer, to their end.
async fn receive(mut answer: Incoming, sender: SyncSender<Record>) -> Result<(), Failure> {
    let mut stream = RecordStream::default();
    while let Some(frame) = answer.frame().await {
        let frame = frame.map_err(|error| Failure::unreachable(format!("the node broke off: {}", root(&error))))?;
        stream.take(frame.data_ref().map(Bytes::as_ref).unwrap_or_default());
        loop {
            match stream.read().map_err(|Unreadable| unreadable())? {
                // The disk is slower than the network; this thread may wait for it, for others run the runtime.
                Streamed::Record(record) => {
                    if tokio::task::block_in_place(|| sender.send(record)).is_err() {
                        // The writer says what is wrong.
                        return Ok(());
                    }
                }
                Streamed::End => return Ok(()),
                Streamed::More => break,
            }
        }
    }
    Err(Failure::unreachable("the node broke off before the end of the backup"))
}

fn unreadable() -> Failure {
    Failure::new("the answer is no backup that this program can read: is it as new as the node?")
}
