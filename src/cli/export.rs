//! `export`: the documents of one collection or of all, as lines of JSON or as CSV, from which `import` makes the same.
//!
//! Pages are written as they come, so nothing is held but one. A table needs its columns first: there the documents are read
//! twice.

use std::{
    collections::BTreeSet,
    fs::File,
    io::{self, BufWriter, IsTerminal, Write},
    path::{Path, PathBuf},
};

use clap::{Args, builder::NonEmptyStringValueParser};
use futures_util::{StreamExt, TryStreamExt, stream};
use hyper::{Request, header};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Map, Value, json};

use super::{
    Failure, cell,
    client::{Client, Target, doc_path},
    documents::When,
    output::{self, text},
    pages::{self, Pages, Wanted},
    records::Format,
};

/// Texts that are asked for at once: each is a request of its own.
const TEXTS_AT_ONCE: usize = 8;

/// Flags of `export`.
#[derive(Args, Debug)]
#[command(after_help = examples!(
    "  lamplight export notes >notes.ndjson
  lamplight export notes --filter '{\"buy\":true}' --format csv --output buy.csv
  lamplight export --all --final --output pool.ndjson
  lamplight export --all | lamplight import --all --url http://other:7171

A text comes as \"text\" or, if it has formatting, as \"delta\": what REST reads of it. Its history, its carets and other
roots of a Yjs document stay behind; lamplight backup copies all."
))]
pub struct ExportArgs {
    /// The collection.
    #[arg(value_parser = NonEmptyStringValueParser::new(), required_unless_present = "all")]
    collection: Option<String>,
    /// All collections; each line names its own.
    #[arg(long, conflicts_with = "collection")]
    all: bool,
    /// Only documents that this selector holds for ($gt $gte $lt $lte $ne $in $exists $contains $and $or $not).
    #[arg(long, value_name = "JSON")]
    filter: Option<String>,
    #[command(flatten)]
    when: When,
    /// What is written; CSV if the name of --output ends so, else JSON lines. CSV is for collections of objects: a row each, a
    /// column a field, cells as `import --help` says.
    #[arg(long, value_enum)]
    format: Option<Format>,
    /// The file to write, in the place of standard output. It is there once it is whole.
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    /// The column of ids in CSV.
    #[arg(long, value_name = "NAME", default_value = "id")]
    id: String,
    #[command(flatten)]
    pub(super) target: Target,
}

/// Writes documents to a file.
pub async fn export(args: ExportArgs) -> Result<(), Failure> {
    let is_csv = args.output.as_deref().and_then(Path::extension).is_some_and(|end| end.eq_ignore_ascii_case("csv"));
    let format = args.format.unwrap_or(if is_csv { Format::Csv } else { Format::Jsonl });
    let client = Client::new(&args.target);
    let held = pages::collections(&client).await?;
    let held = held.iter().filter(|held| args.collection.as_ref().is_none_or(|name| held["name"] == **name));
    let (names, counts): (Vec<String>, Vec<u64>) =
        held.map(|held| (text(held, "name").to_string(), held["docs"].as_u64().unwrap_or_default())).unzip();
    let names = args.collection.clone().map_or(names, |name| vec![name]);
    let wanted = Wanted { filter: args.filter.as_deref(), sort: None, when: args.when.parameter() };
    let export = Export { client, wanted, names: args.all, bar: progress(counts.iter().sum(), args.output.is_some()) };
    let mut out = Out::open(args.output)?;
    match format {
        Format::Csv if args.all => {
            return Err(Failure::usage("CSV holds one collection: name it in the place of --all"));
        }
        Format::Csv => export.rows(names.first().map_or("", String::as_str), &args.id, &mut out).await?,
        Format::Jsonl => export.lines(&names, &mut out).await?,
    }
    let documents = export.bar.position();
    export.bar.finish_and_clear();
    match out.close()? {
        None => Ok(()),
        Some(_) if args.target.json => output::line(&json!({ "documents": documents }).to_string()),
        Some(path) => output::line(&format!("{documents} documents in {}", path.display())),
    }
}

/// Shown on a terminal, if it is not there that documents are written.
fn progress(documents: u64, to_file: bool) -> ProgressBar {
    if !to_file && io::stdout().is_terminal() {
        return ProgressBar::hidden();
    }
    let template = "{bar:40} {human_pos} of {human_len} documents, {eta} left";
    ProgressBar::new(documents).with_style(ProgressStyle::with_template(template).expect("a constant template"))
}

/// What is exported.
struct Export<'a> {
    client: Client,
    wanted: Wanted<'a>,
    /// Whether lines name their collection.
    names: bool,
    bar: ProgressBar,
}

