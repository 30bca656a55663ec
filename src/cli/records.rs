//! What `import` reads: lines of JSON or rows of CSV, each made into a document to write, or refused with the reason.
//!
//! A record without an id gets one that follows from its collection, its line and what it says: read again, it is the same
//! document.

use std::io::{self, BufRead, BufReader, Read};

use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use uuid::Uuid;

use super::{
    cell,
    table::{self, Layout},
};
use crate::document::{check_collection, check_id, json};

/// Reason for which a table is not read.
const NOT_UTF8: &str = "{} is not UTF-8: name the file's charset, as in --charset windows-1252, or save it as UTF-8";
/// Longest line: far past what a node takes, so that a file which is something else is not read into memory.
const LINE_BYTES_MAX: usize = 16 << 20;
/// Levels of a line: those of a document, in the object that holds it.
const LEVELS_MAX: usize = json::DEPTH_MAX + 1;
/// What a line that holds a document may say besides; `list --json` does.
const PASSED_OVER: [&str; 3] = ["version", "stamp", "status"];

/// How documents stand in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// JSON lines: {"id":…,"value":…}, or {"id":…,"text":…} for a text.
    Jsonl,
    /// A table with a header: a column of ids, and one for each field. For documents that are objects.
    Csv,
}

/// What makes a document of a record.
#[derive(Clone, Debug)]
pub struct Shape {
    /// Where documents go; if none is named, each line names its own.
    pub collection: Option<String>,
    /// The field or column of the id.
    pub id: Option<String>,
    /// Lines are documents, and not objects that hold one.
    pub plain: bool,
    /// Rules for the cells of a table.
    pub cells: Cells,
}

/// Rules by which cells of a table become documents.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cells {
    /// Cells are strings, whatever they look like.
    pub strings: bool,
    /// A comma is the decimal sign of numbers.
    pub decimal_comma: bool,
    /// Rows without an id get one, made of the row.
    pub generate_ids: bool,
}

/// A line or a row.
#[derive(Debug, PartialEq)]
pub struct Record {
    /// The line where it begins, from 1.
    pub line: u64,
    /// Where it ends.
    pub end: Place,
    /// What it says, or why it says nothing.
    pub doc: Result<Doc, String>,
}

/// A document to write.
#[derive(Clone, Debug, PartialEq)]
pub struct Doc {
    /// Where.
    pub collection: String,
    /// Its id.
    pub id: String,
    /// What.
    pub content: Content,
}

/// What a document is.
#[derive(Clone, Debug, PartialEq)]
pub enum Content {
    /// JSON, in canonical text.
    Value(String),
    /// A text that has no formatting.
    Text(String),
    /// The text, and a list of steps that formats it.
    Formatted(String, Vec<Value>),
}

impl Content {
    /// How much memory it takes, about.
    pub fn bytes(&self) -> usize {
        match self {
            Content::Value(text) | Content::Text(text) => text.len(),
            Content::Formatted(text, steps) => text.len() + json::size(steps),
        }
    }
}

/// Records of a file, one after the other.
pub trait Records: Iterator<Item = io::Result<Record>> {}

impl<T: Iterator<Item = io::Result<Record>>> Records for T {}

/// A place in a file between two records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// In bytes.
    pub offset: u64,
    /// The line that begins there, from 0.
    pub line: u64,
}

/// Lines of JSON.
pub fn lines(input: impl Read, from: Place, shape: Shape) -> impl Records {
    let (mut input, mut at) = (BufReader::new(input), from);
    std::iter::from_fn(move || {
        loop {
            let mut line = Vec::new();
            let length = match input.by_ref().take(LINE_BYTES_MAX as u64 + 1).read_until(b'\n', &mut line) {
                Ok(0) => return None,
                Ok(length) => length,
                Err(error) => return Some(Err(error)),
            };
            at = Place { offset: at.offset + length as u64, line: at.line + 1 };
            if length > LINE_BYTES_MAX {
                let why = format!("line {} has more than {LINE_BYTES_MAX} bytes: is it JSON lines?", at.line);
                return Some(Err(io::Error::other(why)));
            }
            let text = if at.line == 1 { line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&line) } else { &line };
            if !text.trim_ascii().is_empty() {
                return Some(Ok(Record { line: at.line, end: at, doc: shape.of_line(at.line, text) }));
            }
        }
    })
}

