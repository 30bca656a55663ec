//! Promises where membership changes, restarts and old disks cross, on real processes.
#![allow(clippy::unwrap_used, reason = "a test that fails should say where")]

#[path = "support/places.rs"]
mod places;
#[path = "support/processes.rs"]
mod processes;

use std::time::Duration;

use hyper::{Method, StatusCode};
use places::{Place, id_of, program};
use processes::{Http, Process};
use serde_json::Value;

/// Evicts a member as soon as the node lets it be: once the member was not heard of for long enough.
async fn evict(http: &Http, node: &Process, member: &str) {
    let url = format!("{}/v1/pool/members/{member}", node.url);
    for _ in 0..300 {
        let (status, _, answer) = http.try_call(Method::DELETE, &url, String::new()).await.unwrap();
        if status.is_success() {
            return;
        }
        assert_eq!(answer["type"], "urn:lamplight:problem:member-alive", "{answer}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("{member} is alive");
}

/// Writes a document, and waits until that is final.
async fn put_final(http: &Http, node: &Process, id: &str) -> Value {
    let url = format!("{}/v1/docs/kept/{id}?wait=final&timeout=60s", node.url);
    let (status, _, receipt) = http.try_call(Method::PUT, &url, "1".into()).await.unwrap();
    assert_eq!((status, &receipt["status"]), (StatusCode::CREATED, &"final".into()), "{receipt}");
    receipt
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn finality_goes_on_where_a_node_is_killed_just_after_it_let_an_evicted_one_in_again() {
    let (http, places) = (Http::new(), Place::all("evicted"));
    let mut running: Vec<Process> = places.iter().map(Place::start).collect();
    http.formed(&running.iter().collect::<Vec<_>>(), 3).await;
    put_final(&http, &running[0], "before").await;
    for round in 0..2 {
        let evicted = id_of(&http, &running[2]).await;
        running[2].kill();
        evict(&http, &running[0], &evicted).await;
        running[2] = places[2].start();
        let is_in = |pool: &Value| {
            let members = pool["members"].as_array().unwrap();
            members.iter().any(|member| member["name"] == "n2" && member["id"] != *evicted)
        };
        http.pool_until(&running[0], is_in).await;
        running[0].kill();
        running[0] = places[0].start();
        put_final(&http, &running[1], &format!("after-{round}")).await;
        http.formed(&running.iter().collect::<Vec<_>>(), 3).await;
        put_final(&http, &running[0], &format!("at-last-{round}")).await;
    }
    places[0].remove();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_at_an_old_copy_of_a_disk_changes_nothing_that_is_final() {
    let (http, places) = (Http::new(), Place::all("forgetful"));
    let mut running: Vec<Process> = places.iter().map(Place::start).collect();
    http.formed(&running.iter().collect::<Vec<_>>(), 3).await;
    put_final(&http, &running[2], "begin").await;
    running[2].kill();
    let copy = places[2].dir.with_extension("copy");
    let copied = |from: &std::path::Path, to: &std::path::Path| {
        std::fs::create_dir_all(to).unwrap();
        for file in std::fs::read_dir(from).unwrap().map(Result::unwrap).filter(|file| file.path().is_file()) {
            std::fs::copy(file.path(), to.join(file.file_name())).unwrap();
        }
    };
    copied(&places[2].dir, &copy);
    running[2] = places[2].start();
    http.formed(&[&running[2]], 3).await;
    // The node issues nothing, but promises that its next op comes after all of these.
    let mut claims = Vec::new();
    for n in 0..20 {
        claims.push(put_final(&http, &running[0], &format!("claim-{n}")).await);
    }
    let before = id_of(&http, &running[2]).await;
    running[2].kill();
    std::fs::remove_dir_all(&places[2].dir).unwrap();
    copied(&copy, &places[2].dir);
    // It is written to before it hears of the others.
    let (first, second) = (running.remove(0), running.remove(0));
    http.cut(&first, true).await;
    http.cut(&second, true).await;
    let mut third = places[2].start();
    for n in 0..20 {
        let url = format!("{}/v1/docs/kept/claim-{n}", third.url);
        http.try_call(Method::PUT, &url, "2".into()).await.unwrap();
    }
    http.cut(&first, false).await;
    http.cut(&second, false).await;
    http.converged(&[&first, &second, &third]).await;
    put_final(&http, &first, "end").await;
    assert_ne!(id_of(&http, &third).await, before, "it comes back as another");
    for claim in claims {
        let found = http.json(&format!("{}/v1/ops/{}", first.url, claim["op"].as_str().unwrap())).await;
        assert_eq!(
            (&found["stamp"], &found["status"], &found["version"]),
            (&claim["stamp"], &claim["status"], &claim["version"])
        );
    }
    // What it acknowledged comes behind all that was final.
    http.document_until(&format!("{}/v1/docs/kept/claim-19", second.url), |document| *document == 2).await;
    third.kill();
    places[0].remove();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_that_two_evicted_nodes_hold_outlives_the_disk_of_one() {
    let (http, places) = (Http::new(), Place::some("both", 5));
    let mut running: Vec<Process> = places.iter().map(Place::start).collect();
    http.formed(&running.iter().collect::<Vec<_>>(), 5).await;
    put_final(&http, &running[0], "begin").await;
    for node in &running[..3] {
        http.cut(node, true).await;
    }
    let url = format!("{}/v1/docs/kept/both?wait=2&timeout=60s", running[3].url);
    let (status, _, receipt) = http.try_call(Method::PUT, &url, "1".into()).await.unwrap();
    assert_eq!((status, &receipt["held_by"]), (StatusCode::CREATED, &2.into()), "{receipt}");
    let (writer, holder) = (id_of(&http, &running[3]).await, id_of(&http, &running[4]).await);
    running[3].kill();
    running[4].kill();
    std::fs::remove_dir_all(&places[3].dir).unwrap();
    for node in &running[..3] {
        http.cut(node, false).await;
    }
    evict(&http, &running[0], &writer).await;
    evict(&http, &running[0], &holder).await;
    put_final(&http, &running[1], "meanwhile").await;
    running[4] = places[4].start();
    http.document_until(&format!("{}/v1/docs/kept/both", running[2].url), |document| *document == 1).await;
    put_final(&http, &running[4], "end").await;
    places[0].remove();
}

/// A node that keeps its data in memory, at a place of its own; with its ids in the directory or without.
fn start_in_memory(place: &Place, join: &[&Place], with_ids: bool) -> Process {
    let listen = format!("127.0.0.1:{}", place.port);
    let urls: Vec<String> = join.iter().map(|place| place.url()).collect();
    let mut args = vec!["--memory", "--listen", &*listen, "--name", &*place.name];
    urls.iter().for_each(|url| args.extend(["--join", url]));
    if with_ids {
        args.extend(["--data", place.dir.to_str().unwrap()]);
    }
    Process::serve(&args)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_in_memory_that_is_killed_twice_behind_a_partition_is_replaced_where_it_keeps_its_ids() {
    let (http, places) = (Http::new(), Place::all("twice"));
    let [a, b] = [places[0].start(), places[1].start()];
    let mut c = start_in_memory(&places[2], &[&places[0], &places[1]], true);
    http.formed(&[&a, &b, &c], 3).await;
    put_final(&http, &c, "begin").await;
    c.kill();
    // Each of the two others lets one in, and these know nothing of each other. The clock of the second runs behind.
    http.cut(&a, true).await;
    for n in 0..50 {
        assert!(http.put(&format!("{}/v1/docs/kept/ahead-{n}", b.url), "1").await.is_success());
    }
    c = start_in_memory(&places[2], &[&places[1]], true);
    http.formed(&[&c], 4).await;
    assert!(http.put(&format!("{}/v1/docs/kept/between", c.url), "1").await.is_success());
    http.document_until(&format!("{}/v1/docs/kept/between", b.url), |document| *document == 1).await;
    c.kill();
    http.cut(&b, true).await;
    http.cut(&a, false).await;
    c = start_in_memory(&places[2], &[&places[0]], true);
    http.formed(&[&c], 4).await;
    http.cut(&b, false).await;
    for node in [&a, &b, &c] {
        http.pool_until(node, |pool| pool["members"].as_array().unwrap().len() == 3).await;
    }
    put_final(&http, &c, "end").await;
    http.document_until(&format!("{}/v1/docs/kept/between", a.url), |document| *document == 1).await;
    drop((a, b, c));
    places[0].remove();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_in_memory_without_a_directory_is_replaced_by_a_majority_and_else_by_an_operator() {
    for count in [3, 2] {
        let (http, places) = (Http::new(), Place::some(&format!("unproved-{count}"), count));
        let others: Vec<Process> = places[..count - 1].iter().map(Place::start).collect();
        let join: Vec<&Place> = places[..count - 1].iter().collect();
        let mut last = start_in_memory(&places[count - 1], &join, false);
        http.formed(&others.iter().chain([&last]).collect::<Vec<_>>(), count).await;
        put_final(&http, &others[0], "begin").await;
        let before = id_of(&http, &last).await;
        last.kill();
        last = start_in_memory(&places[count - 1], &join, false);
        http.formed(&[&last], count + 1).await;
        if count == 2 {
            let advice = format!("lamplight evict {before} --force");
            let named = |pool: &Value| pool["problems"].to_string().contains(&advice);
            http.pool_until(&others[0], named).await;
            http.pool_until(&last, named).await;
            let url = format!("{}/v1/pool/members/{before}", others[0].url);
            let (status, _, answer) = http.try_call(Method::DELETE, &url, String::new()).await.unwrap();
            assert_eq!((status, &answer["type"]), (StatusCode::CONFLICT, &"urn:lamplight:problem:no-majority".into()));
            program(&["evict", &before, "--force", "--url", &others[0].url], 0);
        }
        http.pool_until(&others[0], |pool| pool["members"].as_array().unwrap().len() == count).await;
        put_final(&http, &last, "end").await;
        http.pool_until(&last, |pool| pool["problems"] == Value::Array(Vec::new())).await;
        drop((others, last));
        places[0].remove();
    }
}

/// Members that are all cut from each other: each has written, and some of it was final before.
struct Apart {
    http: Http,
    places: Vec<Place>,
    running: Vec<Process>,
    ids: Vec<String>,
    claims: Vec<Value>,
}

impl Apart {
    async fn of(test: &str, nodes: usize) -> Apart {
        let (http, places) = (Http::new(), Place::some(test, nodes));
        let running: Vec<Process> = places.iter().map(Place::start).collect();
        http.formed(&running.iter().collect::<Vec<_>>(), nodes).await;
        let (mut ids, mut claims) = (Vec::new(), Vec::new());
        for (index, node) in running.iter().enumerate() {
            ids.push(id_of(&http, node).await);
            claims.push(put_final(&http, node, &format!("before-{index}")).await);
        }
        let apart = Apart { http, places, running, ids, claims };
        apart.link(0..nodes, false).await;
        for (index, node) in apart.running.iter().enumerate() {
            let url = format!("{}/v1/docs/kept/apart-{index}", node.url);
            assert_eq!(apart.http.put(&url, "1").await, StatusCode::CREATED);
        }
        apart
    }

    /// Has these nodes link with each other, or no more.
    async fn link(&self, nodes: impl IntoIterator<Item = usize>, linked: bool) {
        for node in nodes {
            self.http.cut(&self.running[node], !linked).await;
        }
    }

    /// Evicts a member by force: a node that hears nobody does not do it otherwise.
    async fn evict(&self, at: usize, member: usize) {
        let (status, answer) = self.remove(at, member, "").await;
        assert_eq!((status, &answer["status"]), (StatusCode::CONFLICT, &409.into()), "{answer}");
        let (status, answer) = self.remove(at, member, "?force=true").await;
        assert!(status.is_success(), "{answer}");
    }

    /// Waits until a node has heard that a member is evicted.
    async fn hears(&self, at: usize, member: usize) {
        let evicted = |pool: &Value| {
            let mut members = pool["members"].as_array().unwrap().iter();
            members.any(|one| one["id"] == *self.ids[member] && one["evicted"] == true)
        };
        self.http.pool_until(&self.running[at], evicted).await;
    }

    /// Waits until each node says that evictions have crossed; so does the answer to one more that is not forced.
    async fn are_stuck(&self) {
        let crossed = |text: &Value| text.as_str().unwrap().starts_with("evictions have crossed: ");
        for node in &self.running {
            let told = |pool: &Value| pool["problems"].as_array().unwrap().iter().any(|it| crossed(&it["detail"]));
            self.http.pool_until(node, told).await;
            let shown = program(&["status", "--url", &node.url], 0);
            assert!(
                shown.contains("evictions have crossed: ") && shown.contains("lamplight evict ID --force"),
                "{shown}"
            );
        }
        let (status, answer) = self.remove(self.running.len() - 1, 0, "").await;
        assert_eq!((status, &answer["type"]), (StatusCode::CONFLICT, &"urn:lamplight:problem:no-majority".into()));
        assert!(crossed(&answer["detail"]), "{answer}");
    }

    async fn remove(&self, at: usize, member: usize, query: &str) -> (StatusCode, Value) {
        let url = format!("{}/v1/pool/members/{}{query}", self.running[at].url, self.ids[member]);
        let (status, _, answer) = self.http.try_call(Method::DELETE, &url, String::new()).await.unwrap();
        (status, answer)
    }

    /// Waits until no node says that evictions have crossed and none is evicted any more, or until all nodes have said so for three
    /// seconds, or some of them for fifteen: where two of them link before the third does, they can settle it. Tells which nodes say so.
    async fn crossed_for_good(&self) -> Vec<usize> {
        let (mut before, mut steady) = (Vec::new(), 0);
        for _ in 0..600 {
            let (mut stuck, mut whole) = (Vec::new(), 0);
            for (index, node) in self.running.iter().enumerate() {
                let pool = self.http.json(&format!("{}/v1/pool", node.url)).await;
                let members = pool["members"].as_array().unwrap();
                whole += usize::from(
                    members.len() == self.running.len() && members.iter().all(|one| one["evicted"] != true),
                );
                if pool["problems"].to_string().contains("evictions have crossed") {
                    stuck.push(index);
                }
            }
            steady = if stuck == before { steady + 1 } else { 0 };
            let long = if stuck.len() == self.running.len() { 30 } else { 150 };
            if stuck.is_empty() && whole == self.running.len() || !stuck.is_empty() && steady >= long {
                return stuck;
            }
            before = stuck;
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("they neither say that evictions have crossed nor settle it");
    }

    /// Does what the nodes say where every member is evicted: the first node evicts another by force, and the rest join it.
    async fn decide(&self) {
        let (status, answer) = self.remove(0, 1, "?force=true").await;
        assert!(status.is_success(), "{answer}");
        for node in &self.running[1..] {
            self.join(node, 0).await;
        }
    }

    async fn join(&self, node: &Process, to: usize) {
        let body = serde_json::json!({ "url": self.running[to].url }).to_string();
        let url = format!("{}/v1/pool/join", node.url);
        let (status, ..) = self.http.try_call(Method::POST, &url, body).await.unwrap();
        assert_eq!(status, StatusCode::ACCEPTED);
    }

    /// All are one pool again, in which finality goes on, nothing is lost, and what was final is as it was.
    async fn are_one(self) {
        let (http, nodes) = (&self.http, self.running.len());
        let quiet = |pool: &Value| !pool["problems"].to_string().contains("evictions have crossed");
        let whole = |pool: &Value| {
            let members = pool["members"].as_array().unwrap();
            members.len() == nodes && members.iter().all(|one| one["evicted"] != true && one["alive"] == true)
        };
        let wanted = |pool: &Value| pool["state"] == "member" && quiet(pool) && whole(pool);
        for node in &self.running {
            http.pool_until(node, wanted).await;
        }
        for (index, node) in self.running.iter().enumerate() {
            put_final(http, node, &format!("after-{index}")).await;
        }
        for node in &self.running {
            for name in ["before", "apart", "after"] {
                for index in 0..nodes {
                    let url = format!("{}/v1/docs/kept/{name}-{index}", node.url);
                    http.document_until(&url, |document| *document == 1).await;
                }
            }
            for claim in &self.claims {
                let found = http.json(&format!("{}/v1/ops/{}", node.url, claim["op"].as_str().unwrap())).await;
                let of = |receipt: &Value| ["stamp", "status", "version"].map(|name| receipt[name].clone());
                assert_eq!(of(&found), of(claim), "at {}", node.url);
            }
        }
        self.places[0].remove();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_members_that_evict_each_other_by_force_come_back_as_others() {
    let apart = Apart::of("mutual", 3).await;
    apart.evict(0, 1).await;
    apart.evict(1, 0).await;
    apart.link(0..3, true).await;
    apart.are_one().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_two_halves_evict_members_of_each_other_by_force_those_who_remain_settle_it() {
    let apart = Apart::of("halves", 4).await;
    apart.evict(0, 1).await;
    apart.evict(1, 0).await;
    for (half, evicted) in [([0, 2], 1), ([1, 3], 0)] {
        apart.link(half, true).await;
        apart.hears(half[1], evicted).await;
        apart.link(half, false).await;
    }
    apart.link(0..4, true).await;
    apart.are_one().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_all_members_are_evicted_in_a_circle_by_force_an_operator_says_who_goes_on() {
    let apart = Apart::of("circle", 3).await;
    for (node, evicted) in [(0, 1), (1, 2), (2, 0)] {
        apart.evict(node, evicted).await;
    }
    apart.link(0..3, true).await;
    let stuck = apart.crossed_for_good().await;
    // Those who link first may settle it; the others then believe them.
    if !stuck.is_empty() {
        assert_eq!(stuck.len(), apart.running.len());
        apart.are_stuck().await;
        apart.decide().await;
    }
    apart.are_one().await;
}
