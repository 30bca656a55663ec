//! Guards and commands as clients write them: what a transaction and a write over the WebSocket have in common.
//!
//! Rests on values of `json::parse` (or `parse_within`), so duplicate keys and inexact numbers are refused before this
//! begins. It is strict: a field that nothing here knows is refused and named, for a guard with a misspelt name would
//! guard nothing. Each problem says at which place it is.

use serde_json::{Map, Value};

use super::Problem;
use crate::{
    document::{check_collection, check_id, json, patch::Patch},
    op::{Command, DocKey, Guard},
    replica::Draft,
    version::Version,
};

/// Levels of arrays and objects that a message may have, for `json::parse_within`: around a document's value there are
/// the message, its list of commands, a command, and what the command says.
pub const LEVELS_MAX: usize = json::DEPTH_MAX + 4;

/// Reads `{"guards"?: […], "commands": […], "key"?: …}`, from which the caller has taken what is its own.
pub fn parse(members: Map<String, Value>) -> Result<Draft, Problem> {
    let mut fields = Fields::open("the transaction", Value::Object(members), &["guards", "commands", "key"])?;
    let key = match fields.members.remove("key") {
        None => None,
        Some(Value::String(key)) => Some(key),
        Some(_) => return Err(Problem::bad("bad-request", "\"key\" must be a string")),
    };
    let guards = match fields.members.remove("guards") {
        None => Vec::new(),
        Some(guards) => list("guards", guards, guard)?,
    };
    let commands = list("commands", fields.take("commands")?, command)?;
    Ok(Draft { key, guards, commands, present: false })
}

fn list<T>(name: &str, value: Value, read: fn(&str, Value) -> Result<T, Problem>) -> Result<Vec<T>, Problem> {
    let Value::Array(items) = value else {
        return Err(Problem::bad("bad-request", format!("{name:?} must be a list")));
    };
    items.into_iter().enumerate().map(|(index, item)| read(&format!("{name}[{index}]"), item)).collect()
}

fn guard(place: &str, value: Value) -> Result<Guard<'static>, Problem> {
    let (kind, place, says) = only_member(place, value, &["exists", "absent", "version"])?;
    if kind != "version" {
        let doc = Fields::open(&place, says, &["collection", "id"])?.doc()?;
        return Ok(if kind == "exists" { Guard::Exists(doc) } else { Guard::Absent(doc) });
    }
    let mut fields = Fields::open(&place, says, &["collection", "id", "version"])?;
    let version: Option<Version> = fields.text("version")?.parse().ok();
    let version = version.ok_or_else(|| {
        Problem::bad("bad-request", format!("{place}: \"version\" is 32 hex digits, as receipts and listings give it"))
    })?;
    Ok(Guard::Version(fields.doc()?, version))
}

fn command(place: &str, value: Value) -> Result<Command<'static>, Problem> {
    let (kind, place, says) = only_member(place, value, &["put", "merge", "patch", "delete"])?;
    let content = match &*kind {
        "delete" => return Ok(Command::Delete(Fields::open(&place, says, &["collection", "id"])?.doc()?)),
        "patch" => "patch",
        _ => "value",
    };
    let mut fields = Fields::open(&place, says, &["collection", "id", content])?;
    let value = fields.take(content)?;
    let doc = fields.doc()?;
    let text = json::write(&value).map_err(|error| Problem::from(error).at(&place))?;
    Ok(match &*kind {
        "put" => Command::Put(doc, text.into()),
        "merge" => Command::Merge(doc, text.into()),
        _ => {
            // The replica asks again; only here is it known which of the commands it is.
            Patch::parse(&text).map_err(|error| Problem::from(error).at(&place))?;
            Command::Patch(doc, text.into())
        }
    })
}

/// The one member of `{"<kind>": …}`: its kind, its place, and what it says.
fn only_member(place: &str, value: Value, kinds: &[&str]) -> Result<(String, String, Value), Problem> {
    let mut members = Fields::open(place, value, kinds)?.members.into_iter();
    match (members.next(), members.next()) {
        (Some((kind, says)), None) => {
            let place = format!("{place}.{kind}");
            Ok((kind, place, says))
        }
        _ => Err(Problem::bad("bad-request", format!("{place} must have exactly one of {}", kinds.join(", ")))),
    }
}

/// The members of an object of which all are known by name.
pub struct Fields {
    place: String,
    members: Map<String, Value>,
}

impl Fields {
    /// Takes an object, and refuses members that are none of `known`.
    pub fn open(place: &str, value: Value, known: &[&str]) -> Result<Fields, Problem> {
        let Value::Object(members) = value else {
            return Err(Problem::bad("bad-request", format!("{place} must be an object")));
        };
        if let Some(unknown) = members.keys().find(|name| !known.contains(&name.as_str())) {
            let unknown = json::excerpt(unknown);
            let detail = format!("{place} has no field {unknown:?}: it takes {}", known.join(", "));
            return Err(Problem::bad("unknown-field", detail).with("field", unknown));
        }
        Ok(Fields { place: place.to_string(), members })
    }

    /// A member that must be there.
    pub fn take(&mut self, name: &str) -> Result<Value, Problem> {
        let missing = || Problem::bad("bad-request", format!("{} needs {name:?}", self.place));
        self.members.remove(name).ok_or_else(missing)
    }