/// The columns of a table.
#[derive(Clone, Debug)]
pub struct Columns {
    names: Vec<String>,
    id: Option<usize>,
}

impl Columns {
    fn new(header: &csv::ByteRecord, shape: &Shape) -> Result<Columns, String> {
        let names = header.iter().map(|name| String::from_utf8(name.to_vec())).collect::<Result<Vec<_>, _>>();
        let names = names.map_err(|_| NOT_UTF8.replace("{}", "the header"))?;
        if let Some(twice) = names.iter().enumerate().find(|(at, name)| names[..*at].contains(name)) {
            return Err(format!("the header names {:?} twice: give each column a name of its own", twice.1));
        }
        let wanted = shape.id.as_deref().unwrap_or("id");
        let id = names.iter().position(|name| name == wanted);
        match (id, &shape.id) {
            (None, Some(wanted)) => Err(format!("the header names no column {wanted:?}: it has {}", listed(&names))),
            (None, None) if !shape.cells.generate_ids => Err(format!(
                "the header names no column \"id\": it has {}. Name the column of ids with --id NAME, or make an id of each row \
                 with --generate-ids",
                listed(&names)
            )),
            _ => Ok(Columns { names, id }),
        }
    }
}

/// The names of columns, each in quotes.
fn listed(names: &[String]) -> String {
    names.iter().map(|name| format!("{name:?}")).collect::<Vec<_>>().join(", ")
}

/// Rows of CSV. `header` is the file from its beginning; `rest`, if given, is what comes behind a place in it. `delimiter` is the
/// one that the user names.
pub fn rows<'r, R: Read + 'r>(
    header: R,
    rest: Option<(R, Place)>,
    shape: Shape,
    delimiter: Option<u8>,
) -> io::Result<impl Records> {
    let (head, mut header) = table::sampled(header, table::SAMPLE_BYTES)?;
    let layout = Layout::of(&head, delimiter);
    // The line that names the delimiter is no row.
    io::copy(&mut header.by_ref().take(layout.skipped as u64), &mut io::sink())?;
    let begin = Place { offset: layout.skipped as u64, line: u64::from(layout.skipped > 0) };
    let reader = |input: Box<dyn Read + 'r>| {
        let mut builder = csv::ReaderBuilder::new();
        builder.has_headers(false).flexible(true).delimiter(layout.delimiter).from_reader(Bounded::new(input))
    };
    let mut first = reader(Box::new(header));
    let mut names = csv::ByteRecord::new();
    if !first.read_byte_record(&mut names)? {
        return Err(io::Error::other("there is no header: the first row names the columns"));
    }
    let columns = Columns::new(&names, &shape).map_err(io::Error::other)?;
    let (mut reader, from) = match rest {
        Some((rest, from)) => (reader(Box::new(rest)), from),
        None => (first, begin),
    };
    Ok(std::iter::from_fn(move || {
        let mut row = csv::ByteRecord::new();
        // A row without a single cell is an empty line of a sheet.
        while row.iter().all(<[u8]>::is_empty) {
            reader.get_mut().left = LINE_BYTES_MAX;
            match reader.read_byte_record(&mut row) {
                Ok(false) => return None,
                Ok(true) => {}
                Err(error) => return Some(Err(io::Error::other(error))),
            }
        }
        let begins = row.position().map_or(1, csv::Position::line);
        let behind = reader.position();
        let end = Place { offset: from.offset + behind.byte(), line: from.line + behind.line() - 1 };
        let line = from.line + begins;
        Some(Ok(Record { line, end, doc: shape.of_row(line, &columns, &row) }))
    }))
}

