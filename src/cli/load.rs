//! `import`: many documents through one streamed request, `POST /v1/docs/{collection}` with NDJSON.
//!
//! The file is never held whole: a thread reads pieces of it, the node answers line by line, and a full queue or a slow
//! node stops the reading. What a node has taken stays, also when the rest fails.

use std::{
    fs::File,
    io::{self, IsTerminal, Read},
    path::PathBuf,
    sync::{Arc, OnceLock},
    time::Duration,
};

use bytes::{Buf, Bytes, BytesMut};
use clap::{Args, builder::NonEmptyStringValueParser};
use futures_util::stream;
use http_body_util::{BodyExt, StreamBody};
use hyper::{
    Request,
    body::{Frame, Incoming},
    header,
};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::{
    Failure,
    client::{Body, Client, Target, encoded, root},
    output::{self, text},
};

/// Bytes read from the file at a time.
const PIECE_BYTES: usize = 64 << 10;
/// Pieces that wait to be sent: enough that reading and sending overlap. Full, it stops the reading.
const PIECES_MAX: usize = 16;

/// Flags of `import`.
#[derive(Args, Debug)]
#[command(after_help = examples!(
    "  lamplight import notes notes.ndjson
  echo '{\"id\":\"milk\",\"value\":{\"buy\":true}}' | lamplight import notes
  lamplight list notes --all --json | jq -c '{id,value}' | lamplight import copy"
))]
pub struct ImportArgs {
    /// The collection to write to.
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    collection: String,
    /// A file of lines {"id":…,"value":…}; without an id the node makes one. Left out or -, it is standard input.
    file: Option<PathBuf>,
    #[command(flatten)]
    pub(super) target: Target,
}

/// Writes many documents.
pub async fn import(args: ImportArgs) -> Result<(), Failure> {
    let path = args.file.filter(|file| file.as_os_str() != "-");
    let name = path.as_ref().map_or("standard input".into(), |path| path.display().to_string());
    let unread = |why: &str| Failure::new(format!("cannot read {name}: {why}"));
    let file = path.map(File::open).transpose().map_err(|error| unread(&output::words(&error)))?;
    let bar = progress(file.as_ref());
    let client = Client::new(&args.target);
    let base = client.ready().await?;
    let broken = Arc::new(OnceLock::new());
    let request = Request::post(base.at(&format!("/v1/docs/{}", encoded(&args.collection))))
        .header(header::CONTENT_TYPE, "application/x-ndjson")
        .body(pieces(file, bar.clone(), Arc::clone(&broken)))
        .map_err(|error| Failure::usage(error.to_string()))?;
    let mut tally = Tally { written: 0, failed: 0, json: args.target.json, bar };
    let outcome = match client.stream(base, request).await {
        Ok(answer) => tally.follow(answer).await,
        Err(failure) => Err(failure),
    };
    tally.bar.finish_and_clear();
    let Tally { written, failed, .. } = tally;
    output::line(&if args.target.json {
        json!({ "written": written, "failed": failed }).to_string()
    } else {
        format!("{written} written, {failed} failed")
    })?;
    // A file that cannot be read also breaks the request; the file is then what the user must look at.
    match (broken.get(), outcome) {
        (Some(why), _) => Err(unread(why)),
        (None, Err(failure)) => Err(failure),
        (None, Ok(())) if failed > 0 => Err(Failure::new(format!("{failed} of {} lines failed", written + failed))),
        (None, Ok(())) => Ok(()),
    }
}

/// A bar of the file's bytes, or a counter where the length is not known; indicatif shows it on terminals only.
fn progress(file: Option<&File>) -> ProgressBar {
    let length = file.and_then(|file| file.metadata().ok()).filter(std::fs::Metadata::is_file).map(|data| data.len());
    let (bar, template) = match length {
        Some(length) => (ProgressBar::new(length), "{bar:40} {bytes} of {total_bytes}, {msg}, {eta} left"),
        None => (ProgressBar::new_spinner(), "{spinner} {bytes}, {msg}, {elapsed}"),
    };
    // Whoever types the lines sees no bar between them.
    if file.is_none() && io::stdin().is_terminal() {
        return ProgressBar::hidden();
    }
    bar.enable_steady_tick(Duration::from_millis(100));
    bar.with_style(ProgressStyle::with_template(template).expect("a constant template"))
}

/// The file, or standard input, as a body. If it cannot be read to its end, `broken` says why and the body breaks off,
/// so that the node does not take half a line for a whole one.
fn pieces(file: Option<File>, bar: ProgressBar, broken: Arc<OnceLock<String>>) -> Body {
    let (sender, receiver) = mpsc::channel::<io::Result<Frame<Bytes>>>(PIECES_MAX);
    tokio::task::spawn_blocking(move || {
        let mut input: Box<dyn Read> = match file {
            Some(file) => Box::new(file),
            None => Box::new(io::stdin().lock()),
        };
        let mut buffer = vec![0; PIECE_BYTES];
        loop {
            let piece = match input.read(&mut buffer) {
                Ok(0) => return,
                Ok(length) => Ok(Frame::data(Bytes::copy_from_slice(&buffer[..length]))),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => {
                    let _ = broken.set(output::words(&error));
                    Err(error)
                }
            };
            let ends = piece.is_err();
            bar.inc(piece.as_ref().ok().and_then(Frame::data_ref).map_or(0, Bytes::len) as u64);
            // A closed queue: the request has ended early, and its answer says why.
            if sender.blocking_send(piece).is_err() || ends {
                return;
            }
        }
    });
    let pieces = stream::unfold(receiver, |mut receiver| async {
        let piece = receiver.recv().await?;
        Some((piece, receiver))
    });
    StreamBody::new(pieces).boxed_unsync()
}

/// What became of the lines.
struct Tally {
    written: u64,
    failed: u64,
    json: bool,
    bar: ProgressBar,
}

impl Tally {
    /// Reads the node's answer, a line for each line sent, to its end.
    async fn follow(&mut self, mut answer: Incoming) -> Result<(), Failure> {
        let mut buffer = BytesMut::new();
        while let Some(frame) = answer.frame().await {
            let frame = frame.map_err(|error| {
                let lines = self.written + self.failed;
                Failure::unreachable(format!("the node broke off after {lines} lines: {}", root(&error)))
            })?;
            buffer.extend_from_slice(frame.data_ref().map(Bytes::as_ref).unwrap_or_default());
            while let Some(end) = buffer.iter().position(|byte| *byte == b'\n') {
                let line = buffer.split_to(end);
                buffer.advance(1);
                self.count(&line)?;
            }
            self.bar.set_message(format!("{} written, {} failed", self.written, self.failed));
        }
        if buffer.is_empty() { Ok(()) } else { self.count(&buffer) }
    }

    fn count(&mut self, line: &[u8]) -> Result<(), Failure> {
        let answer: Value = serde_json::from_slice(line)
            .map_err(|error| Failure::new(format!("the node's answer has a line that is not JSON: {error}")))?;
        let Some(problem) = answer.get("problem") else {
            self.written += 1;
            return Ok(());
        };
        self.failed += 1;
        self.bar.suspend(|| {
            if self.json {
                return output::line(&answer.to_string());
            }
            eprintln!("line {}: {}", answer["line"], text(problem, "detail"));
            Ok(())
        })
    }
}
