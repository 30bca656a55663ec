//! What is counted of clients: their requests by route, method and status, and their connections.
//!
//! A route is known by its template, never by a path: so there are as many as the router has, whatever clients ask for.

use std::{
    sync::OnceLock,
    time::{Duration, Instant},
};

use axum::{
    extract::{MatchedPath, Request},
    http::{Method, StatusCode},
};

use crate::meter::{Counter, Head, Headcount, Histogram};

/// Most routes that are told apart; there are about half as many, and what is beyond counts as [`NO_ROUTE`].
const ROUTES_MAX: usize = 64;
/// The route of requests that lead nowhere.
const NO_ROUTE: &str = "none";
/// The methods that are told apart; the last stands for all others.
const METHODS: [&str; 7] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "other"];
/// Classes of statuses.
const STATUSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];
/// Bounds of the times of requests, in microseconds: from a read in memory to a write that waits.
const REQUEST_BOUNDS_US: [u64; 12] =
    [250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 1_000_000, 5_000_000];

/// What was counted since the start.
#[derive(Debug)]
pub struct Meters {
    routes: Box<[OnceLock<Route>]>,
    /// Requests whose answer has not begun.
    pub in_flight: Headcount,
    /// Connections of `/v1/ws`.
    pub clients: Headcount,
    /// Their subscriptions.
    pub subscriptions: Headcount,
    /// Connections of `/v1/yjs`.
    pub editors: Headcount,
}

#[derive(Debug)]
struct Route {
    template: Box<str>,
    methods: [Calls; METHODS.len()],
}

/// The requests of one route and method.
#[derive(Debug)]
struct Calls {
    statuses: [Counter; STATUSES.len()],
    seconds: Histogram,
}

/// A request that is under way.
pub struct Call<'m> {
    calls: &'m Calls,
    /// The template of its route.
    pub route: &'m str,
    /// Its method, of those that are told apart.
    pub method: &'static str,
    began: Instant,
    _in_flight: Head,
}

/// The requests of one route and method, as they are told.
pub struct Told<'m> {
    /// The template of the route.
    pub route: &'m str,
    /// The method.
    pub method: &'static str,
    /// How many were answered, by the class of the status.
    pub statuses: [(&'static str, u64); STATUSES.len()],
    /// How long it took until the answer began.
    pub seconds: &'m Histogram,
}

impl Default for Meters {
    fn default() -> Meters {
        let meters = Meters {
            routes: (0..ROUTES_MAX).map(|_| OnceLock::new()).collect(),
            in_flight: Headcount::default(),
            clients: Headcount::default(),
            subscriptions: Headcount::default(),
            editors: Headcount::default(),
        };
        // The first is the one that takes what is beyond the last.
        meters.routes[0].get_or_init(|| Route::new(NO_ROUTE));
        meters
    }
}

impl Meters {
    /// A request has come.
    pub fn begin(&self, request: &Request) -> Call<'_> {
        let template = request.extensions().get::<MatchedPath>().map_or(NO_ROUTE, MatchedPath::as_str);
        let route = self.route(template);
        let method = match *request.method() {
            Method::GET => 0,
            Method::HEAD => 1,
            Method::POST => 2,
            Method::PUT => 3,
            Method::PATCH => 4,
            Method::DELETE => 5,
            _ => METHODS.len() - 1,
        };
        Call {
            calls: &route.methods[method],
            route: &route.template,
            method: METHODS[method],
            began: Instant::now(),
            _in_flight: self.in_flight.enter(),
        }
    }

    /// Each takes the first free place when it is met first, and keeps it: later it is found without a lock.
    fn route(&self, template: &str) -> &Route {
        let mut routes = self.routes.iter().map(|route| route.get_or_init(|| Route::new(template)));
        let found = routes.find(|route| *route.template == *template);
        found.or(self.routes[0].get()).expect("the first is there from the beginning")
    }

    /// What was answered so far.
    pub fn told(&self) -> impl Iterator<Item = Told<'_>> {
        let routes = self.routes.iter().filter_map(OnceLock::get);
        let calls = routes.flat_map(|route| METHODS.into_iter().zip(&route.methods).map(move |pair| (route, pair)));
        let told = calls.map(|(route, (method, Calls { statuses, seconds }))| Told {
            route: &route.template,
            method,
            statuses: std::array::from_fn(|at| (STATUSES[at], statuses[at].read())),
            seconds,
        });
        told.filter(|told| told.statuses.iter().any(|(_, count)| *count > 0))
    }
}

impl Route {
    fn new(template: &str) -> Route {
        let calls = |_| Calls { statuses: Default::default(), seconds: Histogram::new(&REQUEST_BOUNDS_US) };
        Route { template: template.into(), methods: std::array::from_fn(calls) }
    }
}

impl Call<'_> {
    /// Its answer begins; returns how long that took.
    pub fn answered(self, status: StatusCode) -> Duration {
        let took = self.began.elapsed();
        let class = usize::from(status.as_u16() / 100).clamp(1, STATUSES.len());
        self.calls.statuses[class - 1].count();
        self.calls.seconds.observe(took);
        took
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes_beyond_the_last_place_count_as_none() {
        let meters = Meters::default();
        for number in 1..ROUTES_MAX {
            assert_eq!(*meters.route(&format!("/{number}")).template, *format!("/{number}"));
        }
        assert_eq!(*meters.route("/one-more").template, *NO_ROUTE);
        assert_eq!(*meters.route("/1").template, *"/1");
    }
}
