//! `GET /v1/changes?view=final`: the same bytes on every node, and a cursor that every node takes.
#![allow(clippy::unwrap_used, reason = "a test that fails should say where")]

mod support;

use serde_json::{Value, json};
use support::{Answer, TestNode, feeds::Events, start_forgetful_node, start_joining, start_node, start_pool, until};

async fn final_feed(node: &TestNode, query: &str) -> Value {
    node.get(&format!("/v1/changes?view=final&{query}")).await.expect(200).json()
}

fn next(page: &Value) -> String {
    page["next"].as_str().unwrap().to_string()
}

fn told(page: &Value) -> Vec<String> {
    let tell = |entry: &Value| {
        let value = if entry["deleted"] == true { "deleted".into() } else { entry["value"].to_string() };
        format!("{}/{}={value}", entry["collection"].as_str().unwrap(), entry["id"].as_str().unwrap())
    };
    page["changes"].as_array().unwrap().iter().map(tell).collect()
}

fn time(answer: &Answer) -> u64 {
    answer.json()["stamp"].as_str().unwrap().split('@').next().unwrap().parse().unwrap()
}

async fn final_up_to(node: &TestNode, time: u64) {
    until(&node.node, move |replica| replica.frontier() >= time).await;
}

/// The bytes of every page of so many entries.
async fn pages(node: &TestNode, limit: usize) -> Vec<String> {
    let (mut pages, mut since) = (Vec::new(), String::new());
    loop {
        let page = node.get(&format!("/v1/changes?view=final&limit={limit}{since}")).await.expect(200);
        pages.push(page.text());
        since = format!("&since={}", next(&page.json()));
        if page.json()["more"] == false {
            return pages;
        }
    }
}

