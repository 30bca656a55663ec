//! What a client may do: the pass that its token is good for, and the refusals where it is not.

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use axum::{
    body::Body,
    extract::FromRequestParts,
    http::{StatusCode, header, request::Parts},
    response::Response,
};
use futures_util::StreamExt;
use serde::Deserialize;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::{super::Api, Patterns, Principal};
use crate::{
    api::Problem,
    document::{Fault, check_collection, check_key},
    op::{Body as OpBody, Command, Guard},
    replica::Draft,
};

/// How long at most until the clock is looked at again for a token that expires: a machine may have slept meanwhile.
const LOOK_AT_CLOCK: Duration = Duration::from_secs(600);

/// What a token is good for; each includes what is before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// To see documents, feeds and the pool.
    Read,
    /// To write documents.
    Write,
    /// To change the pool, and to copy all that the node holds.
    Admin,
}

impl Role {
    fn word(self) -> &'static str {
        match self {
            Role::Read => "read",
            Role::Write => "write",
            Role::Admin => "admin",
        }
    }
}

/// What a token says of its bearer.
#[derive(Debug)]
pub struct Grant {
    /// Whose it is, for people.
    pub name: String,
    /// Whose it is, for the node.
    pub principal: Principal,
    /// What its bearer may do.
    pub role: Role,
    /// In which collections.
    pub patterns: Patterns,
    /// From when on it is void, in seconds since 1970.
    pub expires: Option<u64>,
    /// Cancelled when the node does not know it any more.
    pub revoked: CancellationToken,
}

impl Grant {
    /// Reads what token files and JWTs have in common. An administrator sees all ops of the pool, so a limit to some
    /// collections would only seem to be one.
    pub fn new(name: String, role: Role, collections: Option<&[String]>) -> Result<Grant, String> {
        let patterns = match collections {
            Some(texts) => Patterns::parse(texts)?,
            None if role == Role::Admin => Patterns::All,
            None => return Err("\"collections\" is missing: [\"*\"] stands for all".into()),
        };
        if role == Role::Admin && patterns != Patterns::All {
            return Err("an admin is one of all collections: leave \"collections\" out".into());
        }
        let principal = Principal::named(&name);
        Ok(Grant { name, principal, role, patterns, expires: None, revoked: CancellationToken::new() })
    }

    /// Whether it grants the same to the same.
    pub fn equals(&self, other: &Grant) -> bool {
        let key = |grant: &Grant| (grant.principal, grant.role, grant.expires);
        self.name == other.name && key(self) == key(other) && self.patterns == other.patterns
    }
}

/// What the client of a request, or of a connection, may do.
#[derive(Clone, Debug)]
pub enum Pass {
    /// All: this node asks for no tokens.
    Open,
    /// What its token says.
    Granted(Arc<Grant>),
    /// Nothing: it has shown no token yet.
    Stranger,
}

impl FromRequestParts<Api> for Pass {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Pass, Problem> {
        Ok(Pass::of_request(parts, api))
    }
}

impl Pass {
    /// That of a request. Where the node asks for tokens, the door has put a pass there; if it has not, there is none.
    pub fn of_request(parts: &Parts, api: &Api) -> Pass {
        if !api.access.asks() {
            return Pass::Open;
        }
        parts.extensions.get().cloned().unwrap_or(Pass::Stranger)
    }

    /// Refuses what needs a greater role.
    pub fn check_role(&self, needed: Role) -> Result<(), Problem> {
        match self {
            Pass::Open => Ok(()),
            Pass::Stranger => Err(Problem::no_token()),
            Pass::Granted(grant) if grant.role >= needed => Ok(()),
            Pass::Granted(grant) => {
                let (name, role, needed) = (&grant.name, grant.role.word(), needed.word());
                let detail = format!(
                    "the token of {name:?} has the role {role}, and this needs {needed}: use another token, or have the \
                     role of this one changed where it was given out"
                );
                Err(Problem::new(StatusCode::FORBIDDEN, "forbidden", detail).with("needs", needed))
            }
        }
    }

    /// Refuses a collection that it is not for.
    pub fn check_collection(&self, collection: &str) -> Result<(), Problem> {
        match self {
            Pass::Open => Ok(()),
            Pass::Stranger => Err(Problem::no_token()),
            Pass::Granted(grant) if grant.patterns.cover(collection) => Ok(()),
            Pass::Granted(grant) => {
                let detail = format!(
                    "the token of {:?} is for the collections {}, and not for {collection:?}: use another token, or have \
                     \"collections\" of this one changed where it was given out",
                    grant.name, grant.patterns
                );
                Err(Problem::new(StatusCode::FORBIDDEN, "forbidden", detail))
            }
        }
    }

