//! Times past: which time a request asks about, whether it is still known, and `GET …/diff`.

use axum::{Json, extract::State, http::StatusCode, http::Uri};
use serde::Serialize;
use serde_json::Value;

use super::{Api, ConnectionMemory, Problem, extract::DocPath, query::Query, rates::Caller, shape};
use crate::{
    document::{PastViews, Text, View, diff, json},
    replica::Replica,
    version::Version,
};

/// Which documents a read is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// As all ops make them.
    Now,
    /// As the final ops make them.
    Final,
    /// As the ops up to a time make them.
    At(u64),
}

impl When {
    /// Takes `view` and `at` from a query.
    pub fn of(query: &mut Query) -> Result<When, Problem> {
        let at = query.take("at").map(|text| time("at", &text)).transpose()?;
        match (query.take("view").as_deref(), at) {
            (None, None) => Ok(When::Now),
            (Some("final"), None) => Ok(When::Final),
            (None, Some(at)) => Ok(When::At(at)),
            (Some("final"), Some(_)) => {
                let detail = "view=final or at=<time>, not both: what is at a time up to the frontier is final anyway";
                Err(Problem::bad("bad-query", detail))
            }
            (Some(_), _) => Err(Problem::bad("bad-query", "view is final, or left out")),
        }
    }

    /// The time that it stands for, if it is not now, and if it is known.
    pub fn time(self, replica: &Replica) -> Result<Option<u64>, Problem> {
        match self {
            When::Now => Ok(None),
            When::Final => Ok(Some(replica.frontier())),
            When::At(time) => check(time, replica).map(|()| Some(time)),
        }
    }

    /// A document as it is then, to be worked out with [`When::view`].
    pub fn get(self, replica: &Replica, collection: &str, id: &str) -> Result<PastViews, Problem> {
        Ok(match self.time(replica)? {
            None => replica.state().get(collection, id).into_iter().collect(),
            Some(time) => replica.state().get_at(collection, id, time),
        })
    }

    /// The document that was found, if it exists then.
    pub async fn view(self, api: &Api, caller: &Caller, found: PastViews) -> Result<Option<View>, Problem> {
        let found = api.workers.work_out(caller, found, usize::MAX).await?;
        Ok(found.views().next().map(|view| self.dated(view)))
    }

    /// What is asked for at a time is final once nothing can come up to that time, whatever came last there.
    pub fn dated(self, view: View) -> View {
        match self {
            When::At(time) => View { latest: time, ..view },
            When::Now | When::Final => view,
        }
    }

    /// 404 for a document that does not exist then.
    pub fn no_document(self, collection: &str, id: &str) -> Problem {
        match self {
            When::Now => Problem::no_document(collection, id),
            When::Final => Problem::no_final_document(collection, id),
            When::At(time) => no_document_at(collection, id, &format!("at time {time}")),
        }
    }
}

/// A Lamport time that a parameter says.
fn time(name: &str, text: &str) -> Result<u64, Problem> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let parsed = text.parse().ok().filter(|_| digits);
    parsed.ok_or_else(|| {
        let detail = format!("{name} is a Lamport time, a number such as 42: the time of a stamp, of Lamplight-Clock");
        Problem::bad("bad-query", detail)
    })
}

/// Whether this node knows what was at a time.
fn check(time: u64, replica: &Replica) -> Result<(), Problem> {
    if time > replica.clock() {
        let detail = format!(
            "the time {time} is ahead of this node's clock, {}: ask for one that has come, or leave it out for now",
            replica.clock()
        );
        return Err(Problem::bad("bad-query", detail));
    }
    if time < replica.horizon() { Err(forgotten(replica.horizon())) } else { Ok(()) }
}

/// 410 for what lies before the horizon.
pub fn forgotten(horizon: u64) -> Problem {
    let detail = format!(
        "this node has forgotten how things were before the time {horizon}: ask for that time or a later one, or ask a \
         node that keeps more. A since may be left out: then the answer begins with what is kept"
    );
    Problem::new(StatusCode::GONE, "past-forgotten", detail).with("horizon", horizon.to_string())
}

fn no_document_at(collection: &str, id: &str, when: &str) -> Problem {
    let detail = format!(
        "there is no document {id:?} in {collection:?} {when}: GET /v1/docs/{{collection}}/{{id}}/history tells since \
         when there was one"
    );
    Problem::new(StatusCode::NOT_FOUND, "not-found", detail)
}

/// The answer of `GET …/diff`.
#[derive(Serialize)]
pub struct Difference {
    from: Side,
    to: Side,
    patch: Value,
}

/// A document at a time; without a version if it does not exist there.
#[derive(Serialize)]
struct Side {
    time: String,
    version: Option<String>,
    status: &'static str,
}

/// `GET /v1/docs/{collection}/{id}/diff`.
pub async fn difference(
    State(api): State<Api>,
    doc: DocPath,
    (caller, memory): (Caller, ConnectionMemory),
    uri: Uri,
) -> Result<Json<Difference>, Problem> {
    let mut query = Query::of(&uri, &["from", "to"])?;
    let missing =
        || Problem::bad("bad-query", "diff needs from=<time>: the time to compare with now, or with to=<time>");
    let from = time("from", &query.take("from").ok_or_else(missing)?)?;
    let to = query.take("to").map(|text| time("to", &text)).transpose()?;
    let DocPath { collection, id } = doc.clone();
    let look = move |replica: &Replica| {
        let to = to.unwrap_or(replica.clock());
        let at = |time| When::At(time).get(replica, &collection, &id);
        Ok::<_, Problem>((at(from)?, (to, at(to)?), replica.frontier()))
    };
    let (found, (to, found_to), frontier) = api.read(look).await??;
    let times = [from, to];
    let from = (from, When::At(from).view(&api, &caller, found).await?.map(|view| view.text));
    let to = (to, When::At(to).view(&api, &caller, found_to).await?.map(|view| view.text));
    let _held = memory.reserve([&from, &to].iter().filter_map(|(_, text)| text.as_ref()).map(Text::len).sum())?;
    let compared = api.workers.run(&caller, move || compare(from, to, frontier)).await?;
    compared.map(Json).ok_or_else(|| {
        let when = format!("at time {} or {}", times[0], times[1]);
        no_document_at(&doc.collection, &doc.id, &when)
    })
}

/// The difference between a document at two times; none if it does not exist at either.
fn compare(from: (u64, Option<Text>), to: (u64, Option<Text>), frontier: u64) -> Option<Difference> {
    let value = |text: &Option<Text>| {
        let text = text.as_ref()?;
        Some(json::parse(text.json().as_bytes()).expect("documents are JSON"))
    };
    let patch = match (value(&from.1), value(&to.1)) {
        (Some(from), Some(to)) => diff(&from, &to),
        (None, Some(to)) => serde_json::json!([{ "op": "add", "path": "", "value": to }]),
        (Some(_), None) => serde_json::json!([{ "op": "remove", "path": "" }]),
        (None, None) => return None,
    };
    let side = |(time, text): (u64, Option<Text>)| Side {
        time: time.to_string(),
        version: text.map(|text| Version::of(text.as_str()).to_string()),
        status: shape::status(time <= frontier),
    };
    Some(Difference { from: side(from), to: side(to), patch })
}
