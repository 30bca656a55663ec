//! Real processes that leave their pool and come back with the directories that they had: nothing acknowledged is lost, and
//! finality goes on.
#![allow(clippy::unwrap_used, reason = "a test that fails should say where")]

#[path = "support/processes.rs"]
mod processes;

use std::{
    net::TcpListener,
    path::PathBuf,
    sync::atomic::{AtomicU16, Ordering},
    time::Duration,
};

use hyper::{Method, StatusCode};
use processes::{Http, Process};
use serde_json::Value;

/// Ports of nodes that come back where they were: below those that the system gives to connections.
static NEXT_PORT: AtomicU16 = AtomicU16::new(0);

fn free_port() -> u16 {
    let first = 20_000 + (std::process::id() % 1_000) as u16 * 10;
    loop {
        let port = first + NEXT_PORT.fetch_add(1, Ordering::Relaxed);
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// Nodes with a volume and an address each, which stay theirs, as those of a `StatefulSet`.
struct Set {
    http: Http,
    root: PathBuf,
    ports: Vec<u16>,
    flags: &'static [&'static str],
    nodes: Vec<Option<Process>>,
    /// The documents that were acknowledged.
    written: Vec<String>,
}

impl Drop for Set {
    fn drop(&mut self) {
        self.nodes.clear();
        let _ = std::fs::remove_dir_all(&self.root);
    }
}

impl Set {
    fn new(name: &str, size: usize, flags: &'static [&'static str]) -> Set {
        let root = std::env::temp_dir().join(format!("lamplight-{name}-{}", std::process::id()));
        let ports = (0..size).map(|_| free_port()).collect();
        let nodes = (0..size).map(|_| None).collect();
        Set { http: Http::new(), root, ports, flags, nodes, written: Vec::new() }
    }

    fn node(&self, at: usize) -> &Process {
        self.nodes[at].as_ref().unwrap()
    }

    fn running(&self) -> Vec<&Process> {
        self.nodes.iter().flatten().collect()
    }

    /// Starts a node in its directory, with where the others are if it is to join them.
    fn start(&mut self, at: usize, joins: bool) {
        let listen = format!("127.0.0.1:{}", self.ports[at]);
        let data = self.root.join(at.to_string());
        let name = format!("n{at}");
        let others = self.ports.iter().filter(|port| **port != self.ports[at]);
        let others: Vec<String> = others.map(|port| format!("http://127.0.0.1:{port}")).collect();
        let mut args = vec!["--listen", &listen, "--data", data.to_str().unwrap(), "--name", &name];
        args.extend(self.flags);
        if joins {
            args.push("--found");
            others.iter().for_each(|url| args.extend(["--join", url]));
        }
        self.nodes[at] = Some(Process::serve(&args));
    }

    async fn write(&mut self, at: usize, count: usize) {
        for _ in 0..count {
            let id = format!("d{}", self.written.len());
            let url = format!("{}/v1/docs/notes/{id}", self.node(at).url);
            assert!(self.http.put(&url, "1").await.is_success());
            self.written.push(id);
        }
    }

    /// Whether each running node is a member, and knows just these; and finality goes on.
    async fn settles(&mut self) {
        let size = self.running().len();
        for node in self.running() {
            let all = |pool: &Value| pool["members"].as_array().is_some_and(|list| list.len() == size);
            self.http.pool_until(node, |pool| pool["state"] == "member" && all(pool)).await;
        }
        for node in self.running() {
            let url = format!("{}/v1/docs/final/x?wait=final&timeout=60s", node.url);
            let (status, _, receipt) = self.http.try_call(Method::PUT, &url, "1".into()).await.unwrap();
            assert!(status.is_success() && receipt["status"] == "final", "{}: {status} {receipt}", node.url);
        }
    }

    /// Whether each running node has all that was acknowledged.
    async fn has_all(&self) {
        for node in self.running() {
            self.http.has(node, "notes", self.written.len()).await;
        }
    }

    async fn id(&self, at: usize) -> String {
        let pool = self.http.json(&format!("{}/v1/pool", self.node(at).url)).await;
        pool["node"].as_str().unwrap().to_string()
    }

    async fn remove(&self, at: usize, member: &str, query: &str) -> (StatusCode, Value) {
        let url = format!("{}/v1/pool/members/{member}{query}", self.node(at).url);
        let (status, _, answer) = self.http.try_call(Method::DELETE, &url, String::new()).await.unwrap();
        (status, answer)
    }

    async fn starts(&mut self, size: usize) {
        for at in 0..size {
            if self.nodes[at].is_none() {
                self.start(at, true);
                self.http.pool_until(self.node(at), |pool| pool["state"] == "member").await;
            }
        }
    }
}