impl Export<'_> {
    async fn lines(&self, collections: &[String], out: &mut Out) -> Result<(), Failure> {
        for collection in collections {
            let mut walk = Pages::new(&self.client, collection, &self.wanted, None);
            while let Some(docs) = walk.next().await? {
                let lines = stream::iter(docs).map(|doc| self.line(collection, doc)).buffered(TEXTS_AT_ONCE);
                for line in lines.try_collect::<Vec<_>>().await?.into_iter().flatten() {
                    out.write(&format!("{line}\n"))?;
                    self.bar.inc(1);
                }
            }
        }
        Ok(())
    }

    /// The line of a document; none if it was a text and is gone meanwhile.
    async fn line(&self, collection: &str, mut doc: Value) -> Result<Option<Value>, Failure> {
        let (name, content) = if doc["text"] == true {
            let Some(content) = self.text(collection, text(&doc, "id")).await? else { return Ok(None) };
            content
        } else {
            ("value", doc["value"].take())
        };
        let mut line = Map::new();
        if self.names {
            line.insert("collection".into(), collection.into());
        }
        line.insert("id".into(), doc["id"].take());
        line.insert(name.into(), content);
        Ok(Some(line.into()))
    }

    async fn text(&self, collection: &str, id: &str) -> Result<Option<(&'static str, Value)>, Failure> {
        let when = self.wanted.when.as_ref().map(|parameter| format!("?{parameter}")).unwrap_or_default();
        let request = Request::get(format!("{}{when}", doc_path(collection, id)));
        let mut delta = match self.client.send(request.header(header::ACCEPT, "application/json"), "".into()).await {
            Ok(answer) => answer.json()?,
            Err(Failure { code: 3, .. }) => return Ok(None),
            Err(failure) => return Err(failure),
        };
        let Value::Array(steps) = delta["ops"].take() else {
            return Err(Failure::new(format!(
                "{collection}/{id} was a text, and has become another document: export again"
            )));
        };
        let plain =
            |step: &Value| (step.get("attributes").is_none()).then(|| step["insert"].as_str().map(String::from));
        let pieces: Option<String> = steps.iter().map(|step| plain(step).flatten()).collect();
        Ok(Some(pieces.map_or_else(|| ("delta", steps.into()), |text| ("text", text.into()))))
    }

    async fn rows(&self, collection: &str, id: &str, out: &mut Out) -> Result<(), Failure> {
        let fields = self.fields(collection, id).await?;
        let names = std::iter::once(id).chain(fields.iter().map(String::as_str));
        let mut row = csv::Writer::from_writer(Vec::new());
        row.write_record(names).map_err(unwritten)?;
        let mut walk = Pages::new(&self.client, collection, &self.wanted, None);
        while let Some(docs) = walk.next().await? {
            for doc in &docs {
                let value = object(collection, doc)?;
                if let Some(new) = value.keys().find(|name| !fields.contains(*name)) {
                    return Err(Failure::new(format!(
                        "{collection}/{} has a field {new:?} since a moment ago, and there is no column for it: export again",
                        text(doc, "id")
                    )));
                }
                let cells = fields.iter().map(|name| value.get(name).map(cell::write).unwrap_or_default());
                row.write_record(std::iter::once(text(doc, "id").to_string()).chain(cells)).map_err(unwritten)?;
                self.bar.inc(1);
            }
            row.flush().map_err(unwritten)?;
            let bytes = row.into_inner().map_err(unwritten)?;
            out.write(&String::from_utf8_lossy(&bytes))?;
            row = csv::Writer::from_writer(Vec::new());
        }
        Ok(())
    }

    /// The fields of all documents.
    async fn fields(&self, collection: &str, id: &str) -> Result<BTreeSet<String>, Failure> {
        let mut fields = BTreeSet::new();
        let mut walk = Pages::new(&self.client, collection, &self.wanted, None);
        while let Some(docs) = walk.next().await? {
            for doc in &docs {
                fields.extend(
                    object(collection, doc)?.keys().filter(|name| !fields.contains(*name)).cloned().collect::<Vec<_>>(),
                );
            }
        }
        if fields.contains(id) {
            let advice = "name the column of ids otherwise, with --id NAME, here and at the import";
            return Err(Failure::new(format!("documents have a field {id:?}: {advice}")));
        }
        Ok(fields)
    }
}

fn object<'a>(collection: &str, doc: &'a Value) -> Result<&'a Map<String, Value>, Failure> {
    doc["value"].as_object().ok_or_else(|| {
        let id = text(doc, "id");
        Failure::new(format!("{collection}/{id} is no object, and CSV holds objects only: use --format jsonl"))
    })
}

fn unwritten(error: impl std::fmt::Display) -> Failure {
    Failure::new(format!("no CSV can be made: {error}"))
}

/// Where documents go.
enum Out {
    Stdout(BufWriter<io::Stdout>),
    /// A file, under another name until it is whole.
    File(BufWriter<File>, PathBuf),
}

impl Out {
    fn open(path: Option<PathBuf>) -> Result<Out, Failure> {
        let Some(path) = path.filter(|path| path.as_os_str() != "-") else {
            return Ok(Out::Stdout(BufWriter::new(io::stdout())));
        };
        let file = File::create(part(&path)).map_err(|error| failed(&path, &error))?;
        Ok(Out::File(BufWriter::new(file), path))
    }

    fn write(&mut self, text: &str) -> Result<(), Failure> {
        match self {
            Out::Stdout(out) => out.write_all(text.as_bytes()).map_err(|error| output::unwritten(&error)),
            Out::File(out, path) => out.write_all(text.as_bytes()).map_err(|error| failed(path, &error)),
        }
    }

    /// Writes what is left; the name of the file, if it is one.
    fn close(self) -> Result<Option<PathBuf>, Failure> {
        match self {
            Out::Stdout(mut out) => out.flush().map(|()| None).map_err(|error| output::unwritten(&error)),
            Out::File(out, path) => {
                let file = out.into_inner().map_err(|error| failed(&path, error.error()))?;
                let kept = file.sync_all().and_then(|()| std::fs::rename(part(&path), &path));
                kept.map_err(|error| failed(&path, &error))?;
                Ok(Some(path))
            }
        }
    }
}

fn part(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".part");
    name.into()
}

fn failed(path: &Path, error: &io::Error) -> Failure {
    Failure::new(format!("cannot write {}: {}", path.display(), output::words(error)))
}
