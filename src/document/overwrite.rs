//! Which parts of a document an op sets, so that history can say what was lost to it.
//!
//! Parts are paths, as in a JSON Pointer: a `put` or a deletion sets the whole document, a merge each member down to what
//! is no object, a patch what its steps name. It looks at the ops alone, not at the document between them: places in an
//! array are compared as they are written.

use serde_json::Value;

use super::json;
use crate::op::{Body, Command, DocKey};

/// Most parts that are told apart of one op, and most bytes of their paths: each part has the path that leads to it.
const PARTS_MAX: usize = 1_000;
const PATH_BYTES_MAX: usize = 1 << 20;

/// What an op sets of one document: its first parts, up to [`PARTS_MAX`].
#[derive(Clone, Debug, Default)]
pub struct Writes(Vec<Part>);

/// Parts as they are found.
#[derive(Default)]
struct Parts {
    list: Vec<Part>,
    path_bytes: usize,
}

impl Parts {
    fn push(&mut self, part: Part) {
        if !self.are_too_many() {
            self.path_bytes += part.path.iter().map(String::len).sum::<usize>();
            self.list.push(part);
        }
    }

    fn are_too_many(&self) -> bool {
        self.list.len() >= PARTS_MAX || self.path_bytes > PATH_BYTES_MAX
    }
}

#[derive(Clone, Debug)]
struct Part {
    path: Vec<String>,
    /// What is there then; none if nothing, or if the op does not say.
    value: Option<Value>,
    /// Whether what was there is gone. An increment builds on it, and what comes into an array moves it.
    replaces: bool,
}

impl Writes {
    /// What an op with this body sets of `doc`.
    pub fn of(body: &Body<'_>, doc: &DocKey<'_>) -> Writes {
        let mut parts = Parts::default();
        for command in body.commands.iter().filter(|command| command.doc() == Some(doc)) {
            match command {
                Command::Put(_, value) => parts.push(Part { path: vec![], value: tree(value), replaces: true }),
                Command::Delete(_) => parts.push(Part { path: vec![], value: None, replaces: true }),
                Command::Merge(_, merge) => merged(&mut vec![], tree(merge).unwrap_or_default(), &mut parts),
                // Edits of a text are put together, none is lost to another.
                Command::Text(..) => parts.push(Part { path: vec![], value: None, replaces: false }),
                Command::Patch(_, steps) => patched(&tree(steps).unwrap_or_default(), &mut parts),
                Command::Add(..)
                | Command::Retire
                | Command::Evict(_)
                | Command::Fence(..)
                | Command::Removed(_)
                | Command::Key(..) => {}
            }
        }
        Writes(parts.list)
    }

    /// Whether nothing of the document was left.
    pub fn replaces_all(&self) -> bool {
        self.0.iter().any(|part| part.replaces && part.path.is_empty())
    }

    /// Whether some of what these, the earlier, set is replaced by `later`.
    pub fn are_replaced_by(&self, later: &Writes) -> bool {
        let replacing = || later.0.iter().filter(|part| part.replaces);
        self.0.iter().any(|part| replacing().any(|other| part.is_replaced_by(&other.path)))
    }

    /// Takes away what `later` has replaced whole.
    pub fn drop_replaced_by(&mut self, later: &Writes) {
        let gone = |part: &Part| later.0.iter().any(|other| other.replaces && part.path.starts_with(&other.path));
        self.0.retain(|part| !gone(part));
    }

    /// How many parts these are.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// These, and those of another op.
    pub fn join(&mut self, other: &Writes) {
        self.0.extend(other.0.iter().cloned());
    }
}

impl Part {
    /// Whether to set what is at `path` replaces this, or some of it.
    fn is_replaced_by(&self, path: &[String]) -> bool {
        if self.path.starts_with(path) {
            return true;
        }
        let Some(rest) = path.strip_prefix(&*self.path) else { return false };
        let mut value = self.value.as_ref();
        for token in rest {
            match value {
                Some(Value::Object(members)) => match members.get(token) {
                    Some(member) => value = Some(member),
                    // Beside what was set here.
                    None => return false,
                },
                _ => return true,
            }
        }
        true
    }
}

fn merged(path: &mut Vec<String>, merge: Value, parts: &mut Parts) {
    let Value::Object(members) = merge else {
        let value = Some(merge).filter(|value| !value.is_null() || path.is_empty());
        parts.push(Part { path: path.clone(), value, replaces: true });
        return;
    };
    for (key, value) in members {
        if parts.are_too_many() {
            return;
        }
        path.push(key);
        merged(path, value, parts);
        path.pop();
    }
}

fn patched(steps: &Value, parts: &mut Parts) {
    for step in steps.as_array().into_iter().flatten() {
        let path = |member: &str| step[member].as_str().map(tokens).unwrap_or_default();
        let mut part = |member: &str, value: Option<Value>, replaces: bool| {
            parts.push(Part { path: path(member), value, replaces });
        };
        let is_inserted = || {
            let path = path("path");
            path.last()
                .is_some_and(|last| last == "-" || (!last.is_empty() && last.bytes().all(|b| b.is_ascii_digit())))
        };
        match step["op"].as_str().unwrap_or_default() {
            "add" => part("path", step.get("value").cloned(), !is_inserted()),
            "replace" => part("path", step.get("value").cloned(), true),
            "remove" => part("path", None, true),
            "copy" => part("path", None, !is_inserted()),
            "move" => {
                part("from", None, true);
                part("path", None, !is_inserted());
            }
            "increment" => part("path", None, false),
            _ => {}
        }
    }
}

