//! `export` and `import`: documents out of a pool, into another, and what happens in between.

use std::{fs, io::Write};

use serde_json::{Value, json};

use crate::{
    program::{Node, Running, run, run_with},
    scratch::Scratch,
};

fn lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn what_is_exported_imports_to_the_same_documents() {
    let (from, to) = (Node::start(&[]), Node::start(&[]));
    let scratch = Scratch::new("export");
    for (id, value) in [("a", "{\"n\":1,\"x\":[null,1.5,\"ü\\n\"]}"), ("b/c", "\"a string\""), ("d e", "null")] {
        from.run(&["put", "notes", id, value]).done();
    }
    from.run(&["put", "other", "a", "7"]).done();
    from.run(&["put", "other", "text", "--text", "Agenda: tea\n😀"]).done();
    from.run(&["put", "other", "empty", "--text", ""]);
    from.run(&["put", "other", "bold", "--text", "strong tea"]).done();
    let bold = "[{\"retain\":6,\"attributes\":{\"bold\":true}}]";
    let url = format!("{}/v1/docs/other/bold", from.url);
    let curl = ["-sf", "-X", "PATCH", "-H", "If-Match: *", "-H", "Content-Type: application/json", "-d", bold, &url];
    assert!(std::process::Command::new("curl").args(curl).output().unwrap().status.success());

    let all = from.run(&["export", "--all"]).done();
    assert!(all.contains("{\"collection\":\"notes\",\"id\":\"d e\",\"value\":null}\n"), "{all}");
    assert!(
        all.contains("\"delta\":[{\"attributes\":{\"bold\":true},\"insert\":\"strong\"},{\"insert\":\" tea\"}]"),
        "{all}"
    );
    let file = scratch.file("pool.ndjson");
    let told = from.run(&["export", "--all", "--final", "--output", &file]).done();
    assert_eq!(told, format!("{} documents in {file}\n", all.lines().count()));
    assert_eq!(fs::read_to_string(&file).unwrap(), all);
    assert!(!fs::exists(format!("{file}.part")).unwrap());

    let count = all.lines().count();
    assert_eq!(to.run(&["import", "--all", &file, "--parallel", "3"]).done(), format!("{count} written, 0 failed\n"));
    assert_eq!(to.run(&["export", "--all"]).done(), all);
    assert_eq!(to.run(&["get", "other", "text"]).done(), "Agenda: tea\n😀\n");
    assert!(!fs::exists(format!("{file}.lamplight-import")).unwrap(), "a whole import leaves no note");

    // Of one collection, into another, through a pipe.
    let notes = from.run(&["export", "notes", "--filter", "{\"n\":{\"$gt\":0}}"]).done();
    assert_eq!(lines(&notes)[0]["id"], "a");
    assert_eq!(to.run_with(&["import", "copy"], &notes).done(), "1 written, 0 failed\n");
    assert_eq!(to.run(&["export", "copy"]).done(), notes);
    assert_eq!(from.run(&["export", "nothing"]).done(), "");
}

#[test]
fn csv_keeps_the_types_of_fields() {
    let (from, to) = (Node::start(&[]), Node::start(&[]));
    let scratch = Scratch::new("csv");
    let docs = [
        ("a", json!({ "name": "tea, \"green\"", "n": 1, "zip": "01234", "s": "7", "e": "", "sp": " x ", "b": true })),
        ("b", json!({ "name": "two\r\nlines", "n": -1.5, "z": null, "list": [1, "2"], "o": { "k": "v" } })),
        ("c", json!({})),
        ("=d", json!({ "big": u64::MAX, "q": "\"quoted\"", "": "no name", "t": "true" })),
    ];
    for (id, value) in &docs {
        from.run(&["put", "things", id, &value.to_string()]).done();
    }
    let file = scratch.file("things.csv");
    from.run(&["export", "things", "--output", &file]).done();
    let text = fs::read_to_string(&file).unwrap();
    assert!(text.starts_with("id,,b,big,e,list,n,name,o,q,s,sp,t,z,zip\n"), "{text}");
    assert_eq!(to.run(&["import", "things", &file]).done(), "4 written, 0 failed\n");
    assert_eq!(to.run(&["export", "things"]).done(), from.run(&["export", "things"]).done());

    from.run(&["put", "things", "e", "[1]"]).done();
    from.run(&["export", "things", "--format", "csv"]).failed(1, "things/e is no object, and CSV holds objects only");
    from.run(&["put", "ids", "e", "{\"id\":7}"]).done();
    from.run(&["export", "ids", "--format", "csv"]).failed(1, "--id NAME");
    let csv = from.run(&["export", "ids", "--format", "csv", "--id", "key"]).done();
    assert_eq!(csv, "key,id\ne,7\n");
    assert_eq!(to.run_with(&["import", "ids", "--format", "csv", "--id", "key"], &csv).done(), "1 written, 0 failed\n");
    assert_eq!(to.run(&["get", "ids", "e"]).done(), "{\"id\":7}\n");
    let strings = ["import", "strings", "--format", "csv", "--strings"];
    to.run_with(&strings, "id,n,e\n1,7,\n").done();
    assert_eq!(to.run(&["get", "strings", "1"]).done(), "{\"e\":\"\",\"n\":\"7\"}\n");
}

