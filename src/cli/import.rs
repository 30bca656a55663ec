//! `import`: many documents from a file or a pipe, by several writers at once, and again from where it was.
//!
//! A thread reads records and hands each to a writer: the same one for the same document, so that of two lines the later
//! one stays. Full queues stop the reading. Each document is put under an id that its line gives or makes: sent again,
//! after a broken connection or a kill, it is not there twice.

use std::{
    fs::File,
    hash::{DefaultHasher, Hash, Hasher},
    io::{self, IsTerminal, Seek, SeekFrom},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use clap::{Args, builder::NonEmptyStringValueParser};
use encoding_rs::{Encoding, UTF_8};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};
use tokio::{
    runtime::Handle,
    sync::{Semaphore, mpsc},
    task::{JoinSet, spawn_blocking},
};
use tokio_util::sync::CancellationToken;

use super::{
    Failure,
    client::{Client, Target},
    headway::{Headway, Tally},
    landing::{Item, Writer},
    output::{self, text},
    records::{self, Cells, Format, Place, Record, Records, Shape},
    table,
};
use crate::document::check_collection;

/// Bytes of documents that are read and not written yet: enough for all writers to be busy.
const READ_AHEAD_BYTES: usize = 32 << 20;

/// Flags of `import`.
#[derive(Args, Debug)]
#[command(after_help = examples!(
    "  lamplight import notes notes.ndjson
  lamplight import people people.csv --id email
  lamplight import prices preise.csv --id Artikel --decimal-comma --charset windows-1252
  lamplight import --all pool.ndjson --url http://a:7171,http://b:7171 --parallel 4
  echo '{\"id\":\"milk\",\"value\":{\"buy\":true}}' | lamplight import notes
  jq -c '.[]' orders.json | lamplight import orders --id number

Stopped before its end, it goes on from there when it is run again in the same way: it notes how far it has come in
FILE.lamplight-import, and removes that at the end. From standard input it starts over. Either way a document comes under
the id of its line, or one made of the line, so nothing is there twice; what others wrote there meanwhile is replaced."
))]
pub struct ImportArgs {
    /// The collection to write to; with --all each line names its own, and FILE stands here.
    #[arg(value_name = "COLLECTION", value_parser = NonEmptyStringValueParser::new(), required_unless_present = "all")]
    collection: Option<String>,
    /// A file of lines {"id":…,"value":…} or, for a text, {"id":…,"text":…}; or of CSV. Left out or -, it is standard
    /// input.
    file: Option<PathBuf>,
    /// Write each line to the collection that it names, as `export --all` does.
    #[arg(long, conflicts_with = "file")]
    all: bool,
    /// What the file is; CSV if its name ends in .csv or .tsv, else JSON lines. In CSV the first row names the fields. A cell that reads as
    /// JSON is that value (7, true, null, {"a":1}), an empty one is left out, and any other is a string; "7" in quotes of
    /// JSON is a string.
    #[arg(long, value_enum)]
    format: Option<Format>,
    /// The field that is the id. A line of JSON is then the document itself, with this field; in CSV it is a column beside the
    /// document, "id" if left out.
    #[arg(long, value_name = "FIELD")]
    id: Option<String>,
    /// Lines are the documents themselves. Without --id each gets an id, made of the line.
    #[arg(long, conflicts_with = "all")]
    plain: bool,
    /// All cells of CSV are strings.
    #[arg(long)]
    strings: bool,
    /// The character between the cells of CSV, or tab. Found in the first rows, if left out.
    #[arg(long, value_name = "CHARACTER", value_parser = table::delimiter)]
    delimiter: Option<u8>,
    /// The charset of the file, such as windows-1252; UTF-8 if left out. A mark of byte order, as Excel writes it, counts for
    /// more.
    #[arg(long, value_name = "NAME", value_parser = table::charset)]
    charset: Option<&'static Encoding>,
    /// In cells of CSV a comma is the decimal sign: 2,50 is a number.
    #[arg(long)]
    decimal_comma: bool,
    /// Rows of CSV without an id get one, made of the row.
    #[arg(long)]
    generate_ids: bool,
    /// Go on behind a line that is refused; without it the import ends there.
    #[arg(long)]
    keep_going: bool,
    /// How many requests are under way at once; as many as there are URLs if left out. Writers take the URLs in turn.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=64))]
    parallel: Option<u64>,
    /// Most lines in one request.
    #[arg(long, value_name = "N", default_value_t = 500, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    batch: u64,
    #[command(flatten)]
    pub(super) target: Target,
}

impl ImportArgs {
    fn path(&self) -> Option<PathBuf> {
        let named = if self.all { self.collection.as_ref().map(PathBuf::from) } else { self.file.clone() };
        named.filter(|file| file.as_os_str() != "-")
    }

    fn format(&self, path: Option<&Path>) -> Format {
        let is_csv = path
            .and_then(Path::extension)
            .is_some_and(|end| ["csv", "tsv"].iter().any(|name| end.eq_ignore_ascii_case(name)));
        self.format.unwrap_or(if is_csv { Format::Csv } else { Format::Jsonl })
    }

