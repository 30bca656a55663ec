//! Who may ask a node what: tokens and their passes, and what browsers must not be talked into.
//!
//! Every request passes here at the door (`super::door`): what it needs follows from its method and path alone, and a path
//! that nothing here knows needs a token like any other, so that a new call is closed until somebody opens it. Which
//! collections a token is for is looked at where collections are named: in the extractors of paths, in `steps`, and in the
//! [`Reach`] of listings and feeds. Without tokens (on loopback, or with `--insecure`) everything is open, at no cost.

mod greeting;
mod jwt;
mod origin;
mod pass;
mod patterns;
mod principal;
mod site;
mod tokens;

use std::{
    path::PathBuf,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use axum::{
    extract::Request,
    http::{HeaderMap, Method},
};
use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
pub use greeting::{Lobby, UNAUTHORIZED, greet};
pub use pass::{Pass, Reach, Role};
use patterns::Patterns;
pub use principal::Principal;
pub use site::Site;

use self::{
    jwt::Keys,
    tokens::{TOKEN_BYTES_MAX, Tokens},
};
use super::{
    Problem,
    headers::{AUTHORIZATION, SEC_WEBSOCKET_PROTOCOL, UPGRADE},
    watched::Watched,
};

/// The subprotocol of a client's WebSocket, and what stands before a token among those that are offered.
pub const SUBPROTOCOL: &str = "lamplight.v1";
const BEARER_PROTOCOL: &str = "bearer.";
/// Names of query parameters under which others take tokens.
const TOKEN_PARAMETERS: [&str; 5] = ["token", "access_token", "auth", "authorization", "bearer"];

/// What a listener lets in. By default everybody, under the names and from the pages of this machine.
#[derive(Clone, Debug, Default)]
pub struct Access(Arc<Rules>);

#[derive(Debug, Default)]
struct Rules {
    keyring: Option<Keyring>,
    site: Site,
    lobby: Lobby,
}

/// The tokens that a node knows.
#[derive(Debug)]
struct Keyring {
    tokens: Option<Watched<Tokens>>,
    keys: Option<Watched<Keys>>,
}

/// What a request needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Need {
    /// Nothing: it shows nothing of the data or the pool.
    Nothing,
    /// Peers prove to each other who they are, by what they say there.
    Link,
    /// A token, now or in the first message.
    Greeting,
    Role(Role),
    /// To read all collections.
    All,
}

impl Need {
    /// Of a method and a path. What changes something needs `write` unless it is named here.
    fn of(method: &Method, path: &str) -> Need {
        let reads = matches!(*method, Method::GET | Method::HEAD);
        match path {
            // Nothing but which methods there are; a browser's preflight comes without a token.
            _ if *method == Method::OPTIONS => Need::Nothing,
            "/" | "/docs" | "/openapi.json" | "/livez" if reads => Need::Nothing,
            _ if reads && path.starts_with("/static/") => Need::Nothing,
            "/v1/gossip" => Need::Link,
            "/v1/ws" if reads => Need::Greeting,
            "/v1/log" if reads => Need::All,
            "/v1/backup" => Need::Role(Role::Admin),
            _ if reads => Need::Role(Role::Read),
            _ if path.starts_with("/v1/pool/") => Need::Role(Role::Admin),
            _ => Need::Role(Role::Write),
        }
    }
}

impl Access {
    /// Reads the files of tokens and of keys for JWTs, if there are any, and follows their changes; must be called within a
    /// runtime. Without either nobody is asked for a token.
    pub fn open(tokens: Option<PathBuf>, keys: Vec<PathBuf>, site: Site) -> Result<Access, String> {
        if tokens.is_none() && keys.is_empty() {
            return Ok(Access(Arc::new(Rules { keyring: None, site, lobby: Lobby::default() })));
        }
        // Nobody is told that a token is void before it is: else he might come in with it once more.
        let tokens = tokens
            .map(|path| Watched::open_then(vec![path], |paths, before| Tokens::read(&paths[0], before), Tokens::end));
        let keys =
            (!keys.is_empty()).then(|| Watched::open_then(keys, |paths, _| Keys::read(paths), |keys, _| keys.end()));
        let keyring = Keyring { tokens: tokens.transpose()?, keys: keys.transpose()? };
        Ok(Access(Arc::new(Rules { keyring: Some(keyring), site, lobby: Lobby::default() })))
    }

    /// How often the files of tokens and keys were looked at and could not be used; what they said before is in force.
    pub fn refused_files(&self) -> u64 {
        let refused = |keyring: &Keyring| {
            let (tokens, keys) = (keyring.tokens.as_ref(), keyring.keys.as_ref());
            tokens.map_or(0, Watched::refused) + keys.map_or(0, Watched::refused)
        };
        self.0.keyring.as_ref().map_or(0, refused)
    }

