//! `watch`: what it prints, how it goes on after a broken connection, and how it ends.

use std::{
    io,
    net::{Shutdown, TcpListener, TcpStream},
    sync::{Arc, Mutex},
    thread,
};

use serde_json::json;

use crate::program::{Node, Running};

#[test]
fn watch_prints_all_documents_and_then_their_changes() {
    let node = Node::start(&[]);
    node.run(&["put", "notes", "milk", "{\"buy\":true}"]).done();
    let mut all = Running::start(&["watch", "--url", &node.url]);
    let mut filtered = Running::start(&["watch", "notes", "--filter", "{\"buy\":true}", "--url", &node.url]);
    for watch in [&all, &filtered] {
        let first = watch.json();
        assert_eq!((&first["id"], &first["value"]), (&json!("milk"), &json!({ "buy": true })));
        assert!(first["version"].is_string() && first["stamp"].is_string() && first["cursor"].is_string(), "{first}");
    }
    node.run(&["put", "other", "tea", "1"]).done();
    node.run(&["put", "notes", "milk", "{\"buy\":false}"]).done();
    let tea = all.json();
    assert_eq!((&tea["collection"], &tea["value"]), (&json!("other"), &json!(1)));
    // A feed tells of a document's latest state, so this change must be told before there is another.
    assert_eq!(all.json()["value"], json!({ "buy": false }));
    node.run(&["delete", "notes", "milk"]).done();
    assert_eq!(all.json()["deleted"], true);
    let gone = filtered.json();
    assert_eq!((&gone["id"], &gone["removed"]), (&json!("milk"), &json!(true)));

    let cursor = tea["cursor"].as_str().unwrap();
    let since = Running::start(&["watch", "--since", cursor, "--url", &node.url]);
    assert_eq!(since.json()["deleted"], true, "the latest state of what changed behind the cursor");
    for watch in [&mut all, &mut filtered] {
        watch.signal("INT");
        assert_eq!(watch.code(), Some(0));
    }
}

#[test]
fn a_cursor_may_begin_with_a_hyphen() {
    let node = Node::start(&[]);
    node.run(&["watch", "--since", "-AAA"]).failed(1, "cursor");
}

#[test]
fn watch_ends_when_its_reader_goes_away_though_nothing_changes() {
    let node = Node::start(&[]);
    let mut watch = Running::start_unread(&["watch", "--url", &node.url]);
    assert_eq!(watch.code(), Some(0));
}

#[test]
fn watch_ends_at_a_signal_though_its_reader_is_stuck() {
    let node = Node::start(&[]);
    let lines: Vec<String> = (0..5_000).map(|n| format!("{{\"value\":\"{n:0200}\"}}\n")).collect();
    node.run_with(&["import", "notes"], &lines.concat()).done();
    let (mut watch, _reader) = Running::start_stuck(&["watch", "--url", &node.url]);
    watch.signal("INT");
    assert_eq!(watch.code(), Some(0));
}

#[test]
fn watch_goes_on_where_it_was_when_a_connection_breaks() {
    let node = Node::start(&[]);
    let proxy = Proxy::start(&node);
    node.run(&["put", "notes", "milk", "1"]).done();
    let watch = Running::start(&["watch", "notes", "--url", &proxy.url]);
    assert_eq!(watch.json()["value"], 1);
    for value in 2..5 {
        proxy.cut();
        watch.says("connecting again");
        node.run(&["put", "notes", "milk", &value.to_string()]).done();
        // Neither a document again nor a resync comes before it.
        assert_eq!(watch.json()["value"], value);
    }
}

#[test]
fn watch_begins_afresh_on_another_node_when_its_own_stops() {
    let first = Node::start(&[]);
    let second = Node::start(&["--join", &first.url]);
    first.run(&["put", "notes", "milk", "1"]).done();
    second.holds_what(&first);
    let watch = Running::start(&["watch", "notes", "--url", &first.url, "--url", &second.url]);
    assert_eq!(watch.json()["value"], 1);
    drop(first);
    watch.says("connecting again");
    assert_eq!(watch.json(), json!({ "resync": true }));
    assert_eq!(watch.json()["value"], 1);
    second.run(&["put", "notes", "milk", "2"]).done();
    assert_eq!(watch.json()["value"], 2);
}

/// Passes connections on to a node, and can cut them.
struct Proxy {
    url: String,
    streams: Arc<Mutex<Vec<TcpStream>>>,
}

impl Proxy {
    fn start(node: &Node) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let streams = Arc::new(Mutex::new(Vec::new()));
        let (target, opened) = (node.url.trim_start_matches("http://").to_string(), Arc::clone(&streams));
        // It ends with the test's process.
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let Ok(server) = TcpStream::connect(&target) else { continue };
                let clone = |stream: &TcpStream| stream.try_clone().unwrap();
                opened.lock().unwrap().extend([clone(&client), clone(&server)]);
                for (mut from, mut to) in [(clone(&client), clone(&server)), (server, client)] {
                    thread::spawn(move || io::copy(&mut from, &mut to));
                }
            }
        });
        Proxy { url, streams }
    }

    fn cut(&self) {
        // Some were cut before.
        self.streams.lock().unwrap().drain(..).for_each(|stream| drop(stream.shutdown(Shutdown::Both)));
    }
}
