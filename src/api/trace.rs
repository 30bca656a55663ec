//! The trace that a request is a part of, as its header `traceparent` says (W3C Trace Context, level 1): its ids go into the
//! log lines that the request leads to, and nowhere else. A request without it costs no span.

use axum::http::{HeaderMap, StatusCode};
use tracing::Span;

use super::{headers::TRACEPARENT, meters::Call};

/// What a `traceparent` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Parent<'h> {
    trace: &'h str,
    span: &'h str,
}

/// The span of a request: none if it is a part of no trace.
pub fn span(headers: &HeaderMap, call: &Call<'_>) -> Span {
    let parent = TRACEPARENT.text(headers).and_then(parent);
    let Some(Parent { trace, span }) = parent else { return Span::none() };
    // Of the highest level, for a filter that lets a line through must not take its trace away.
    tracing::error_span!("request", method = call.method, route = call.route, trace_id = trace, parent_id = span)
}

/// Counts a request whose answer begins, and tells of it in the log.
pub fn answered(call: Call<'_>, status: StatusCode) {
    let (method, route) = (call.method, call.route);
    let took = call.answered(status);
    tracing::debug!(method, route, status = status.as_u16(), us = took.as_micros() as u64, "answered");
}

/// Reads a `traceparent`; none if it is none, which the standard wants passed over.
fn parent(text: &str) -> Option<Parent<'_>> {
    let mut parts = text.split('-');
    let mut hex = |digits: usize| {
        let part = parts.next()?;
        let is_hex = part.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        (is_hex && part.len() == digits).then_some(part)
    };
    let (version, trace, span, _flags) = (hex(2)?, hex(32)?, hex(16)?, hex(2)?);
    let is_zero = |id: &str| id.bytes().all(|byte| byte == b'0');
    // Later versions may say more behind these four.
    let whole = version != "00" || parts.next().is_none();
    (version != "ff" && !is_zero(trace) && !is_zero(span) && whole).then_some(Parent { trace, span })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
    const SPAN: &str = "00f067aa0ba902b7";

    fn check(text: &str, is_parent: bool) {
        let expected = is_parent.then_some(Parent { trace: TRACE, span: SPAN });
        assert_eq!(parent(text), expected, "{text}");
    }

    #[test]
    fn a_traceparent_is_read_as_the_standard_has_it() {
        check(&format!("00-{TRACE}-{SPAN}-01"), true);
        check(&format!("cc-{TRACE}-{SPAN}-01"), true);
        check(&format!("cc-{TRACE}-{SPAN}-01-what-the-future-will-be"), true);
        check(&format!("00-{TRACE}-{SPAN}-01-more"), false);
        check(&format!("ff-{TRACE}-{SPAN}-01"), false);
        check(&format!("00-{TRACE}-{SPAN}"), false);
        check(&format!("00-{}-{SPAN}-01", TRACE.to_uppercase()), false);
        check(&format!("00-{}-{SPAN}-01", "0".repeat(32)), false);
        check(&format!("00-{TRACE}-{}-01", "0".repeat(16)), false);
        check(&format!("00-{TRACE}é-{SPAN}-01"), false);
        check("", false);
    }
}