    /// Whether clients need tokens.
    pub fn asks(&self) -> bool {
        self.0.keyring.is_some()
    }

    /// The names and origins that the node knows.
    pub fn site(&self) -> &Site {
        &self.0.site
    }

    /// Refuses what may not come in, and tells what may be done by who comes.
    pub fn check(&self, request: &Request) -> Result<Pass, Problem> {
        let need = Need::of(request.method(), request.uri().path());
        let vouched = match need {
            Need::Link => self.site().check_peer(request.headers()).map(|()| None)?,
            _ => self.check_host(request)?,
        };
        if need != Need::Link {
            self.site().check_origin(request)?;
        }
        check_query(request.uri().query())?;
        let Some(keyring) = &self.0.keyring else { return Ok(Pass::Open) };
        let pass = match (need, vouched) {
            (Need::Nothing | Need::Link, _) => return Ok(Pass::Stranger),
            (_, Some(pass)) => pass,
            (Need::Greeting | Need::Role(_) | Need::All, None) => match token_in(request.headers())? {
                Some(token) => keyring.pass(&token)?,
                None => Pass::Stranger,
            },
        };
        match need {
            Need::Nothing | Need::Link | Need::Greeting => {}
            Need::Role(role) => pass.check_role(role)?,
            Need::All => pass.check_all()?,
        }
        Ok(pass)
    }

    /// Refuses a request under a name that this node does not know, unless it brings a token; the token's pass then. A page
    /// that came here by a trick has what its browser adds by itself, and no browser adds a token: not to the header
    /// `Authorization`, nor to the subprotocols. A token that is void is refused as under any other name: that tells nobody
    /// more than that tokens are asked for, and who has an old one must be told to get another.
    fn check_host(&self, request: &Request) -> Result<Option<Pass>, Problem> {
        let Some(name) = self.site().unknown_host(request)? else { return Ok(None) };
        let Some(keyring) = &self.0.keyring else { return Err(site::unknown(name, false)) };
        match token_in(request.headers())? {
            Some(token) => keyring.pass(&token).map(Some),
            // The token comes with what the browser asks for now.
            None if self.site().is_preflight_allowed(request) => Ok(None),
            None => Err(site::unknown(name, true)),
        }
    }

    /// Where clients wait until they have shown their tokens.
    pub fn lobby(&self) -> &Lobby {
        &self.0.lobby
    }

    /// What a token is good for that came in a message.
    fn pass(&self, token: &str) -> Result<Pass, Problem> {
        self.0.keyring.as_ref().map_or(Ok(Pass::Open), |keyring| keyring.pass(token))
    }
}

impl Keyring {
    fn pass(&self, token: &str) -> Result<Pass, Problem> {
        if token.len() > TOKEN_BYTES_MAX {
            return Err(Problem::bad_token("no token of this node is so long: send the one that you were given"));
        }
        if let Some(grant) = self.tokens.as_ref().and_then(|tokens| tokens.now().get(token).cloned()) {
            return Ok(Pass::Granted(grant));
        }
        // What a file gives out has no dots, or is not told from a JWT.
        if let Some(keys) = self.keys.as_ref().filter(|_| self.tokens.is_none() || token.contains('.')) {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
            let grant = keys.now().verify(token, now).map_err(|why| Problem::bad_token(&why))?;
            return Ok(Pass::Granted(Arc::new(grant)));
        }
        Err(Problem::bad_token(
            "this node knows no such token: it was never given out, or has been taken back. Ask who runs the node for one",
        ))
    }
}

/// Refuses a token in the address: addresses are kept in histories, logs and `Referer`.
fn check_query(query: Option<&str>) -> Result<(), Problem> {
    let names = query.into_iter().flat_map(|query| query.split('&')).filter_map(|pair| pair.split('=').next());
    match names.into_iter().find(|name| TOKEN_PARAMETERS.iter().any(|known| known.eq_ignore_ascii_case(name))) {
        None => Ok(()),
        Some(name) => {
            let detail = format!(
                "a token has no place in an address ({name}=), for addresses are kept and shown: send it in the header \
                 Authorization: Bearer <token>, or as a WebSocket's subprotocol bearer.<base64url of the token>. Take this \
                 one back if it was a real one"
            );
            Err(Problem::bad("token-in-url", detail))
        }
    }
}

