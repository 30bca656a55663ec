//! Real processes of a pool that has forgotten its log: who lacks it is given a snapshot, whatever happens meanwhile.
#![allow(clippy::unwrap_used, reason = "a test that fails should say where")]

#[path = "support/places.rs"]
mod places;
#[path = "support/processes.rs"]
mod processes;
#[path = "support/proxy.rs"]
mod proxy;

use std::{collections::BTreeSet, fs, path::Path};

use hyper::{Method, StatusCode};
use lamplight::{record::Record, snapshot::Part, storage};
use places::{NODES, Place, id_of, program, put_many};
use processes::{Http, Process};
use proxy::Proxy;
use serde_json::Value;

/// What is final is forgotten at once, and the journal is cut whenever something was.
const FORGETS_ALL: [&str; 4] = ["--retain-ops", "0", "--snapshot-bytes", "32KiB"];
/// So many documents that a snapshot of them is of many pieces.
const MANY: usize = 4_000;
const PAD: usize = 1_000;
/// How much of a snapshot a newcomer is given before something happens: some pieces, and by far not all.
const SOME: u64 = 1 << 20;

fn places(test: &str) -> Vec<Place> {
    let mut places = Place::all(test);
    places.iter_mut().for_each(|place| place.more = &FORGETS_ALL);
    places
}

/// Starts the nodes of all these places, and waits until they are one pool.
async fn start_all(http: &Http, places: &[Place]) -> Vec<Process> {
    let running: Vec<Process> = places.iter().map(Place::start).collect();
    http.formed(&running.iter().collect::<Vec<_>>(), places.len()).await;
    running
}

/// Writes many documents, and waits until the nodes have forgotten how they came about.
async fn fill(http: &Http, nodes: &[&Process]) {
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..16 {
        let (http, url) = (http.clone(), nodes[0].url.clone());
        writers.spawn(async move {
            for n in (writer..MANY).step_by(16) {
                let text = format!("{{\"n\":{n},\"pad\":\"{}\"}}", "x".repeat(PAD));
                assert_eq!(http.put(&format!("{url}/v1/docs/kept/old-{n}"), &text).await, StatusCode::CREATED);
            }
        });
    }
    writers.join_all().await;
    forgotten(http, nodes).await;
}

/// Waits until each node has forgotten all that was written so far.
async fn forgotten(http: &Http, nodes: &[&Process]) {
    http.converged(nodes).await;
    let clock = number(&http.json(&format!("{}/v1/pool", nodes[0].url)).await["clock"]);
    // One more, so that the times of all before it are surely passed.
    assert!(http.put(&format!("{}/v1/docs/marks/forgotten", nodes[0].url), &clock.to_string()).await.is_success());
    for node in nodes {
        http.pool_until(node, |pool| number(&pool["horizon"]) >= clock).await;
    }
}

fn number(value: &Value) -> u64 {
    value.as_str().unwrap_or_default().parse().unwrap_or_default()
}

async fn add_one(http: &Http, base: &str, id: &str) {
    let add = format!(
        r#"{{"commands":[{{"patch":{{"collection":"counters","id":"{id}","patch":
        [{{"op":"increment","path":"/n","by":1}}]}}}}]}}"#
    );
    let (status, ..) = http.call(Method::POST, &format!("{base}/v1/tx"), None, add).await;
    assert_eq!(status, StatusCode::OK);
}

async fn count(http: &Http, node: &Process, id: &str) -> u64 {
    http.json(&format!("{}/v1/docs/counters/{id}", node.url)).await["n"].as_u64().unwrap_or_default()
}

async fn ready(http: &Http, node: &Process) -> StatusCode {
    http.call(Method::GET, &format!("{}/readyz", node.url), None, String::new()).await.0
}

/// All nodes hold the same documents in the same versions.
async fn same(http: &Http, nodes: &[&Process]) {
    http.converged(nodes).await;
    for collection in ["kept", "counters", "marks"] {
        let first = http.listing(nodes[0], collection).await;
        for node in &nodes[1..] {
            assert!(http.listing(node, collection).await == first, "{} differs in {collection}", node.url);
        }
    }
}

