//! The log of a node: its form, what it says of a request, and more or less of it by signal.

use std::io::{Read, Write};

use serde_json::{Value, json};

use crate::program::{Node, run};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
/// What is written, which nobody may read in the log.
const BODY: &str = "\"for-no-log\"";

/// A line of a log in JSON.
fn line(node: &Node, words: &str) -> Value {
    serde_json::from_str(&node.process.says(words)).unwrap()
}

/// Sends a write with a trace; gives the whole answer.
fn put(node: &Node, id: &str) -> String {
    let mut stream = node.connect();
    let trace = format!("traceparent: 00-{TRACE}-00f067aa0ba902b7-01");
    let head = format!("PUT /v1/docs/secrets/{id} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n{trace}");
    write!(stream, "{head}\r\ncontent-length: {}\r\n\r\n{BODY}", BODY.len()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn a_request_s_trace_and_op_are_fields_of_its_lines_and_its_path_is_not() {
    let node = Node::start(&["--log-format", "json", "--log-level", "warn,lamplight=debug"]);
    let answer = put(&node, "of-mine");
    assert!(answer.starts_with("HTTP/1.1 201") && !answer.contains(TRACE), "{answer}");
    let receipt = line(&node, "the receipt of an op");
    assert!(answer.contains(receipt["op"].as_str().unwrap()), "{receipt} is not of {answer}");
    let answered = line(&node, "answered");
    for line in [&receipt, &answered] {
        let span = &line["spans"][0];
        assert_eq!((&span["trace_id"], &span["parent_id"]), (&json!(TRACE), &json!("00f067aa0ba902b7")));
        assert!(!line.to_string().contains("of-mine") && !line.to_string().contains("secrets"), "{line}");
    }
    assert_eq!((&answered["method"], &answered["status"]), (&json!("PUT"), &json!(201)));
    assert_eq!(answered["route"], "/v1/docs/{collection}/{id}");
}

#[test]
fn signals_make_the_log_say_more_and_less() {
    let node = Node::start(&["--log-format", "json"]);
    node.process.signal("USR1");
    assert_eq!(line(&node, "as a signal asks")["filter"], "info,lamplight=debug");
    put(&node, "x");
    line(&node, "answered");
    node.process.signal("USR1");
    assert_eq!(line(&node, "as a signal asks")["filter"], "info,lamplight=debug,lamplight=trace");
    put(&node, "y");
    let mut said = String::new();
    while !said.contains("\"answered\"") {
        said += &node.process.says("");
    }
    // Also where the log says the most, it has neither paths nor bodies.
    assert!(said.contains("op taken into the log"), "{said}");
    assert!(!said.contains("for-no-log") && !said.contains("secrets"), "{said}");
    node.process.signal("USR2");
    assert_eq!(line(&node, "as a signal asks")["filter"], "info");
    // It is told before it is done; the second time it has been done once.
    node.process.signal("USR2");
    assert_eq!(line(&node, "as a signal asks")["filter"], "info");
    // Of the next request nothing is told, so that the line about the end is the next one.
    put(&node, "z");
    node.process.signal("INT");
    assert_eq!(line(&node, "")["message"], "stopping");
}

#[test]
fn a_filter_that_is_none_is_refused() {
    run(&["serve", "--memory", "--log-level", "lamplight=loud"]).failed(2, "--log-level");
    let help = run(&["serve", "--help"]).done();
    for words in ["--log-format", "LAMPLIGHT_LOG_FORMAT", "SIGUSR1", "[env: LAMPLIGHT_LOG="] {
        assert!(help.contains(words), "{words:?} is not in\n{help}");
    }
}
