//! Promises where membership changes, restarts and old disks cross, on real processes.
#![allow(clippy::unwrap_used, reason = "a test that fails should say where")]

#[path = "support/places.rs"]
mod places;
#[path = "support/processes.rs"]
mod processes;

use std::time::Duration;

use hyper::{Method, StatusCode};
use places::{Place, id_of};
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