    fn shape(&self, format: Format) -> Result<Shape, Failure> {
        let collection = self.collection.clone().filter(|_| !self.all);
        if let Some(name) = &collection {
            check_collection(name).map_err(|fault| Failure::new(fault.to_string()))?;
        }
        match format {
            Format::Csv if self.all => Err(Failure::usage("CSV holds one collection: name it in the place of --all")),
            Format::Csv if self.plain => Err(Failure::usage("--plain is for JSON lines: rows of CSV are plain anyway")),
            Format::Jsonl if self.strings => {
                Err(Failure::usage("--strings is for CSV: lines of JSON say what is a string"))
            }
            Format::Jsonl if self.delimiter.is_some() || self.decimal_comma || self.generate_ids => {
                Err(Failure::usage(
                    "--delimiter, --decimal-comma and --generate-ids are for CSV: add --format csv if the file is that",
                ))
            }
            Format::Jsonl if self.all && self.id.is_some() => {
                Err(Failure::usage("--id is for the documents of one collection: name it in the place of --all"))
            }
            _ => {
                let plain = self.plain || self.id.is_some();
                let Self { strings, decimal_comma, generate_ids, .. } = *self;
                let cells = Cells { strings, decimal_comma, generate_ids };
                Ok(Shape { collection, id: self.id.clone(), plain, cells })
            }
        }
    }
}

/// Writes many documents.
pub async fn import(args: ImportArgs) -> Result<(), Failure> {
    let path = args.path();
    let format = args.format(path.as_deref());
    let shape = args.shape(format)?;
    let name = path.as_ref().map_or("standard input".into(), |path| path.display().to_string());
    let unread = |why: &io::Error| Failure::new(format!("cannot read {name}: {}", output::words(why)));
    let file = path.as_ref().map(File::open).transpose().map_err(|error| unread(&error))?;
    let client = Client::new(&args.target);
    client.get("/readyz").await?;
    let pool = client.get("/v1/pool").await?.json()?;
    let regular = file.as_ref().filter(|file| file.metadata().is_ok_and(|data| data.is_file()));
    let charset = charset_of(regular, args.charset).map_err(|error| unread(&error))?;
    let written = Written { format, charset, delimiter: args.delimiter };
    let headway = match (&path, regular) {
        // A place in a file of another charset is none in its text.
        (Some(path), Some(file)) if charset == UTF_8 => {
            let of = format!("{} {format:?} {shape:?} {:?}", text(&pool["pool"], "id"), args.delimiter);
            Headway::of_file(path, file, of)?
        }
        _ => Headway::unnoted(),
    };
    let bar = progress(file.as_ref());
    let import = Arc::new(Import {
        headway: Mutex::new(headway),
        stop: CancellationToken::new(),
        keep_going: args.keep_going,
        json: args.target.json,
        bar,
    });
    let place = import.headway().place();
    if place != Place::default() && !args.target.json {
        import.bar.suspend(|| eprintln!("lamplight: goes on behind line {}", place.line));
    }
    let mut writers = JoinSet::new();
    let queues = (0..args.parallel.unwrap_or(args.target.urls.len() as u64).max(1) as usize).map(|number| {
        let (queue, items) = mpsc::channel(args.batch as usize);
        writers.spawn(Writer::new(&args.target, number, args.batch as usize).run(items, Arc::clone(&import)));
        queue
    });
    let queues = queues.collect();
    let reading = {
        let import = Arc::clone(&import);
        spawn_blocking(move || import.read(path.zip(file), written, shape, queues))
    };
    let mut outcome = Ok(());
    while let Some(ended) = writers.join_next().await {
        let ended = ended.map_err(|panic| Failure::new(panic.to_string())).flatten();
        // The first is why the others stop.
        outcome = outcome.and(ended);
    }
    // One that waits for a line of a terminal is not waited for.
    let read = if import.stop.is_cancelled() { Ok(()) } else { reading.await.unwrap_or(Ok(())) };
    import.end(read.map_err(|error| unread(&error)).and(outcome))
}

/// The format, charset and delimiter of a file.
#[derive(Clone, Copy)]
struct Written {
    format: Format,
    charset: &'static Encoding,
    delimiter: Option<u8>,
}

