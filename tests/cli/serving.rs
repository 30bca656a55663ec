//! `serve`: how it begins and how it ends.

use std::io::{Read, Write};

use crate::program::{Node, Running, run, run_in};

#[test]
fn an_answer_in_flight_is_finished_before_the_end() {
    let mut node = Node::start(&[]);
    let mut stream = node.connect();
    let head = "PUT /v1/docs/notes/slow HTTP/1.1\r\nhost: test\r\nexpect: 100-continue\r\ncontent-length: 7\r\n\r\n";
    stream.write_all(head.as_bytes()).unwrap();
    let mut go_on = [0; 25];
    stream.read_exact(&mut go_on).unwrap();
    assert_eq!(&go_on, b"HTTP/1.1 100 Continue\r\n\r\n", "the handler waits for the body");
    node.process.signal("TERM");
    node.process.says("stopping");
    stream.write_all(b"{\"a\":1}").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 201 Created\r\n") && answer.contains("\"status\":\"final\""), "{answer}");
    assert_eq!(node.process.code(), Some(0));
}

#[test]
fn a_node_with_watchers_ends_at_a_signal() {
    for signal in ["TERM", "INT"] {
        let mut node = Node::start(&[]);
        node.run(&["put", "notes", "milk", "1"]).done();
        let watch = Running::start(&["watch", "--url", &node.url]);
        assert_eq!(watch.json()["value"], 1);
        node.process.signal(signal);
        assert_eq!(node.process.code(), Some(0), "{signal}");
        watch.says("the node is stopping; connecting again");
    }
}

#[test]
fn an_address_in_use_is_named() {
    let node = Node::start(&[]);
    let address = node.url.trim_start_matches("http://");
    run(&["serve", "--listen", address]).failed(1, &format!("cannot listen on {address}"));
}

#[test]
fn the_environment_configures_nodes_and_clients() {
    let node = Node::start(&[]);
    let status = std::process::Command::new(env!("CARGO_BIN_EXE_lamplight"))
        .args(["status", "--ready"])
        .env("LAMPLIGHT_URL", &node.url)
        .status();
    assert!(status.unwrap().success());
}

#[test]
fn without_a_url_clients_ask_where_a_node_of_this_environment_listens() {
    let node = Node::start(&[]);
    let port = node.url.rsplit(':').next().unwrap();
    for listen in ["127.0.0.1", "0.0.0.0"] {
        let listen = format!("{listen}:{port}");
        run_in(&["status", "--ready"], &[("LAMPLIGHT_LISTEN", &listen)]).done();
    }
    let words = |listen| run_in(&["status"], &[("LAMPLIGHT_LISTEN", listen)]).err;
    assert!(words("[::]:1").contains("cannot reach http://[::1]:1"), "{}", words("[::]:1"));
    assert!(words("[::1]:1").contains("cannot reach http://[::1]:1"), "{}", words("[::1]:1"));
    let both = [("LAMPLIGHT_LISTEN", "127.0.0.1:1"), ("LAMPLIGHT_URL", &*node.url)];
    run_in(&["status", "--ready"], &both).done();
}
