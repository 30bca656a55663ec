//! The configuration file, and what shells and `man` are told.

use crate::{
    program::{Node, Running, run, run_in},
    scratch::Scratch,
};

#[test]
fn flags_outweigh_variables_and_these_the_file() {
    let scratch = Scratch::new("config");
    let node = Node::start(&[]);
    let file = format!(
        "memory = true\nlisten = \"127.0.0.1:0\"\nname = \"of-file\"\nretain_ops = 500\nurl = [\"{}\"]\n",
        node.url
    );
    let file = scratch.write("lamplight.toml", &file);
    let started = Running::start(&["serve", "--config", &file]);
    assert!(started.says("serving").contains("name=\"of-file\""));
    started.says("ready");
    let flagged = Running::start(&["--config", &file, "serve", "--name", "of-flag"]);
    assert!(flagged.says("serving").contains("name=\"of-flag\""));
    run_in(&["put", "notes", "milk", "1"], &[("LAMPLIGHT_CONFIG", &file)]).done();
    assert_eq!(node.run(&["get", "notes", "milk"]).done(), "1\n");
    let nobody = ("LAMPLIGHT_URL", "http://127.0.0.1:1");
    run_in(&["get", "notes", "milk"], &[("LAMPLIGHT_CONFIG", &file), nobody]).failed(5, "127.0.0.1:1");
    let asked = run_in(&["get", "notes", "milk", "--url", &node.url], &[("LAMPLIGHT_CONFIG", &file), nobody]);
    assert_eq!(asked.done(), "1\n");
    let help = run(&["serve", "--help", "--config", &file]).done();
    assert!(help.contains("[default: of-file]"), "{help}");
}

#[test]
fn a_file_that_says_nonsense_is_refused_with_what_to_say() {
    let scratch = Scratch::new("config-bad");
    let check = |text: &str, words: &str| {
        let file = scratch.write("bad.toml", text);
        run(&["serve", "--config", &file]).failed(2, words);
        run(&["get", "a", "b", &format!("--config={file}")]).failed(2, words);
    };
    check("lisen = \"127.0.0.1:0\"", "lisen: there is no such key; listen is near");
    check("xyzzy = 1", "there is no such key. Keys are the flags");
    check("memory = \"yes\"", "memory: it takes true or false");
    check("name = true", "name: it takes a string, a number or a list of them");
    check("[serve]\nname = \"x\"", "serve: there is no such key");
    check("name = ", "TOML parse error at line 1");
    check("tls-ca = \"a\"\ntls_ca = \"b\"", "it is there twice");
    run(&["get", "a", "b", "--config", &scratch.file("none.toml")]).failed(2, "no such file");
    let file = scratch.write("listen.toml", "listen = \"nowhere\"");
    run(&["serve", "--config", &file]).failed(2, "invalid value 'nowhere' for '--listen");
    // Half of a pair would be a node in clear.
    let file = scratch.write("half.toml", "memory = true\nlisten = \"127.0.0.1:0\"\ntls-cert = \"cert.pem\"\n");
    run(&["serve", "--config", &file]).failed(2, "--tls-cert and --tls-key go together");
    // A token in it is shown by no help.
    let file = scratch.write("token.toml", "token = \"a-token-in-clear-of-16\"");
    assert!(!run(&["get", "--help", "--config", &file]).done().contains("a-token"));
}

#[test]
fn shells_and_man_know_every_command() {
    for shell in ["bash", "zsh", "fish"] {
        let script = run(&["completions", shell]).done();
        for words in ["export", "query", "keep-going"] {
            assert!(script.contains(words), "{shell}: {words}");
        }
    }
    let scratch = Scratch::new("man");
    run(&["man", "--output", &scratch.file("man1")]).done();
    let pages = std::fs::read_dir(scratch.file("man1")).unwrap().count();
    let help = run(&["--help"]).done();
    let commands =
        help.lines().filter(|line| line.starts_with("  ") && line.chars().nth(2).is_some_and(char::is_lowercase));
    let commands = commands
        .filter(|line| !line.trim_start().starts_with("lamplight ") && !line.trim_start().starts_with("help "))
        .count();
    assert!(commands > 20 && pages > commands, "{pages} pages, {commands} commands");
    assert!(run(&["man"]).done().starts_with(".ie"), "a page in the language of man");
    let page = std::fs::read_to_string(scratch.file("man1/lamplight-serve.1")).unwrap();
    assert!(page.contains("LAMPLIGHT_LISTEN") && page.contains("tls\\-ca"), "{page}");
}

#[test]
fn a_query_is_a_table() {
    let node = Node::start(&[]);
    for (id, value) in [("a", "{\"n\":1,\"name\":\"tea\"}"), ("b", "{\"n\":22}"), ("c", "\"a string\"")] {
        node.run(&["put", "notes", id, value]).done();
    }
    node.run(&["put", "notes", "d", "--text", "long"]).done();
    let table = node.run(&["query", "notes"]).done();
    assert_eq!(table, "ID  (value)   n   name\na             1   tea\nb             22\nc   a string\nd   (text)\n");
    let found = node.run(&["query", "notes", "--filter", "{\"n\":{\"$gt\":0}}", "--sort", "-n", "--final"]).done();
    assert_eq!(found, "ID  n   name\nb   22\na   1   tea\n");
    let found = node.run(&["query", "notes", "--filter", "{\"n\":1}", "--json"]).json();
    assert_eq!(found["id"], "a");
    assert_eq!(node.run(&["query", "nothing"]).done(), "");
    let ran = node.run(&["query", "notes", "--limit", "1"]);
    assert!(ran.code == 0 && ran.out.lines().count() == 2 && ran.err.contains("--all lists all"), "{ran:?}");
}
