//! Real processes whose addresses and data directories are not what the pool knew: a copy of a directory, and nodes that move.
#![allow(clippy::unwrap_used, reason = "a test that fails should say where")]

#[path = "support/processes.rs"]
mod processes;

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use hyper::{Method, StatusCode};
use processes::{Http, Process};

/// A directory for the data of one test's nodes.
fn root(name: &str) -> PathBuf {
    let root = std::env::temp_dir().join(format!("lamplight-{name}-{}", std::process::id()));
    fs::create_dir_all(&root).unwrap();
    root
}

fn start(dir: &Path, join: &[&str]) -> Process {
    let join: Vec<&str> = join.iter().flat_map(|url| ["--join", url]).collect();
    let args = ["--listen", "127.0.0.1:0", "--data", dir.to_str().unwrap()];
    Process::serve(&[&args, &*join].concat())
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let place = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &place);
        } else {
            fs::copy(entry.path(), place).unwrap();
        }
    }
}

/// Writes documents until so many are acknowledged; a node that becomes another meanwhile takes none for a moment.
async fn write(http: &Http, node: &Process, name: &str, count: usize) {
    let end = Instant::now() + Duration::from_secs(20);
    for n in 0..count {
        let url = format!("{}/v1/docs/notes/{name}-{n}", node.url);
        while !http.try_call(Method::PUT, &url, "1".into()).await.is_some_and(|(status, ..)| status.is_success()) {
            assert!(Instant::now() < end, "{url} takes no write");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_of_a_data_directory_becomes_a_member_of_its_own_and_loses_nothing() {
    let (http, root) = (Http::new(), root("copy"));
    let (original, copied) = (root.join("original"), root.join("copy"));
    let mut a = start(&original, &[]);
    http.formed(&[&a], 1).await;
    write(&http, &a, "before", 10).await;
    a.kill();
    copy(&original, &copied);
    let a = start(&original, &[]);
    // It goes on by itself first: nobody knows of the other.
    let mut b = start(&copied, &[]);
    write(&http, &a, "a", 10).await;
    write(&http, &b, "b", 10).await;
    b.kill();
    let b = start(&copied, &[&a.url]);
    write(&http, &b, "late", 10).await;
    http.formed(&[&a, &b], 2).await;
    let ids = [http.json(&format!("{}/v1/pool", a.url)).await, http.json(&format!("{}/v1/pool", b.url)).await];
    assert_ne!(ids[0]["node"], ids[1]["node"]);
    for node in [&a, &b] {
        http.has(node, "notes", 40).await;
    }
    http.converged(&[&a, &b]).await;
    assert_eq!(http.listing(&a, "notes").await, http.listing(&b, "notes").await);
    fs::remove_dir_all(root).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_that_have_moved_find_each_other_when_the_one_that_linked_them_is_gone() {
    let (http, root) = (Http::new(), root("move"));
    let [a_dir, b_dir, c_dir] = ["a", "b", "c"].map(|name| root.join(name));
    let mut a = start(&a_dir, &[]);
    let (mut b, mut c) = (start(&b_dir, &[&a.url]), start(&c_dir, &[&a.url]));
    http.formed(&[&a, &b, &c], 3).await;
    write(&http, &b, "b", 5).await;
    http.converged(&[&a, &b, &c]).await;
    b.kill();
    c.kill();
    b = start(&b_dir, &[&a.url]);
    c = start(&c_dir, &[&a.url]);
    let shows = |pool: &serde_json::Value, url: &str| {
        let mut members = pool["members"].as_array().unwrap().iter();
        members.any(|member| member["urls"][0] == *url)
    };
    for node in [&a, &b, &c] {
        http.pool_until(node, |pool| shows(pool, &b.url) && shows(pool, &c.url)).await;
    }
    a.kill();
    // What was announced is kept: the two find each other also if one of them is started anew, with nobody to ask.
    c.kill();
    c = start(&c_dir, &[]);
    write(&http, &c, "c", 5).await;
    for node in [&b, &c] {
        http.has(node, "notes", 10).await;
    }
    let status = http.put(&format!("{}/v1/docs/notes/more", b.url), "1").await;
    assert_eq!(status, StatusCode::CREATED);
    http.has(&c, "notes", 11).await;
    fs::remove_dir_all(root).unwrap();
}