/// The token that a request brings: in its header, or, as a page's WebSocket can only do, among the subprotocols.
fn token_in(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let mut given = AUTHORIZATION.all(headers);
    if let Some(value) = given.next() {
        let form = "the header is Authorization: Bearer <token>, once";
        let (scheme, token) = value.to_str().ok().and_then(|value| value.split_once(' ')).unwrap_or_default();
        let token = token.trim();
        if !scheme.eq_ignore_ascii_case("bearer") || token.is_empty() || given.next().is_some() {
            return Err(Problem::bad_token(form));
        }
        return Ok(Some(token.to_string()));
    }
    if !UPGRADE.is_in(headers) {
        return Ok(None);
    }
    let offered = SEC_WEBSOCKET_PROTOCOL.texts(headers);
    let mut offered = offered.flat_map(|value| value.split(',')).map(str::trim);
    let Some(encoded) = offered.find_map(|protocol| protocol.strip_prefix(BEARER_PROTOCOL)) else { return Ok(None) };
    let token = BASE64_URL_SAFE_NO_PAD.decode(encoded).ok().and_then(|bytes| String::from_utf8(bytes).ok());
    let form = "the subprotocol is bearer.<token>, the token in base64url without padding, and beside it lamplight.v1";
    token.map(Some).ok_or_else(|| Problem::bad_token(form))
}

#[cfg(test)]
mod tests {
    use axum::http::header;

    use super::*;

    #[test]
    fn what_a_call_needs_follows_from_method_and_path() {
        let check = |method: Method, path, expected| assert_eq!(Need::of(&method, path), expected, "{method} {path}");
        check(Method::GET, "/", Need::Nothing);
        check(Method::GET, "/livez", Need::Nothing);
        check(Method::GET, "/static/app.js", Need::Nothing);
        check(Method::POST, "/static/app.js", Need::Role(Role::Write));
        check(Method::GET, "/readyz", Need::Role(Role::Read));
        check(Method::GET, "/v1/gossip", Need::Link);
        check(Method::GET, "/v1/ws", Need::Greeting);
        check(Method::GET, "/v1/log", Need::All);
        check(Method::GET, "/v1/backup", Need::Role(Role::Admin));
        check(Method::GET, "/v1/docs/notes/a", Need::Role(Role::Read));
        check(Method::HEAD, "/v1/docs/notes/a", Need::Role(Role::Read));
        for method in [Method::PUT, Method::PATCH, Method::DELETE, Method::POST, Method::TRACE] {
            check(method, "/v1/docs/notes/a", Need::Role(Role::Write));
        }
        check(Method::POST, "/v1/tx", Need::Role(Role::Write));
        check(Method::GET, "/v1/pool", Need::Role(Role::Read));
        check(Method::POST, "/v1/pool/join", Need::Role(Role::Admin));
        check(Method::DELETE, "/v1/pool/members/x", Need::Role(Role::Admin));
        check(Method::GET, "/anything/else", Need::Role(Role::Read));
        check(Method::OPTIONS, "/v1/docs/notes/a", Need::Nothing);
    }

    #[test]
    fn a_token_comes_in_the_header_or_among_the_subprotocols() {
        let check = |headers: &[(header::HeaderName, &str)], expected: Result<Option<&str>, ()>| {
            let map: HeaderMap = headers.iter().map(|(name, value)| (name.clone(), value.parse().unwrap())).collect();
            let found = token_in(&map);
            assert_eq!(found.as_ref().map(Option::as_deref).map_err(drop), expected, "{headers:?}");
        };
        let upgrade = (header::UPGRADE, "websocket");
        let protocol = header::SEC_WEBSOCKET_PROTOCOL;
        check(&[], Ok(None));
        check(&[(header::AUTHORIZATION, "Bearer abc")], Ok(Some("abc")));
        check(&[(header::AUTHORIZATION, "bearer  abc ")], Ok(Some("abc")));
        check(&[(header::AUTHORIZATION, "Basic abc")], Err(()));
        check(&[(header::AUTHORIZATION, "Bearer")], Err(()));
        check(&[(protocol.clone(), "lamplight.v1, bearer.YWJj")], Ok(None));
        check(&[upgrade.clone(), (protocol.clone(), "lamplight.v1, bearer.YWJj")], Ok(Some("abc")));
        check(&[upgrade.clone(), (protocol.clone(), "lamplight.v1")], Ok(None));
        check(&[upgrade.clone(), (protocol.clone(), "bearer.abc=")], Err(()));
        check(&[upgrade, (protocol, "bearer._w")], Err(()));
    }

    #[test]
    fn a_token_in_an_address_is_refused() {
        for query in ["token=a", "a=b&access_token=c", "TOKEN=", "token"] {
            assert!(check_query(Some(query)).unwrap_err().is("token-in-url"), "{query}");
        }
        for query in [None, Some(""), Some("limit=1&filter=token"), Some("tokens=1")] {
            assert!(check_query(query).is_ok(), "{query:?}");
        }
    }
}
