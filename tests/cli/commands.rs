//! `import`, `status`, `bench`, and every command's help.

use std::io::Write;

use serde_json::{Value, json};

use crate::program::{Node, Running, run};

#[test]
fn an_import_writes_what_it_can_and_names_what_it_cannot() {
    let node = Node::start(&[]);
    let lines = "{\"id\":\"1\",\"value\":1}\n\n{\"id\":\"2\",\"valu\":2}\n{\"value\":\"no id, no newline at the end\"}";
    let ran = node.run_with(&["import", "notes", "-", "--keep-going"], lines);
    assert_eq!((ran.code, &*ran.out), (1, "2 written, 1 failed\n"), "{ran:?}");
    assert!(ran.err.starts_with("line 3: ") && ran.err.contains("valu"), "{}", ran.err);
    assert_eq!(node.run(&["list", "notes"]).done().lines().count(), 2);

    let ran = node.run_with(&["import", "notes", "--json", "--keep-going"], "1\n{\"id\":\"1\",\"value\":2}\n");
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
fn a_text_is_written_listed_and_read() {
    let node = Node::start(&[]);
    let put = |text: &str| node.run(&["put", "notes", "minutes", "--text", text]).done();
    assert!(put("Agenda: tea").starts_with("created notes/minutes version="));
    assert!(put("Agenda: tea, cake").starts_with("replaced notes/minutes version="));
    assert_eq!(put("Agenda: tea, cake"), "unchanged: it reads so already\n");
    assert_eq!(node.run(&["get", "notes", "minutes"]).done(), "Agenda: tea, cake\n");
    assert_eq!(node.run(&["get", "notes", "minutes", "--json"]).json()["text"], "Agenda: tea, cake");
    assert_eq!(node.run(&["list", "notes"]).done(), "minutes\t(text)\n");
    let history = node.run(&["history", "notes", "minutes", "--values"]).done();
    assert!(history.lines().all(|line| line.contains("\tedit of ") && !line.contains("null")), "{history}");
    let merged = node.run(&["patch", "notes", "minutes", "{}"]);
    assert!(merged.code == 4 && merged.err.contains("is a text"), "{merged:?}");
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
    for command in [
        "get", "put", "patch", "delete", "list", "tx", "watch", "status", "import", "export", "query", "bench",
        "members", "evict", "retire", "history",
    ] {
        let help = run(&[command, "--help"]).done();
        for words in ["Examples:\n  ", "lamplight ", "3 not found", "--url <URL>", "--json", "LAMPLIGHT_URL"] {
            assert!(help.contains(words), "{words:?} is not in the help of {command}");
        }
    }
}

/// A table's row, by its first cell.
fn row(table: &str, name: &str) -> Vec<String> {
    let row = table.lines().find(|line| line.split_whitespace().next() == Some(name));
    row.unwrap_or_else(|| panic!("{name} is not in\n{table}")).split_whitespace().map(String::from).collect()
}

#[test]
fn a_write_that_waits_prints_its_final_receipt_or_says_that_it_is_not_final_in_time() {
    let first = Node::start(&["--name", "ada"]);
    let put = first.run(&["put", "names", "x", "1", "--if-none-match", "--wait"]).done();
    assert!(put.starts_with("created names/x ") && put.contains(" status=final "), "{put}");
    first.run(&["put", "names", "x", "1", "--if-none-match", "--wait"]).failed(4, "exists already");
    first.run(&["put", "names", "x", "1", "--timeout", "5s"]).failed(2, "--wait");
    first.run(&["put", "names", "x", "1", "--wait", "--timeout", "1h"]).failed(1, "at most 60s");
    let second = Node::start(&["--join", &first.url, "--name", "bob"]);
    second.holds_what(&first);
    let wait = ["--wait", "--timeout", "60s"];
    for write in [&["put", "names", "x", "1"][..], &["patch", "names", "x", "{\"n\":1}"], &["delete", "names", "x"]] {
        assert!(first.run(&[write, &wait].concat()).done().contains(" status=final "), "{write:?}");
    }
    let tx = r#"{"commands":[{"put":{"collection":"c","id":"x","value":1}}]}"#;
    assert!(first.run_with(&["tx", "-f", "-", "--wait", "--timeout", "60s"], tx).done().contains("status=final"));
    drop(second);
    let late = first.run(&["put", "names", "y", "1", "--wait", "--timeout", "100ms"]);
    assert!(late.code == 6 && late.out.contains(" status=tentative "), "{late:?}");
    assert!(late.err.contains("not final in time") && late.err.contains("GET /v1/ops/"), "{late:?}");
}

#[test]
fn a_write_that_waits_for_members_prints_how_many_hold_it_or_says_that_too_few_do() {
    let first = Node::start(&["--name", "ada"]);
    let put = ["put", "notes", "x", "1"];
    assert!(first.run(&[&put[..], &["--wait", "1"]].concat()).done().contains(" held-by=1 "));
    first.run(&[&put[..], &["--wait", "2"]].concat()).failed(1, "from 1 to 1");
    first.run(&["put", "--wait", "notes", "x", "1"]).failed(2, "--wait=final");
    first.run(&["put", "--wait=final", "notes", "x", "1"]).done();
    let second = Node::start(&["--join", &first.url, "--name", "bob"]);
    second.holds_what(&first);
    let wait = ["--wait", "2", "--timeout", "60s"];
    for write in [&put[..], &["patch", "notes", "x", "{\"n\":1}"], &["delete", "notes", "x"]] {
        assert!(first.run(&[write, &wait].concat()).done().contains(" held-by=2 "), "{write:?}");
    }
    assert_eq!(first.run(&[&put[..], &wait, &["--json"]].concat()).json()["held_by"], 2);
    drop(second);
    let late = first.run(&["put", "notes", "y", "1", "--wait", "2", "--timeout", "100ms"]);
    assert!(late.code == 6 && late.out.contains(" held-by=1 "), "{late:?}");
    assert!(late.err.contains("held by 1 of the 2 members") && late.err.contains("?wait=2"), "{late:?}");
}

#[test]
fn members_are_listed_evicted_and_retire() {
    let first = Node::start(&["--name", "ada"]);
    let second = Node::start(&["--join", &first.url, "--name", "bob"]);
    second.holds_what(&first);
    first.run(&["put", "notes", "x", "1", "--wait", "--timeout", "60s"]).done();
    let table = first.run(&["members"]).done();
    assert_eq!((&*row(&table, "ada")[2], &*row(&table, "bob")[2]), ("member", "alive"));
    let lines = first.run(&["members", "--json"]).done();
    assert_eq!(lines.lines().count(), 2);
    first.run(&["evict", "eve"]).failed(3, "no member has the name or id \"eve\"");
    first.run(&["evict", "ada"]).failed(2, "let it retire");
    first.run(&["evict", "bob"]).failed(4, "heard of a moment ago");
    let retired = second.run(&["retire"]).done();
    assert!(retired.starts_with("retired ") && retired.contains(" op="), "{retired}");
    second.run(&["put", "notes", "x", "1"]).failed(5, "has retired");
    second.run(&["status", "--ready"]).failed(1, "has retired");
    first.run(&["put", "notes", "x", "1", "--wait", "--timeout", "60s"]).done();
    assert_eq!(first.run(&["members"]).done().lines().count(), 2);
    first.run(&["retire"]).failed(4, "last member");
    let third = Node::start(&["--join", &first.url, "--name", "eve"]);
    third.holds_what(&first);
    first.run(&["put", "notes", "x", "1", "--wait", "--timeout", "60s"]).done();
    drop(third);
    let waits = first.run(&["put", "notes", "x", "1", "--wait", "--timeout", "100ms"]);
    assert_eq!(waits.code, 6, "{waits:?}");
    let shown = first.run(&["status"]).done();
    assert!(shown.contains("\nfinal  up to ") && shown.contains("held back by eve: silent, last heard of "), "{shown}");
    assert!(row(&first.run(&["members"]).done(), "eve").join(" ").contains("held back: silent"));
    let evicted = first.run(&["evict", "eve", "--force", "--wait", "--timeout", "60s"]).done();
    assert!(evicted.starts_with("evicted eve ") && evicted.contains(" status=final "), "{evicted}");
    first.run(&["put", "notes", "x", "1", "--wait", "--timeout", "60s"]).done();
}
