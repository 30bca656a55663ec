//! `history`, `--at`, `--final`, and `watch --final`.

use serde_json::{Value, json};

use crate::program::{Node, Running};

/// The time of the op that a line of a receipt tells of.
fn time(line: &str) -> String {
    line.split("stamp=").nth(1).unwrap().split('@').next().unwrap().to_string()
}

#[test]
fn a_document_and_a_listing_are_shown_as_they_were() {
    let node = Node::start(&[]);
    let first = time(&node.run(&["put", "notes", "milk", "{\"buy\":true}"]).done());
    node.run(&["put", "notes", "milk", "{\"buy\":false}"]).done();
    node.run(&["put", "notes", "tea", "1"]).done();
    assert_eq!(node.run(&["get", "notes", "milk", "--at", &first]).done(), "{\"buy\":true}\n");
    assert_eq!(node.run(&["get", "notes", "milk", "--final"]).done(), "{\"buy\":false}\n");
    assert_eq!(node.run(&["list", "notes", "--at", &first]).done(), "milk\t{\"buy\":true}\n");
    assert_eq!(node.run(&["list", "notes", "--final", "--sort", "buy"]).done(), "tea\t1\nmilk\t{\"buy\":false}\n");
    node.run(&["get", "notes", "tea", "--at", &first]).failed(3, "at time");
    node.run(&["get", "notes", "tea", "--at", "yesterday"]).failed(1, "Lamport time");
    node.run(&["list", "--final"]).failed(2, "name one");
    node.run(&["get", "notes", "tea", "--at", "1", "--final"]).failed(2, "cannot be used with");
}

#[test]
fn history_is_one_line_an_operation() {
    let node = Node::start(&[]);
    for n in 0..3 {
        node.run(&["put", "notes", "milk", &n.to_string()]).done();
    }
    node.run(&["delete", "notes", "milk"]).done();
    let shown = node.run(&["history", "notes", "milk"]).done();
    let lines: Vec<Vec<&str>> = shown.lines().map(|line| line.split('\t').collect()).collect();
    assert_eq!(lines.iter().map(|line| line[3]).collect::<Vec<_>>(), ["put 0", "put 1", "put 2", "delete"]);
    assert!(lines.iter().all(|line| line[2] == "final" && line[0].contains('@')), "{shown}");
    let values = node.run(&["history", "notes", "milk", "--values"]).done();
    assert!(values.lines().next().unwrap().ends_with("\tthen 0"), "{values}");
    let newest = node.run(&["history", "notes", "milk", "--newest", "--limit", "2", "--json"]);
    let ops: Vec<Value> = newest.done().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((ops.len(), &ops[0]["deleted"]), (2, &json!(true)));
    let some = node.run(&["history", "notes", "milk", "--limit", "1"]);
    assert!(some.err.contains("more operations"), "{some:?}");
    node.run(&["history", "notes", "none"]).failed(3, "no document");
    node.run(&["history", "notes", "milk", "--since", "x"]).failed(1, "stamp");
}

#[test]
fn the_final_feed_is_followed_from_node_to_node() {
    let first = Node::start(&[]);
    let second = Node::start(&["--join", &first.url]);
    first.run(&["put", "notes", "milk", "1", "--wait"]).done();
    first.run(&["put", "other", "x", "1", "--wait"]).done();
    let watch = Running::start(&["watch", "notes", "--final", "--url", &first.url, "--url", &second.url]);
    let told = watch.json();
    assert_eq!((&told["id"], &told["value"], told["op"].is_string()), (&json!("milk"), &json!(1), true));
    // The other takes the cursor, and tells the same; it need not have begun before.
    second.run(&["put", "notes", "tea", "2", "--wait"]).done();
    let cursor = told["cursor"].as_str().unwrap();
    let mut since = Running::start(&["watch", "notes", "--final", "--since", cursor, "--url", &second.url]);
    assert_eq!(since.json(), watch.json());
    since.signal("INT");
    assert_eq!(since.code(), Some(0));
    second.run(&["watch", "--final", "--filter", "{}"]).failed(2, "cannot be used with");
    second.run(&["watch", "--final", "--since", "x"]).failed(1, "cursor");
    // The connection to the first breaks; the watch goes on at the second, which is alone then and final at once.
    first.run(&["retire"]).done();
    second.holds_what(&first);
    drop(first);
    watch.says("connecting again");
    second.run(&["put", "notes", "late", "3"]).done();
    // Neither a line again nor a resync comes before it.
    let late = watch.json();
    assert_eq!((&late["id"], &late["value"]), (&json!("late"), &json!(3)));
}
