//! What browsers must not be talked into: pages of other origins, and names that lead here by a trick.
//!
//! A browser lets any page send requests anywhere, and says in `Origin` which page it was. Only pages of this node, and of
//! origins that the operator has named, may write or open a WebSocket. A page can also give its own host name this node's
//! address (DNS rebinding), and then is of the same origin to the browser: so the `Host` asked for must be a name that
//! this node knows, or the request must bring a token (`super::Access::check`), which no browser adds by itself. Programs
//! that are no browsers send no `Origin`. Each response forbids other pages to frame or embed it ([`Site::guard`]).

use std::net::IpAddr;

use axum::{
    extract::Request,
    http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header, uri::Authority},
    response::{IntoResponse, Response},
};

use super::origin::Origin;
use crate::api::{
    Problem,
    headers::{ACCESS_CONTROL_REQUEST_METHOD, FORWARDED_SCHEME, HOST, ORIGIN, UPGRADE, of_scripts},
    is_secure,
};

/// How long a browser may remember that it may ask.
const PREFLIGHT_AGE: &str = "600";
const METHODS: &str = "GET, HEAD, PUT, PATCH, POST, DELETE";
/// The answer headers that a page of another origin may read.
const SHOWS: &str = "ETag, Location, Retry-After, WWW-Authenticate, Lamplight-Node, Lamplight-Clock, Lamplight-Session, \
                     Lamplight-Stamp, Lamplight-Status";

/// The headers that every response carries unchanged.
const GUARDS: [(HeaderName, &str); 3] = [
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    (header::REFERRER_POLICY, "no-referrer"),
];
/// How long a browser asks this host over TLS only, once it has done so: a year.
const TLS_ONLY: &str = "max-age=31536000";

/// The names and the origins that a node knows.
#[derive(Clone, Debug, Default)]
pub struct Site {
    /// Lower-case names, without ports.
    hosts: Vec<String>,
    /// Lower-case ends of names, each with the dot before it: `*.example.com` is `.example.com`.
    domains: Vec<String>,
    origins: Vec<Origin>,
}

/// From where a request comes, by its `Origin`.
enum From {
    /// No browser says anything else, or a page of this node.
    Here,
    /// A page that the operator has allowed.
    Allowed,
    /// A page of another origin.
    Elsewhere,
}

impl Site {
    /// Adds a name by which this node is asked; `host`, `host:port` or a URL.
    pub fn add_host(&mut self, text: &str) -> Result<(), String> {
        let name = host_in(text);
        if !is_name(&name) {
            return Err(format!("{text:?} names no host: it looks like db.example.com"));
        }
        if !self.hosts.contains(&name) {
            self.hosts.push(name);
        }
        Ok(())
    }

    /// Adds a name by which this node is asked, or with `*.` before it all names below it.
    pub fn allow_host(&mut self, text: &str) -> Result<(), String> {
        let host = host_in(text);
        let Some(name) = host.strip_prefix("*.") else {
            return self.add_host(text).map_err(|why| format!("{why}, or *.example.com for all names below that one"));
        };
        // Names below a single one may be anybody's, as those below com are.
        if !is_name(name) || !name.contains('.') {
            return Err(format!(
                "{text:?} is no pattern: the star stands once, before a name of at least two parts, as in *.svc.cluster.local"
            ));
        }
        self.domains.push(format!(".{name}"));
        Ok(())
    }

    /// Lets pages of an origin write, open web sockets and read what they are answered.
    pub fn add_origin(&mut self, text: &str) -> Result<(), String> {
        if text == "null" {
            return Err("\"null\" is the origin of every page that has none, a frame in a sandbox and a local file among them: \
                        serve the page over http, or from a scheme of its own, and allow that origin"
                .into());
        }
        let origin = text.strip_suffix('/').unwrap_or(text).parse().map_err(|_| {
            format!(
                "{text:?} is no origin: it looks like https://app.example.com, with a port if it has one, or like \
                 capacitor://localhost. A name in other letters is written as browsers do: https://xn--…"
            )
        })?;
        if !self.origins.contains(&origin) {
            self.origins.push(origin);
        }
        Ok(())
    }

