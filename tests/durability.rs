//! Real processes with their data on disk: what was acknowledged outlives them.
#![allow(clippy::unwrap_used, reason = "a test that fails should say where")]

#[path = "support/places.rs"]
mod places;
#[path = "support/processes.rs"]
mod processes;

use std::{
    collections::{BTreeMap, BTreeSet},
    io::Write as _,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use hyper::{Method, StatusCode};
use places::{NODES, Place, id_of, program, put_many};
use processes::{Http, Process};

const WRITERS: usize = 6;
const KILLS: usize = 200;
/// Documents that each writer may write between two kills. Without a bound a slow machine writes more while a node
/// starts, has more to read at the next start, and never gets to the end.
const EACH_ROUND: usize = 16;
/// Bounds so small that a node forgets nearly all that is final, and writes a snapshot and cuts its journal every few
/// seconds, and so in the midst of kills.
const FORGETFUL: [&str; 4] = ["--snapshot-bytes", "32KiB", "--retain-ops", "200"];

/// What the clients were told.
#[derive(Default)]
struct Told {
    /// Documents whose write was acknowledged.
    documents: BTreeSet<String>,
    /// The ops of all receipts.
    ops: BTreeSet<String>,
    /// Increments of each writer's counter: acknowledged, and asked for.
    counted: BTreeMap<usize, (u64, u64)>,
    /// The greatest clock that each node has told.
    clocks: BTreeMap<String, u64>,
}

/// How far the test is.
#[derive(Default)]
struct Course {
    kills: AtomicUsize,
    ended: AtomicBool,
}

/// Writes until the test has ended: a document of its own each time, and one more on its counter.
async fn write(writer: usize, base: String, http: Http, told: Arc<Mutex<Told>>, course: Arc<Course>) {
    for n in 0.. {
        while n >= (course.kills.load(Ordering::Relaxed) + 1) * EACH_ROUND && !course.ended.load(Ordering::Relaxed) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        if course.ended.load(Ordering::Relaxed) {
            return;
        }
        let id = format!("w{writer}-{n}");
        let put = http.try_call(Method::PUT, &format!("{base}/v1/docs/kept/{id}"), format!("{{\"n\":{n}}}")).await;
        if note(&base, &told, put.as_ref()) {
            told.lock().unwrap().documents.insert(id);
        }
        let add = format!(
            r#"{{"commands":[{{"patch":{{"collection":"counters","id":"w{writer}","patch":
            [{{"op":"increment","path":"/n","by":1}}]}}}}]}}"#
        );
        // One writer at each node has all nodes hurry with finality: what is final is forgotten, and makes snapshots.
        let wait = if writer < NODES { "?wait=final&timeout=200ms" } else { "" };
        let add = http.try_call(Method::POST, &format!("{base}/v1/tx{wait}"), add).await;
        let acknowledged = note(&base, &told, add.as_ref());
        {
            let mut told = told.lock().unwrap();
            let (counted, asked) = told.counted.entry(writer).or_default();
            (*counted, *asked) = (*counted + u64::from(acknowledged), *asked + 1);
        }
        // Not as fast as they can, or most of the test is spent reading what they wrote.
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Takes an answer down; says whether it is a receipt.
fn note(base: &str, told: &Mutex<Told>, answer: Option<&(StatusCode, hyper::HeaderMap, serde_json::Value)>) -> bool {
    let Some((status, headers, body)) = answer else { return false };
    let clock: u64 = headers["lamplight-clock"].to_str().unwrap().parse().unwrap();
    let mut told = told.lock().unwrap();
    let greatest = told.clocks.entry(base.to_string()).or_default();
    *greatest = (*greatest).max(clock);
    if !status.is_success() {
        assert_eq!(*status, StatusCode::SERVICE_UNAVAILABLE, "{body}");
        return false;
    }
    let op = body["op"].as_str().unwrap().to_string();
    assert!(told.ops.insert(op.clone()), "the op {op} was given to two writes");
    true
}