/// A reader that fails where one record goes on and on: an opening quote that is never closed.
struct Bounded<R> {
    inner: R,
    left: usize,
}

impl<R> Bounded<R> {
    fn new(inner: R) -> Bounded<R> {
        Bounded { inner, left: LINE_BYTES_MAX }
    }
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.left == 0 {
            let why = format!("a row has more than {LINE_BYTES_MAX} bytes: is there a quote that is not closed?");
            return Err(io::Error::other(why));
        }
        let length = self.inner.read(buffer)?;
        self.left = self.left.saturating_sub(length);
        Ok(length)
    }
}

impl Shape {
    fn of_line(&self, line: u64, text: &[u8]) -> Result<Doc, String> {
        let value = json::parse_within(text.trim_ascii(), LEVELS_MAX).map_err(|error| error.to_string())?;
        if self.plain { self.of_plain(line, value) } else { self.of_envelope(line, value) }
    }

    /// A line that is the document.
    fn of_plain(&self, line: u64, value: Value) -> Result<Doc, String> {
        let id = match &self.id {
            Some(name) => Some(id_in(value.get(name), name)?),
            None => None,
        };
        self.document(line, None, id, Content::Value(written(&value)?))
    }

    /// A line that holds the document.
    fn of_envelope(&self, line: u64, value: Value) -> Result<Doc, String> {
        let Value::Object(mut fields) = value else {
            return Err("a line is an object {\"id\":…,\"value\":…}; --plain takes each line as a document".into());
        };
        PASSED_OVER.iter().for_each(|name| drop(fields.remove(*name)));
        let collection = match fields.remove("collection") {
            Some(Value::String(name)) => Some(name),
            None => None,
            Some(_) => return Err("\"collection\" is a string".into()),
        };
        let id = fields.remove("id").map(|id| id_in(Some(&id), "id")).transpose()?;
        let content = content(&mut fields)?;
        if let Some(unknown) = fields.keys().next() {
            return Err(format!(
                "no field {unknown:?} is known: a line is {{\"id\":…,\"value\":…}}; --plain takes each line as a document"
            ));
        }
        self.document(line, collection, id, content)
    }

    fn of_row(&self, line: u64, columns: &Columns, row: &csv::ByteRecord) -> Result<Doc, String> {
        if row.len() != columns.names.len() {
            return Err(format!("it has {} cells, and the header has {}", row.len(), columns.names.len()));
        }
        let (mut fields, mut id) = (Map::new(), None);
        for (column, (name, cell)) in columns.names.iter().zip(row).enumerate() {
            let cell =
                std::str::from_utf8(cell).map_err(|_| NOT_UTF8.replace("{}", &format!("the cell of {name:?}")))?;
            if columns.id == Some(column) {
                id = (!cell.is_empty()).then(|| cell.to_string());
                if id.is_none() && !self.cells.generate_ids {
                    return Err(format!("its cell of {name:?}, the id, is empty: fill it, or use --generate-ids"));
                }
            } else if self.cells.strings {
                fields.insert(name.clone(), cell.into());
            } else if let Some(value) = self.cells.value(cell) {
                fields.insert(name.clone(), value);
            }
        }
        self.document(line, None, id, Content::Value(written(&Value::Object(fields))?))
    }

    fn document(&self, line: u64, named: Option<String>, id: Option<String>, content: Content) -> Result<Doc, String> {
        let collection = match (&self.collection, named) {
            (Some(given), Some(named)) if *given != named => {
                return Err(format!(
                    "it names the collection {named:?}; with --all each goes to the one that it names"
                ));
            }
            (Some(given), _) => given.clone(),
            (None, Some(named)) => named,
            (None, None) => return Err("it names no \"collection\": name one for all in the place of --all".into()),
        };
        let id = id.unwrap_or_else(|| made_id(&collection, line, &content));
        check_collection(&collection).and_then(|()| check_id(&id)).map_err(|fault| fault.to_string())?;
        Ok(Doc { collection, id, content })
    }
}

