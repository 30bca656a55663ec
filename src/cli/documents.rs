//! `get`, `put`, `patch`, `delete` and `list`: documents from the command line.

use std::io::Read;

use bytes::Bytes;
use clap::{Args, builder::NonEmptyStringValueParser};
use hyper::{Request, header, http::request::Builder};
use serde_json::{Value, json};

use super::{
    Failure,
    client::{Answer, Client, IDEMPOTENCY_KEY, Target, doc_path, encoded, version_in},
    output,
    pages::{self, Pages, Wanted},
};

/// Documents that are listed if nobody says how many.
pub const LIST_DEFAULT: u64 = 100;
/// What is said where there are more.
pub const MORE: &str = "there are more documents; --limit N lists more of them, --all lists all";

/// Flags of `get`.
#[derive(Args, Debug)]
#[command(after_help = examples!(
    "  lamplight get notes milk
  lamplight get notes milk --json | jq -r .version
  lamplight get notes milk --at 42
  lamplight get notes milk --final"
))]
pub struct GetArgs {
    #[command(flatten)]
    doc: Doc,
    #[command(flatten)]
    when: When,
    #[command(flatten)]
    pub(super) target: Target,
}

/// Flags of `put`.
#[derive(Args, Debug)]
#[command(after_help = examples!(
    "  lamplight put notes milk '{\"buy\":true}'
  lamplight put notes title '\"a string has its quotes\"'
  lamplight put notes milk - <milk.json
  lamplight put notes milk '{\"buy\":true}' --if-none-match
  lamplight put names ada '{\"of\":7}' --if-none-match --wait
  lamplight put notes milk '{\"buy\":true}' --wait 2
  lamplight put notes minutes --text - <minutes.txt"
))]
pub struct PutArgs {
    #[command(flatten)]
    doc: Doc,
    /// The document, in JSON; - reads it from standard input.
    #[arg(allow_negative_numbers = true)]
    value: String,
    /// The document is a text, which many can edit at once: one that is there is made to read so.
    #[arg(long)]
    text: bool,
    /// Replace only this version (as `get --json` shows it), or * for any that exists.
    #[arg(long, value_name = "VERSION")]
    if_match: Option<String>,
    /// Create only: fail if the document exists.
    #[arg(long, conflicts_with = "if_match")]
    if_none_match: bool,
    #[command(flatten)]
    key: Key,
    #[command(flatten)]
    wait: Wait,
    #[command(flatten)]
    pub(super) target: Target,
}

/// Flags of `patch`.
#[derive(Args, Debug)]
#[command(after_help = examples!(
    "  lamplight patch notes milk '{\"buy\":false,\"note\":null}'
  lamplight patch notes milk '[{\"op\":\"increment\",\"path\":\"/litres\",\"by\":1}]'"
))]
pub struct PatchArgs {
    #[command(flatten)]
    doc: Doc,
    /// An array is a JSON Patch (RFC 6902, and increment), anything else a merge patch (RFC 7396); - reads it from
    /// standard input.
    patch: String,
    /// Change only this version (as `get --json` shows it).
    #[arg(long, value_name = "VERSION")]
    if_match: Option<String>,
    #[command(flatten)]
    key: Key,
    #[command(flatten)]
    wait: Wait,
    #[command(flatten)]
    pub(super) target: Target,
}

/// Flags of `delete`.
#[derive(Args, Debug)]
#[command(after_help = examples!(
    "  lamplight delete notes milk
  lamplight delete notes milk --if-match 0123456789abcdef0123456789abcdef"
))]
pub struct DeleteArgs {
    #[command(flatten)]
    doc: Doc,
    /// Delete only this version (as `get --json` shows it).
    #[arg(long, value_name = "VERSION")]
    if_match: Option<String>,
    #[command(flatten)]
    key: Key,
    #[command(flatten)]
    wait: Wait,
    #[command(flatten)]
    pub(super) target: Target,
}

/// Flags of `list`.
#[derive(Args, Debug)]
#[command(after_help = examples!(
    "  lamplight list
  lamplight list notes
  lamplight list notes --filter '{\"buy\":true,\"litres\":{\"$gt\":1}}' --sort -litres --limit 10
  lamplight list notes --at 42
  lamplight list notes --all --json | jq -c '{id,value}' >notes.ndjson"
))]
pub struct ListArgs {
    /// The collection; without it, the collections are listed.
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    collection: Option<String>,
    /// Only documents that this selector holds for ($gt $gte $lt $lte $ne $in $exists $contains $and $or $not).
    #[arg(long, value_name = "JSON", requires = "collection")]
    filter: Option<String>,
    /// Order by this field, or downwards by -FIELD, or by several with commas between; by id if left out.
    #[arg(long, value_name = "FIELDS", allow_hyphen_values = true, requires = "collection")]
    sort: Option<String>,
    /// List at most so many documents.
    #[arg(long, value_name = "N", default_value_t = LIST_DEFAULT, value_parser = clap::value_parser!(u64).range(1..))]
    limit: u64,
    /// List all documents.
    #[arg(long, conflicts_with = "limit", requires = "collection")]
    all: bool,
    #[command(flatten)]
    when: When,
    #[command(flatten)]
    pub(super) target: Target,
}

