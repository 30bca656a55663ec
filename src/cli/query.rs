//! `query`: the documents of a collection that a selector holds for, as a table for people.
//!
//! A page is drawn when it is there. The first decides on the columns and their widths.

use std::collections::BTreeMap;

use clap::{Args, builder::NonEmptyStringValueParser};
use serde_json::Value;

use super::{
    Failure, cell,
    client::{Client, Target},
    documents::{LIST_DEFAULT, MORE, When},
    output::{self, text},
    pages::{Pages, Wanted},
};

/// Most columns of fields: the most frequent ones are shown.
const COLUMNS_MAX: usize = 12;
/// Widest cell on a terminal, in characters.
const CELL_CHARS_MAX: usize = 40;

/// Flags of `query`.
#[derive(Args, Debug)]
#[command(after_help = examples!(
    "  lamplight query notes --filter '{\"buy\":true}'
  lamplight query orders --filter '{\"total\":{\"$gte\":100},\"paid\":{\"$ne\":true}}' --sort -total --limit 20
  lamplight query accounts --final --all
  lamplight query notes --filter '{\"litres\":{\"$exists\":true}}' --json | jq .value"
))]
pub struct QueryArgs {
    /// The collection.
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    collection: String,
    /// Only documents that this selector holds for ($gt $gte $lt $lte $ne $in $exists $contains $and $or $not).
    #[arg(long, value_name = "JSON")]
    filter: Option<String>,
    /// Order by this field, or downwards by -FIELD; by id if left out.
    #[arg(long, value_name = "FIELDS", allow_hyphen_values = true)]
    sort: Option<String>,
    /// Show at most so many documents.
    #[arg(long, value_name = "N", default_value_t = LIST_DEFAULT, value_parser = clap::value_parser!(u64).range(1..))]
    limit: u64,
    /// Show all documents.
    #[arg(long, conflicts_with = "limit")]
    all: bool,
    #[command(flatten)]
    when: When,
    #[command(flatten)]
    pub(super) target: Target,
}

/// Shows documents.
pub async fn query(args: QueryArgs) -> Result<(), Failure> {
    let client = Client::new(&args.target);
    let when = args.when.parameter();
    let wanted = Wanted { filter: args.filter.as_deref(), sort: args.sort.as_deref(), when };
    let mut pages = Pages::new(&client, &args.collection, &wanted, (!args.all).then_some(args.limit));
    let (mut table, mut count) = (None, 0);
    while let Some(docs) = pages.next().await? {
        count += docs.len();
        if args.target.json {
            docs.iter().try_for_each(|doc| output::line(&doc.to_string()))?;
        } else if !docs.is_empty() {
            let rows = docs.iter().map(Row::of).collect::<Vec<_>>();
            let begins = table.is_none();
            let table = table.get_or_insert_with(|| Table::of(&rows));
            if begins {
                table.print(&table.head())?;
            }
            rows.iter().try_for_each(|row| table.print(&table.cells(row)))?;
        }
    }
    // Beside the table, so that what reads it need not know of them.
    if !args.target.json && output::to_people() {
        eprintln!("{count} documents");
    }
    if pages.more() && !args.target.json {
        eprintln!("lamplight: {MORE}");
    }
    Ok(())
}

/// A document's cells, by the column.
struct Row {
    id: String,
    cells: BTreeMap<String, String>,
}

/// The column of what is no object.
const WHOLE: &str = "(value)";

impl Row {
    fn of(doc: &Value) -> Row {
        let cells = match &doc["value"] {
            _ if doc["text"] == true => BTreeMap::from([(WHOLE.into(), "(text)".into())]),
            Value::Object(fields) => fields.iter().map(|(name, value)| (name.clone(), cell::write(value))).collect(),
            value => BTreeMap::from([(WHOLE.into(), cell::write(value))]),
        };
        Row { id: text(doc, "id").into(), cells }
    }
}

/// Columns, the id's first, and how wide they are.
struct Table {
    columns: Vec<(String, usize)>,
    cell_max: usize,
}

impl Table {
    fn of(rows: &[Row]) -> Table {
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        rows.iter().flat_map(|row| row.cells.keys()).for_each(|name| *counts.entry(name).or_default() += 1);
        let mut names: Vec<&str> = counts.keys().copied().collect();
        names.sort_by_key(|name| std::cmp::Reverse(counts[name]));
        names.truncate(COLUMNS_MAX);
        // What is cut off is told to people, and not to programs.
        let cell_max = if output::to_people() { CELL_CHARS_MAX } else { usize::MAX };
        let mut table = Table { columns: Vec::new(), cell_max };
        let id = rows.iter().map(|row| width(&table.shown(&row.id))).max().unwrap_or(0);
        table.columns.push(("ID".into(), id.max(2)));
        for name in names {
            let widest = rows.iter().filter_map(|row| row.cells.get(name)).map(|cell| width(&table.shown(cell))).max();
            table.columns.push((name.into(), widest.unwrap_or(0).max(width(name))));
        }
        table
    }

    fn head(&self) -> Vec<String> {
        self.columns.iter().map(|(name, _)| name.clone()).collect()
    }

    fn cells(&self, row: &Row) -> Vec<String> {
        let fields = self.columns.iter().skip(1);
        let fields = fields.map(|(name, _)| row.cells.get(name).map(|cell| self.shown(cell)).unwrap_or_default());
        std::iter::once(self.shown(&row.id)).chain(fields).collect()
    }

    /// A cell in one line, cut where it is too wide.
    fn shown(&self, cell: &str) -> String {
        let cell: String = cell.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        if width(&cell) <= self.cell_max {
            return cell;
        }
        cell.chars().take(self.cell_max - 1).chain(['…']).collect()
    }

    fn print(&self, cells: &[String]) -> Result<(), Failure> {
        let padded = cells.iter().zip(&self.columns).map(|(cell, (_, width))| format!("{cell:width$}"));
        output::line(padded.collect::<Vec<_>>().join("  ").trim_end())
    }
}

fn width(text: &str) -> usize {
    text.chars().count()
}
