//! Conditional requests (RFC 9110, section 13): `If-Match` and `If-None-Match`.
//!
//! The entity tag of a document is its version, a hash of its content, and always strong. A proxy that compresses changes
//! it: nginx marks it as weak, Apache and Caddy add the name of the coding. By the letter of section 13.1.1 such a tag
//! matches nothing in `If-Match`, so that no client behind such a proxy could write. It still names exactly the content that
//! the client has seen, for nobody but a proxy makes it of a version: so it is read as that version.
//!
//! A document has no date, so conditions on dates are passed over, as sections 13.1.3 and 13.1.4 demand.

use axum::http::HeaderMap;

use super::{
    Problem,
    headers::{Field, IF_MATCH, IF_NONE_MATCH},
};
use crate::{
    op::{DocKey, Guard},
    version::Version,
};

/// Most tags in one header of a write.
const TAGS_MAX: usize = 16;
/// Codings whose names proxies add to a tag.
const CODINGS: [&str; 4] = ["gzip", "br", "zstd", "deflate"];
/// Digits of a version.
const VERSION_DIGITS: usize = 32;

/// The tags that a header names.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Tags {
    /// `*`: any version.
    Any,
    /// The versions among them. A tag of another server matches nothing, and is left out.
    Listed(Vec<Version>),
}

impl Tags {
    fn of(field: &Field, headers: &HeaderMap) -> Result<Option<Tags>, Problem> {
        if !field.is_in(headers) {
            return Ok(None);
        }
        let bad = || {
            let name = field.name();
            Problem::bad_header(format!(
                "{name} takes * or versions in quotes, as ETag gives them: {name}: \"<32 hex digits>\", …"
            ))
        };
        let lines: Option<Vec<&str>> = field.all(headers).map(|value| value.to_str().ok()).collect();
        let text = lines.ok_or_else(bad)?.join(",");
        if text.trim() == "*" {
            return Ok(Some(Tags::Any));
        }
        let tags = opaque_tags(&text).ok_or_else(bad)?;
        Ok(Some(Tags::Listed(tags.into_iter().filter_map(version_in).collect())))
    }

    fn matches(&self, current: Option<Version>) -> bool {
        match (self, current) {
            (_, None) => false,
            (Tags::Any, Some(_)) => true,
            (Tags::Listed(versions), Some(current)) => versions.contains(&current),
        }
    }

    fn versions(&self) -> &[Version] {
        match self {
            Tags::Any => &[],
            Tags::Listed(versions) => versions,
        }
    }
}

/// The insides of the quotes in a list of entity tags; none if it is no such list, or an empty one.
fn opaque_tags(list: &str) -> Option<Vec<&str>> {
    let (mut tags, mut rest) = (Vec::new(), list);
    loop {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        if rest.is_empty() {
            return (!tags.is_empty()).then_some(tags);
        }
        let (tag, behind) = rest.strip_prefix("W/").unwrap_or(rest).strip_prefix('"')?.split_once('"')?;
        rest = behind.trim_start_matches([' ', '\t']);
        if !rest.is_empty() && !rest.starts_with(',') {
            return None;
        }
        tags.push(tag);
    }
}

/// The version in a tag, as it was or as a proxy has changed it.
fn version_in(tag: &str) -> Option<Version> {
    let (version, added) = tag.split_at_checked(VERSION_DIGITS)?;
    let coding = added.strip_prefix("--").or_else(|| added.strip_prefix('-'));
    let is_ours = added.is_empty() || coding.is_some_and(|coding| CODINGS.contains(&coding));
    version.parse().ok().filter(|_| is_ours)
}

/// The conditions of a request.
#[derive(Debug, Default)]
pub struct Conditions {
    matching: Option<Tags>,
    differing: Option<Tags>,
}

/// The response to a read whose conditions do not fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Read {
    /// All of it.
    Whole,
    /// 304: the client has it.
    Held,
}

impl Conditions {
    /// Reads the conditions of a write.
    pub fn of_write(headers: &HeaderMap) -> Result<Conditions, Problem> {
        let conditions =
            Conditions { matching: Tags::of(&IF_MATCH, headers)?, differing: Tags::of(&IF_NONE_MATCH, headers)? };
        let is_long = |tags: &Option<Tags>| tags.as_ref().is_some_and(|tags| tags.versions().len() > TAGS_MAX);
        if is_long(&conditions.matching) || is_long(&conditions.differing) {
            return Err(Problem::bad_header(format!("in a write a list has at most {TAGS_MAX} versions: name fewer")));
        }
        Ok(conditions)
    }