/// Three replicas, five, three and five again: each that goes has just written something, and comes back to its volume.
async fn lives(name: &str, leave: bool) {
    let flags: &[&str] = if leave { &["--evict-after", "10s", "--leave"] } else { &["--evict-after", "10s"] };
    let mut set = Set::new(name, 5, flags);
    for size in [3, 5, 3, 5] {
        for at in (size..5).rev() {
            if set.nodes[at].is_none() {
                continue;
            }
            set.write(at, 10).await;
            let mut node = set.nodes[at].take().unwrap();
            if leave {
                assert_eq!(node.stop(), Some(0));
                assert!(node.said().contains("it has left the pool"), "{}", node.said());
            } else {
                node.kill();
            }
        }
        set.starts(size).await;
        set.settles().await;
        for at in 0..size {
            set.write(at, 5).await;
        }
        println!("{name}: {size} replicas, {} documents", set.written.len());
    }
    set.has_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_that_leave_come_back_to_their_volumes_and_nothing_is_lost() {
    lives("leave", true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_that_are_killed_are_evicted_come_back_to_their_volumes_and_nothing_is_lost() {
    lives("kill", false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_retired_directory_stays_retired_until_it_is_started_to_join() {
    let mut set = Set::new("retired", 3, &[]);
    set.starts(3).await;
    set.settles().await;
    let old = set.id(2).await;
    set.write(2, 20).await;
    assert_eq!(set.remove(2, &old, "").await.0, StatusCode::ACCEPTED);
    set.http.pool_until(set.node(0), |pool| pool["members"].as_array().unwrap().len() == 2).await;
    set.nodes[2].take().unwrap().stop();
    set.start(2, false);
    set.http.pool_until(set.node(2), |pool| pool["state"] == "retired" && pool["node"] == *old).await;
    set.nodes[2].take().unwrap().stop();
    set.start(2, true);
    set.settles().await;
    assert_ne!(set.id(2).await, old);
    let said = set.node(2).said();
    assert!(said.contains("it had retired: it joins its pool again, as another node"), "{said}");
    set.has_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_is_cut_off_does_not_leave_and_its_writes_come_with_its_directory() {
    let mut set = Set::new("cut-off", 3, &["--leave"]);
    set.starts(3).await;
    set.settles().await;
    set.http.cut(set.node(2), true).await;
    set.write(2, 20).await;
    let old = set.id(2).await;
    let (status, problem) = set.remove(2, &old, "").await;
    assert_eq!((status, &problem["operations"]), (StatusCode::CONFLICT, &20.into()), "{problem}");
    assert_eq!(problem["type"], "urn:lamplight:problem:not-shared");
    let mut node = set.nodes[2].take().unwrap();
    assert_eq!(node.stop(), Some(0));
    assert!(node.said().contains("it has not left the pool, for no other member"), "{}", node.said());
    // The others need not wait for it.
    assert_eq!(set.remove(0, &old, "?force=true").await.0, StatusCode::ACCEPTED);
    set.settles().await;
    set.start(2, true);
    set.settles().await;
    set.has_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_leaves_right_after_an_eviction_takes_nothing_with_it() {
    for stopped in [true, false] {
        let mut set = Set::new(if stopped { "soon-stopped" } else { "soon-retired" }, 3, &["--leave"]);
        set.starts(3).await;
        set.settles().await;
        set.http.cut(set.node(2), true).await;
        set.write(2, 50).await;
        let old = set.id(2).await;
        assert_eq!(set.remove(0, &old, "?force=true").await.0, StatusCode::ACCEPTED);
        set.http.pool_until(set.node(0), |pool| pool["members"].as_array().unwrap().len() == 2).await;
        set.http.cut(set.node(2), false).await;
        set.http.pool_until(set.node(2), |pool| pool["node"] != *old).await;
        if stopped {
            let mut node = set.nodes[2].take().unwrap();
            assert_eq!(node.stop(), Some(0));
            set.start(2, true);
            set.settles().await;
        } else {
            loop {
                let id = set.id(2).await;
                let (status, problem) = set.remove(2, &id, "").await;
                match status {
                    StatusCode::ACCEPTED => break,
                    StatusCode::CONFLICT | StatusCode::SERVICE_UNAVAILABLE => {}
                    _ => panic!("{status} {problem}"),
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            set.nodes[2].take();
            set.settles().await;
        }
        set.has_all().await;
    }
}

/// Nothing but its directory says that these nodes were members: they keep no data there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_with_its_data_in_memory_that_is_killed_twice_behind_a_partition_is_replaced_each_time() {
    let mut set = Set::new("in-memory", 3, &[]);
    set.starts(2).await;
    set.flags = &["--memory"];
    set.starts(3).await;
    set.settles().await;
    for (cut, wait_ms) in [(0, 0), (1, 300), (0, 1_500)] {
        set.http.cut(set.node(cut), true).await;
        for _ in 0..2 {
            set.nodes[2].take().unwrap().kill();
            set.start(2, true);
            tokio::time::sleep(Duration::from_millis(wait_ms)).await;
        }
        set.write(1 - cut, 5).await;
        set.http.cut(set.node(cut), false).await;
        set.settles().await;
    }
    set.has_all().await;
}