impl Cells {
    /// The value of a cell, if it has one.
    fn value(self, cell: &str) -> Option<Value> {
        if !self.decimal_comma {
            return cell::read(cell);
        }
        let as_text = || Some(Value::from(cell));
        match table::with_point(cell) {
            // One of too many digits stays what it is in the table.
            Some(number) => cell::read(&number).filter(Value::is_number).or_else(as_text),
            None if cell.contains('.') => as_text(),
            None => cell::read(cell),
        }
    }
}

fn id_in(value: Option<&Value>, name: &str) -> Result<String, String> {
    match value {
        Some(Value::String(id)) => Ok(id.clone()),
        Some(Value::Number(id)) => Ok(id.to_string()),
        Some(_) => Err(format!("the id in {name:?} is a string or a number")),
        None => Err(format!("it has no field {name:?}, which is to be its id")),
    }
}

fn content(fields: &mut Map<String, Value>) -> Result<Content, String> {
    match (fields.remove("value"), fields.remove("text"), fields.remove("delta")) {
        (Some(value), None, None) => Ok(Content::Value(written(&value)?)),
        (None, Some(Value::String(text)), None) => Ok(Content::Text(text)),
        (None, None, Some(Value::Array(delta))) => formatted(delta),
        (_, Some(Value::Bool(true)), None) => {
            Err("its text is not in it: lamplight export writes texts as what they are".into())
        }
        _ => Err(format!(
            "it needs one of \"value\", \"text\" (a string) and \"delta\" (a list){}",
            fields.keys().next().map(|other| format!("; {other:?} is unknown")).unwrap_or_default()
        )),
    }
}

/// The text of a delta, and what formats it.
fn formatted(delta: Vec<Value>) -> Result<Content, String> {
    let (mut text, mut steps) = (String::new(), Vec::new());
    for mut step in delta {
        let Some(insert) = step["insert"].as_str() else {
            return Err("a delta of strings only can be written: {\"insert\":\"…\",\"attributes\":{…}}".into());
        };
        text.push_str(insert);
        let mut kept = Map::from_iter([("retain".to_string(), Value::from(insert.encode_utf16().count()))]);
        if let Some(attributes) = step.get_mut("attributes") {
            kept.insert("attributes".into(), attributes.take());
        }
        steps.push(Value::Object(kept));
    }
    Ok(Content::Formatted(text, steps))
}

fn written(value: &Value) -> Result<String, String> {
    json::write(value).map_err(|error| error.to_string())
}

