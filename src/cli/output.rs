//! What goes to standard output, and how it looks to people.
//!
//! Nothing is coloured. A reader that goes away early, as `head` does, ends the program quietly.

use std::io::{self, IsTerminal, Write};

use serde_json::Value;
use tokio::io::{Interest, unix::AsyncFd};

use super::Failure;

/// Prints a line.
pub fn line(text: &str) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    let written =
        stdout.write_all(text.as_bytes()).and_then(|()| stdout.write_all(b"\n")).and_then(|()| stdout.flush());
    written.map_err(|error| unwritten(&error))
}

/// Standard output does not take what is written.
pub fn unwritten(error: &io::Error) -> Failure {
    match error.kind() {
        io::ErrorKind::BrokenPipe => Failure::unread(),
        _ => Failure::new(format!("cannot write to standard output: {}", words(error))),
    }
}

/// Whether people read standard output.
pub fn to_people() -> bool {
    io::stdout().is_terminal()
}

/// Waits until nobody can read standard output any more: for a command that has nothing to print may else never notice.
#[expect(
    deprecated,
    reason = "its successor is unsafe, for descriptors that may be closed meanwhile: this one stays open"
)]
pub async fn unread() {
    // A file cannot be watched, and is never closed by its readers.
    match AsyncFd::with_interest(io::stdout(), Interest::ERROR) {
        Ok(stdout) => drop(stdout.ready(Interest::ERROR).await),
        Err(_) => std::future::pending().await,
    }
}

/// Prints a receipt: as it came, or the op in a readable line and, if it wrote several documents, one line for each.
pub fn receipt(receipt: &Value, verb: &str, json: bool) -> Result<(), Failure> {
    if json {
        return line(&receipt.to_string());
    }
    let op = op(receipt);
    let docs = receipt["docs"].as_array().map(Vec::as_slice).unwrap_or_default();
    if let [doc] = docs {
        let version = doc["version"].as_str().map(|version| format!(" version={version}")).unwrap_or_default();
        return line(&format!("{verb} {}{version} {op}", name(doc)));
    }
    line(&format!("{verb} {} documents {op}", docs.len()))?;
    docs.iter().try_for_each(|doc| {
        let version = doc["version"].as_str().map_or("deleted".into(), |version| format!("version={version}"));
        line(&format!("  {} {version}", name(doc)))
    })
}

/// The op that a receipt is of.
pub fn op(receipt: &Value) -> String {
    let held = receipt["held_by"].as_u64().map(|members| format!(" held-by={members}")).unwrap_or_default();
    format!("stamp={} status={}{held} op={}", text(receipt, "stamp"), text(receipt, "status"), text(receipt, "op"))
}

/// A string member, or `?`: a newer node may leave out what this program knows.
pub fn text<'a>(object: &'a Value, name: &str) -> &'a str {
    object[name].as_str().unwrap_or("?")
}

fn name(doc: &Value) -> String {
    format!("{}/{}", text(doc, "collection"), text(doc, "id"))
}

/// What the system says of a file or a connection, without the number: "connection refused (os error 111)".
pub fn words(error: &io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or(&text);
    let (first, rest) = text.split_at(text.chars().next().map_or(0, char::len_utf8));
    first.to_lowercase() + rest
}
