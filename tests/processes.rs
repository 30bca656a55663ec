//! Real processes on this machine: a pool of twelve, a partition with thousands of writes on each side, a kill.
#![allow(clippy::unwrap_used, reason = "a test that fails should say where")]

#[path = "support/processes.rs"]
mod processes;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use hyper::{Method, StatusCode};
use processes::{Http, Process};
use serde_json::{Value, json};
use tokio::task::JoinSet;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twelve_processes_form_one_pool_and_converge() {
    let http = Http::new();
    let first = Process::start("p0", &[]);
    let mut nodes = vec![first];
    for index in 1..12 {
        let node = Process::start(&format!("p{index}"), &[&nodes[0].url]);
        nodes.push(node);
    }
    let all: Vec<&Process> = nodes.iter().collect();
    http.formed(&all, 12).await;
    for (index, node) in nodes.iter().enumerate() {
        for n in 0..20 {
            let url = format!("{}/v1/docs/notes/{n}", node.url);
            assert!(http.put(&url, &format!("{{\"by\":{index},\"n\":{n}}}")).await.is_success());
        }
    }
    http.converged(&all).await;
    let listing = http.listing(&nodes[0], "notes").await;
    assert_eq!(listing.len(), 20);
    for node in &nodes {
        assert_eq!(http.listing(node, "notes").await, listing, "{}", node.url);
        let pool = http.json(&format!("{}/v1/pool", node.url)).await;
        let links = pool["members"].as_array().unwrap().iter().filter(|member| member["link"] == "linked").count();
        assert!((1..=9).contains(&links), "{links} links");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_partition_with_ten_thousand_writes_on_each_side_heals() {
    const WRITES: usize = 10_000;
    let http = Http::new();
    let a = Process::start("a", &[]);
    let (b, c) = (Process::start("b", &[&a.url]), Process::start("c", &[&a.url]));
    let all = [&a, &b, &c];
    http.formed(&all, 3).await;
    http.cut(&c, true).await;
    write_many(&http, &a, "left", WRITES).await;
    write_many(&http, &c, "right", WRITES).await;
    let healed = Instant::now();
    http.cut(&c, false).await;
    http.converged(&all).await;
    println!("converged {} ms after the links were joined, {WRITES} writes on each side", healed.elapsed().as_millis());
    let listing = http.listing(&a, "notes").await;
    assert_eq!(listing.len(), 2 * WRITES - WRITES / 2, "every second document was written on both sides");
    assert_eq!(http.listing(&b, "notes").await, listing);
    assert_eq!(http.listing(&c, "notes").await, listing);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_is_full_takes_deletions_and_then_writes_again() {
    let http = Http::new();
    let node = Process::serve(&["--memory", "--listen", "127.0.0.1:0", "--max-memory", "128MiB"]);
    http.formed(&[&node], 1).await;
    let url = format!("{}/v1/docs/notes/once-more", node.url);
    let value = "x".repeat(2_000);
    let put = |id: usize| json!({ "put": { "collection": "notes", "id": id.to_string(), "value": value } });
    let delete = |id: usize| json!({ "delete": { "collection": "notes", "id": id.to_string() } });
    let mut held = 0;
    loop {
        match many(&http, &node, (held..held + 100).map(put).collect()).await {
            StatusCode::OK => held += 100,
            status => break assert_eq!(status, StatusCode::INSUFFICIENT_STORAGE),
        }
        assert!(held < 1_000_000, "there is no bound");
    }
    for n in (0..held).step_by(100) {
        assert_eq!(many(&http, &node, (n..n + 100).map(delete).collect()).await, StatusCode::OK);
    }
    // What was deleted is given back to the system, however much would be retained otherwise.
    let end = Instant::now() + Duration::from_secs(60);
    while http.put(&url, "1").await != StatusCode::CREATED {
        assert!(Instant::now() < end, "it takes no writes again");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    println!("{held} documents of 2 KB in 128 MiB");
}

/// One transaction.
async fn many(http: &Http, node: &Process, commands: Vec<Value>) -> StatusCode {
    let body = json!({ "commands": commands }).to_string();
    http.call(Method::POST, &format!("{}/v1/tx", node.url), None, body).await.0
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_node_stops_nobody_and_a_new_one_gets_all_the_data() {
    let http = Http::new();
    let a = Process::start("a", &[]);
    let (b, mut c) = (Process::start("b", &[&a.url]), Process::start("c", &[&a.url]));
    http.formed(&[&a, &b, &c], 3).await;
    let done = Arc::new(AtomicBool::new(false));
    let mut writers = JoinSet::new();
    for (index, url) in [&a.url, &b.url].into_iter().enumerate() {
        let (http, url, done) = (http.clone(), url.clone(), Arc::clone(&done));
        writers.spawn(async move {
            let mut written = 0;
            while !done.load(Ordering::Relaxed) {
                let status = http.put(&format!("{url}/v1/docs/notes/{index}-{written}"), "{\"n\":1}").await;
                assert_eq!(status, StatusCode::CREATED, "the others never stop answering");
                written += 1;
            }
            written
        });
    }
    http.pool_until(&a, |pool| pool["docs"].as_u64() > Some(500)).await;
    c.kill();
    let d = Process::start("d", &[&a.url, &b.url]);
    http.formed(&[&d], 4).await;
    http.pool_until(&d, |pool| pool["docs"].as_u64() > Some(1000)).await;
    done.store(true, Ordering::Relaxed);
    let written: usize = writers.join_all().await.into_iter().sum();
    http.converged(&[&a, &b, &d]).await;
    let listing = http.listing(&a, "notes").await;
    assert_eq!(listing.len(), written);
    assert_eq!(http.listing(&d, "notes").await, listing);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_two_of_three_nodes_hold_on_their_disks_one_of_them_still_has_when_the_other_is_gone() {
    let http = Http::new();
    let root = std::env::temp_dir().join(format!("lamplight-wait-{}", std::process::id()));
    let start = |name: &str, join: &str| {
        let dir = root.join(name);
        let join: &[&str] = if join.is_empty() { &[] } else { &["--join", join] };
        Process::serve(&[&["--listen", "127.0.0.1:0", "--data", dir.to_str().unwrap()], join].concat())
    };
    let mut a = start("a", "");
    let (b, mut c) = (start("b", &a.url), start("c", &a.url));
    http.formed(&[&a, &b, &c], 3).await;
    let put = async |query: &str| {
        let url = format!("{}/v1/docs/notes/x?{query}", a.url);
        http.try_call(Method::PUT, &url, "1".into()).await.unwrap()
    };
    let (status, _, receipt) = put("wait=3&timeout=60s").await;
    assert_eq!((status, &receipt["held_by"]), (StatusCode::CREATED, &3.into()));
    c.kill();
    let (status, headers, receipt) = put("wait=3&timeout=500ms").await;
    assert_eq!(
        (status, &receipt["held_by"], &receipt["status"]),
        (StatusCode::ACCEPTED, &2.into(), &"tentative".into())
    );
    let path = headers["location"].to_str().unwrap().to_string();
    let (status, _, receipt) = put("wait=2&timeout=60s").await;
    assert_eq!((status, &receipt["held_by"]), (StatusCode::OK, &2.into()));
    assert_eq!(put("wait=4").await.0, StatusCode::BAD_REQUEST);
    a.kill();
    for op in [&path, &format!("/v1/ops/{}", receipt["op"].as_str().unwrap())] {
        assert_eq!(
            http.try_call(Method::GET, &format!("{}{op}", b.url), String::new()).await.unwrap().0,
            StatusCode::OK
        );
    }
    std::fs::remove_dir_all(root).unwrap();
}

/// Writes documents through one node, over several connections; sides write every second document both.
async fn write_many(http: &Http, node: &Process, side: &'static str, count: usize) {
    let mut writers = JoinSet::new();
    for writer in 0..16 {
        let (http, url) = (http.clone(), node.url.clone());
        writers.spawn(async move {
            for n in (writer..count).step_by(16) {
                let id = if n % 2 == 0 { format!("both-{n}") } else { format!("{side}-{n}") };
                let status = http.put(&format!("{url}/v1/docs/notes/{id}"), &format!("{{\"by\":\"{side}\"}}")).await;
                assert!(status.is_success());
            }
        });
    }
    writers.join_all().await;
}
