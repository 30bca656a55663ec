//! Listings, page by page: the documents of a collection, and all collections.

use serde_json::Value;

use super::{
    Failure,
    client::{Client, encoded},
};

/// Most documents that a node gives in one answer.
const PAGE_MAX: u64 = 1_000;

/// Which documents, and in what order.
#[derive(Clone, Debug, Default)]
pub struct Wanted<'a> {
    /// A selector, in JSON.
    pub filter: Option<&'a str>,
    /// A field.
    pub sort: Option<&'a str>,
    /// When they are read, as a parameter of a query.
    pub when: Option<String>,
}

/// A walk over them.
pub struct Pages<'a> {
    client: &'a Client,
    path: String,
    /// Where it goes on; none at the end.
    after: Option<String>,
    left: u64,
}

impl<'a> Pages<'a> {
    /// Over all of them, or over so many.
    pub fn new(client: &'a Client, collection: &str, wanted: &Wanted<'_>, limit: Option<u64>) -> Pages<'a> {
        let given = [("filter", wanted.filter), ("sort", wanted.sort)].into_iter();
        let given = given.filter_map(|(name, value)| Some(format!("{name}={}&", encoded(value?))));
        let when = wanted.when.as_ref().map(|parameter| format!("{parameter}&"));
        let path = format!("/v1/docs/{}?{}", encoded(collection), given.chain(when).collect::<String>());
        Pages { client, path, after: Some(String::new()), left: limit.unwrap_or(u64::MAX) }
    }

    /// The next page; none at the end.
    pub async fn next(&mut self) -> Result<Option<Vec<Value>>, Failure> {
        let Some(after) = self.after.take_if(|_| self.left > 0) else { return Ok(None) };
        let path = format!("{}limit={}{after}", self.path, self.left.min(PAGE_MAX));
        let mut page = self.client.get(&path).await?.json()?;
        let docs = match page["docs"].take() {
            Value::Array(docs) => docs,
            _ => Vec::new(),
        };
        self.left = self.left.saturating_sub(docs.len() as u64);
        self.after = page["next"].as_str().map(|next| format!("&after={}", encoded(next)));
        Ok(Some(docs))
    }

    /// Whether there are documents behind those that were asked for.
    pub fn more(&self) -> bool {
        self.after.is_some()
    }
}

/// All collections, each with its name and the number of its documents.
pub async fn collections(client: &Client) -> Result<Vec<Value>, Failure> {
    let (mut all, mut path) = (Vec::new(), "/v1/collections".to_string());
    loop {
        let mut page = client.get(&path).await?.json()?;
        if let Some(Value::Array(page)) = page.get_mut("collections").map(Value::take) {
            all.extend(page);
        }
        // Nodes of an earlier version answer all of them at once, and take no parameter.
        match page["next"].as_str() {
            Some(next) => path = format!("/v1/collections?limit=1000&after={next}"),
            None => return Ok(all),
        }
    }
}
