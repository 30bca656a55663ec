//! `status`: the pool as one node sees it, and the health check of containers.

use clap::Args;
use serde_json::Value;

use super::{
    Failure,
    client::{Client, Target},
    members,
    output::{self, text},
    status_watch,
};

/// Flags of `status`.
#[derive(Args, Debug)]
#[command(after_help = examples!(
    "  lamplight status
  lamplight status --url http://127.0.0.1:7172 --json | jq '.members[].head'
  lamplight status --ready && echo 'it takes reads and writes'
  lamplight status --watch

With --watch it shows the pool again each second, with the operations that came meanwhile; with --json as one object a
line, {\"problem\":{…}} while no node answers. It ends with code 0 on Ctrl-C or when nobody reads on.
With --ready: 0 ready, 1 not ready or not reached, as health checks have it. Else:"
))]
pub struct StatusArgs {
    /// Print nothing; succeed if the node takes reads and writes.
    #[arg(long)]
    ready: bool,
    /// Show it again each second, as long as it is not interrupted: who holds finality back, and how much each member
    /// writes.
    #[arg(long, conflicts_with = "ready")]
    watch: bool,
    #[command(flatten)]
    pub(super) target: Target,
}

/// Shows the pool, or tells whether the node is ready.
pub async fn status(args: StatusArgs) -> Result<(), Failure> {
    let client = Client::new(&args.target);
    if args.ready {
        // Docker reserves all codes of a health check but 0 and 1.
        return client.ready().await.map(drop).map_err(|failure| Failure { code: 1, ..failure });
    }
    if args.watch {
        return status_watch::watch(client, args.target.json).await;
    }
    let pool = client.get("/v1/pool").await?.json()?;
    output::line(&if args.target.json { pool.to_string() } else { described(&pool) })
}

/// What `GET /v1/pool` says, for people.
fn described(pool: &Value) -> String {
    let mut lines = headed(pool);
    lines.push(String::new());
    let heading = ["NAME", "LINK", "ALIVE", "CLOCK", "HEAD", "HEARD", "NODE", "URL"].map(String::from);
    let rows: Vec<_> = std::iter::once(heading).chain(list(pool, "members").iter().map(member)).collect();
    lines.extend(aligned(&rows));
    lines.join("\n")
}

/// The lines of that which are not about one member.
pub fn headed(pool: &Value) -> Vec<String> {
    let mut lines = vec![match &pool["pool"] {
        Value::Null => "pool   none yet".into(),
        known => format!("pool   {} ({})", text(known, "name"), text(known, "id")),
    }];
    lines.push(format!("node   {}, {}, clock {}", text(pool, "node"), text(pool, "state"), text(pool, "clock")));
    lines.push(format!("holds  {} documents, {} operations", pool["docs"], text(pool, "ops")));
    lines.push(format!("final  up to {}, {} behind the clock", text(pool, "frontier"), text(pool, "final_lag")));
    for holder in list(pool, "held_back_by") {
        lines.push(format!("       held back by {}: {}", text(holder, "name"), members::describe(holder)));
    }
    let progress = &pool["progress"];
    if progress["held"].is_string() {
        lines.push(format!("loads  {} of {} operations", text(progress, "held"), text(progress, "of")));
    }
    if let Some(docs) = progress.get("docs") {
        lines.push(format!("loads  {} of {} documents of a snapshot", docs["held"], docs["of"]));
    }
    if pool["cut"] == true {
        lines.push("links  cut, until POST /v1/pool/links {\"cut\":false}".into());
    }
    for problem in list(pool, "problems") {
        lines.push(format!("problem at {}: {}", text(problem, "url"), text(problem, "detail")));
    }
    lines
}

fn member(member: &Value) -> [String; 8] {
    let heard = match member["heard_ms_ago"].as_u64() {
        _ if member["self"] == true => "-".into(),
        None => "never".into(),
        Some(ms) if ms < 10_000 => format!("{ms} ms ago"),
        Some(ms) => format!("{} s ago", ms / 1000),
    };
    let urls: Vec<&str> = list(member, "urls").iter().filter_map(Value::as_str).collect();
    [
        text(member, "name").into(),
        text(member, "link").into(),
        if member["alive"] == true { "yes" } else { "no" }.into(),
        text(member, "clock").into(),
        text(&member["head"], "seq").into(),
        heard,
        text(member, "id").into(),
        urls.join(" "),
    ]
}

/// A list among an object's members, or an empty one.
pub fn list<'a>(object: &'a Value, name: &str) -> &'a [Value] {
    object[name].as_array().map(Vec::as_slice).unwrap_or_default()
}

/// Pads each column to its widest cell.
pub fn aligned<const N: usize>(rows: &[[String; N]]) -> Vec<String> {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or_default();
    let widths: [usize; N] = std::array::from_fn(width);
    let line = |row: &[String; N]| {
        let cells: Vec<String> = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        cells.join("  ").trim_end().to_string()
    };
    rows.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_node_that_catches_up_says_how_much_of_what_it_has() {
        let loads = |progress: Value| -> Vec<String> {
            let shown = described(&json!({ "pool": null, "docs": 0, "progress": progress }));
            shown.lines().filter_map(|line| line.strip_prefix("loads  ").map(String::from)).collect()
        };
        assert_eq!(loads(Value::Null), [""; 0]);
        assert_eq!(loads(json!({ "held": "5", "of": "12" })), ["5 of 12 operations"]);
        let both = json!({ "held": "5", "of": "12", "docs": { "held": 1, "of": 9 } });
        assert_eq!(loads(both), ["5 of 12 operations", "1 of 9 documents of a snapshot"]);
    }
}