/// The id of a document that brings none.
fn made_id(collection: &str, line: u64, content: &Content) -> String {
    let mut hasher = blake3::Hasher::new_derive_key("lamplight 2026-11 id of an imported line");
    let text = match content {
        Content::Value(text) | Content::Text(text) | Content::Formatted(text, _) => text,
    };
    hasher.update(collection.as_bytes()).update(&[0]).update(&line.to_be_bytes()).update(text.as_bytes());
    let mut bytes = [0; 16];
    hasher.finalize_xof().fill(&mut bytes);
    Uuid::new_v8(bytes).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(id: Option<&str>, plain: bool) -> Shape {
        Shape { collection: Some("notes".into()), id: id.map(Into::into), plain, cells: Cells::default() }
    }

    fn told(records: impl Records) -> Vec<(u64, u64, String)> {
        let text = |doc: Result<Doc, String>| match doc {
            Ok(Doc { id, content: Content::Value(value), .. }) => format!("{id}={value}"),
            Ok(Doc { id, content, .. }) => format!("{id}={content:?}"),
            Err(why) => why,
        };
        records.map(|record| record.map(|record| (record.line, record.end.offset, text(record.doc))).unwrap()).collect()
    }

    #[test]
    fn lines_are_counted_and_say_what_is_wrong_with_them() {
        let text = "\n{\"id\":\"a\",\"value\":1}\r\n\n{\"id\":7,\"text\":\"t\"}\n{\"id\":\"c\",\"valu\":1}";
        let told = told(lines(text.as_bytes(), Place::default(), shape(None, false)));
        assert_eq!(told[0], (2, 23, "a=1".into()));
        assert_eq!(told[1], (4, 44, "7=Text(\"t\")".into()));
        assert!(told[2].0 == 5 && told[2].2.contains("valu"), "{told:?}");
        assert_eq!(told.len(), 3);
    }

    #[test]
    fn a_line_without_an_id_gets_the_same_one_again() {
        let text = b"{\"value\":1}\n{\"value\":1}\n";
        let first = told(lines(&text[..], Place::default(), shape(None, false)));
        let again = told(lines(&text[12..], Place { offset: 12, line: 1 }, shape(None, false)));
        assert_eq!(first[1..], again[..]);
        assert_ne!(first[0].2, first[1].2, "two lines are two documents, also if they say the same");
    }

    #[test]
    fn plain_lines_keep_the_field_of_their_id() {
        let text = "{\"sku\":\"x\",\"n\":1}\n{\"n\":2}\n3\n";
        let told = told(lines(text.as_bytes(), Place::default(), shape(Some("sku"), true)));
        assert_eq!(told[0].2, "x={\"n\":1,\"sku\":\"x\"}");
        assert!(told[1].2.contains("no field \"sku\"") && told[2].2.contains("no field"), "{told:?}");
    }

    #[test]
    fn rows_are_typed_and_go_on_behind_a_place() {
        let text = "id,name,n\na,\"two\nlines\",1\nb,,\"\"\"1\"\"\"\nc,x\n";
        let all = told(rows(text.as_bytes(), None, shape(None, false), None).unwrap());
        assert_eq!(all[0].2, "a={\"n\":1,\"name\":\"two\\nlines\"}");
        assert_eq!((all[0].0, all[0].1), (2, 26));
        assert_eq!((all[1].0, &*all[1].2), (4, "b={\"n\":\"1\"}"));
        assert!(all[2].2.contains("it has 2 cells, and the header has 3"), "{all:?}");
        let place = rows(text.as_bytes(), None, shape(None, false), None).unwrap().next().unwrap().unwrap().end;
        assert_eq!(place, Place { offset: 26, line: 3 });
        let rest = rows(text.as_bytes(), Some((&text.as_bytes()[26..], place)), shape(None, false), None).unwrap();
        assert_eq!(told(rest), all[1..]);
    }

    #[test]
    fn a_header_that_names_a_column_twice_or_not_at_all_is_refused() {
        let why =
            |text: &'static str, id| rows(text.as_bytes(), None, shape(id, false), None).err().unwrap().to_string();
        assert!(why("a,b,a\n", None).contains("\"a\" twice"));
        assert!(why("a,b\n", Some("sku")).contains("no column \"sku\""));
        assert!(why("", None).contains("no header"));
    }

    /// The documents of a file as a spreadsheet program wrote it.
    fn exported(name: &str, cells: Cells, charset: Option<&str>) -> Vec<String> {
        let bytes = std::fs::read(format!("{}/tests/fixtures/csv/{name}", env!("CARGO_MANIFEST_DIR"))).unwrap();
        let charset = table::charset_of(&bytes, charset.map(|label| table::charset(label).unwrap()));
        let shape = Shape { cells, ..shape(None, false) };
        let rows = rows(table::decoded(&bytes[..], charset), None, shape, None);
        rows.map_or_else(|error| vec![error.to_string()], |rows| told(rows).into_iter().map(|(.., doc)| doc).collect())
    }

    #[test]
    fn tables_of_spreadsheet_programs_are_read() {
        let comma = Cells { decimal_comma: true, ..Cells::default() };
        let check = |name, cells, expected: &[&str]| assert_eq!(exported(name, cells, None), expected, "{name}");
        let german = [
            r#"1={"Menge":10,"Name":"Grüner Tee","Preis":2.5}"#,
            r#"2={"Menge":-3,"Name":"Öl; kalt gepresst","Preis":1234}"#,
        ];
        check("excel-german-utf8.csv", comma, &german);
        check(
            "excel-english.csv",
            Cells::default(),
            &[r#"1={"name":"Green tea","note":"mild, fresh","price":2.5}"#, r#"2={"name":"Oil","price":12}"#],
        );
        check(
            "excel-unicode-text.txt",
            Cells::default(),
            &[
                r#"1={"name":"Grüner Tee","price":"2,50"}"#,
                r#"2={"name":"two\nlines","price":3}"#,
                r#"3={"name":"😀","price":4}"#,
            ],
        );
        check("excel-sep-line.csv", Cells::default(), &[r#"1={"name":"a,b"}"#, r#"2={"name":"c,d"}"#]);
        check(
            "libreoffice.csv",
            Cells::default(),
            &[r#"1={"n":2.5,"name":"Tee, grün"}"#, r#"2={"n":3,"name":"sagt \"ja\""}"#],
        );
        check(
            "google-sheets.csv",
            Cells::default(),
            &[r#"a={"address":"1 Main St\r\nSpringfield","name":"Ada"}"#, r#"b={"name":"Bob"}"#],
        );
        check(
            "numbers-french.csv",
            comma,
            &[r#"1={"désignation":"Thé vert","prix":1234.5}"#, r#"2={"désignation":"Huile","prix":12.5}"#],
        );
        check("tabs.tsv", Cells::default(), &[r#"1={"name":"a;b,c","tags":"x,y"}"#, r#"2={"name":"d","tags":"z"}"#]);
        check("pipes.csv", Cells::default(), &[r#"1={"name":"a,b","note":"c;d"}"#, r#"2={"name":"e","note":"f"}"#]);
        check(
            "quoted-newlines.csv",
            Cells::default(),
            &[r#"1={"text":"first;\r\nsecond"}"#, r#"2={"text":"a;b;c\r\n;d"}"#],
        );
        check("utf16-big-endian.csv", Cells::default(), &[r#"1={"name":"Tee"}"#]);
        check("one-column.csv", Cells::default(), &["1={}", "2={}"]);
        let blank = exported("blank-rows.csv", Cells::default(), None);
        assert_eq!((blank.len(), &*blank[0], &*blank[1]), (3, r#"1={"name":"a"}"#, r#"2={"name":"b"}"#), "{blank:?}");
        assert!(blank[2].contains("is empty") && blank[2].contains("--generate-ids"), "{blank:?}");
    }

    #[test]
    fn a_table_without_ids_or_in_another_charset_says_what_to_do() {
        let told = exported("without-ids.csv", Cells::default(), None);
        assert!(
            told[0].contains(r#""Name", "Ort""#) && told[0].contains("--id NAME") && told[0].contains("--generate-ids"),
            "{told:?}"
        );
        let made = exported("without-ids.csv", Cells { generate_ids: true, ..Cells::default() }, None);
        assert!(made.len() == 2 && made[0].ends_with(r#"={"Name":"Ada","Ort":"Köln"}"#), "{made:?}");
        let ansi = exported("excel-german.csv", Cells::default(), None);
        assert!(ansi[0].contains("--charset windows-1252"), "{ansi:?}");
        let named = exported("excel-german.csv", Cells::default(), Some("windows-1252"));
        assert_eq!(named[0], r#"1={"Menge":10,"Name":"Grüner Tee","Preis":"2,50"}"#);
    }

    #[test]
    fn a_delta_is_its_text_and_what_formats_it() {
        let line =
            "{\"id\":\"a\",\"delta\":[{\"insert\":\"bold\",\"attributes\":{\"bold\":true}},{\"insert\":\" 😀\"}]}";
        let record = lines(line.as_bytes(), Place::default(), shape(None, false)).next().unwrap().unwrap();
        let steps = vec![
            serde_json::json!({ "retain": 4, "attributes": { "bold": true } }),
            serde_json::json!({ "retain": 3 }),
        ];
        assert_eq!(record.doc.unwrap().content, Content::Formatted("bold 😀".into(), steps));
    }
}