#[test]
fn an_import_ends_at_a_line_that_is_refused_and_goes_on_there() {
    let node = Node::start(&[]);
    let scratch = Scratch::new("refused");
    let file = scratch.file("notes.ndjson");
    let write = |third: &str| {
        let text = format!("{{\"id\":\"1\",\"value\":1}}\n{{\"value\":2}}\n{third}\n{{\"id\":\"4\",\"value\":4}}\n");
        fs::write(&file, text).unwrap();
    };
    write("{\"id\":\"3\",\"value\":1e999}");
    let ran = node.run(&["import", "notes", &file]);
    assert!(ran.code == 1 && ran.out.ends_with(", 1 failed\n"), "{ran:?}");
    assert!(ran.err.starts_with("line 3: ") && ran.err.contains("run the same again"), "{ran:?}");
    write("{\"id\":\"3\",\"value\":3}");
    let ran = node.run(&["import", "notes", &file]);
    assert_eq!((ran.code, &*ran.out), (0, "4 written, 0 failed\n"), "{ran:?}");
    let listed = node.run(&["list", "notes"]).done();
    assert_eq!(listed.lines().count(), 4, "{listed}");
    // The same import once more makes the same documents.
    node.run(&["import", "notes", &file, "--parallel", "4", "--batch", "1"]).done();
    assert_eq!(node.run(&["list", "notes"]).done(), listed);

    write("{\"id\":\"bad\\u0000id\",\"value\":3}");
    let ran = node.run(&["import", "fresh", &file, "--keep-going"]);
    assert_eq!((ran.code, &*ran.out), (1, "3 written, 1 failed\n"), "{ran:?}");
    assert!(ran.err.contains("line 3: a document id is"), "{ran:?}");
}

#[test]
fn an_import_that_is_killed_goes_on_where_it_was() {
    let node = Node::start(&[]);
    let scratch = Scratch::new("killed");
    let file = scratch.file("many.ndjson");
    let mut text = Vec::new();
    for n in 0..60_000 {
        writeln!(text, "{{\"value\":{{\"n\":{n}}}}}").unwrap();
    }
    fs::write(&file, &text).unwrap();
    let note = format!("{file}.lamplight-import");
    let args = ["import", "many", &file, "--url", &node.url, "--batch", "20", "--parallel", "2"];
    let mut import = Running::start(&args);
    let end = std::time::Instant::now() + std::time::Duration::from_secs(60);
    while !fs::exists(&note).unwrap() {
        assert!(std::time::Instant::now() < end, "no note is written");
        std::thread::yield_now();
    }
    import.signal("KILL");
    assert_eq!(import.code(), None, "it was killed before its end");
    let noted: Value = serde_json::from_str(&fs::read_to_string(&note).unwrap()).unwrap();
    let line = noted["place"]["line"].as_u64().unwrap();
    assert!(line > 0 && line < 60_000, "{noted}");
    let ran = run(&args);
    assert_eq!((ran.code, &*ran.out), (0, "60000 written, 0 failed\n"), "{ran:?}");
    assert_eq!(ran.err, format!("lamplight: goes on behind line {line}\n"));
    let docs = lines(&node.run(&["export", "many"]).done());
    let mut numbers: Vec<u64> = docs.iter().map(|doc| doc["value"]["n"].as_u64().unwrap()).collect();
    numbers.sort_unstable();
    assert!(numbers.into_iter().eq(0..60_000), "each line is there, and once");
}

#[test]
fn an_import_goes_on_with_the_next_node_when_one_ends() {
    let first = Node::start(&[]);
    let second = Node::start(&["--join", &first.url]);
    let urls = format!("{},{}", first.url, second.url);
    let mut import = Running::start(&["import", "notes", "--url", &urls, "--parallel", "2"]);
    let mut stdin = import.stdin();
    let watch = Running::start(&["watch", "notes", "--url", &second.url]);
    for n in 0..20 {
        writeln!(stdin, "{{\"id\":\"{n}\",\"value\":{n}}}").unwrap();
        if n == 10 {
            (0..10).for_each(|_| drop(watch.line()));
            first.process.signal("TERM");
        }
    }
    drop(stdin);
    assert_eq!(import.line(), "20 written, 0 failed");
    assert_eq!(import.code(), Some(0));
    assert_eq!(second.run(&["list", "notes"]).done().lines().count(), 20);
}