    /// A member that may be there, and then must be a string.
    pub fn optional_text(&mut self, name: &str) -> Result<Option<String>, Problem> {
        match self.members.remove(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(Problem::bad("bad-request", format!("{}: {name:?} must be a string", self.place))),
        }
    }

    /// A member that must be there, a string.
    pub fn text(&mut self, name: &str) -> Result<String, Problem> {
        let missing = format!("{} needs {name:?}", self.place);
        self.optional_text(name)?.ok_or_else(|| Problem::bad("bad-request", missing))
    }

    fn doc(&mut self) -> Result<DocKey<'static>, Problem> {
        let (collection, id) = (self.text("collection")?, self.text("id")?);
        let named = check_collection(&collection).and_then(|()| check_id(&id));
        named.map_err(|fault| Problem::from(fault).at(&self.place))?;
        Ok(DocKey::new(collection, id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Draft, Problem> {
        let Value::Object(members) = json::parse(text.as_bytes()).unwrap() else { panic!("an object") };
        parse(members)
    }

    fn check_refused(text: &str, slug: &str, words: &str) {
        let problem = read(text).unwrap_err().to_json();
        assert_eq!(problem["type"], format!("urn:lamplight:problem:{slug}"), "{text}");
        let detail = problem["detail"].as_str().unwrap();
        assert!(detail.contains(words), "{text}: {detail}");
    }

    #[test]
    fn guards_commands_and_key_are_read_in_their_order() {
        let version = "0123456789abcdef0123456789abcdef";
        let draft = read(&format!(
            r#"{{"guards":[{{"exists":{{"collection":"c","id":"a"}}}},{{"absent":{{"collection":"c","id":"b"}}}},
                {{"version":{{"collection":"c","id":"d","version":"{version}"}}}}],
                "commands":[{{"put":{{"collection":"c","id":"1","value":{{"b":1.0,"a":null}}}}}},
                {{"merge":{{"collection":"c","id":"2","value":{{"x":null}}}}}},
                {{"patch":{{"collection":"c","id":"3","patch":[{{"op":"remove","path":"/a"}}]}}}},
                {{"delete":{{"collection":"c","id":"4"}}}}],"key":"k"}}"#
        ));
        let doc = |id: &'static str| DocKey::new("c", id);
        let draft = draft.unwrap();
        let guards =
            vec![Guard::Exists(doc("a")), Guard::Absent(doc("b")), Guard::Version(doc("d"), version.parse().unwrap())];
        assert_eq!(draft.guards, guards);
        let commands = vec![
            Command::Put(doc("1"), r#"{"a":null,"b":1}"#.into()),
            Command::Merge(doc("2"), r#"{"x":null}"#.into()),
            Command::Patch(doc("3"), r#"[{"op":"remove","path":"/a"}]"#.into()),
            Command::Delete(doc("4")),
        ];
        assert_eq!(draft.commands, commands);
        assert_eq!(draft.key.as_deref(), Some("k"));
    }

    #[test]
    fn a_field_that_nothing_knows_is_refused_and_named() {
        check_refused(r#"{"commands":[],"guard":[]}"#, "unknown-field", "\"guard\"");
        check_refused(
            r#"{"commands":[{"put":{"collection":"c","id":"a","value":1,"ttl":5}}]}"#,
            "unknown-field",
            "ttl",
        );
        check_refused(r#"{"commands":[{"insert":{}}]}"#, "unknown-field", "commands[0] has no field \"insert\"");
        check_refused(
            r#"{"guards":[{"exits":{}}],"commands":[]}"#,
            "unknown-field",
            "guards[0] has no field \"exits\"",
        );
        check_refused(r#"{"commands":[{"delete":{"collection":"c","id":"a","value":1}}]}"#, "unknown-field", "value");
    }

    #[test]
    fn what_is_missing_or_of_another_type_is_named_with_its_place() {
        check_refused("{}", "bad-request", "needs \"commands\"");
        check_refused(r#"{"commands":{}}"#, "bad-request", "\"commands\" must be a list");
        check_refused(r#"{"commands":[],"key":7}"#, "bad-request", "\"key\"");
        check_refused(r#"{"commands":[7]}"#, "bad-request", "commands[0] must be an object");
        check_refused(r#"{"commands":[{}]}"#, "bad-request", "exactly one of put");
        check_refused(r#"{"commands":[{"put":{"collection":"c","value":1}}]}"#, "bad-request", "put needs \"id\"");
        check_refused(r#"{"commands":[{"put":{"collection":"c","id":"a"}}]}"#, "bad-request", "put needs \"value\"");
        check_refused(
            r#"{"commands":[{"put":{"collection":"c","id":7,"value":1}}]}"#,
            "bad-request",
            "must be a string",
        );
        let guard = r#"{"guards":[{"version":{"collection":"c","id":"a","version":"7"}}],"commands":[]}"#;
        check_refused(guard, "bad-request", "guards[0].version");
    }

    #[test]
    fn bad_names_and_patches_are_named_with_their_place() {
        check_refused(r#"{"commands":[{"delete":{"collection":"-c","id":"a"}}]}"#, "bad-name", "commands[0].delete: ");
        check_refused(r#"{"commands":[{"delete":{"collection":"c","id":".."}}]}"#, "bad-name", "commands[0].delete: ");
        let patch = r#"{"commands":[{"patch":{"collection":"c","id":"a","patch":[{"op":"frob","path":""}]}}]}"#;
        check_refused(patch, "bad-patch", "commands[0].patch: step 0");
    }
}