    /// Judges a read of what is there in a version, in the order of section 13.2.2. A client that cannot say what it holds gets
    /// the whole. The version is asked for only if there is a condition, for it takes a hash of the content.
    pub fn judge_read(headers: &HeaderMap, current: impl FnOnce() -> Version) -> Result<Read, Problem> {
        if !IF_MATCH.is_in(headers) && !IF_NONE_MATCH.is_in(headers) {
            return Ok(Read::Whole);
        }
        let current = Some(current());
        if Tags::of(&IF_MATCH, headers)?.is_some_and(|tags| !tags.matches(current)) {
            return Err(Problem::version_mismatch(current.map(|version| version.to_string())));
        }
        let held = Tags::of(&IF_NONE_MATCH, headers).ok().flatten();
        Ok(if held.is_some_and(|tags| tags.matches(current)) { Read::Held } else { Read::Whole })
    }

    /// Refuses conditions where nothing has a version.
    pub fn refuse(headers: &HeaderMap, advice: &str) -> Result<(), Problem> {
        let found = [&IF_MATCH, &IF_NONE_MATCH].into_iter().find(|field| field.is_in(headers));
        found.map_or(Ok(()), |field| Err(Problem::bad_header(format!("this call takes no {}: {advice}", field.name()))))
    }

    /// Returns true if the guards follow from the version that the document has: a guard names one version only.
    pub fn need_current(&self) -> bool {
        matches!(&self.matching, Some(Tags::Listed(versions)) if versions.len() != 1)
            || matches!(self.differing, Some(Tags::Listed(_)))
    }

    /// The guards that stand for the conditions, while the document is in this version, or absent; or 412.
    pub fn guards(&self, doc: &DocKey<'static>, current: Option<Version>) -> Result<Vec<Guard<'static>>, Problem> {
        let mut guards = Vec::new();
        match &self.matching {
            None => {}
            Some(Tags::Any) => guards.push(Guard::Exists(doc.clone())),
            Some(Tags::Listed(versions)) => {
                let named = versions.iter().find(|version| Some(**version) == current).or(versions.first());
                let named =
                    named.ok_or_else(|| Problem::version_mismatch(current.map(|version| version.to_string())))?;
                guards.push(Guard::Version(doc.clone(), *named));
            }
        }
        match (&self.differing, current) {
            (None, _) => {}
            (Some(Tags::Any), _) | (Some(Tags::Listed(_)), None) => guards.push(Guard::Absent(doc.clone())),
            (Some(tags @ Tags::Listed(_)), Some(version)) if tags.matches(current) => {
                return Err(Problem::version_excluded(&version.to_string()));
            }
            (Some(Tags::Listed(_)), Some(version)) => guards.push(Guard::Version(doc.clone(), version)),
        }
        Ok(guards)
    }

    /// The guards that the same request had if the document was in another version when it came first. A key names the request
    /// with its guards.
    pub fn other_guards(&self, doc: &DocKey<'static>, taken: &[Guard<'static>]) -> Vec<Vec<Guard<'static>>> {
        let versions = self.matching.as_ref().map_or(&[][..], Tags::versions);
        let guards = versions.iter().filter_map(|version| self.guards(doc, Some(*version)).ok());
        guards.filter(|guards| guards != taken).collect()
    }

    /// Refuses a key beside versions in `If-None-Match`: of their guards nobody knows later what they were.
    pub fn check_key(&self, key: Option<&String>) -> Result<(), Problem> {
        if key.is_some() && matches!(self.differing, Some(Tags::Listed(_))) {
            let detail = "If-None-Match takes only * beside an Idempotency-Key: leave one of them out, or name a version in \
                          If-Match";
            return Err(Problem::bad_header(detail));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_of_tags_is_read_as_the_standard_has_it() {
        let check = |list, expected: Option<&[&str]>| assert_eq!(opaque_tags(list).as_deref(), expected, "{list}");
        check("\"a\"", Some(&["a"]));
        check("W/\"a\", \"b,c\" ,,\"\"", Some(&["a", "b,c", ""]));
        check(" \"a\"\t", Some(&["a"]));
        for bad in ["", ",", "a", "\"a", "\"a\" \"b\"", "w/\"a\"", "W/ \"a\"", "*", "\"a\"x"] {
            check(bad, None);
        }
    }

    #[test]
    fn a_version_is_found_behind_what_proxies_add() {
        let version = "0123456789abcdef0123456789abcdef";
        for tag in ["", "-gzip", "--gzip", "-br", "-zstd", "-deflate"] {
            assert_eq!(version_in(&format!("{version}{tag}")), version.parse().ok(), "{tag}");
        }
        for tag in ["-", "--", "---gzip", "gzip", "-snappy", "0"] {
            assert_eq!(version_in(&format!("{version}{tag}")), None, "{tag}");
        }
        assert_eq!(version_in("ä"), None);
    }
}