#[test]
fn lines_of_others_become_documents() {
    let node = Node::start(&[]);
    let orders = "{\"number\":17,\"of\":\"ada\"}\n{\"number\":\"x/1\",\"of\":\"ben\"}\n";
    node.run_with(&["import", "orders", "--id", "number"], orders).done();
    assert_eq!(node.run(&["get", "orders", "17"]).done(), "{\"number\":17,\"of\":\"ada\"}\n");
    node.run_with(&["import", "plain", "--plain"], orders).done();
    assert_eq!(node.run(&["list", "plain"]).done().lines().count(), 2);
    let listed = node.run(&["list", "orders", "--json"]).done();
    node.run_with(&["import", "copy"], &listed).done();
    assert_eq!(node.run(&["list", "copy"]).done(), node.run(&["list", "orders"]).done());
    let elsewhere = "{\"collection\":\"b\",\"id\":\"1\",\"value\":1}\n";
    let ran = node.run_with(&["import", "a"], elsewhere);
    assert!(ran.code == 1 && ran.err.contains("with --all each goes to the one that it names"), "{ran:?}");
    node.run_with(&["import", "--all"], elsewhere).done();
    assert_eq!(node.run(&["get", "b", "1"]).done(), "1\n");
    for (args, words) in [
        (&["import", "--all", "--format", "csv"][..], "CSV holds one collection"),
        (&["import", "a", "--strings"], "--strings is for CSV"),
        (&["import"], "required"),
        (&["export"], "required"),
    ] {
        let ran = run_with(args, "");
        assert!(ran.code == 2 && ran.err.contains(words), "{ran:?}");
    }
}

#[test]
fn tokens_are_shown_and_what_they_may_not_is_told() {
    let scratch = Scratch::new("tokens");
    let tokens = scratch.file("tokens.json");
    let token = |name: &str, role: &str| json!({ "name": name, "role": role, "collections": ["notes"], "token": format!("{name}-0123456789abcdef") });
    fs::write(&tokens, json!({ "tokens": [token("writer", "write"), token("reader", "read")] }).to_string()).unwrap();
    let node = Node::start(&["--tokens", &tokens]);
    let line = "{\"id\":\"1\",\"value\":1}\n";
    let import = |collection: &str, name: &str| {
        node.run_with(&["import", collection, "--token", &format!("{name}-0123456789abcdef")], line)
    };
    assert_eq!(import("notes", "writer").done(), "1 written, 0 failed\n");
    for (collection, name) in [("notes", "reader"), ("other", "writer")] {
        let ran = import(collection, name);
        assert!(ran.code == 1 && ran.out == "0 written, 0 failed\n" && ran.err.contains(name), "{ran:?}");
    }
    assert_eq!(node.run(&["export", "--all", "--token", "reader-0123456789abcdef"]).done().lines().count(), 1);
    node.run(&["export", "--all"]).failed(1, "token");
}

#[test]
fn a_table_that_is_not_read_as_meant_says_so() {
    let node = Node::start(&[]);
    let fixture = |name: &str| format!("{}/tests/fixtures/csv/{name}", env!("CARGO_MANIFEST_DIR"));
    let scratch = Scratch::new("tables");
    let copied = |name: &str| {
        let file = scratch.file(name);
        fs::copy(fixture(name), &file).unwrap();
        file
    };
    let file = copied("without-ids.csv");
    let ran = node.run(&["import", "people", &file]);
    assert!(ran.code == 1 && ran.out == "0 written, 0 failed\n", "{ran:?}");
    assert!(ran.err.contains("\"Name\", \"Ort\"") && ran.err.contains("--generate-ids"), "{ran:?}");
    assert_eq!(node.run(&["import", "people", &file, "--id", "Name"]).done(), "2 written, 0 failed\n");
    assert_eq!(node.run(&["get", "people", "Ada"]).done(), "{\"Ort\":\"Köln\"}\n");
    node.run(&["import", "made", &file, "--generate-ids"]).done();
    node.run(&["import", "made", &file, "--generate-ids"]).done();
    assert_eq!(node.run(&["list", "made"]).done().lines().count(), 2);
    let ansi = ["import", "prices", &copied("excel-german.csv"), "--charset", "windows-1252", "--decimal-comma"];
    assert_eq!(node.run(&ansi).done(), "2 written, 0 failed\n");
    assert_eq!(node.run(&["get", "prices", "1"]).done(), "{\"Menge\":10,\"Name\":\"Grüner Tee\",\"Preis\":2.5}\n");
    let tabs = ["import", "tabs", &copied("excel-unicode-text.txt"), "--format", "csv"];
    assert_eq!(node.run(&tabs).done(), "3 written, 0 failed\n");
    assert_eq!(node.run(&["import", "tsv", &copied("tabs.tsv")]).done(), "2 written, 0 failed\n");
    let named = ["import", "named", "--format", "csv", "--delimiter", "#"];
    assert_eq!(node.run_with(&named, "id#n\na#1\n").done(), "1 written, 0 failed\n");
    node.run_with(&["import", "named", "--delimiter", ";"], "{}\n").failed(2, "--format csv");
    let lines: Vec<u8> = "\u{feff}{\"id\":\"ä\",\"value\":1}\r\n".encode_utf16().flat_map(u16::to_le_bytes).collect();
    let file = scratch.file("lines.jsonl");
    fs::write(&file, lines).unwrap();
    assert_eq!(node.run(&["import", "wide", &file]).done(), "1 written, 0 failed\n");
    assert_eq!(node.run(&["get", "wide", "ä"]).done(), "1\n");
}