    /// Refuses a room that it is not for. A room has no collection; what its name has before the first `/` counts as one, as
    /// in `notes/plan`. Whoever may read may be seen there.
    pub fn check_room(&self, name: &str) -> Result<(), Problem> {
        self.check_role(Role::Read)?;
        self.check_collection(name.split('/').next().unwrap_or_default())
    }

    /// Refuses what shows all collections, if it is for some only.
    pub fn check_all(&self) -> Result<(), Problem> {
        match self {
            Pass::Granted(grant) if grant.patterns != Patterns::All => {
                let detail = format!(
                    "this shows all collections, and the token of {:?} is for {}: use one for all, or read the documents \
                     and their histories one by one",
                    grant.name, grant.patterns
                );
                Err(Problem::new(StatusCode::FORBIDDEN, "forbidden", detail))
            }
            pass => pass.check_role(Role::Read),
        }
    }

    /// Refuses a write to, or a guard on, what it is not for. A guard tells what is there.
    pub fn check_write(&self, draft: &Draft) -> Result<(), Problem> {
        self.check_role(Role::Write)?;
        collections(&draft.guards, &draft.commands).try_for_each(|collection| self.check_collection(collection))
    }

    /// An idempotency key as ops carry it. The bearer of a token has keys of its own, so that nobody else's request meets one
    /// of them; where no tokens are asked for, all clients share theirs.
    pub fn own_key(&self, key: Option<String>) -> Result<Option<String>, Fault> {
        let Some(key) = key else { return Ok(None) };
        check_key(&key)?;
        Ok(Some(match self {
            Pass::Granted(grant) => grant.principal.scoped(&key),
            Pass::Open | Pass::Stranger => key,
        }))
    }

    /// Whether it is for all documents that an op names.
    pub fn covers_op(&self, op: &OpBody<'_>) -> bool {
        match self {
            Pass::Open => true,
            Pass::Granted(grant) => collections(&op.guards, &op.commands).all(|name| grant.patterns.cover(name)),
            Pass::Stranger => false,
        }
    }

    /// Waits until it is void: its token has expired, or was taken back. Without a token, for ever.
    pub async fn lapsed(&self) {
        let Pass::Granted(grant) = self else { return std::future::pending().await };
        loop {
            let left = match grant.expires {
                None => Duration::MAX,
                // A token may name any end, also one that no `SystemTime` can hold.
                Some(end) => {
                    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                    match Duration::from_secs(end).checked_sub(now) {
                        Some(left) if !left.is_zero() => left,
                        _ => return,
                    }
                }
            };
            tokio::select! {
                () = grant.revoked.cancelled() => return,
                () = sleep(left.min(LOOK_AT_CLOCK)) => {}
            }
        }
    }

    /// Ends an answer that goes on and on when the pass lapses; others are short.
    pub fn bound(&self, response: Response) -> Response {
        const STREAMS: [&str; 3] = ["text/event-stream", "application/x-ndjson", "application/octet-stream"];
        let kind = response.headers().get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
        if !matches!(self, Pass::Granted(_)) || !kind.is_some_and(|kind| STREAMS.contains(&kind)) {
            return response;
        }
        let (pass, (head, body)) = (self.clone(), response.into_parts());
        let until = async move { pass.lapsed().await };
        Response::from_parts(head, Body::from_stream(body.into_data_stream().take_until(Box::pin(until))))
    }
}