    /// Refuses what a page sends to the way for peers, which are no browsers.
    pub fn check_peer(&self, headers: &HeaderMap) -> Result<(), Problem> {
        match ORIGIN.first(headers) {
            None => Ok(()),
            Some(origin) => Err(other_origin(origin, "only nodes connect there")),
        }
    }

    /// Refuses what a page of another origin may not send.
    pub fn check_origin(&self, request: &Request) -> Result<(), Problem> {
        let headers = request.headers();
        let Some(origin) = ORIGIN.first(headers) else { return Ok(()) };
        let reads = matches!(*request.method(), Method::GET | Method::HEAD) && !UPGRADE.is_in(headers);
        match self.from(request, origin) {
            From::Elsewhere if !reads => Err(other_origin(
                origin,
                "open a page of this node itself, or start it with --allow-origin and that origin. Behind a proxy, let \
                 the proxy pass on Host and set X-Forwarded-Proto",
            )),
            _ => Ok(()),
        }
    }

    /// The name in a request that this node does not know itself by, if there is one.
    pub fn unknown_host<'a>(&self, request: &'a Request) -> Result<Option<&'a str>, Problem> {
        let mut hosts = HOST.all(request.headers());
        let host = hosts.next();
        if hosts.next().is_some() {
            return Err(Problem::bad_header("Host must be there once"));
        }
        // Who sends none is no browser. A URI with an authority counts for more than the header (RFC 9112, section 3.2.2).
        let authority = request.uri().authority().map(Authority::as_str);
        let named = [host.map(|host| host.to_str().unwrap_or("?")), authority];
        Ok(named.into_iter().flatten().find(|authority| !self.knows(name_of(authority))))
    }

    /// Whether this node goes by a name. An address always leads to who has it, whatever page is open: nobody can give it
    /// away as a name can be.
    fn knows(&self, name: &str) -> bool {
        let name = name.strip_suffix('.').unwrap_or(name);
        let is_local = name.rsplit('.').next().is_some_and(|last| last.eq_ignore_ascii_case("localhost"));
        let is_address = name.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>().is_ok();
        is_local
            || is_address
            || self.hosts.iter().any(|known| known.eq_ignore_ascii_case(name))
            || self.domains.iter().any(|domain| is_below(name, domain))
    }

    fn from(&self, request: &Request, origin: &HeaderValue) -> From {
        let Some(origin) = origin.to_str().ok().and_then(|origin| origin.parse::<Origin>().ok()) else {
            return From::Elsewhere;
        };
        let host = HOST.text(request.headers()).unwrap_or_default();
        let own = format!("{}://{host}", scheme_of(request)).parse();
        if own.is_ok_and(|own: Origin| own == origin) {
            From::Here
        } else if self.origins.contains(&origin) {
            From::Allowed
        } else {
            From::Elsewhere
        }
    }

    /// Whether a browser asks first for a page of an origin that was allowed. No page of a name that leads here by a trick
    /// does: to the browser it is of the same origin.
    pub fn is_preflight_allowed(&self, request: &Request) -> bool {
        let origin = ORIGIN.first(request.headers());
        asks_first(request) && origin.is_some_and(|origin| matches!(self.from(request, origin), From::Allowed))
    }

    /// The answer to a browser that asks first whether a page of another origin may send a request (the Fetch standard's
    /// preflight); none if this is none.
    pub fn preflight(&self, request: &Request) -> Option<Response> {
        // Whoever was not allowed was refused before.
        let answer = [
            (header::ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static(METHODS)),
            (header::ACCESS_CONTROL_ALLOW_HEADERS, of_scripts()),
            (header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static(PREFLIGHT_AGE)),
        ];
        (asks_first(request) && ORIGIN.is_in(request.headers()))
            .then(|| (StatusCode::NO_CONTENT, answer).into_response())
    }

    /// The origin that may read the answer to a request, if one was allowed that is not this node's.
    pub fn reader(&self, request: &Request) -> Option<HeaderValue> {
        if self.origins.is_empty() {
            return None;
        }
        let origin = ORIGIN.first(request.headers())?;
        matches!(self.from(request, origin), From::Allowed).then(|| origin.clone())
    }

    /// Tells the browser that no page but this node's, and those of allowed origins, may frame or embed a response, and
    /// that its type is the one it says; over TLS, to ask for nothing in clear any more.
    pub fn guard(&self, is_secure: bool, headers: &mut HeaderMap) {
        GUARDS.into_iter().for_each(|(name, value)| drop(headers.insert(name, HeaderValue::from_static(value))));
        if is_secure {
            headers.insert(header::STRICT_TRANSPORT_SECURITY, HeaderValue::from_static(TLS_ONLY));
        }
        headers.insert(header::CONTENT_SECURITY_POLICY, self.policy(headers.get(header::CONTENT_SECURITY_POLICY)));
    }

    /// The policy of a response: a page's own, or that nothing is loaded, and who may frame it.
    fn policy(&self, own: Option<&HeaderValue>) -> HeaderValue {
        let usual = HeaderValue::from_static("default-src 'none'; frame-ancestors 'self'");
        if own.is_none() && self.origins.is_empty() {
            return usual;
        }
        let own = own.and_then(|policy| policy.to_str().ok()).unwrap_or("default-src 'none'");
        let framers = ["'self'".to_string()]
            .into_iter()
            .chain(self.origins.iter().map(Origin::to_string))
            .collect::<Vec<_>>()
            .join(" ");
        HeaderValue::from_str(&format!("{own}; frame-ancestors {framers}")).unwrap_or(usual)
    }

    /// Tells the browser who may read an answer.
    pub fn share(&self, reader: Option<HeaderValue>, headers: &mut HeaderMap) {
        if self.origins.is_empty() {
            return;
        }
        // A cache must not give the answer for one origin to another.
        headers.append(header::VARY, HeaderValue::from_static("Origin"));
        if let Some(origin) = reader {
            headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
            headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static(SHOWS));
        }
    }
}

