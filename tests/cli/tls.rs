//! Nodes that speak TLS to each other.

use serde_json::Value;

use crate::{
    program::{Running, run},
    scratch::Scratch,
};

/// A certificate for this machine and its key, in files.
fn certify(scratch: &Scratch, name: &str) -> (String, String) {
    let made = rcgen::generate_simple_self_signed(["localhost".to_string(), "127.0.0.1".to_string()]).unwrap();
    let key = scratch.write(&format!("{name}.key"), &made.signing_key.serialize_pem());
    (scratch.write(&format!("{name}.pem"), &made.cert.pem()), key)
}

/// Starts a node, and waits until it listens; its URL.
fn start(name: &str, args: &[&str]) -> (Running, String) {
    let process = Running::start(&[&["serve", "--memory", "--listen", "127.0.0.1:0", "--name", name], args].concat());
    let line = process.says("serving");
    let url = line.split("url=\"").nth(1).unwrap().split('"').next().unwrap().to_string();
    (process, url)
}

#[test]
fn nodes_link_over_tls_to_those_whose_certificate_they_trust() {
    let scratch = Scratch::new("tls");
    let (cert, key) = certify(&scratch, "nodes");
    let secret = scratch.write("secret", "a secret of sixteen or more");
    let own = ["--tls-cert", &cert, "--tls-key", &key, "--pool-secret-file", &secret];
    let trusting = [&own[..], &["--tls-ca", &cert]].concat();
    let (_ada, first) = start("ada", &trusting);
    assert!(first.starts_with("https://127.0.0.1:"), "{first}");
    // A WebSocket's URL leads to the same node.
    let (ben, second) = start("ben", &[&trusting[..], &["--join", &first.replace("https://", "wss://")]].concat());
    ben.says("ready");
    let (cleo, third) = start("cleo", &[&trusting[..], &["--join", &second]].concat());
    cleo.says("ready");
    let at = |args: &[&str], url: &str| run(&[args, &["--url", url, "--ca", &cert]].concat());
    let written = at(&["put", "notes", "milk", "1", "--wait=3", "--timeout", "60s"], &first).done();
    assert!(written.contains("held-by=3"), "{written}");
    assert_eq!(at(&["get", "notes", "milk"], &third).done(), "1\n");
    let final_one = at(&["put", "notes", "tea", "2", "--wait", "--timeout", "60s"], &third).done();
    assert!(final_one.contains("status=final"), "{final_one}");

    // One that trusts another authority says so, where operators look, until it trusts this one.
    let (other, _) = certify(&scratch, "other");
    let theirs = scratch.write("trusted.pem", &std::fs::read_to_string(&other).unwrap());
    let args = [&own[..], &["--tls-ca", &theirs, "--join", &first]].concat();
    let (dora, fourth) = start("dora", &args);
    let said = dora.says("no TLS with");
    assert!(said.contains("WARN") && said.contains(&first) && said.contains("--tls-ca"), "{said}");
    let pool: Value = at(&["status", "--json"], &fourth).json();
    let told = pool["problems"].as_array().unwrap().iter().find(|problem| problem["url"] == *first).unwrap();
    let detail = told["detail"].as_str().unwrap();
    assert!(
        detail.contains("invalid peer certificate") && detail.contains("--tls-cert") && detail.contains("--tls-ca"),
        "{detail}"
    );
    std::fs::copy(&cert, &theirs).unwrap();
    dora.says("ready");
    assert_eq!(at(&["get", "notes", "tea"], &fourth).done(), "2\n");
}

#[test]
fn what_is_no_url_of_a_node_is_refused_at_the_start() {
    for url in ["ftp://a:1", "a:7171", "http://a", "https://a/path"] {
        run(&["serve", "--memory", "--listen", "127.0.0.1:0", "--join", url]).failed(2, "is not of the form");
        run(&["serve", "--memory", "--listen", "127.0.0.1:0", "--advertise", url]).failed(2, "is not of the form");
    }
}
