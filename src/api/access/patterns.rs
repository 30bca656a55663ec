//! Which collections a token is for: names, and beginnings of names with a `*` behind them.

use std::fmt;

use crate::document::check_collection;

/// Most patterns of one token: each is looked at for each document of a feed.
const PATTERNS_MAX: usize = 64;

/// The collections that a token is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Patterns {
    /// All.
    All,
    /// Those that one of these names, or begins, if it ends with `*`.
    Some(Vec<Box<str>>),
}

impl Patterns {
    /// Reads them as they are written: `notes` is one collection, `notes.*` those whose names go on behind the `notes.`
    /// (so not `notes` itself), `*` all.
    pub fn parse(texts: &[String]) -> Result<Patterns, String> {
        if texts.len() > PATTERNS_MAX {
            return Err(format!("\"collections\" has at most {PATTERNS_MAX} patterns"));
        }
        for text in texts {
            let beginning = text.strip_suffix('*').unwrap_or(text);
            // What is a beginning of a name is a name, but for none at all.
            if text != "*" && check_collection(beginning).is_err() {
                let shown: String = text.chars().take(80).collect();
                return Err(format!(
                    "{shown:?} is no pattern: it is a collection's name, or the beginning of names with * behind it"
                ));
            }
        }
        if texts.iter().any(|text| text == "*") {
            return Ok(Patterns::All);
        }
        Ok(Patterns::Some(texts.iter().map(|text| text.as_str().into()).collect()))
    }

    /// Whether a collection is among them.
    pub fn cover(&self, collection: &str) -> bool {
        let Patterns::Some(patterns) = self else { return true };
        patterns.iter().any(|pattern| match pattern.strip_suffix('*') {
            Some(beginning) => collection.len() > beginning.len() && collection.starts_with(beginning),
            None => **pattern == *collection,
        })
    }

    /// The first of them behind a name, where `next` finds the first of all collections behind one. It may be one that does
    /// not exist.
    pub fn next(&self, behind: &str, next: impl Fn(&str) -> Option<String>) -> Option<String> {
        let Patterns::Some(patterns) = self else { return next(behind) };
        let firsts = patterns.iter().filter_map(|pattern| match pattern.strip_suffix('*') {
            Some(beginning) => next(behind.max(beginning)).filter(|name| name.starts_with(beginning)),
            None => (**pattern > *behind).then(|| pattern.to_string()),
        });
        firsts.min()
    }
}

impl fmt::Display for Patterns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Patterns::All => f.write_str("*"),
            Patterns::Some(patterns) => f.write_str(&patterns.join(", ")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn patterns(texts: &[&str]) -> Result<Patterns, String> {
        Patterns::parse(&texts.iter().map(ToString::to_string).collect::<Vec<_>>())
    }

    #[test]
    fn a_pattern_covers_a_name_or_what_goes_on_behind_a_beginning() {
        let check = |texts: &[&str], collection, expected| {
            assert_eq!(patterns(texts).unwrap().cover(collection), expected, "{texts:?} {collection}");
        };
        check(&["notes"], "notes", true);
        check(&["notes"], "notes2", false);
        check(&["notes"], "Notes", false);
        check(&["notes"], "note", false);
        check(&["notes.*"], "notes.a", true);
        check(&["notes.*"], "notes.a.b", true);
        check(&["notes.*"], "notes", false);
        check(&["notes.*"], "notes.", false);
        check(&["notes.*"], "notesXa", false);
        check(&["notes*"], "notes2", true);
        check(&["a", "notes.*"], "a", true);
        check(&["a", "*"], "anything", true);
        check(&[], "notes", false);
        check(&["notes"], "", false);
    }

    #[test]
    fn the_next_collection_is_found_without_going_through_all() {
        let there = ["a", "b", "notes", "notes.a", "notes.b", "z"];
        let next = |behind: &str| there.iter().find(|name| **name > behind).map(ToString::to_string);
        let check = |texts: &[&str], expected: &[&str]| {
            let (patterns, mut found) = (patterns(texts).unwrap(), vec![String::new()]);
            while let Some(name) = patterns.next(found.last().unwrap(), next) {
                found.push(name);
            }
            assert_eq!(found[1..], *expected, "{texts:?}");
        };
        check(&["*"], &there);
        check(&["notes.*"], &["notes.a", "notes.b"]);
        check(&["z", "notes.*", "a", "notes*"], &["a", "notes.a", "notes.b", "z"]);
        check(&["absent", "zz*"], &["absent"]);
        check(&[], &[]);
    }

    #[test]
    fn what_is_no_pattern_is_refused() {
        for text in ["", "**", "*.notes", "no*tes", "no tes", "-*", "a/b", &"x".repeat(65)] {
            assert!(patterns(&[text]).is_err(), "{text:?}");
        }
        assert!(patterns(&vec!["a"; 65]).is_err());
        assert_eq!(patterns(&["a", "*"]), Ok(Patterns::All));
    }
}