/// The answer to who asks for a name that this node does not know. `asks` says whether it asks clients for tokens.
pub fn unknown(name: &str, asks: bool) -> Problem {
    let shown: String = name.chars().take(80).collect();
    let token = if asks { ", send a token with the request" } else { "" };
    let detail = format!(
        "this node does not know itself as {shown:?}, and answers to names it knows only: ask it by its address{token}, or \
         start it with --allow-host and that name"
    );
    Problem::new(StatusCode::MISDIRECTED_REQUEST, "unknown-host", detail)
}

fn asks_first(request: &Request) -> bool {
    request.method() == Method::OPTIONS && ACCESS_CONTROL_REQUEST_METHOD.is_in(request.headers())
}

/// The scheme by which a browser asked: `https` where this node speaks TLS, or else what the proxy says that the browser
/// spoke to it. A page of another origin cannot set that header: its browser would ask first, and be refused.
fn scheme_of(request: &Request) -> &str {
    if is_secure(request) {
        return "https";
    }
    let forwarded = FORWARDED_SCHEME.text(request.headers());
    forwarded.and_then(|schemes| schemes.split(',').next()).map_or("http", str::trim)
}

/// The name of a host in lower case: of `host`, `host:port` or a URL.
fn host_in(text: &str) -> String {
    let rest = text.split_once("://").map_or(text, |(_, rest)| rest);
    let name = name_of(rest.split(['/', '?', '#']).next().unwrap_or_default());
    name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase()
}

fn is_name(name: &str) -> bool {
    !name.contains(['@', ' ', '*', ',']) && name.split('.').all(|part| !part.is_empty())
}

/// Whether a name ends as a domain does, with one part or more before that.
fn is_below(name: &str, domain: &str) -> bool {
    let at = name.len().checked_sub(domain.len()).filter(|at| *at > 0);
    at.and_then(|at| name.as_bytes().get(at..)).is_some_and(|end| end.eq_ignore_ascii_case(domain.as_bytes()))
}

/// The name in `name`, `name:port`, `[address]` or `[address]:port`.
fn name_of(authority: &str) -> &str {
    match (authority.rfind(':'), authority.rfind(']')) {
        (Some(colon), Some(bracket)) if colon < bracket => authority,
        (Some(colon), _) => &authority[..colon],
        (None, _) => authority,
    }
}

fn other_origin(origin: &HeaderValue, advice: &str) -> Problem {
    let origin: String = origin.to_str().unwrap_or("?").chars().take(200).collect();
    Problem::new(StatusCode::FORBIDDEN, "other-origin", format!("a page of {origin} may not do this: {advice}"))
}

