//! A writer of `import`: it takes the records that are its own in their order, and sends what has gathered as one request.
//!
//! So lines that come slowly are written at once, and many that come quickly are written together. What a node that ends or
//! breaks off has not answered is sent again, to the next.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;
use hyper::{Request, header};
use serde_json::{Value, json};
use tokio::{
    sync::{OwnedSemaphorePermit, mpsc},
    time::sleep,
};

use super::{
    Failure,
    client::{Client, Target, doc_path, encoded},
    import::Import,
    records::{Content, Doc},
};

/// How often a request is sent again, to all nodes in turn, and how long it waits before the first time; then twice as
/// long each time: a node that starts again is back within these 15 seconds.
const RETRIES: u32 = 6;
const RETRY_AFTER: Duration = Duration::from_millis(250);

/// A record to write.
pub struct Item {
    /// Its line.
    pub line: u64,
    /// What it says.
    pub doc: Doc,
    /// Its share of what may be read ahead, for as long as it is held.
    pub _room: OwnedSemaphorePermit,
}

/// A writer.
pub struct Writer {
    client: Client,
    batch: usize,
}

/// What became of a line.
enum Verdict {
    Written,
    Refused(Value),
    /// The node could not take it now.
    Again(Value),
}

impl Writer {
    /// The writer of this number; it asks the nodes in turn, each writer another first.
    pub fn new(target: &Target, number: usize, batch: usize) -> Writer {
        let mut urls = target.urls.clone();
        let first = number % urls.len().max(1);
        urls.rotate_left(first);
        Writer { client: Client::of(urls, target.means()).patient(true), batch }
    }

    /// Writes what comes.
    pub async fn run(self, mut items: mpsc::Receiver<Item>, import: Arc<Import>) -> Result<(), Failure> {
        let mut taken = Vec::with_capacity(self.batch);
        loop {
            let count = tokio::select! {
                count = items.recv_many(&mut taken, self.batch) => count,
                () = import.stop.cancelled() => 0,
            };
            if count == 0 || import.stop.is_cancelled() {
                return Ok(());
            }
            let written = self.write(std::mem::take(&mut taken), &import).await;
            import.note();
            if written.is_err() {
                import.stop.cancel();
            }
            written?;
        }
    }

    async fn write(&self, items: Vec<Item>, import: &Import) -> Result<(), Failure> {
        for run in items.chunk_by(|one, next| {
            let bulk = |item: &Item| matches!(item.doc.content, Content::Value(_));
            bulk(one) && bulk(next) && one.doc.collection == next.doc.collection
        }) {
            if let [Item { line, doc, .. }] = run
                && !matches!(doc.content, Content::Value(_))
            {
                self.write_text(*line, doc, import).await?;
            } else {
                self.write_values(run, import).await?;
            }
        }
        Ok(())
    }

    /// Writes documents of one collection.
    async fn write_values(&self, items: &[Item], import: &Import) -> Result<(), Failure> {
        let path = format!("/v1/docs/{}", encoded(items.first().map_or("", |item| &item.doc.collection)));
        let mut left: Vec<&Item> = items.iter().collect();
        let mut tries = Tries::default();
        while !left.is_empty() {
            let body: String = left.iter().map(|item| line_of(&item.doc)).collect();
            let request = Request::post(path.as_str()).header(header::CONTENT_TYPE, "application/x-ndjson");
            let answer = match self.client.repeat(request, body.into()).await {
                Ok(answer) => answer,
                Err(failure) => {
                    tries.again(failure).await?;
                    continue;
                }
            };
            let mut verdicts = verdicts(&answer.body)?;
            let (before, mut why) = (left.len(), None);
            let mut at = 0;
            left.retain(|item| {
                at += 1;
                match verdicts.remove(&at) {
                    Some(Verdict::Written) => import.written(item.line),
                    Some(Verdict::Refused(problem)) => import.refused(item.line, &problem),
                    Some(Verdict::Again(problem)) => {
                        why = Some(super::client::refusal(problem));
                        return true;
                    }
                    None => return true,
                }
                false
            });
            if left.len() == before {
                let why = why.unwrap_or_else(|| Failure::unreachable("the node broke off before it had answered"));
                tries.again(why).await?;
            }
        }
        Ok(())
    }