#[tokio::test]
async fn every_final_op_is_told_with_what_it_made_of_each_document() {
    let node = start_node().await;
    let put = node.put("/v1/docs/c/x", r#"{"n":1}"#).await.expect(201).json();
    node.post(
        "/v1/tx",
        r#"{"commands":[{"put":{"collection":"d","id":"z","value":1}},{"put":{"collection":"c","id":"y","value":2}},
        {"merge":{"collection":"c","id":"x","value":{"m":1}}},{"put":{"collection":"d","id":"z","value":3}}]}"#,
    )
    .await
    .expect(200);
    node.delete("/v1/docs/c/x").await.expect(200);
    let all = final_feed(&node, "").await;
    assert_eq!(told(&all), [r#"c/x={"n":1}"#, r#"c/x={"m":1,"n":1}"#, "c/y=2", "d/z=3", "c/x=deleted"]);
    let expected = json!({
        "op": put["op"], "stamp": put["stamp"], "collection": "c", "id": "x", "version": put["version"], "value": { "n": 1 },
    });
    assert_eq!((&all["changes"][0], &all["more"]), (&expected, &json!(false)));
    let last = all["changes"][4].as_object().unwrap();
    assert_eq!(last.keys().collect::<Vec<_>>(), ["collection", "deleted", "id", "op", "stamp"]);
    let none = final_feed(&node, &format!("since={}", next(&all))).await;
    assert_eq!((told(&none), &none["next"]), (vec![], &all["next"]));
    node.put("/v1/docs/c/x", "7").await.expect(201);
    assert_eq!(told(&final_feed(&node, &format!("since={}", next(&all))).await), ["c/x=7"]);
}

#[tokio::test]
async fn pages_may_end_amidst_an_op_and_one_collection_leaves_the_others_out() {
    let node = start_node().await;
    let put = |n: usize| json!({ "put": { "collection": (["a", "b"])[n % 2], "id": format!("{n:03}"), "value": n } });
    let puts: Vec<Value> = (0..600).map(put).collect();
    node.post("/v1/tx", &json!({ "commands": puts }).to_string()).await.expect(200);
    node.put("/v1/docs/a/last", "1").await.expect(201);
    let mut found: Vec<String> = Vec::new();
    for page in pages(&node, 250).await {
        found.extend(told(&serde_json::from_str(&page).unwrap()));
    }
    assert_eq!(found.len(), 601);
    assert!(found[..300].iter().all(|entry| entry.starts_with("a/")) && found[300..600].is_sorted());
    let only = final_feed(&node, "collection=b&limit=1000").await;
    assert_eq!((told(&only), &only["more"]), (found[300..600].to_vec(), &json!(false)));
    assert_eq!(told(&final_feed(&node, "collection=none").await), [""; 0]);
}

#[tokio::test]
async fn a_hot_document_is_told_from_op_to_op() {
    let node = start_node().await;
    node.put("/v1/docs/c/x", r#"{"n":0}"#).await.expect(201);
    for _ in 1..100 {
        node.patch("/v1/docs/c/x", r#"[{"op":"increment","path":"/n","by":1}]"#).await.expect(200);
    }
    let all = final_feed(&node, "limit=1000").await;
    assert_eq!(told(&all), (0..100).map(|n| format!("c/x={{\"n\":{n}}}")).collect::<Vec<_>>());
}

#[tokio::test]
async fn three_nodes_tell_the_same_bytes_after_a_partition() {
    let [a, b, c] = start_pool().await;
    let before = a.put("/v1/docs/c/x", r#"{"n":0}"#).await.expect(201);
    for node in [&b, &c] {
        until(&node.node, |replica| replica.state().get("c", "x").is_some()).await;
    }
    final_up_to(&a, time(&before)).await;
    let since = next(&final_feed(&a, "").await);
    a.post("/v1/pool/links", r#"{"cut":true}"#).await.expect(200);
    let mut last = 0;
    for n in 0..40 {
        for (name, node) in [("a", &a), ("b", &b), ("c", &c)] {
            node.merge("/v1/docs/c/x", &json!({ "n": n, name: n }).to_string()).await.expect(200);
            node.put("/v1/docs/c/x", &json!({ "by": name }).to_string()).await.expect(200);
            node.delete("/v1/docs/c/y").await;
            let create = node.call(hyper::Method::PUT, "/v1/docs/c/y").json(&format!("\"{name}\""));
            let created = create.header("if-none-match", "*").send().await;
            last = if created.status == 201 { time(&created).max(last) } else { last };
        }
    }
    // While the cut lasts nothing of it is final, so none of it is told: what is told is never taken back.
    let meanwhile = final_feed(&b, &format!("since={since}")).await;
    assert!(meanwhile["changes"].as_array().unwrap().len() < 120, "{meanwhile}");
    a.post("/v1/pool/links", r#"{"cut":false}"#).await.expect(200);
    for node in [&a, &b, &c] {
        final_up_to(node, last).await;
    }
    let told = pages(&a, 37).await;
    assert!(told.len() > 5);
    assert_eq!(pages(&b, 37).await, told);
    assert_eq!(pages(&c, 37).await, told);
    // A cursor of one node is good on another; what was told before the cut was told for good.
    let all = a.get(&format!("/v1/changes?view=final&limit=1000&since={since}")).await.expect(200).text();
    assert_eq!(b.get(&format!("/v1/changes?view=final&limit=1000&since={since}")).await.text(), all);
    let mut events = Events::open(&c, "/v1/changes?view=final", Some(&since)).await;
    for entry in serde_json::from_str::<Value>(&all).unwrap()["changes"].as_array().unwrap() {
        let event = events.next().await.unwrap();
        assert_eq!((event.name.as_str(), &event.json()), ("change", entry));
    }
    let entries: Value = serde_json::from_str(&told[0]).unwrap();
    let first = next(&entries);
    assert_eq!(
        final_feed(&b, &format!("limit=37&since={first}")).await.to_string(),
        serde_json::from_str::<Value>(&told[1]).unwrap().to_string()
    );
}

#[tokio::test]
async fn an_event_stream_resumes_behind_its_last_event() {
    let node = start_node().await;
    let put = |id: &str| json!({ "put": { "collection": "c", "id": id, "value": 1 } });
    node.post("/v1/tx", &json!({ "commands": [put("a"), put("b"), put("c")] }).to_string()).await.expect(200);
    let (mut seen, mut last) = (Vec::new(), None::<String>);
    for taken in 0..5 {
        if taken == 3 {
            node.post("/v1/tx", &json!({ "commands": [put("d"), put("e")] }).to_string()).await.expect(200);
        }
        let event = Events::open(&node, "/v1/changes?view=final", last.as_deref()).await.next().await.unwrap();
        seen.push(event.json()["id"].as_str().unwrap().to_string());
        last = Some(event.id);
    }
    assert_eq!(seen, ["a", "b", "c", "d", "e"]);
    let mut events = Events::open(&node, "/v1/changes?view=final&collection=other", None).await;
    node.put("/v1/docs/other/x", "1").await.expect(201);
    assert_eq!(events.next().await.unwrap().json()["collection"], "other");
    node.stop.cancel();
    assert_eq!(events.next().await, None);
}

#[tokio::test]
async fn a_long_poll_waits_until_something_is_final() {
    let node = start_node().await;
    let since = next(&final_feed(&node, "").await);
    let query = format!("collection=c&feed=longpoll&timeout=60s&since={since}");
    let writes = async {
        node.put("/v1/docs/other/x", "1").await.expect(201);
        node.put("/v1/docs/c/x", "2").await.expect(201);
    };
    let (found, ()) = tokio::join!(final_feed(&node, &query), writes);
    assert_eq!(told(&found), ["c/x=2"]);
    let over = final_feed(&node, &format!("feed=longpoll&timeout=1ms&since={}", next(&found))).await;
    assert_eq!(told(&over), [""; 0]);
}

#[tokio::test]
async fn a_cursor_that_leads_nowhere_is_refused() {
    let (node, other) = (start_node().await, start_node().await);
    node.put("/v1/docs/c/x", "1").await.expect(201);
    let cursor = next(&final_feed(&node, "").await);
    let detail = other.get(&format!("/v1/changes?view=final&since={cursor}")).await.expect_problem(400, "other-pool");
    assert!(detail.contains("pool"), "{detail}");
    let tentative = next(&node.get("/v1/changes").await.json());
    for bad in ["x", "", "f.", "AAAA", &cursor[1..], &format!("{cursor}AA"), &"A".repeat(5000), &tentative] {
        node.get(&format!("/v1/changes?view=final&since={bad}")).await.expect_problem(400, "bad-cursor");
    }
    node.get(&format!("/v1/changes?since={cursor}")).await.expect_problem(400, "bad-cursor");
    let events = node.call(hyper::Method::GET, "/v1/changes?view=final").header("accept", "text/event-stream");
    events.header("last-event-id", "x").send().await.expect_problem(400, "bad-cursor");
    for bad in
        ["view=now", "view=final&limit=0", "view=final&feed=poll", "view=final&filter=%7B%7D", "view=final&timeout=5s"]
    {
        node.get(&format!("/v1/changes?{bad}")).await.expect_problem(400, "bad-query");
    }
    node.get("/v1/changes?view=final&collection=-x").await.expect_problem(400, "bad-name");
    start_joining().await.get("/v1/changes?view=final").await.expect_problem(503, "not-ready");
}

#[tokio::test]
async fn a_cursor_of_what_is_forgotten_is_gone_and_the_feed_begins_with_the_documents_as_they_were() {
    let node = start_forgetful_node().await;
    let cursor = next(&final_feed(&node, "").await);
    for n in 0..3 {
        node.put(&format!("/v1/docs/c/{n}"), &n.to_string()).await.expect(201);
    }
    node.put("/v1/docs/c/0", "7").await.expect(200);
    node.delete("/v1/docs/c/2").await.expect(200);
    let horizon = node.forgotten().await;
    let gone = node.get(&format!("/v1/changes?view=final&since={cursor}")).await;
    gone.expect_problem(410, "cursor-gone");
    assert_eq!(gone.json()["horizon"], horizon.to_string());
    let all = final_feed(&node, "").await;
    assert_eq!(told(&all), ["c/0=7", "c/1=1"]);
    for entry in all["changes"].as_array().unwrap() {
        assert_eq!((&entry["snapshot"], &entry["time"]), (&json!(true), &json!(horizon.to_string())));
    }
    // From its end on it is the ops that are told. They stay for a while, for somebody has begun to read there.
    let put = node.put("/v1/docs/c/3", "3").await.expect(201);
    let tail = final_feed(&node, &format!("since={}", next(&all))).await;
    assert_eq!((told(&tail), &tail["changes"][0]["op"]), (vec!["c/3=3".into()], &put.json()["op"]));
    // A stream begins anew by itself, and says so first.
    let mut events = Events::open(&node, "/v1/changes?view=final", Some(&cursor)).await;
    assert_eq!(events.next().await.unwrap().name, "resync");
    let mut seen = Vec::new();
    while seen.len() < 3 {
        let entry = events.next().await.unwrap().json();
        seen.push(format!("{}={}", entry["id"].as_str().unwrap(), entry["value"]));
    }
    assert_eq!(seen, ["0=7", "1=1", "3=3"]);
}