/// Tells whoever watches a long test how far it is; what a test prints is held back until it fails.
fn say(line: &str) {
    // Nobody may be watching.
    let _ = writeln!(std::io::stderr(), "{line}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_was_acknowledged_outlives_hundreds_of_kills() {
    let (http, mut places) = (Http::new(), Place::all("kills"));
    places.iter_mut().for_each(|place| place.more = &FORGETFUL);
    let mut running: Vec<Process> = places.iter().map(Place::start).collect();
    http.formed(&running.iter().collect::<Vec<_>>(), NODES).await;
    for writer in 0..WRITERS {
        let url = format!("{}/v1/docs/counters/w{writer}", places[writer % NODES].url());
        assert_eq!(http.put(&url, r#"{"n":0}"#).await, StatusCode::CREATED);
    }
    let (told, course) = (Arc::new(Mutex::new(Told::default())), Arc::new(Course::default()));
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| {
            let base = places[writer % NODES].url();
            tokio::spawn(write(writer, base, http.clone(), Arc::clone(&told), Arc::clone(&course)))
        })
        .collect();
    let mut rng = fastrand::Rng::with_seed(7);
    for kill in 1..=KILLS {
        tokio::time::sleep(Duration::from_millis(rng.u64(10..120))).await;
        // Now and then all at once, as when their machine is.
        let victims = if rng.u32(..8) == 0 { (0..NODES).collect() } else { vec![rng.usize(..NODES)] };
        victims.iter().for_each(|victim| running[*victim].kill());
        for victim in victims {
            running[victim] = places[victim].start();
            let before = told.lock().unwrap().clocks.get(&places[victim].url()).copied().unwrap_or(0);
            let (_, headers, _) =
                http.try_call(Method::GET, &format!("{}/v1/pool", places[victim].url()), String::new()).await.unwrap();
            let clock: u64 = headers["lamplight-clock"].to_str().unwrap().parse().unwrap();
            assert!(clock >= before, "{} comes back at {clock}, but had told {before}", places[victim].name);
        }
        course.kills.store(kill, Ordering::Relaxed);
        if kill % 10 == 0 {
            // Time enough for all to link, and for something to become final, at least now and then.
            tokio::time::sleep(Duration::from_millis(rng.u64(500..1500))).await;
        }
        if kill % 50 == 0 {
            say(&format!("{kill} of {KILLS} kills, {} ops acknowledged", told.lock().unwrap().ops.len()));
        }
    }
    course.ended.store(true, Ordering::Relaxed);
    for writer in writers {
        writer.await.unwrap();
    }
    let all: Vec<&Process> = running.iter().collect();
    http.formed(&all, NODES).await;
    http.converged(&all).await;
    let told = std::mem::take(&mut *told.lock().unwrap());
    println!("{} documents, {} ops acknowledged over {KILLS} kills", told.documents.len(), told.ops.len());
    assert!(told.documents.len() > KILLS, "the writers hardly wrote");
    let first = http.listing(&running[0], "kept").await;
    for node in &running {
        let kept = http.listing(node, "kept").await;
        assert_eq!(kept, first, "{}", node.url);
        let kept: BTreeSet<&String> = kept.iter().map(|(id, _)| id).collect();
        let lost: Vec<&String> = told.documents.iter().filter(|id| !kept.contains(id)).collect();
        assert!(lost.is_empty(), "{} has lost {lost:?}", node.url);
        let pool = http.json(&format!("{}/v1/pool", node.url)).await;
        assert_eq!(pool["members"].as_array().unwrap().len(), NODES, "nobody needed a new id: {pool}");
        assert_eq!(pool["problems"].as_array().unwrap().len(), 0, "{pool}");
        for (writer, (acknowledged, asked)) in &told.counted {
            let counter = http.json(&format!("{}/v1/docs/counters/w{writer}", node.url)).await;
            let counted = counter["n"].as_u64().unwrap();
            assert!((*acknowledged..=*asked).contains(&counted), "{counted} of {acknowledged} to {asked} are counted");
        }
    }
    running.iter_mut().for_each(Process::kill);
    for place in &places {
        let cut = place.segments_cut();
        say(&format!("{}: {cut} segments cut off", place.name));
        assert!(cut >= 5, "hardly any snapshots: {} has cut off {cut} segments", place.name);
        assert!(program(&["check", "--data", place.dir.to_str().unwrap()], 0).contains("Snapshot of time"));
    }
    places[0].remove();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_with_a_flipped_byte_keeps_what_is_sound_and_gets_the_rest_from_its_peers() {
    const EACH: usize = 1_000;
    let (http, places) = (Http::new(), Place::all("flipped"));
    let mut running: Vec<Process> = places.iter().map(Place::start).collect();
    http.formed(&running.iter().collect::<Vec<_>>(), NODES).await;
    let mut written = BTreeSet::new();
    for place in &places {
        written.extend(put_many(&http, place, "shared", EACH).await);
    }
    http.converged(&running.iter().collect::<Vec<_>>()).await;
    // These are in its journal only, behind what will be damaged.
    http.cut(&running[1], true).await;
    written.extend(put_many(&http, &places[1], "own", EACH).await);
    let before = id_of(&http, &running[1]).await;
    running[1].kill();
    places[1].flip(None);
    written.extend(put_many(&http, &places[0], "missed", EACH).await);
    running[1] = places[1].start();
    let all: Vec<&Process> = running.iter().collect();
    http.formed(&all, NODES).await;
    let said = all[1].said();
    assert!(said.contains("the journal is damaged") && said.contains(", after record "), "{said}");
    assert!(places[1].dir.join("journal-00000001.damaged").exists());
    assert_ne!(id_of(&http, all[1]).await, before, "it may have issued more than it knows of");
    http.converged(&all).await;
    assert_eq!(written.len(), (NODES + 2) * EACH);
    for node in &all {
        // What only it had comes again once the others have answered the eviction of its old id.
        http.has(node, "kept", written.len()).await;
        let kept: BTreeSet<String> = http.listing(node, "kept").await.into_iter().map(|(id, _)| id).collect();
        assert_eq!(kept.symmetric_difference(&written).next(), None, "{}", node.url);
        assert_eq!(http.listing(node, "kept").await, http.listing(all[0], "kept").await, "{}", node.url);
    }
    // It was mended: the next start finds nothing.
    let after = id_of(&http, all[1]).await;
    running[1].kill();
    running[1] = places[1].start();
    http.formed(&[&running[1]], NODES).await;
    assert_eq!(id_of(&http, &running[1]).await, after);
    assert!(!running[1].said().contains("damaged"), "{}", running[1].said());
    places[0].remove();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_founder_that_no_longer_knows_who_it_is_goes_back_to_its_pool() {
    let (http, places) = (Http::new(), Place::all("founder"));
    let mut running: Vec<Process> = places.iter().map(Place::start).collect();
    http.formed(&running.iter().collect::<Vec<_>>(), NODES).await;
    let mut written = put_many(&http, &places[0], "some", 500).await;
    http.converged(&running.iter().collect::<Vec<_>>()).await;
    running[0].kill();
    // In the second record, which names the node and its pool.
    places[0].flip(Some(160));
    running[0] = places[0].start();
    let all: Vec<&Process> = running.iter().collect();
    http.formed(&all, NODES).await;
    assert!(all[0].said().contains(", after record 1:"), "{}", all[0].said());
    written.extend(put_many(&http, &places[0], "more", 100).await);
    http.converged(&all).await;
    for node in &all {
        let kept: BTreeSet<String> = http.listing(node, "kept").await.into_iter().map(|(id, _)| id).collect();
        assert_eq!(kept, written, "{}", node.url);
    }
    places[0].remove();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lone_node_with_a_flipped_byte_loses_the_damaged_write_and_no_other() {
    let (http, place) = (Http::new(), Place::alone("lone"));
    let mut node = place.start();
    http.formed(&[&node], 1).await;
    let written = put_many(&http, &place, "old", 2_000).await;
    let before = id_of(&http, &node).await;
    node.kill();
    place.flip(None);
    let mut node = place.start();
    http.formed(&[&node], 1).await;
    assert_ne!(id_of(&http, &node).await, before);
    // What rested on the damaged write is issued again a moment later.
    let mut kept = BTreeSet::new();
    for _ in 0..100 {
        kept = http.listing(&node, "kept").await.into_iter().map(|(id, _)| id).collect();
        if kept.len() + 1 >= written.len() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(kept.is_subset(&written) && kept.len() + 1 >= written.len(), "{} of {}", kept.len(), written.len());
    let more = put_many(&http, &place, "new", 100).await;
    node.kill();
    let node = place.start();
    http.formed(&[&node], 1).await;
    let again: BTreeSet<String> = http.listing(&node, "kept").await.into_iter().map(|(id, _)| id).collect();
    assert_eq!(again, &kept | &more);
    place.remove();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_restarts_is_a_member_at_once_and_old_cursors_are_told_so() {
    let (http, places) = (Http::new(), Place::all("restart"));
    let mut running: Vec<Process> = places.iter().map(Place::start).collect();
    http.formed(&running.iter().collect::<Vec<_>>(), NODES).await;
    let written = put_many(&http, &places[1], "some", 300).await;
    http.converged(&running.iter().collect::<Vec<_>>()).await;
    let before = id_of(&http, &running[1]).await;
    let changes = format!("{}/v1/changes", places[1].url());
    let cursor = http.json(&format!("{changes}?limit=200")).await["next"].as_str().unwrap().to_string();
    running[1].kill();
    // The others stay away: whatever it is now, it is by itself.
    http.cut(&running[0], true).await;
    http.cut(&running[2], true).await;
    running[1] = places[1].start();
    let pool = http.json(&format!("{}/v1/pool", places[1].url())).await;
    assert_eq!((pool["state"].as_str(), pool["node"].as_str()), (Some("member"), Some(&*before)), "{pool}");
    assert_eq!(http.put(&format!("{}/v1/docs/kept/more", places[1].url()), "1").await, StatusCode::CREATED);
    let (status, _, body) = http.call(Method::GET, &format!("{changes}?since={cursor}"), None, String::new()).await;
    assert_eq!(status, StatusCode::GONE, "{body:?}");
    let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(body["type"], "urn:lamplight:problem:cursor-gone");
    // An event stream begins anew by itself, and says so before the first document.
    let stream = http.stream_start(&format!("{changes}?since={cursor}"), "event: change").await;
    assert!(stream.starts_with("event: resync\n"), "{stream}");
    let afresh = http.json(&format!("{changes}?limit=1000")).await;
    assert_eq!(afresh["changes"].as_array().unwrap().len(), written.len() + 1);
    http.cut(&running[0], false).await;
    http.cut(&running[2], false).await;
    let all: Vec<&Process> = running.iter().collect();
    http.converged(&all).await;
    let pool = http.json(&format!("{}/v1/pool", all[0].url)).await;
    assert_eq!(pool["members"].as_array().unwrap().len(), NODES, "{pool}");
    places[0].remove();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_that_a_node_cannot_use_ends_it_with_one_clear_line() {
    let (http, place) = (Http::new(), Place::alone("refused"));
    let mut node = place.start();
    http.formed(&[&node], 1).await;
    let dir = place.dir.to_str().unwrap();
    refused(&["--data", dir], &[&format!("another process uses {dir}"), "--data"]);
    node.kill();
    refused(
        &["--data", dir, "--pool", "other"],
        &[&format!("{dir} holds data of the pool \"lamplight\", not of \"other\""), "--data", "--pool"],
    );
    // Root may write anywhere but where there is no directory.
    let beneath_a_file = place.dir.join("lock/data");
    refused(&["--data", beneath_a_file.to_str().unwrap()], &["cannot make", "lock/data", "--data"]);
    refused(&["--data", "/proc"], &["/proc", "--data", "--memory"]);
    // None of that has changed anything.
    let node = place.start();
    http.formed(&[&node], 1).await;
    assert!(!node.said().contains("WARN") && !node.said().contains("ERROR"), "{}", node.said());
    place.remove();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_whose_directory_is_deleted_acknowledges_nothing_more_and_says_so() {
    for sync in ["always", "interval", "never"] {
        let (http, place) = (Http::new(), Place::alone("deleted"));
        let dir = place.dir.to_str().unwrap();
        let mut node = Process::serve(&["--listen", "127.0.0.1:0", "--data", dir, "--sync", sync]);
        http.formed(&[&node], 1).await;
        let put =
            async |id: &str| http.try_call(Method::PUT, &format!("{}/v1/docs/kept/{id}", node.url), "1".into()).await;
        for n in 0..20 {
            assert_eq!(put(&format!("old-{n}")).await.unwrap().0, StatusCode::CREATED);
        }
        std::fs::remove_dir_all(&place.dir).unwrap();
        for n in 0..20 {
            let answer = put(&format!("new-{n}")).await;
            assert!(answer.as_ref().is_none_or(|(status, ..)| status.is_server_error()), "{sync}: {answer:?}");
        }
        assert_eq!(node.ended(), Some(1));
        let said = node.said();
        assert!(said.contains("deleted or moved") && said.contains("--join"), "{said}");
        assert!(!said.contains("is on the disk"), "{said}");
        place.remove();
    }
}

/// Starts a node that ends with code 1 and one line, which has these words.
fn refused(args: &[&str], words: &[&str]) {
    let (code, said) = Process::refused(&[&["--listen", "127.0.0.1:0"], args].concat());
    assert_eq!((code, said.lines().count()), (Some(1), 1), "{said}");
    words.iter().for_each(|words| assert!(said.contains(words), "{words:?} is not in: {said}"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_of_a_node_under_load_is_whole_and_starts_a_node_of_its_own() {
    let (http, place) = (Http::new(), Place::alone("backup"));
    let root = place.dir.parent().unwrap();
    let (copy, restored) = (root.join("copy"), root.join("restored"));
    let (copy, restored) = (copy.to_str().unwrap(), restored.to_str().unwrap());
    let node = place.start();
    http.formed(&[&node], 1).await;
    let before = put_many(&http, &place, "before", 3_000).await;
    let load = tokio::spawn({
        let (http, place) = (http.clone(), place.clone());
        async move { put_many(&http, &place, "during", 2_000).await }
    });
    program(&["backup", copy, "--url", &node.url], 0);
    load.await.unwrap();
    assert!(program(&["check", "--data", copy], 0).contains("Sound"));
    assert!(program(&["backup", copy, "--url", &node.url], 1).contains("Choose another directory"));
    program(&["restore", copy, "--data", restored], 0);
    assert!(program(&["restore", copy, "--data", restored], 1).contains("holds a journal already"));
    let old = id_of(&http, &node).await;
    drop(node);
    // The old node is gone, so the new one takes its place and goes on alone; and it is another.
    let again = Process::serve(&["--listen", "127.0.0.1:0", "--data", restored]);
    let alone = |pool: &serde_json::Value| pool["members"].as_array().is_some_and(|list| list.len() == 1);
    let no_problems = |pool: &serde_json::Value| pool["problems"].as_array().is_some_and(Vec::is_empty);
    http.pool_until(&again, |pool| pool["state"] == "member" && alone(pool) && no_problems(pool)).await;
    assert_ne!(id_of(&http, &again).await, old);
    let kept: BTreeSet<String> = http.listing(&again, "kept").await.into_iter().map(|(id, _)| id).collect();
    let lost: Vec<&String> = before.difference(&kept).collect();
    assert!(lost.is_empty(), "{lost:?}");
    assert_eq!(http.put(&format!("{}/v1/docs/kept/after", again.url), "1").await, StatusCode::CREATED);
    drop(again);
    place.remove();
}