/// Names a document.
#[derive(Args, Debug)]
struct Doc {
    /// The collection.
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    collection: String,
    /// The document's id.
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    id: String,
}

impl Doc {
    fn path(&self) -> String {
        doc_path(&self.collection, &self.id)
    }
}

/// When documents are read.
#[derive(Args, Debug)]
pub struct When {
    /// As the operations up to this Lamport time make it: the number before the @ of a stamp.
    #[arg(long, value_name = "TIME", conflicts_with = "finally")]
    at: Option<String>,
    /// As far as all is final.
    #[arg(long = "final", id = "finally")]
    is_final: bool,
}

impl When {
    /// As a parameter of a query; nothing for now.
    pub fn parameter(&self) -> Option<String> {
        let at = self.at.as_ref().map(|time| format!("at={}", encoded(time)));
        at.or(self.is_final.then(|| "view=final".into()))
    }
}

/// The idempotency key of a write.
#[derive(Args, Debug)]
pub struct Key {
    /// Idempotency key: the same write with the same key has effect once, however often and to whichever node it is
    /// sent.
    #[arg(long)]
    pub key: Option<String>,
}

impl Key {
    /// Adds the key to a request.
    pub fn set(&self, request: Builder) -> Builder {
        match &self.key {
            Some(key) => request.header(IDEMPOTENCY_KEY, key),
            None => request,
        }
    }
}

/// What a write waits for, if it does.
#[derive(Args, Debug)]
pub struct Wait {
    /// Wait until the verdict is final: nothing can come before this write any more, on any node. With a number, wait until
    /// so many members hold it, the node that is asked among them.
    #[arg(long, value_name = "N", num_args = 0..=1, default_missing_value = "final", value_parser = WaitFor::parse)]
    wait: Option<WaitFor>,
    /// How long at the most, as 500ms or 30s, to 60s; 5s if left out. When it is over the write stands, and may still
    /// become final.
    #[arg(long, value_name = "TIME", requires = "wait")]
    timeout: Option<String>,
}

/// What is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum WaitFor {
    Final,
    Members(u64),
}

impl WaitFor {
    fn parse(text: &str) -> Result<WaitFor, String> {
        let number = || text.parse().ok().map(WaitFor::Members);
        let wrong = "it takes a number of members, or nothing; before other arguments write --wait=final";
        if text == "final" { Ok(WaitFor::Final) } else { number().ok_or_else(|| wrong.into()) }
    }
}

impl Wait {
    /// Whether it waits at all.
    pub fn waits(&self) -> bool {
        self.wait.is_some()
    }

    /// As parameters of a query; nothing if it does not wait.
    pub fn parameters(&self) -> Option<String> {
        let timeout = self.timeout.as_ref().map(|time| format!("&timeout={}", encoded(time))).unwrap_or_default();
        self.wait.map(|wait| match wait {
            WaitFor::Final => format!("wait=final{timeout}"),
            WaitFor::Members(number) => format!("wait={number}{timeout}"),
        })
    }

    /// A path, and with it that the node is to wait.
    pub fn at(&self, path: &str) -> String {
        self.parameters().map_or_else(|| path.to_string(), |parameters| format!("{path}?{parameters}"))
    }

    /// Fails if it has waited in vain.
    pub fn check(&self, answer: &Answer) -> Result<(), Failure> {
        let Some(wait) = self.wait.filter(|_| answer.status == hyper::StatusCode::ACCEPTED) else { return Ok(()) };
        let receipt = answer.json()?;
        let op = output::text(&receipt, "op");
        Err(Failure::tentative(match wait {
            WaitFor::Final => format!(
                "not final in time: it stands, and becomes final when all members are heard of again. lamplight members \
                 says who is not; ask later with GET /v1/ops/{op}?wait=final"
            ),
            WaitFor::Members(number) => format!(
                "held by {} of the {number} members in time: it stands, and the others get it when they are heard of \
                 again. lamplight members says who is not; ask later with GET /v1/ops/{op}?wait={number}",
                receipt["held_by"]
            ),
        }))
    }
}

/// Prints a document.
pub async fn get(args: GetArgs) -> Result<(), Failure> {
    let query = args.when.parameter().map(|parameter| format!("?{parameter}")).unwrap_or_default();
    let answer = Client::new(&args.target).get(&format!("{}{query}", args.doc.path())).await?;
    let is_text = answer.header("content-type").is_some_and(|kind| kind.starts_with("text/plain"));
    if !args.target.json && (is_text || !output::to_people()) {
        return output::line(&String::from_utf8_lossy(&answer.body));
    }
    let (name, value) =
        if is_text { ("text", String::from_utf8_lossy(&answer.body).into()) } else { ("value", answer.json()?) };
    if args.target.json {
        let version = answer.header("etag").map(version_in);
        let (stamp, status) = (answer.header("lamplight-stamp"), answer.header("lamplight-status"));
        let Doc { collection, id } = args.doc;
        let described = json!({ "collection": collection, "id": id, "version": version, "stamp": stamp,
                                "status": status, name: value });
        return output::line(&described.to_string());
    }
    output::line(&format!("{value:#}"))
}

