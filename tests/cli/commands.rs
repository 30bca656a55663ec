//! `import`, `status`, `bench`, and every command's help.

use std::io::Write;

use serde_json::{Value, json};

use crate::program::{Node, Running, run};

#[test]
fn an_import_writes_what_it_can_and_names_what_it_cannot() {
    let node = Node::start(&[]);
    let lines = "{\"id\":\"1\",\"value\":1}\n\n{\"id\":\"2\",\"valu\":2}\n{\"value\":\"no id, no newline at the end\"}";
    let ran = node.run_with(&["import", "notes", "-"], lines);
    assert_eq!((ran.code, &*ran.out), (1, "2 written, 1 failed\n"), "{ran:?}");
    assert!(ran.err.starts_with("line 3: ") && ran.err.contains("valu"), "{}", ran.err);
    assert_eq!(node.run(&["list", "notes"]).done().lines().count(), 2);

    let ran = node.run_with(&["import", "notes", "--json"], "1\n{\"id\":\"1\",\"value\":2}\n");
    let told: Vec<Value> = ran.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((ran.code, &told[0]["line"], &told[0]["problem"]["status"]), (1, &json!(1), &json!(400)));
    assert_eq!(told[1], json!({ "written": 1, "failed": 1 }));
    assert_eq!(node.run(&["get", "notes", "1"]).done(), "2\n");
}

#[test]
fn an_import_is_written_while_it_is_read() {
    let node = Node::start(&[]);
    let watch = Running::start(&["watch", "notes", "--url", &node.url]);
    let mut import = Running::start(&["import", "notes", "--url", &node.url]);
    let mut stdin = import.stdin();
    for n in 0..3 {
        writeln!(stdin, "{{\"id\":\"{n}\",\"value\":{n}}}").unwrap();
        assert_eq!(watch.json()["value"], n);
    }
    drop(stdin);
    assert_eq!(import.line(), "3 written, 0 failed");
    assert_eq!(import.code(), Some(0));
}

#[test]
fn an_import_of_a_file_that_cannot_be_read_says_so() {
    let node = Node::start(&[]);
    node.run(&["import", "notes", "/no/such/file"]).failed(1, "cannot read /no/such/file: no such file or directory");
    let directory = node.run(&["import", "notes", "/"]);
    assert_eq!((directory.code, &*directory.out), (1, "0 written, 0 failed\n"));
    assert!(directory.err.contains("cannot read /: is a directory"), "{}", directory.err);
    let bad_name = node.run_with(&["import", "bad name"], "");
    assert_eq!(bad_name.code, 1);
    assert!(bad_name.err.contains("a collection's name"), "{}", bad_name.err);
}

#[test]
fn status_shows_the_pool() {
    let node = Node::start(&["--name", "ada", "--pool", "lamps"]);
    node.run(&["put", "notes", "milk", "1"]).done();
    let shown = node.run(&["status"]).done();
    for words in
        ["pool   lamps (", ", member, clock ", "holds  1 documents, ", "\nNAME  LINK  ALIVE", "\nada   self  yes"]
    {
        assert!(shown.contains(words), "{words:?} is not in\n{shown}");
    }
    let pool = node.run(&["status", "--json"]).json();
    assert_eq!((&pool["pool"]["name"], &pool["docs"]), (&json!("lamps"), &json!(1)));
    assert_eq!(node.run(&["status", "--ready"]).done(), "");
}

#[test]
fn bench_measures_and_leaves_no_documents() {
    let first = Node::start(&[]);
    let second = Node::start(&["--join", &first.url]);
    second.holds_what(&first);
    let args = ["bench", "--connections", "2", "--seconds", "1", "--url", &second.url];
    let report = first.run(&[&args[..], &["--json"]].concat()).json();
    for latency in [&report["put"]["latency"], &report["event"]["latency"]] {
        assert!(latency["count"].as_u64() > Some(0), "{report}");
        assert!(latency["p50_ms"].as_f64() > Some(0.0) && latency["p99_ms"].as_f64() >= latency["p50_ms"].as_f64());
    }
    assert_eq!(first.run(&["list"]).done(), "");
    let shown = first.run(&args).done();
    for words in
        ["2 keep-alive connections", "writes a second; p50", "to the event on the WebSocket of", "share the processors"]
    {
        assert!(shown.contains(words), "{words:?} is not in\n{shown}");
    }
}

#[test]
fn every_client_command_explains_itself() {
    for command in ["get", "put", "patch", "delete", "list", "tx", "watch", "status", "import", "bench"] {
        let help = run(&[command, "--help"]).done();
        for words in ["Examples:\n  ", "lamplight ", "3 not found", "--url <URL>", "--json", "LAMPLIGHT_URL"] {
            assert!(help.contains(words), "{words:?} is not in the help of {command}");
        }
    }
}