/// The charset of a file, which its first bytes tell, or of other input as far as it is named.
fn charset_of(file: Option<&File>, named: Option<&'static Encoding>) -> io::Result<&'static Encoding> {
    let mut head = [0; table::MARK_BYTES];
    let length = file.map_or(Ok(0), |file| file.read_at(&mut head, 0))?;
    Ok(table::charset_of(&head[..length], named))
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

/// An import under way.
pub struct Import {
    headway: Mutex<Headway>,
    /// Cancelled when nothing more is to be written.
    pub stop: CancellationToken,
    keep_going: bool,
    json: bool,
    bar: ProgressBar,
}

impl Import {
    fn headway(&self) -> MutexGuard<'_, Headway> {
        // Nothing panics while it is held.
        self.headway.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads records and hands them out, until the end or until it is told to stop.
    fn read(
        &self,
        file: Option<(PathBuf, File)>,
        written: Written,
        shape: Shape,
        queues: Vec<mpsc::Sender<Item>>,
    ) -> io::Result<()> {
        let Written { format, charset, delimiter } = written;
        let from = self.headway().place();
        let Some((path, mut file)) = file else {
            let (head, input) = table::sampled(io::stdin().lock(), table::MARK_BYTES)?;
            let input = table::decoded(input, table::charset_of(&head, Some(charset)));
            return match format {
                Format::Jsonl => self.hand_out(records::lines(input, from, shape), &queues),
                Format::Csv => self.hand_out(records::rows(input, None, shape, delimiter)?, &queues),
            };
        };
        match format {
            Format::Jsonl => {
                // A pipe has a name too, and cannot be gone back in.
                if from.offset > 0 {
                    file.seek(SeekFrom::Start(from.offset))?;
                }
                self.hand_out(records::lines(table::decoded(file, charset), from, shape), &queues)
            }
            Format::Csv => {
                let rest = if from.offset > 0 {
                    let mut rest = File::open(path)?;
                    rest.seek(SeekFrom::Start(from.offset))?;
                    Some((table::decoded(rest, charset), from))
                } else {
                    None
                };
                self.hand_out(records::rows(table::decoded(file, charset), rest, shape, delimiter)?, &queues)
            }
        }
    }

    fn hand_out(&self, records: impl Records, queues: &[mpsc::Sender<Item>]) -> io::Result<()> {
        let room = Arc::new(Semaphore::new(READ_AHEAD_BYTES));
        let runtime = Handle::current();
        for record in records {
            let Record { line, end, doc } = record?;
            if self.stop.is_cancelled() {
                return Ok(());
            }
            self.headway().begin(line, end);
            let doc = match doc {
                Ok(doc) => doc,
                Err(why) => {
                    let problem =
                        json!({ "type": "about:blank", "title": "line refused", "status": 400, "detail": why });
                    self.refused(line, &problem);
                    continue;
                }
            };
            let bytes = doc.content.bytes().clamp(1, READ_AHEAD_BYTES) as u32;
            let Ok(room) = runtime.block_on(Arc::clone(&room).acquire_many_owned(bytes)) else { return Ok(()) };
            let queue = &queues[writer_of(&doc.collection, &doc.id, queues.len())];
            // A closed queue: its writer has failed, and says why.
            if queue.blocking_send(Item { line, doc, _room: room }).is_err() {
                return Ok(());
            }
        }
        Ok(())
    }

    /// A line is written.
    pub fn written(&self, line: u64) {
        self.headway().finish(line, true);
    }

    /// A line is refused: it is named, and that may be the end.
    pub fn refused(&self, line: u64, problem: &Value) {
        self.bar.suspend(|| {
            if self.json {
                // Where nobody reads it, the count at the end says that there was something.
                let _ = output::line(&json!({ "line": line, "problem": problem }).to_string());
            } else {
                eprintln!("line {line}: {}", text(problem, "detail"));
            }
        });
        if self.keep_going {
            self.headway().finish(line, false);
        } else {
            self.headway().refuse();
            self.stop.cancel();
        }
    }

    /// A request has been answered.
    pub fn note(&self) {
        let mut headway = self.headway();
        headway.note(false);
        self.bar.set_position(headway.place().offset);
        let Tally { written, failed } = headway.tally();
        self.bar.set_message(format!("{written} written, {failed} failed"));
    }

    fn end(&self, outcome: Result<(), Failure>) -> Result<(), Failure> {
        self.bar.finish_and_clear();
        let mut headway = self.headway();
        let stopped = self.stop.is_cancelled() && outcome.is_ok();
        let Tally { written, failed } = headway.tally();
        output::line(&if self.json {
            json!({ "written": written, "failed": failed }).to_string()
        } else {
            format!("{written} written, {failed} failed")
        })?;
        if outcome.is_ok() && !stopped {
            headway.forget();
        } else if headway.place() != Place::default() {
            headway.note(true);
        }
        outcome?;
        if stopped {
            let how = if headway.is_noted() { "the same again, and it goes on there" } else { "it again" };
            return Err(Failure::new(format!(
                "it ends at the line that was refused: mend that and run {how}; or --keep-going passes over such lines"
            )));
        }
        if failed > 0 {
            return Err(Failure::new(format!("{failed} of {} lines failed", written + failed)));
        }
        Ok(())
    }
}

fn writer_of(collection: &str, id: &str, writers: usize) -> usize {
    let mut hasher = DefaultHasher::new();
    (collection, id).hash(&mut hasher);
    (hasher.finish() % writers as u64) as usize
}
