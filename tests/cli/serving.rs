//! `serve`: how it begins and how it ends.

use std::io::{Read, Write};

use crate::program::{Node, Running, run, run_in};

#[test]
fn an_answer_in_flight_is_finished_before_the_end() {
    let mut node = Node::start(&[]);
    let mut stream = node.connect();
    let head =
        "PUT /v1/docs/notes/slow HTTP/1.1\r\nhost: localhost\r\nexpect: 100-continue\r\ncontent-length: 7\r\n\r\n";
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

#[test]
fn a_node_that_is_to_leave_retires_before_it_ends_and_the_others_go_on_without_it() {
    let first = Node::start(&["--name", "ada"]);
    for (signal, name) in [("TERM", "bob"), ("INT", "eve")] {
        let mut leaving = Node::start(&["--join", &first.url, "--name", name, "--leave"]);
        leaving.holds_what(&first);
        leaving.run(&["put", "notes", name, "1", "--wait", "--timeout", "60s"]).done();
        leaving.process.signal(signal);
        leaving.process.says("it has left the pool");
        assert_eq!(leaving.process.code(), Some(0));
        assert_eq!(first.run(&["members"]).done().lines().count(), 2, "the heading and ada");
        let put = first.run(&["put", "notes", name, "2", "--wait", "--timeout", "60s"]).done();
        assert!(put.contains(" status=final "), "{put}");
    }
}

#[test]
fn a_node_that_cannot_leave_says_so_and_ends() {
    let mut last = Node::start(&["--name", "ada", "--leave"]);
    let mut second = Node::start(&["--join", &last.url, "--name", "bob", "--leave"]);
    second.holds_what(&last);
    cut(&second);
    second.process.signal("TERM");
    second.process.says("it has not left the pool, for no other member has said that it holds");
    assert_eq!(second.process.code(), Some(0));
    last.run(&["evict", "bob", "--force", "--wait", "--timeout", "60s"]).done();
    last.process.signal("TERM");
    last.process.says("it has not left the pool: it is the last member");
    assert_eq!(last.process.code(), Some(0));
    let mut joining = Node::start_unready(&["--join", "http://127.0.0.1:9", "--leave"]);
    joining.process.signal("TERM");
    joining.process.says("it has not left the pool: it has not become a member");
    assert_eq!(joining.process.code(), Some(0));
}

/// Cuts a node's links.
fn cut(node: &Node) {
    let body = r#"{"cut":true}"#;
    let mut stream = node.connect();
    let head =
        "POST /v1/pool/links HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-type: application/json\r\n";
    write!(stream, "{head}content-length: {}\r\n\r\n{body}", body.len()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

#[test]
fn a_node_with_too_few_open_files_says_so_and_outlives_it_when_they_are_taken() {
    let node = Node::listening(Running::start_narrow(64, &["serve", "--memory", "--listen", "127.0.0.1:0"]));
    let line = node.process.says("--max-connections needs more open files");
    assert!(line.contains("has=64") && line.contains("LimitNOFILE="), "{line}");
    let crowd: Vec<_> = (0..100).map(|_| node.connect()).collect();
    drop(crowd);
    node.run(&["put", "notes", "milk", "1"]).done();
}
