//! The kinds of problems: each slug with its statuses and when it comes. Docs and the API's description say the same, and
//! tests hold them to it.

/// A kind of problem.
pub struct Kind {
    /// What stands behind `urn:lamplight:problem:`.
    pub slug: &'static str,
    /// The statuses that it comes with.
    pub statuses: &'static [u16],
    /// When it comes.
    pub when: &'static str,
}

const fn kind(slug: &'static str, statuses: &'static [u16], when: &'static str) -> Kind {
    Kind { slug, statuses, when }
}

/// All kinds.
pub const KINDS: &[Kind] = &[
    kind("malformed-json", &[400], "what was sent is no JSON"),
    kind("duplicate-key", &[400], "an object has a key twice, which two readers could read differently"),
    kind("inexact-number", &[400], "a number that cannot be kept as it is"),
    kind("too-deep", &[400], "more levels of arrays and objects than a document may have"),
    kind("bad-name", &[400], "a collection, an id or another name is out of its bounds"),
    kind("bad-cursor", &[400], "the cursor is none, or one of another listing"),
    kind("bad-filter", &[400], "the filter is no selector"),
    kind("bad-query", &[400], "a parameter that this call does not know, or a value out of its bounds"),
    kind("bad-header", &[400], "a header has a value that it cannot have"),
    kind("bad-patch", &[400], "the body is no JSON Patch"),
    kind("bad-delta", &[400], "the delta is none, or does not fit the text"),
    kind("bad-update", &[400], "an edit of a text that cannot be kept"),
    kind("bad-request", &[400], "the part of the request that the detail names"),
    kind("unknown-field", &[400], "an object has a field that this call does not know"),
    kind("other-pool", &[400], "the cursor is of another pool"),
    kind("token-in-url", &[400], "a token in the query: send it as a header"),
    kind("unauthorized", &[401], "no token, or none that is good"),
    kind("forbidden", &[403], "the token's role, or its collections, do not go so far"),
    kind("other-origin", &[403], "a write or a WebSocket from another site's page"),
    kind(
        "pool-secret",
        &[400, 403, 426, 429],
        "the two nodes do not share a pool secret, or speak different handshakes, or too many handshakes were begun",
    ),
    kind("not-found", &[404], "no such document, op, member or path"),
    kind("method-not-allowed", &[405], "the path does not take this method: Allow names those it takes"),
    kind("patch-failed", &[409], "a step of the patch cannot be carried out"),
    kind("guard-failed", &[409], "a guard does not hold"),
    kind("not-a-text", &[409], "the document is JSON"),
    kind("member-alive", &[409], "the member was heard of a moment ago"),
    kind("no-majority", &[409], "the members that would remain, or that are heard, are no majority"),
    kind("last-member", &[409], "the last member cannot leave its pool"),
    kind("not-shared", &[409], "no other member holds all that the node has which is to retire"),
    kind("cursor-gone", &[410], "the cursor is too old, or of another node: start again without it"),
    kind("past-forgotten", &[410], "this node knows the past from a later time on only"),
    kind("version-mismatch", &[412], "the document is not in the version that was named"),
    kind("too-slow", &[408], "a body, or the next line of a bulk load, did not come in time"),
    kind("too-large", &[413], "a body, a document or an op is over its bound"),
    kind("unsupported-type", &[415], "a body of a type that this call does not take"),
    kind("unknown-host", &[421], "the Host is no name of this node, and no token came with it"),
    kind("too-costly", &[422], "the operation costs more than one may: split it"),
    kind("key-reused", &[422], "the idempotency key was used for another request"),
    kind("version-needed", &[428], "a delta without If-Match"),
    kind("too-many-requests", &[429], "more requests a second than a token, or an address, may send"),
    kind("headers-too-large", &[431], "path, query and headers together are over their bound"),
    kind("unreadable-text", &[500], "a text whose edits cannot be put together: write it anew"),
    kind("not-ready", &[503], "this node does not hold the pool's data yet, or is stopping"),
    kind("session-not-here", &[503], "this node does not hold yet what the session has seen"),
    kind("overloaded", &[503], "too many clients at once"),
    kind("too-many-connections", &[503], "more connections than the node takes, in all or from one address"),
    kind("retired", &[503], "this node has left its pool"),
    kind("memory-full", &[507], "this node takes as much memory as it may"),
    kind("disk-full", &[507], "this node's disk has no room for the write"),
];

/// The kind of a slug.
pub fn find(slug: &str) -> Option<&'static Kind> {
    KINDS.iter().find(|kind| kind.slug == slug)
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, fs, path::Path};

    use super::*;

    /// The slug at each place where a problem is made.
    fn slugs_made(text: &str, found: &mut BTreeSet<String>) {
        for maker in ["Problem::new(", "Problem::bad(", " conflict("] {
            for (at, _) in text.match_indices(maker) {
                let rest = &text[at + maker.len()..];
                // The slug is the first argument, or the second, behind the status.
                let quoted = rest.split('"').nth(1).unwrap_or_default();
                let is_slug =
                    !quoted.is_empty() && quoted.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-');
                if is_slug && rest.find('"').is_some_and(|quote| quote < 60) {
                    found.insert(quoted.to_string());
                }
            }
        }
    }

    fn read_sources(folder: &Path, found: &mut BTreeSet<String>) {
        for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
            let path = entry.path();
            if path.is_dir() {
                read_sources(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                slugs_made(&fs::read_to_string(&path).unwrap(), found);
            }
        }
    }

    #[test]
    fn every_problem_of_the_sources_is_of_a_known_kind() {
        let mut found = BTreeSet::new();
        read_sources(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/src/api")), &mut found);
        assert!(found.len() > 30, "{found:?}");
        let unknown: Vec<_> = found.iter().filter(|slug| find(slug).is_none()).collect();
        assert!(unknown.is_empty(), "{unknown:?}");
    }

    #[test]
    fn the_table_of_the_documents_names_every_kind_and_no_other() {
        let text = include_str!("../../docs/API.md");
        let table = text.split("## Problems").nth(1).unwrap();
        let mut told = BTreeSet::new();
        for row in table.lines().filter(|line| line.starts_with("| `")) {
            let mut cells = row.split('|').skip(1);
            let (slugs, statuses) = (cells.next().unwrap(), cells.next().unwrap());
            for slug in slugs.split('`').skip(1).step_by(2) {
                let kind = find(slug).unwrap_or_else(|| panic!("{slug} is no kind"));
                assert!(kind.statuses.iter().all(|status| statuses.contains(&status.to_string())), "{row}");
                told.insert(slug.to_string());
            }
        }
        let known: BTreeSet<String> = KINDS.iter().map(|kind| kind.slug.to_string()).collect();
        assert_eq!(told, known);
    }
}