/// How many snapshots have begun in a journal.
fn bases(dir: &Path) -> usize {
    let mut bases = 0;
    storage::read(dir, &mut |record| bases += usize::from(matches!(record, Record::Snapshot(Part::Base(_))))).unwrap();
    bases
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_newcomer_to_a_pool_that_has_forgotten_its_log_is_given_a_snapshot_while_writes_go_on() {
    let (http, places) = (Http::new(), places("newcomer"));
    let mut running = start_all(&http, &places[..1]).await;
    let keyed = |url: &str, body: &str| {
        let request = hyper::Request::put(format!("{url}/v1/docs/kept/keyed")).header("idempotency-key", "once");
        request.header("content-type", "application/json").body(body.to_string()).unwrap()
    };
    let first = http.send(keyed(&running[0].url, "1")).await;
    assert_eq!(first.0, StatusCode::CREATED);
    fill(&http, &[&running[0]]).await;
    let proxy = Proxy::start(places[0].port).await;
    proxy.allow(SOME);
    let newcomer = Place { join: vec![proxy.url()], ..places[1].clone() };
    running.push(newcomer.start());
    proxy.used_up().await;
    let (a, b) = (&running[0], &running[1]);
    assert_eq!(ready(&http, b).await, StatusCode::SERVICE_UNAVAILABLE);
    http.pool_until(b, |pool| pool["progress"]["docs"]["held"].as_u64().is_some_and(|held| held > 0)).await;
    let pool = http.json(&format!("{}/v1/pool", b.url)).await;
    assert_eq!(pool["state"], "catching-up", "{pool}");
    let docs = &pool["progress"]["docs"];
    let (held, of) = (docs["held"].as_u64().unwrap(), docs["of"].as_u64().unwrap());
    assert!(held < of && of == MANY as u64 + 2, "{pool}");
    let meanwhile = put_many(&http, &places[0], "meanwhile", 500).await;
    proxy.allow(u64::MAX);
    let later = put_many(&http, &places[0], "later", 500).await;
    http.formed(&[a, b], 2).await;
    assert_eq!(ready(&http, b).await, StatusCode::OK);
    same(&http, &[a, b]).await;
    let kept = http.listing(b, "kept").await;
    assert_eq!(kept.len(), MANY + 1 + meanwhile.len() + later.len());
    let pool = http.json(&format!("{}/v1/pool", b.url)).await;
    assert!(number(&pool["horizon"]) > of && number(&pool["horizon"]) <= number(&pool["frontier"]), "{pool}");
    assert_eq!(pool["progress"], Value::Null);
    // What was promised for the key holds on the newcomer, which never had the op.
    let repeated = http.send(keyed(&b.url, "1")).await;
    assert_eq!((repeated.0, &repeated.1["op"]), (StatusCode::OK, &first.1["op"]), "{}", repeated.1);
    let other = http.send(keyed(&b.url, "2")).await;
    assert_eq!(
        (other.0, &other.1["type"]),
        (StatusCode::UNPROCESSABLE_ENTITY, &"urn:lamplight:problem:key-reused".into())
    );
    places[0].remove();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_newcomer_whose_sender_is_killed_goes_on_at_another_member_where_it_was() {
    let (http, places) = (Http::new(), places("sender"));
    let mut running = start_all(&http, &places[..2]).await;
    fill(&http, &running.iter().collect::<Vec<_>>()).await;
    let (first, second) = (Proxy::start(places[0].port).await, Proxy::start(places[1].port).await);
    first.allow(SOME);
    let newcomer = Place { join: vec![first.url()], ..places[2].clone() };
    running.push(newcomer.start());
    first.used_up().await;
    second.allow(u64::MAX);
    running[0].kill();
    let join = format!("{{\"url\":\"{}\"}}", second.url());
    let (status, ..) = http.call(Method::POST, &format!("{}/v1/pool/join", running[2].url), None, join).await;
    assert_eq!(status, StatusCode::ACCEPTED);
    http.formed(&[&running[2]], 3).await;
    // The other sent what was still to come, and no more.
    assert!(second.passed() < (MANY * PAD) as u64 - SOME / 2, "{} bytes came from the second", second.passed());
    same(&http, &[&running[1], &running[2]]).await;
    assert_eq!(http.listing(&running[2], "kept").await.len(), MANY);
    running[2].kill();
    assert_eq!(bases(&newcomer.dir), 1, "the pieces of two members make one snapshot");
    assert!(program(&["check", "--data", newcomer.dir.to_str().unwrap()], 0).contains("Sound"));
    places[0].remove();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_newcomer_whose_link_breaks_or_that_is_killed_in_the_middle_ends_right() {
    let (http, places) = (Http::new(), places("middle"));
    let mut running = start_all(&http, &places[..1]).await;
    fill(&http, &[&running[0]]).await;
    let proxy = Proxy::start(places[0].port).await;
    proxy.allow(SOME);
    let newcomer = Place { join: vec![proxy.url()], ..places[1].clone() };
    running.push(newcomer.start());
    proxy.used_up().await;
    proxy.cut();
    proxy.allow(SOME);
    proxy.used_up().await;
    // The log moves on, so that it is another snapshot that the restarted node is given.
    put_many(&http, &places[0], "meanwhile", 100).await;
    running[1].kill();
    proxy.cut();
    running[1] = newcomer.start();
    proxy.allow(u64::MAX);
    let (a, b) = (&running[0], &running[1]);
    http.formed(&[a, b], 2).await;
    same(&http, &[a, b]).await;
    assert_eq!(http.listing(b, "kept").await.len(), MANY + 100);
    // And it goes on from its own journal.
    running[1].kill();
    running[1] = newcomer.start();
    assert_eq!(ready(&http, &running[1]).await, StatusCode::OK);
    same(&http, &[&running[0], &running[1]]).await;
    places[0].remove();
}

/// Makes a directory a copy of another.
fn copy(from: &Path, to: &Path) {
    let _ = fs::remove_dir_all(to);
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_old_copy_of_a_disk_whose_pool_has_forgotten_what_came_since_costs_nothing() {
    for offline in [false, true] {
        let (http, places) = (Http::new(), places(if offline { "copy-offline" } else { "copy" }));
        let mut running = start_all(&http, &places).await;
        assert_eq!(
            http.put(&format!("{}/v1/docs/counters/c", places[2].url()), r#"{"n":0}"#).await,
            StatusCode::CREATED
        );
        for _ in 0..5 {
            add_one(&http, &places[2].url(), "c").await;
        }
        http.converged(&running.iter().collect::<Vec<_>>()).await;
        running[2].kill();
        let old = places[2].dir.with_extension("old");
        copy(&places[2].dir, &old);
        running[2] = places[2].start();
        http.formed(&[&running[2]], NODES).await;
        for _ in 0..5 {
            add_one(&http, &places[2].url(), "c").await;
        }
        put_many(&http, &places[0], "others", 200).await;
        forgotten(&http, &running.iter().collect::<Vec<_>>()).await;
        let before = id_of(&http, &running[2]).await;
        running[2].kill();
        copy(&old, &places[2].dir);
        let mut counted = 10;
        if offline {
            // The others are away, so what it takes only it has.
            running[..2].iter_mut().for_each(Process::kill);
            running[2] = places[2].start();
            for _ in 0..3 {
                add_one(&http, &places[2].url(), "c").await;
            }
            assert_eq!(count(&http, &running[2], "c").await, 8);
            counted += 3;
            (0..2).for_each(|node| running[node] = places[node].start());
        } else {
            running[2] = places[2].start();
        }
        let all: Vec<&Process> = running.iter().collect();
        // Only what it has issued on the old copy is another past of its id.
        let other =
            |pool: &Value| pool["state"] == "member" && (!offline || pool["node"] != *before) && pool["docs"] == 202;
        http.pool_until(all[2], other).await;
        // What only the old copy had comes again once the others have answered the eviction of its old id.
        for node in &all {
            http.document_until(&format!("{}/v1/docs/counters/c", node.url), |doc| doc["n"] == counted).await;
        }
        add_one(&http, &places[2].url(), "c").await;
        forgotten(&http, &all).await;
        for node in &all {
            assert_eq!(count(&http, node, "c").await, counted + 1, "offline {offline}, {}: {}", node.url, node.said());
        }
        same(&http, &all).await;
        assert_eq!(http.listing(all[2], "kept").await.len(), 200);
        places[0].remove();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_restored_from_a_backup_of_what_the_pool_has_forgotten_is_a_member_again() {
    let (http, places) = (Http::new(), places("restored"));
    let mut running = start_all(&http, &places).await;
    assert_eq!(http.put(&format!("{}/v1/docs/counters/c", places[2].url()), r#"{"n":0}"#).await, StatusCode::CREATED);
    add_one(&http, &places[2].url(), "c").await;
    let shared = put_many(&http, &places[0], "shared", 300).await;
    forgotten(&http, &running.iter().collect::<Vec<_>>()).await;
    // Of this nobody else hears before the node is lost.
    http.cut(&running[2], true).await;
    for _ in 0..3 {
        add_one(&http, &places[2].url(), "c").await;
    }
    let copied = places[2].dir.with_extension("backup");
    program(&["backup", copied.to_str().unwrap(), "--url", &running[2].url], 0);
    let before = id_of(&http, &running[2]).await;
    running[2].kill();
    fs::remove_dir_all(&places[2].dir).unwrap();
    // The pool goes on without it, and forgets all that there is.
    let evict = format!("{}/v1/pool/members/{before}?force=true", places[0].url());
    assert!(http.call(Method::DELETE, &evict, None, String::new()).await.0.is_success());
    let later = put_many(&http, &places[1], "later", 300).await;
    forgotten(&http, &[&running[0], &running[1]]).await;
    program(&["restore", copied.to_str().unwrap(), "--data", places[2].dir.to_str().unwrap()], 0);
    running[2] = places[2].start();
    let all: Vec<&Process> = running.iter().collect();
    http.pool_until(all[2], |pool| pool["state"] == "member" && pool["node"] != *before).await;
    for node in &all {
        http.document_until(&format!("{}/v1/docs/counters/c", node.url), |doc| doc["n"] == 4).await;
    }
    forgotten(&http, &all).await;
    same(&http, &all).await;
    let kept: BTreeSet<String> = http.listing(all[2], "kept").await.into_iter().map(|(id, _)| id).collect();
    assert_eq!(kept, &shared | &later);
    assert_eq!(count(&http, all[0], "c").await, 4);
    places[0].remove();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_evicted_node_alone_had_counts_once_when_it_comes_back_to_a_pool_that_has_forgotten() {
    let (http, places) = (Http::new(), places("evicted"));
    let running = start_all(&http, &places).await;
    let all: Vec<&Process> = running.iter().collect();
    assert_eq!(http.put(&format!("{}/v1/docs/counters/c", places[2].url()), r#"{"n":0}"#).await, StatusCode::CREATED);
    add_one(&http, &places[2].url(), "c").await;
    forgotten(&http, &all).await;
    http.cut(all[2], true).await;
    for _ in 0..5 {
        add_one(&http, &places[2].url(), "c").await;
    }
    let own = put_many(&http, &places[2], "own", 100).await;
    let before = id_of(&http, all[2]).await;
    let evict = format!("{}/v1/pool/members/{before}?force=true", places[0].url());
    assert!(http.call(Method::DELETE, &evict, None, String::new()).await.0.is_success());
    let others = put_many(&http, &places[0], "others", 300).await;
    add_one(&http, &places[0].url(), "c").await;
    forgotten(&http, &all[..2]).await;
    http.cut(all[2], false).await;
    http.pool_until(all[2], |pool| pool["state"] == "member" && pool["node"] != *before).await;
    for node in &all {
        http.document_until(&format!("{}/v1/docs/counters/c", node.url), |doc| doc["n"] == 7).await;
        http.has(node, "kept", own.len() + others.len()).await;
    }
    forgotten(&http, &all).await;
    same(&http, &all).await;
    for node in &all {
        assert_eq!(count(&http, node, "c").await, 7, "{}", node.url);
    }
    places[0].remove();
}

/// Flips a bit amidst the record that a predicate chooses, in a journal of one segment; gives that record.
fn flip(dir: &Path, wanted: impl Fn(&Part) -> bool) -> Part {
    let mut found = None;
    let mut look = |record: Record| {
        if let Record::Snapshot(part) = record
            && wanted(&part)
        {
            found = Some(part);
        }
    };
    storage::read(dir, &mut look).unwrap();
    let (part, mut frame) = (found.expect("it is there"), Vec::new());
    Record::Snapshot(part.clone()).encode(&mut frame);
    let path = dir.join("journal-00000001");
    let mut bytes = fs::read(&path).unwrap();
    let at = bytes.windows(frame.len()).position(|window| window == frame).expect("it is written as it is encoded");
    bytes[at + frame.len() / 2] ^= 1;
    fs::write(&path, bytes).unwrap();
    part
}

/// The kinds of records that a snapshot in a journal consists of, by name.
const KINDS: [(&str, fn(&Part) -> bool); 4] = [
    ("base", |part| matches!(part, Part::Base(_))),
    ("documents", |part| matches!(part, Part::Documents(slice) if slice.documents.len() > 10 && slice.next.is_some())),
    ("again", |part| matches!(part, Part::Again(_))),
    ("whole", |part| matches!(part, Part::Whole(_))),
];

/// Stops a node, whose journal then is a snapshot of what it holds, with the ops behind it.
fn stop_with_snapshot(place: &Place, node: &mut Process) {
    let copied = place.dir.with_extension("copy");
    program(&["backup", copied.to_str().unwrap(), "--url", &node.url], 0);
    node.kill();
    copy(&copied, &place.dir);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_whose_snapshot_is_damaged_serves_when_it_has_a_whole_one_from_its_peer() {
    for (kind, wanted) in KINDS {
        let (http, places) = (Http::new(), places(&format!("flipped-{kind}")));
        let mut running = start_all(&http, &places[..2]).await;
        fill(&http, &[&running[0], &running[1]]).await;
        http.cut(&running[1], true).await;
        put_many(&http, &places[1], "own", 100).await;
        let before = id_of(&http, &running[1]).await;
        stop_with_snapshot(&places[1], &mut running[1]);
        put_many(&http, &places[0], "missed", 100).await;
        running[0].kill();
        flip(&places[1].dir, wanted);
        running[1] = places[1].start();
        let said = running[1].said();
        assert!(said.contains("the journal is damaged") && said.contains(", after record "), "{kind}: {said}");
        assert_eq!(ready(&http, &running[1]).await, StatusCode::SERVICE_UNAVAILABLE, "{kind}");
        let get = format!("{}/v1/docs/kept/old-1", running[1].url);
        let (status, ..) = http.call(Method::GET, &get, None, String::new()).await;
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{kind}");
        running[0] = places[0].start();
        let all: Vec<&Process> = running.iter().collect();
        http.pool_until(all[1], |pool| pool["state"] == "member" && pool["node"] != *before).await;
        for node in &all {
            http.has(node, "kept", MANY + 200).await;
        }
        same(&http, &all).await;
        assert_eq!(http.listing(all[0], "kept").await.len(), MANY + 200, "{kind}");
        places[0].remove();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lone_node_whose_snapshot_is_damaged_serves_what_is_sound() {
    for (kind, wanted) in KINDS {
        let (http, places) = (Http::new(), places(&format!("lone-{kind}")));
        let place = &places[0];
        let mut running = start_all(&http, &places[..1]).await;
        fill(&http, &[&running[0]]).await;
        let pool = http.json(&format!("{}/v1/pool", place.url())).await["pool"].clone();
        stop_with_snapshot(place, &mut running[0]);
        let lost = match flip(&place.dir, wanted) {
            Part::Documents(slice) => slice.documents.into_iter().map(|document| document.id).collect(),
            _ => BTreeSet::new(),
        };
        let node = place.start();
        http.formed(&[&node], 1).await;
        let said = node.said();
        assert!(said.contains("the journal is damaged") && said.contains(", after record "), "{kind}: {said}");
        assert!(said.contains("documents of the snapshot are lost") != lost.is_empty(), "{kind}: {said}");
        assert_eq!(http.json(&format!("{}/v1/pool", node.url)).await["pool"], pool, "{kind}");
        let kept: BTreeSet<String> = http.listing(&node, "kept").await.into_iter().map(|(id, _)| id).collect();
        let expected: BTreeSet<String> = (0..MANY).map(|n| format!("old-{n}")).collect();
        assert_eq!(kept, &expected - &lost, "{kind}");
        put_many(&http, place, "after", 20).await;
        places[0].remove();
    }
}