#[cfg(test)]
mod tests {
    use axum::body::Body;

    use super::*;

    #[test]
    fn a_node_knows_itself_by_its_addresses_and_names() {
        let mut site = Site::default();
        site.add_host("http://DB.example.com:7171/").unwrap();
        site.add_host("other").unwrap();
        let check = |authority, expected| assert_eq!(site.knows(name_of(authority)), expected, "{authority}");
        for known in [
            "localhost",
            "localhost:7171",
            "LOCALHOST.:1",
            "a.localhost",
            "127.0.0.1:7171",
            "10.1.2.3",
            "[::1]",
            "[::1]:7171",
            "db.example.com",
            "DB.Example.COM.:80",
            "other:1",
        ] {
            check(known, true);
        }
        for unknown in [
            "",
            ":7171",
            "evil.example.com",
            "example.com",
            "db.example.com.evil.com",
            "xlocalhost",
            "localhost.evil.com",
            "127.0.0.1.evil.com",
            "127.0.0.1@evil.com",
            "1.2.3",
        ] {
            check(unknown, false);
        }
        for bad in ["", "http://", "a b", "*.example.com", "a..b"] {
            assert!(Site::default().add_host(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_star_stands_for_one_part_of_a_name_or_more() {
        let mut site = Site::default();
        site.allow_host("*.Svc.cluster.local.").unwrap();
        site.allow_host("*.example.com:443").unwrap();
        site.allow_host("db").unwrap();
        let check = |authority, expected| assert_eq!(site.knows(name_of(authority)), expected, "{authority}");
        for known in ["a.svc.cluster.local", "lamplight.default.SVC.cluster.local.:7171", "a.example.com:1", "db"] {
            check(known, true);
        }
        for unknown in ["svc.cluster.local", ".svc.cluster.local", "asvc.cluster.local", "a.svc.cluster.local.evil.com"]
        {
            check(unknown, false);
        }
        for bad in
            ["*", "*.", "*.com", "*.com.", "*example.com", "a.*.com", "*.*.com", "*.a..b", "*.a b.c", "*.:7171", ""]
        {
            assert!(Site::default().allow_host(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn an_origin_is_its_own_or_an_allowed_one() {
        let mut site = Site::default();
        site.add_origin("https://App.example.com/").unwrap();
        site.add_origin("https://default.example.com:443").unwrap();
        for origin in ["capacitor://localhost", "tauri://localhost", "chrome-extension://abcdefghijklmnop", "app://."] {
            site.add_origin(origin).unwrap();
        }
        let check = |origin: &'static str, expected: &str| {
            let request = Request::builder().header(header::HOST, "localhost:7171").body(Body::empty()).unwrap();
            let found = match site.from(&request, &HeaderValue::from_static(origin)) {
                From::Here => "here",
                From::Allowed => "allowed",
                From::Elsewhere => "elsewhere",
            };
            assert_eq!(found, expected, "{origin}");
        };
        check("http://localhost:7171", "here");
        check("http://LOCALHOST:7171", "here");
        check("https://localhost:7171", "elsewhere");
        check("https://app.example.com", "allowed");
        check("http://app.example.com", "elsewhere");
        check("https://app.example.com:444", "elsewhere");
        check("https://app.example.com.evil.com", "elsewhere");
        check("http://localhost:7172", "elsewhere");
        check("https://APP.example.com:443", "allowed");
        check("https://default.example.com", "allowed");
        check("capacitor://localhost", "allowed");
        check("tauri://localhost", "allowed");
        check("chrome-extension://abcdefghijklmnop", "allowed");
        check("app://.", "allowed");
        check("chrome-extension://ponmlkjihgfedcba", "elsewhere");
        check("ionic://localhost", "elsewhere");
        check("capacitor://localhost:7171", "elsewhere");
        check("null", "elsewhere");
        check("", "elsewhere");
        for bad in [
            "",
            "*",
            "app.example.com",
            "https://",
            "https://a/b",
            "https://*.a",
            "https://a;b",
            "https://a\n",
            "null",
            "file://",
            "https://bücher.example",
        ] {
            assert!(Site::default().add_origin(bad).is_err(), "{bad}");
        }
    }
}
