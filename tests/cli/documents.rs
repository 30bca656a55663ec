//! `get`, `put`, `patch`, `delete`, `list`, `tx`.

use serde_json::json;

use crate::program::Node;

#[test]
fn a_document_is_created_read_changed_and_deleted() {
    let node = Node::start(&[]);
    let created = node.run(&["put", "notes", "milk", r#"{"litres": 1, "buy": true}"#]).done();
    assert!(created.starts_with("created notes/milk version="), "{created}");
    for word in [" stamp=", " status=final op="] {
        assert!(created.contains(word), "{created}");
    }
    assert_eq!(node.run(&["get", "notes", "milk"]).done(), "{\"buy\":true,\"litres\":1}\n");
    assert!(node.run(&["put", "notes", "milk", "{\"litres\":1}"]).done().starts_with("replaced notes/milk version="));
    assert!(node.run(&["patch", "notes", "milk", "{\"buy\":false}"]).done().starts_with("patched notes/milk version="));
    let increment = " [{\"op\":\"increment\",\"path\":\"/litres\",\"by\":2}]";
    node.run_with(&["patch", "notes", "milk", "-"], increment).done();
    let shown = node.run(&["get", "notes", "milk", "--json"]).json();
    assert_eq!(shown["value"], json!({ "buy": false, "litres": 3 }));
    assert_eq!(
        (&shown["collection"], &shown["id"], &shown["status"]),
        (&json!("notes"), &json!("milk"), &json!("final"))
    );
    let deleted = node.run(&["delete", "notes", "milk", "--json"]).json();
    assert_eq!(deleted["docs"], json!([{ "collection": "notes", "id": "milk", "deleted": true }]));
    node.run(&["get", "notes", "milk"]).failed(3, "there is no document \"milk\"");
}

#[test]
fn what_is_not_there_gives_code_3() {
    let node = Node::start(&[]);
    for args in [
        &["get", "notes", "milk"][..],
        &["patch", "notes", "milk", "[{\"op\":\"test\",\"path\":\"\",\"value\":1}]"],
        &["delete", "notes", "milk"],
    ] {
        node.run(args).failed(3, "there is no document \"milk\" in \"notes\"");
    }
}

#[test]
fn a_condition_that_fails_gives_code_4_and_changes_nothing() {
    let node = Node::start(&[]);
    node.run(&["put", "notes", "milk", "1", "--if-match", "*"]).failed(4, "");
    let first = node.run(&["put", "notes", "milk", "1", "--if-none-match", "--json"]).json();
    node.run(&["put", "notes", "milk", "2", "--if-none-match"]).failed(4, "");
    let first = first["version"].as_str().unwrap();
    node.run(&["put", "notes", "milk", "2", "--if-match", first]).done();
    for args in [&["put", "notes", "milk", "3"][..], &["patch", "notes", "milk", "3"], &["delete", "notes", "milk"]] {
        node.run(&[args, &["--if-match", first]].concat()).failed(4, "not in the version you named");
    }
    let test = r#"[{"op":"test","path":"","value":1}]"#;
    node.run(&["patch", "notes", "milk", test]).failed(4, "another value than tested");
    let guarded = r#"{"guards":[{"absent":{"collection":"notes","id":"milk"}}],
                      "commands":[{"put":{"collection":"notes","id":"tea","value":1}}]}"#;
    node.run_with(&["tx", "-f", "-"], guarded).failed(4, "guard 0 does not hold");
    assert_eq!(node.run(&["list", "notes"]).done(), "milk\t2\n");
}

#[test]
fn a_key_makes_a_write_have_effect_once() {
    let node = Node::start(&[]);
    node.run(&["put", "notes", "milk", "{\"litres\":1}"]).done();
    let patch = r#"[{"op":"increment","path":"/litres","by":1}]"#;
    let write = || node.run(&["patch", "notes", "milk", patch, "--key", "once", "--json"]).json();
    assert_eq!(write()["op"], write()["op"]);
    assert_eq!(node.run(&["get", "notes", "milk"]).done(), "{\"litres\":2}\n");
    node.run(&["delete", "notes", "milk", "--key", "once"]).failed(1, "key");
}

#[test]
fn ids_and_values_may_be_anything_that_documents_may() {
    let node = Node::start(&[]);
    for id in ["a/b", "ü ?#%&+", "..."] {
        node.run(&["put", "notes", id, "-1.5"]).done();
        assert_eq!(node.run(&["get", "notes", id]).done(), "-1.5\n");
    }
    node.run_with(&["put", "notes", "text", "-"], "\"from\\nstandard input\"\n").done();
    assert_eq!(node.run(&["get", "notes", "text"]).done(), "\"from\\nstandard input\"\n");
}

#[test]
fn a_listing_is_filtered_sorted_and_as_long_as_asked() {
    let node = Node::start(&[]);
    let lines: Vec<String> = (0..1_200).map(|n| format!("{{\"id\":\"{n:04}\",\"value\":{{\"n\":{n}}}}}\n")).collect();
    node.run_with(&["import", "many"], &lines.concat()).done();
    node.run(&["put", "notes", "milk", "1"]).done();

    assert_eq!(node.run(&["list"]).done(), "many\t1200 documents\nnotes\t1 documents\n");
    let filtered = ["list", "many", "--filter", r#"{"n":{"$gte":5,"$lt":8}}"#, "--sort", "-n"];
    assert_eq!(node.run(&filtered).done(), "0007\t{\"n\":7}\n0006\t{\"n\":6}\n0005\t{\"n\":5}\n");
    let some = node.run(&["list", "many"]);
    assert_eq!(some.out.lines().count(), 100);
    assert!(some.err.contains("there are more documents"), "{}", some.err);
    assert_eq!(node.run(&["list", "many", "--limit", "1100", "--json"]).done().lines().count(), 1100);
    let all = node.run(&["list", "many", "--all", "--json"]).done();
    assert_eq!(all.lines().count(), 1200);
    let last: serde_json::Value = serde_json::from_str(all.lines().last().unwrap()).unwrap();
    assert_eq!(
        (&last["id"], &last["value"], last["version"].is_string()),
        (&json!("1199"), &json!({ "n": 1199 }), true)
    );
    assert_eq!(node.run(&["list", "none"]).done(), "");
    node.run(&["list", "many", "--filter", "{\"n\":{\"$near\":1}}"]).failed(1, "$near");
}

#[test]
fn all_collections_are_listed_and_exported_however_many_pages_they_take() {
    let node = Node::start(&[]);
    let put = |n: usize| json!({ "put": { "collection": format!("c{n:03}"), "id": "a", "value": n } });
    // More than the first page has, and not a whole number of pages.
    let commands: Vec<_> = (0..250).map(put).collect();
    node.run_with(&["tx", "-f", "-"], &json!({ "commands": commands }).to_string()).done();
    let listed = node.run(&["list"]).done();
    assert_eq!(listed.lines().count(), 250);
    assert!(listed.starts_with("c000\t1 documents\n") && listed.ends_with("c249\t1 documents\n"), "{listed}");
    assert_eq!(node.run(&["export", "--all"]).done().lines().count(), 250);
}

#[test]
fn a_transaction_writes_all_its_documents() {
    let node = Node::start(&[]);
    let file = std::env::temp_dir().join(format!("lamplight-tx-{}.json", std::process::id()));
    let tx = r#"{"commands":[{"put":{"collection":"a","id":"1","value":1}},{"put":{"collection":"b","id":"2","value":2}},
                             {"delete":{"collection":"a","id":"1"}}],"key":"k"}"#;
    std::fs::write(&file, tx).unwrap();
    let wrote = node.run(&["tx", "-f", file.to_str().unwrap()]).done();
    std::fs::remove_file(&file).unwrap();
    assert!(wrote.starts_with("wrote 2 documents stamp="), "{wrote}");
    assert!(wrote.contains("\n  a/1 deleted\n  b/2 version="), "{wrote}");
    // With several URLs the client sends a key of its own, unless the transaction has one: so this is the first again.
    let again = node.run_with(&["tx", "-f", "-", "--url", &node.url], tx).done();
    assert_eq!(again.lines().next(), wrote.lines().next());
    node.run_with(&["tx", "-f", "-"], "{\"commandos\":[]}").failed(1, "commandos");
    node.run(&["tx", "-f", "/no/such/file"]).failed(1, "cannot read /no/such/file: no such file or directory");
}
