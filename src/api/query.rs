//! The query of a request, read strictly: a parameter that the call does not know is refused, not passed over, for a
//! misspelt filter or limit would answer another question.

use std::time::Duration;

use axum::http::Uri;
use percent_encoding::percent_decode_str;

use super::Problem;

/// How much a listing gives when it is not told, and how much at the most.
pub(super) const LIMIT: (usize, usize) = (100, 1000);

/// The time that a parameter says, such as `500ms` or `5s`.
pub fn duration(name: &str, text: &str, most: Duration) -> Result<Duration, Problem> {
    let parsed = match (text.strip_suffix("ms"), text.strip_suffix('s')) {
        (Some(number), _) => number.parse().ok().map(Duration::from_millis),
        (None, Some(number)) => number.parse().ok().map(Duration::from_secs),
        (None, None) => None,
    };
    parsed.filter(|time| *time <= most).ok_or_else(|| {
        let most = most.as_secs();
        Problem::bad("bad-query", format!("{name} is a time such as 500ms or 5s, at most {most}s"))
    })
}

/// The parameters of a request.
pub struct Query(Vec<(String, String)>);

impl Query {
    /// Reads the query of `uri`, whose parameters must be among `known`, each once.
    pub fn of(uri: &Uri, known: &[&str]) -> Result<Query, Problem> {
        let bad = || Problem::bad("bad-query", "the query must be percent-encoded UTF-8: name=value&…");
        // The parser would put U+FFFD for what is no UTF-8.
        percent_decode_str(uri.query().unwrap_or_default()).decode_utf8().map_err(|_| bad())?;
        let parsed = axum::extract::Query::<Vec<(String, String)>>::try_from_uri(uri);
        let axum::extract::Query(pairs) = parsed.map_err(|_| bad())?;
        for (index, (name, _)) in pairs.iter().enumerate() {
            if !known.contains(&name.as_str()) {
                let takes = if known.is_empty() { "none".into() } else { known.join(", ") };
                return Err(Problem::bad("bad-query", format!("unknown parameter {name:?}: this call takes {takes}")));
            }
            if pairs[..index].iter().any(|(earlier, _)| earlier == name) {
                return Err(Problem::bad("bad-query", format!("{name:?} is there twice")));
            }
        }
        Ok(Query(pairs))
    }

    /// The value of a parameter, if it is there.
    pub fn take(&mut self, name: &str) -> Option<String> {
        let index = self.0.iter().position(|(known, _)| known == name)?;
        Some(self.0.swap_remove(index).1)
    }

    /// The parameter `order`: whether it asks for the newest first.
    pub fn newest_first(&mut self) -> Result<bool, Problem> {
        match self.take("order").as_deref() {
            None | Some("asc") => Ok(false),
            Some("desc") => Ok(true),
            Some(_) => Err(Problem::bad("bad-query", "order is asc (the default) or desc, newest first")),
        }
    }

    /// The parameter `limit`, or what it is when it is left out.
    pub fn limit(&mut self) -> Result<usize, Problem> {
        let (usual, most) = LIMIT;
        let Some(text) = self.take("limit") else { return Ok(usual) };
        let limit = text.parse().ok().filter(|limit| (1..=most).contains(limit));
        limit.ok_or_else(|| Problem::bad("bad-query", format!("limit is a number from 1 to {most}")))
    }
}
