//! `history`: what happened to a document, op by op, and what was overwritten.

use clap::{Args, builder::NonEmptyStringValueParser};
use serde_json::Value;

use super::{
    Failure,
    client::{Client, Target, doc_path, encoded},
    output,
};

/// Most ops that a node gives in one answer.
const PAGE_MAX: u64 = 1_000;
/// Ops that are shown if nobody says how many.
const DEFAULT: u64 = 100;

/// Flags of `history`.
#[derive(Args, Debug)]
#[command(after_help = examples!(
    "  lamplight history notes milk
  lamplight history notes milk --newest --limit 5
  lamplight history notes milk --values --json | jq -c 'select(.overwrote != []) | {op,overwrote}'

Each line is an operation: its stamp, when its node's clock said it was, what became of it, what it did, and which
operations it overwrote without having seen them. What they wrote is still there: lamplight get --at TIME, with the
time before the @ of their stamp."
))]
pub struct HistoryArgs {
    /// The collection.
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    collection: String,
    /// The document's id.
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    id: String,
    /// Show at most so many operations.
    #[arg(long, value_name = "N", default_value_t = DEFAULT, value_parser = clap::value_parser!(u64).range(1..))]
    limit: u64,
    /// Begin with the newest.
    #[arg(long)]
    newest: bool,
    /// Show the document after each operation.
    #[arg(long)]
    values: bool,
    /// Go on behind this stamp.
    #[arg(long, value_name = "STAMP")]
    since: Option<String>,
    #[command(flatten)]
    pub(super) target: Target,
}

/// Prints a document's history.
pub async fn history(args: HistoryArgs) -> Result<(), Failure> {
    let client = Client::new(&args.target);
    let order = if args.newest { "desc" } else { "asc" };
    let path = format!("{}/history?order={order}&values={}", doc_path(&args.collection, &args.id), args.values);
    let (mut left, mut since, mut first) = (args.limit, args.since.clone(), true);
    loop {
        let behind = since.as_ref().map(|since| format!("&since={}", encoded(since))).unwrap_or_default();
        let page = client.get(&format!("{path}&limit={}{behind}", left.min(PAGE_MAX))).await?.json()?;
        let horizon = output::text(&page["since"], "time");
        if first && horizon != "0" && !args.target.json {
            eprintln!("lamplight: what happened up to time {horizon} is forgotten");
        }
        first = false;
        let ops = page["ops"].as_array().map(Vec::as_slice).unwrap_or_default();
        for op in ops {
            output::line(&if args.target.json { op.to_string() } else { row(op) })?;
        }
        left = left.saturating_sub(ops.len() as u64);
        since = page["next"].as_str().map(String::from);
        if since.is_none() {
            return Ok(());
        }
        if left == 0 {
            if !args.target.json {
                eprintln!("lamplight: there are more operations; --limit N shows more of them");
            }
            return Ok(());
        }
    }
}

/// An op on one line, the document after it and what it overwrote included.
fn row(op: &Value) -> String {
    let mut row = [output::text(op, "stamp"), output::text(op, "wall"), standing(op), &deeds(op)].join("\t");
    if let Some(reason) = op["reason"].as_str() {
        row.push_str(&format!("\t({reason})"));
    }
    let edits = op["commands"].as_array().is_some_and(|commands| commands.iter().any(|its| its["text"].is_object()));
    if let Some(value) = op.get("value").filter(|_| !edits) {
        row.push_str(&format!("\tthen {value}"));
    }
    let named = |name: &str| op[name].as_array().map(Vec::as_slice).unwrap_or_default();
    if !named("overwrote").is_empty() {
        let ops: Vec<&str> = named("overwrote").iter().filter_map(Value::as_str).collect();
        let more = if op["overwrote_more"] == true { " and more" } else { "" };
        row.push_str(&format!("\toverwrote {}{more}", ops.join(" ")));
    }
    row
}

/// `applied` or `rejected` while that may still turn, and else `final`, or `rejected` for good.
fn standing(op: &Value) -> &str {
    match (output::text(op, "status"), output::text(op, "verdict")) {
        ("tentative", "rejected") => "tentative: rejected",
        (status, _) => status,
    }
}

/// What an op did to the document: `put {…}`, or, where it only read it, `read`.
fn deeds(op: &Value) -> String {
    let commands = op["commands"].as_array().map(Vec::as_slice).unwrap_or_default();
    let deeds = commands.iter().filter_map(Value::as_object).flatten().map(|(verb, says)| {
        if let Some(update) = says["update"].as_str() {
            return format!("edit of {} bytes", update.trim_end_matches('=').len() * 3 / 4);
        }
        let what = says.get("value").or_else(|| says.get("patch"));
        what.map_or(verb.clone(), |what| format!("{verb} {what}"))
    });
    let deeds: Vec<String> = deeds.collect();
    if deeds.is_empty() { "read".into() } else { deeds.join(", ") }
}