/// Creates or replaces a document.
pub async fn put(args: PutArgs) -> Result<(), Failure> {
    let value = input(&args.value)?;
    let mut request = args.key.set(if_match(Request::put(args.wait.at(&args.doc.path())), args.if_match.as_deref()));
    if args.if_none_match {
        request = request.header(header::IF_NONE_MATCH, "*");
    }
    let media = if args.text { "text/plain" } else { "application/json" };
    let request = request.header(header::CONTENT_TYPE, media);
    let client = Client::new(&args.target).patient(args.wait.waits());
    // Texts take no key, and need none: what reads so already is left as it is.
    let answer = if args.text { client.repeat(request, value).await? } else { client.send(request, value).await? };
    if answer.json()?["unchanged"] == true && !args.target.json {
        return output::line("unchanged: it reads so already");
    }
    let verb = if answer.status == hyper::StatusCode::ACCEPTED {
        "wrote"
    } else if answer.status == hyper::StatusCode::CREATED {
        "created"
    } else {
        "replaced"
    };
    output::receipt(&answer.json()?, verb, args.target.json)?;
    args.wait.check(&answer)
}

/// Changes parts of a document.
pub async fn patch(args: PatchArgs) -> Result<(), Failure> {
    let patch = input(&args.patch)?;
    let is_list = patch.trim_ascii_start().starts_with(b"[");
    let media = if is_list { "application/json-patch+json" } else { "application/merge-patch+json" };
    let request = args.key.set(if_match(Request::patch(args.wait.at(&args.doc.path())), args.if_match.as_deref()));
    let answer = Client::new(&args.target)
        .patient(args.wait.waits())
        .send(request.header(header::CONTENT_TYPE, media), patch)
        .await?;
    output::receipt(&answer.json()?, "patched", args.target.json)?;
    args.wait.check(&answer)
}

/// Deletes a document.
pub async fn delete(args: DeleteArgs) -> Result<(), Failure> {
    let request = args.key.set(if_match(Request::delete(args.wait.at(&args.doc.path())), args.if_match.as_deref()));
    let answer = Client::new(&args.target).patient(args.wait.waits()).send(request, Bytes::new()).await?;
    output::receipt(&answer.json()?, "deleted", args.target.json)?;
    args.wait.check(&answer)
}

/// Lists documents, or collections.
pub async fn list(args: ListArgs) -> Result<(), Failure> {
    let client = Client::new(&args.target);
    let when = args.when.parameter();
    let Some(collection) = &args.collection else {
        if when.is_some() {
            return Err(Failure::usage("--at and --final are for the documents of a collection: name one"));
        }
        return list_collections(&client, args.target.json).await;
    };
    let wanted = Wanted { filter: args.filter.as_deref(), sort: args.sort.as_deref(), when };
    let mut walk = Pages::new(&client, collection, &wanted, (!args.all).then_some(args.limit));
    while let Some(docs) = walk.next().await? {
        for doc in docs {
            output::line(&if args.target.json { doc.to_string() } else { row(&doc) })?;
        }
    }
    if walk.more() && !args.target.json {
        eprintln!("lamplight: {MORE}");
    }
    Ok(())
}

async fn list_collections(client: &Client, json: bool) -> Result<(), Failure> {
    for collection in pages::collections(client).await? {
        let row = || format!("{}\t{} documents", output::text(&collection, "name"), collection["docs"]);
        output::line(&if json { collection.to_string() } else { row() })?;
    }
    Ok(())
}

/// Ids have no control characters, so a tab ends them for `cut` and `sort`.
fn row(doc: &Value) -> String {
    let value = if doc["text"] == true { "(text)".into() } else { doc["value"].to_string() };
    format!("{}\t{value}", output::text(doc, "id"))
}

/// A value from the command line, or all of standard input.
pub fn input(argument: &str) -> Result<Bytes, Failure> {
    if argument != "-" {
        return Ok(Bytes::copy_from_slice(argument.as_bytes()));
    }
    let mut bytes = Vec::new();
    let read = std::io::stdin().lock().read_to_end(&mut bytes);
    read.map_err(|error| Failure::new(format!("cannot read standard input: {}", output::words(&error))))?;
    Ok(bytes.into())
}

/// Adds `If-Match`; a version stands in quotes there, which few people type.
fn if_match(request: Builder, version: Option<&str>) -> Builder {
    match version {
        None => request,
        Some("*") => request.header(header::IF_MATCH, "*"),
        Some(version) => request.header(header::IF_MATCH, format!("\"{}\"", version.trim_matches('"'))),
    }
}