    /// Writes a text: its characters, and then what formats them.
    async fn write_text(&self, line: u64, doc: &Doc, import: &Import) -> Result<(), Failure> {
        let path = doc_path(&doc.collection, &doc.id);
        let (text, steps) = match &doc.content {
            Content::Value(text) | Content::Text(text) => (text, None),
            Content::Formatted(text, steps) => (text, Some(steps)),
        };
        let put = || Request::put(path.as_str()).header(header::CONTENT_TYPE, "text/plain");
        if !self.done(line, put, text.clone().into(), import).await? {
            return Ok(());
        }
        if let Some(steps) = steps.filter(|steps| steps.iter().any(|step| step.get("attributes").is_some())) {
            let patch = || {
                let request = Request::patch(path.as_str()).header(header::CONTENT_TYPE, "application/json");
                request.header(header::IF_MATCH, "*")
            };
            if !self.done(line, patch, json!(steps).to_string().into(), import).await? {
                return Ok(());
            }
        }
        import.written(line);
        Ok(())
    }

    /// Whether the request of one line was done, and not refused.
    async fn done(
        &self,
        line: u64,
        request: impl Fn() -> hyper::http::request::Builder,
        body: Bytes,
        import: &Import,
    ) -> Result<bool, Failure> {
        let mut tries = Tries::default();
        loop {
            match self.client.repeat(request(), body.clone()).await {
                Ok(_) => return Ok(true),
                Err(Failure { problem: Some(problem), .. }) if is_of_the_line(&problem) => {
                    import.refused(line, &problem);
                    return Ok(false);
                }
                Err(failure) => tries.again(failure).await?,
            }
        }
    }
}

/// Whether it is this line that a node does not take, and not the whole import.
fn is_of_the_line(problem: &Value) -> bool {
    !matches!(problem["status"].as_u64(), None | Some(401 | 403 | 421 | 429 | 503 | 507))
}

/// Whether the same may be taken later.
fn passes(status: Option<u64>) -> bool {
    matches!(status, Some(429 | 503))
}

/// How often it was tried.
#[derive(Default)]
struct Tries(u32);

impl Tries {
    /// Waits before it is tried again; or gives up, as it does at once where that would not help.
    async fn again(&mut self, failure: Failure) -> Result<(), Failure> {
        let status = failure.problem.as_ref().and_then(|problem| problem["status"].as_u64());
        let helps = failure.code == 5 || passes(status);
        if !helps || self.0 == RETRIES {
            return Err(failure);
        }
        sleep(RETRY_AFTER * 2_u32.pow(self.0)).await;
        self.0 += 1;
        Ok(())
    }
}

fn line_of(doc: &Doc) -> String {
    let Doc { id, content, .. } = doc;
    let value = match content {
        Content::Value(text) | Content::Text(text) | Content::Formatted(text, _) => text,
    };
    format!("{{\"id\":{},\"value\":{value}}}\n", Value::from(id.as_str()))
}

/// What the node says of each line of a request.
fn verdicts(answer: &[u8]) -> Result<BTreeMap<u64, Verdict>, Failure> {
    let lines = answer.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    let verdicts = lines.map(|line| {
        let mut answer: Value = serde_json::from_slice(line)?;
        let number = answer["line"].as_u64().unwrap_or_default();
        let verdict = match answer["problem"].take() {
            Value::Null => Verdict::Written,
            problem if !is_of_the_line(&problem) => Verdict::Again(problem),
            problem => Verdict::Refused(problem),
        };
        Ok((number, verdict))
    });
    verdicts.collect::<Result<_, serde_json::Error>>().map_err(|error| {
        Failure::new(format!("the node's answer has a line that is not JSON: {error}. Is there a Lamplight node?"))
    })
}