fn tokens(pointer: &str) -> Vec<String> {
    pointer.split('/').skip(1).map(|token| token.replace("~1", "/").replace("~0", "~")).collect()
}

fn tree(canonical: &str) -> Option<Value> {
    json::parse(canonical.as_bytes()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn doc() -> DocKey<'static> {
        DocKey::new("c", "x")
    }

    fn put(value: &str) -> Command<'_> {
        Command::Put(doc(), value.into())
    }

    fn merge(value: &str) -> Command<'_> {
        Command::Merge(doc(), value.into())
    }

    fn patch(steps: &str) -> Command<'_> {
        Command::Patch(doc(), steps.into())
    }

    fn writes(command: Command<'_>) -> Writes {
        let other = Command::Put(DocKey::new("c", "other"), "1".into());
        let body = Body { wall_ms: 0, seen: vec![], key: None, guards: vec![], commands: vec![other, command] };
        Writes::of(&body, &doc())
    }

    #[track_caller]
    fn check(earlier: Command<'_>, later: Command<'_>, replaced: bool) {
        assert_eq!(writes(earlier).are_replaced_by(&writes(later)), replaced);
    }

    #[test]
    fn a_put_and_a_deletion_replace_all() {
        for later in [put("1"), Command::Delete(doc())] {
            assert!(writes(later.clone()).replaces_all());
            for earlier in [put("{}"), merge(r#"{"a":1}"#), patch(r#"[{"by":1,"op":"increment","path":"/a"}]"#)] {
                check(earlier, later.clone(), true);
            }
        }
    }

    #[test]
    fn a_merge_replaces_what_it_names() {
        check(merge(r#"{"a":1}"#), merge(r#"{"a":2}"#), true);
        check(merge(r#"{"a":1}"#), merge(r#"{"b":2}"#), false);
        check(merge(r#"{"a":{"b":1}}"#), merge(r#"{"a":{"c":1}}"#), false);
        check(merge(r#"{"a":{"b":1}}"#), merge(r#"{"a":null}"#), true);
        check(merge(r#"{"a":5}"#), merge(r#"{"a":{"c":1}}"#), true);
        check(put(r#"{"a":1}"#), merge(r#"{"a":2}"#), true);
        check(put(r#"{"a":1}"#), merge(r#"{"b":2}"#), false);
        check(put("[]"), merge(r#"{"b":2}"#), true);
        check(Command::Delete(doc()), merge(r#"{"b":2}"#), true);
        assert!(writes(merge("7")).replaces_all());
    }

    #[test]
    fn a_step_replaces_what_it_names_unless_it_adds_to_it() {
        check(merge(r#"{"a":1}"#), patch(r#"[{"op":"replace","path":"/a","value":2}]"#), true);
        check(merge(r#"{"a":1}"#), patch(r#"[{"op":"test","path":"/a","value":1}]"#), false);
        check(merge(r#"{"a/b":1}"#), patch(r#"[{"op":"remove","path":"/a~1b"}]"#), true);
        check(merge(r#"{"a":1}"#), patch(r#"[{"by":1,"op":"increment","path":"/a"}]"#), false);
        check(patch(r#"[{"by":1,"op":"increment","path":"/a"}]"#), merge(r#"{"a":2}"#), true);
        check(merge(r#"{"a":[1]}"#), patch(r#"[{"op":"add","path":"/a/-","value":2}]"#), false);
        check(merge(r#"{"a":1,"b":2}"#), patch(r#"[{"from":"/a","op":"move","path":"/c"}]"#), true);
        check(merge(r#"{"c":1}"#), patch(r#"[{"from":"/a","op":"copy","path":"/c"}]"#), true);
    }

    #[test]
    fn a_long_key_is_not_kept_for_each_member_behind_it() {
        let members: Vec<String> = (0..10_000).map(|at| format!("\"{at:05}\":0")).collect();
        let many = writes(merge(&format!("{{\"{}\":{{{}}}}}", "k".repeat(500_000), members.join(","))));
        assert_eq!(many.count(), 3, "a mebibyte of paths");
        assert_eq!(writes(merge(&format!("{{{}}}", members.join(",")))).count(), PARTS_MAX);
    }

    #[test]
    fn what_a_third_has_replaced_is_not_there_to_be_replaced() {
        let mut first = writes(merge(r#"{"a":{"x":1},"b":1}"#));
        first.drop_replaced_by(&writes(merge(r#"{"a":2}"#)));
        assert!(!first.are_replaced_by(&writes(merge(r#"{"a":3}"#))));
        assert!(first.are_replaced_by(&writes(merge(r#"{"b":3}"#))));
    }
}