/// The collections of the documents that guards and commands name.
fn collections<'a>(guards: &'a [Guard<'_>], commands: &'a [Command<'_>]) -> impl Iterator<Item = &'a str> {
    let docs = guards.iter().map(Guard::doc).chain(commands.iter().filter_map(Command::doc));
    docs.map(|doc| &*doc.collection)
}

/// Which collections a listing or a feed is of: one or all, as far as its reader's token goes.
#[derive(Clone, Debug, Default)]
pub struct Reach {
    only: Option<String>,
    grant: Option<Arc<Grant>>,
}

impl Reach {
    /// One collection, or all that the pass is for.
    pub fn new(pass: &Pass, only: Option<String>) -> Result<Reach, Problem> {
        pass.check_role(Role::Read)?;
        if let Some(name) = &only {
            check_collection(name)?;
            pass.check_collection(name)?;
        }
        let grant = match pass {
            Pass::Granted(grant) if grant.patterns != Patterns::All => Some(Arc::clone(grant)),
            _ => None,
        };
        Ok(Reach { only, grant })
    }

    /// Whether a collection is in it.
    pub fn covers(&self, collection: &str) -> bool {
        self.only.as_deref().is_none_or(|only| only == collection)
            && self.grant.as_ref().is_none_or(|grant| grant.patterns.cover(collection))
    }

    /// The first collection of it behind a name, where `next` finds the first of all behind one.
    pub fn next(&self, behind: &str, next: impl Fn(&str) -> Option<String>) -> Option<String> {
        match (&self.only, &self.grant) {
            (Some(only), _) => (**only > *behind).then(|| only.clone()),
            (None, Some(grant)) => grant.patterns.next(behind, next),
            (None, None) => next(behind),
        }
    }

    /// The only collection, if there is one.
    pub fn only(&self) -> Option<&str> {
        self.only.as_deref()
    }

    /// The limits of its reader's token, in words; none if there are none.
    pub fn limits(&self) -> Option<String> {
        self.grant.as_ref().map(|grant| grant.patterns.to_string())
    }
}

impl Problem {
    /// 401 for who shows no token.
    pub fn no_token() -> Problem {
        let detail = "this node asks for a token: send the header Authorization: Bearer <token> (lamplight --token, or \
                      LAMPLIGHT_TOKEN). A page's WebSocket offers the subprotocols lamplight.v1 and \
                      bearer.<base64url of the token>, or sends {\"type\":\"auth\",\"token\":…} first on /v1/ws";
        Problem::new(StatusCode::UNAUTHORIZED, "unauthorized", detail)
    }

    /// 401 for a token that is not good.
    pub fn bad_token(why: &str) -> Problem {
        Problem::new(StatusCode::UNAUTHORIZED, "unauthorized", why).with("error", "invalid_token")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn granted(role: Role, collections: &[&str], expires: Option<u64>) -> Pass {
        let collections: Vec<String> = collections.iter().map(ToString::to_string).collect();
        let grant = Grant::new("ada".into(), role, Some(&collections)).unwrap();
        Pass::Granted(Arc::new(Grant { expires, ..grant }))
    }

    #[test]
    fn each_role_includes_the_lesser() {
        let may = |role, needed| granted(role, &["*"], None).check_role(needed).is_ok();
        assert!(may(Role::Read, Role::Read) && may(Role::Write, Role::Read) && may(Role::Admin, Role::Write));
        assert!(!may(Role::Read, Role::Write) && !may(Role::Write, Role::Admin));
        assert!(Pass::Stranger.check_role(Role::Read).is_err());
    }

    #[test]
    fn what_shows_all_needs_a_pass_for_all() {
        assert!(granted(Role::Read, &["*"], None).check_all().is_ok());
        assert!(granted(Role::Write, &["notes", "a*"], None).check_all().is_err());
        assert!(Pass::Stranger.check_all().is_err());
    }

    #[test]
    fn a_grant_names_its_collections_and_an_admin_has_all() {
        let new = |role, texts: Option<&[&str]>| {
            let texts: Option<Vec<String>> = texts.map(|texts| texts.iter().map(ToString::to_string).collect());
            Grant::new("a".into(), role, texts.as_deref()).is_ok()
        };
        assert!(new(Role::Read, Some(&["*"])) && new(Role::Admin, None) && new(Role::Admin, Some(&["*"])));
        assert!(!new(Role::Read, None) && !new(Role::Write, None) && !new(Role::Admin, Some(&["notes"])));
    }

    #[tokio::test(start_paused = true)]
    async fn a_pass_lapses_when_its_token_expires_or_is_taken_back() {
        granted(Role::Read, &["*"], Some(0)).lapsed().await;
        let far = granted(Role::Read, &["*"], Some(u64::MAX));
        assert!(tokio::time::timeout(Duration::from_secs(60), far.lapsed()).await.is_err());
        let pass = granted(Role::Read, &["*"], None);
        let Pass::Granted(grant) = &pass else { unreachable!() };
        let hour = Duration::from_secs(3600);
        assert!(tokio::time::timeout(hour, pass.lapsed()).await.is_err());
        grant.revoked.cancel();
        pass.lapsed().await;
        assert!(tokio::time::timeout(hour, Pass::Open.lapsed()).await.is_err());
    }
}
