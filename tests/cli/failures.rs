//! What goes wrong: in words on standard error, or as problem documents, and as exit codes.

use serde_json::{Value, json};

use crate::program::{Node, Ran, Running, run};

/// Port 1 of this machine: tcpmux, which nobody runs.
const NOBODY: &str = "http://127.0.0.1:1";

fn problem(ran: &Ran) -> Value {
    serde_json::from_str(&ran.err).unwrap()
}

#[test]
fn a_node_that_is_not_there_gives_code_5() {
    let words =
        "cannot reach http://127.0.0.1:1: connection refused. Is a node running there? lamplight serve starts one";
    run(&["get", "notes", "milk", "--url", NOBODY]).failed(5, words);
    run(&["put", "notes", "milk", "1", "--url", "127.0.0.1:1/"]).failed(5, words);
    run(&["watch", "--url", NOBODY]).failed(5, words);
    run(&["import", "notes", "--url", NOBODY]).failed(5, words);
    run(&["bench", "--url", NOBODY]).failed(5, words);
    run(&["status", "--url", NOBODY]).failed(5, words);
    run(&["status", "--ready", "--url", NOBODY]).failed(1, words);
    let ran = run(&["status", "--url", NOBODY, "--json"]);
    assert_eq!((ran.code, problem(&ran)["detail"].as_str()), (5, Some(words)));
}

#[test]
fn further_urls_are_asked_when_the_first_cannot_be_reached() {
    let node = Node::start(&[]);
    let urls = format!("{NOBODY},{}", node.url);
    run(&["put", "notes", "milk", "1", "--url", &urls]).done();
    assert_eq!(run(&["get", "notes", "milk", "--url", NOBODY, "--url", &node.url]).done(), "1\n");
    assert_eq!(run(&["status", "--ready", "--url", &urls]).code, 0);
    assert_eq!(run(&["import", "notes", "--url", &urls]).done(), "0 written, 0 failed\n");
    // A node that answers is believed.
    run(&["get", "notes", "tea", "--url", &node.url, "--url", NOBODY]).failed(3, "tea");
}

#[test]
fn a_node_that_is_not_ready_gives_code_5_and_others_are_asked() {
    let joining = Node::start_unready(&["--join", NOBODY]);
    joining.run(&["get", "notes", "milk"]).failed(5, "does not hold the pool's data yet");
    joining.run(&["put", "notes", "milk", "1"]).failed(5, "does not hold the pool's data yet");
    joining.run(&["watch"]).failed(5, "does not hold the pool's data yet");
    joining.run(&["status", "--ready"]).failed(1, "does not hold the pool's data yet");
    let shown = joining.run(&["status"]).done();
    assert!(shown.starts_with("pool   none yet\n") && shown.contains(", joining, clock"), "{shown}");
    let node = Node::start(&[]);
    joining.run(&["put", "notes", "milk", "1", "--url", &node.url]).done();
    assert_eq!(node.run(&["get", "notes", "milk"]).done(), "1\n");
}

#[test]
fn what_a_node_refuses_is_told_in_its_words() {
    let node = Node::start(&[]);
    node.run(&["put", "notes", "milk", "{\"a\":1,\"a\":2}"]).failed(1, "the key \"a\" stands twice");
    node.run(&["put", "bad name", "milk", "1"]).failed(1, "a collection's name");
    node.run(&["watch", "--since", "yesterday"]).failed(1, "cursor");
    node.run(&["watch", "--filter", "{\"$near\":1}"]).failed(1, "$near");
    let ran = node.run(&["put", "notes", "milk", "{", "--json"]);
    assert_eq!((ran.code, &problem(&ran)["type"]), (1, &json!("urn:lamplight:problem:malformed-json")));
    let ran = node.run(&["get", "notes", "milk", "--json"]);
    assert_eq!((ran.code, &problem(&ran)["status"]), (3, &json!(404)));
}

#[test]
fn a_wrong_command_line_gives_code_2() {
    run(&[]).failed(2, "Usage");
    run(&["fetch"]).failed(2, "fetch");
    run(&["get", "notes"]).failed(2, "<ID>");
    run(&["get", "notes", ""]).failed(2, "value is required");
    run(&["get", "notes", "milk", "--url", "ftp://node:7171"]).failed(2, "speaks http and https");
    run(&["get", "notes", "milk", "--url", "http://"]).failed(2, "a URL looks like");
    run(&["list", "notes", "--all", "--limit", "3"]).failed(2, "cannot be used with");
    run(&["list", "--sort", "name"]).failed(2, "<COLLECTION>");
    run(&["watch", "--filter", "{"]).failed(2, "--filter is not JSON");
    run(&["put", "notes", "milk", "1", "--key", "two\nlines"]).failed(2, "visible ASCII");
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let node = Node::start(&[]);
    node.run(&["put", "notes", "milk", "1"]).done();
    for args in [&["get", "notes", "milk"][..], &["list", "notes"], &["status"], &["watch"]] {
        let mut unread = Running::start_unread(&[args, &["--url", &node.url]].concat());
        assert_eq!(unread.code(), Some(0), "{args:?}");
    }
}
