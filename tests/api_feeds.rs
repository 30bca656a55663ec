//! `GET /v1/changes`: as JSON, as a long poll, and as server-sent events.
#![allow(clippy::unwrap_used, reason = "a test that fails should say where")]

mod support;

use support::{TestNode, feeds::Events, start_joining, start_node, start_pool};

use serde_json::{Value, json};

/// The cursor with which an answer ends.
fn next(answer: &Value) -> String {
    answer["next"].as_str().unwrap().to_string()
}

/// The ids of an answer's changes.
fn ids(answer: &Value) -> Vec<&str> {
    answer["changes"].as_array().unwrap().iter().map(|change| change["id"].as_str().unwrap()).collect()
}

async fn changes(node: &TestNode, query: &str) -> Value {
    node.get(&format!("/v1/changes?{query}")).await.expect(200).json()
}

async fn fill(node: &TestNode, collection: &str, ids: impl Iterator<Item = u32>) {
    for id in ids {
        node.put(&format!("/v1/docs/{collection}/{id:03}"), &json!({ "n": id }).to_string()).await.expect(201);
    }
}

/// More changes than a node keeps.
async fn overrun(node: &TestNode) {
    for round in 0..=lamplight::document::CHANGES_MAX / 64 {
        let put = |id| json!({ "put": { "collection": "many", "id": format!("{id}"), "value": round } });
        let puts: Vec<Value> = (0..64).map(put).collect();
        node.post("/v1/tx", &json!({ "commands": puts }).to_string()).await.expect(200);
    }
}

#[tokio::test]
async fn changes_begin_with_every_document_and_go_on_with_what_changes() {
    let node = start_node().await;
    fill(&node, "b", 1..3).await;
    let receipt = node.put("/v1/docs/a/x", r#"{"n":[1,2.5,"é"]}"#).await.expect(201).json();
    let all = changes(&node, "").await;
    assert_eq!(ids(&all), ["x", "001", "002"]);
    assert_eq!(all["more"], false);
    let expected = json!({
        "collection": "a", "id": "x", "version": receipt["version"], "stamp": receipt["stamp"],
        "status": "final", "value": { "n": [1, 2.5, "é"] },
    });
    assert_eq!(all["changes"][0], expected);

    let none = changes(&node, &format!("since={}", next(&all))).await;
    assert_eq!((ids(&none), &none["more"]), (vec![], &json!(false)));

    node.put("/v1/docs/b/003", "3").await.expect(201);
    let deletion = node.delete("/v1/docs/b/001").await.expect(200).json();
    let later = changes(&node, &format!("since={}", next(&none))).await;
    assert_eq!(ids(&later), ["003", "001"]);
    let expected = json!({
        "collection": "b", "id": "001", "stamp": deletion["stamp"], "status": "final", "deleted": true,
    });
    assert_eq!(later["changes"][1], expected);
}

#[tokio::test]
async fn several_changes_of_a_document_come_as_its_latest_state() {
    let node = start_node().await;
    let cursor = next(&changes(&node, "").await);
    for n in 0..5 {
        node.put("/v1/docs/c/hot", &n.to_string()).await;
        node.put(&format!("/v1/docs/c/{n}"), "0").await.expect(201);
    }
    node.put("/v1/docs/c/brief", "1").await.expect(201);
    node.delete("/v1/docs/c/brief").await.expect(200);
    let found = changes(&node, &format!("since={cursor}")).await;
    assert_eq!(ids(&found), ["0", "1", "2", "3", "hot", "4"]);
    assert_eq!(found["changes"][4]["value"], 4);
    let mut page = changes(&node, &format!("limit=1&since={cursor}")).await;
    let mut seen = Vec::new();
    while page["more"] == true {
        seen.extend(ids(&page).into_iter().map(str::to_string));
        page = changes(&node, &format!("limit=1&since={}", next(&page))).await;
    }
    assert_eq!(seen, ids(&found));
}

#[tokio::test]
async fn pages_lose_nothing_and_repeat_nothing_whatever_changes_between_them() {
    let node = start_node().await;
    fill(&node, "c", 0..25).await;
    fill(&node, "d", 0..2).await;
    let first = changes(&node, "limit=10").await;
    assert_eq!(first["more"], true);
    assert_eq!(ids(&first), (0..10).map(|id| format!("{id:03}")).collect::<Vec<_>>());
    // Passed already: these come as changes. Not reached yet: these come once, with the rest.
    node.put("/v1/docs/c/003", r#""again""#).await.expect(200);
    node.put("/v1/docs/c/003", r#""and again""#).await.expect(200);
    node.delete("/v1/docs/c/004").await.expect(200);
    node.put("/v1/docs/c/020", r#""new""#).await.expect(200);
    node.delete("/v1/docs/c/021").await.expect(200);
    let second = changes(&node, &format!("limit=10&since={}", next(&first))).await;
    assert_eq!(ids(&second), ["003", "004", "010", "011", "012", "013", "014", "015", "016", "017"]);
    assert_eq!(second["changes"][0]["value"], "and again");
    assert_eq!(second["changes"][1]["deleted"], true);
    let third = changes(&node, &format!("since={}", next(&second))).await;
    assert_eq!(ids(&third), ["018", "019", "020", "022", "023", "024", "000", "001"]);
    assert_eq!(third["changes"][2]["value"], "new");
    assert_eq!(third["more"], false);
    assert_eq!(ids(&changes(&node, &format!("since={}", next(&third))).await), [""; 0]);
}

#[tokio::test]
async fn a_page_that_ends_amidst_changes_goes_on_behind_its_last() {
    let node = start_node().await;
    let start = next(&changes(&node, "").await);
    fill(&node, "c", 0..5).await;
    let mut seen = Vec::new();
    let mut cursor = start;
    for _ in 0..3 {
        let page = changes(&node, &format!("limit=2&since={cursor}")).await;
        seen.extend(ids(&page).into_iter().map(str::to_string));
        cursor = next(&page);
    }
    assert_eq!(seen, ["000", "001", "002", "003", "004"]);
}

#[tokio::test]
async fn changes_of_one_collection_leave_the_others_out() {
    let node = start_node().await;
    fill(&node, "a", 0..2).await;
    fill(&node, "b", 0..2).await;
    let found = changes(&node, "collection=a").await;
    assert_eq!((ids(&found), &found["more"]), (vec!["000", "001"], &json!(false)));
    fill(&node, "b", 2..4).await;
    fill(&node, "a", 4..5).await;
    assert_eq!(ids(&changes(&node, &format!("collection=a&since={}", next(&found))).await), ["004"]);
    assert_eq!(ids(&changes(&node, "collection=none").await), [""; 0]);
}

#[tokio::test]
async fn a_cursor_that_leads_nowhere_is_refused() {
    let [node, other] = start_pool().await;
    fill(&node, "c", 0..3).await;
    let cursor = next(&changes(&node, "").await);
    other.get(&format!("/v1/changes?since={cursor}")).await.expect_problem(410, "cursor-gone");
    for bad in ["x", "", "AAAA", &cursor[1..], &format!("{cursor}AA"), &"A".repeat(5000)] {
        node.get(&format!("/v1/changes?since={bad}")).await.expect_problem(400, "bad-cursor");
    }
    let amidst = next(&changes(&node, "limit=1&collection=c").await);
    node.get(&format!("/v1/changes?since={amidst}")).await.expect_problem(400, "bad-cursor");
}

#[tokio::test]
async fn queries_that_mean_nothing_are_refused() {
    let node = start_node().await;
    for bad in ["limit=0", "limit=1001", "limit=x", "sinc=x", "feed=poll", "timeout=5s", "limit=1&limit=2"] {
        node.get(&format!("/v1/changes?{bad}")).await.expect_problem(400, "bad-query");
    }
    for bad in ["5", "5m", "-1s", "121s"] {
        node.get(&format!("/v1/changes?feed=longpoll&timeout={bad}")).await.expect_problem(400, "bad-query");
    }
    node.get("/v1/changes?collection=-x").await.expect_problem(400, "bad-name");
    node.post("/v1/changes", "{}").await.expect_problem(405, "method-not-allowed");
}

#[tokio::test]
async fn a_node_without_a_pool_has_no_changes_to_give() {
    let node = start_joining().await;
    node.get("/v1/changes").await.expect_problem(503, "not-ready");
    let events = node.call(hyper::Method::GET, "/v1/changes").header("accept", "text/event-stream").send().await;
    events.expect_problem(503, "not-ready");
}

#[tokio::test]
async fn a_long_poll_waits_for_a_change_in_its_collection() {
    let node = start_node().await;
    let cursor = next(&changes(&node, "collection=a").await);
    let query = format!("collection=a&feed=longpoll&timeout=60s&since={cursor}");
    let writes = async {
        fill(&node, "b", 0..3).await;
        fill(&node, "a", 7..8).await;
    };
    let (found, ()) = tokio::join!(changes(&node, &query), writes);
    assert_eq!(ids(&found), ["007"]);
    // What is there already is given at once.
    assert_eq!(ids(&changes(&node, &query).await), ["007"]);
}

#[tokio::test]
async fn a_long_poll_ends_with_nothing_when_its_time_is_over_or_the_node_stops() {
    let node = start_node().await;
    let cursor = next(&changes(&node, "").await);
    let found = changes(&node, &format!("feed=longpoll&timeout=1ms&since={cursor}")).await;
    assert_eq!((ids(&found), next(&found)), (vec![], cursor.clone()));
    let stop = async {
        // The poll goes over the connection that is there, and this over a new one, so the poll is waiting by then.
        node.get("/livez").await.expect(200);
        node.stop.cancel();
    };
    let query = format!("feed=longpoll&timeout=120s&since={cursor}");
    let (found, ()) = tokio::join!(changes(&node, &query), stop);
    assert_eq!(next(&found), cursor);
}

#[tokio::test]
async fn an_event_stream_gives_every_document_and_then_each_change() {
    let node = start_node().await;
    fill(&node, "c", 0..2).await;
    fill(&node, "d", 0..1).await;
    let mut events = Events::open(&node, "/v1/changes?collection=c", None).await;
    for id in ["000", "001"] {
        let event = events.next().await.unwrap();
        assert_eq!((event.name.as_str(), &event.json()["id"]), ("change", &json!(id)));
    }
    fill(&node, "d", 1..2).await;
    node.delete("/v1/docs/c/000").await.expect(200);
    let event = events.next().await.unwrap();
    assert_eq!(event.json()["deleted"], true);
}

#[tokio::test]
async fn an_event_stream_resumes_behind_the_last_event_without_loss_or_double() {
    let node = start_node().await;
    fill(&node, "c", 0..4).await;
    let mut seen = Vec::new();
    let mut last: Option<String> = None;
    // Each connection takes one event: two amidst the documents there are, then changes, several of them in one part.
    for taken in 0..8 {
        if taken == 2 {
            fill(&node, "c", 4..8).await;
        }
        let mut events = Events::open(&node, "/v1/changes", last.as_deref()).await;
        let event = events.next().await.unwrap();
        seen.push(event.json()["id"].as_str().unwrap().to_string());
        last = Some(event.id);
    }
    assert_eq!(seen, (0..8).map(|id| format!("{id:03}")).collect::<Vec<_>>());
}

#[tokio::test]
async fn an_event_stream_with_a_cursor_of_another_node_begins_afresh_and_says_so() {
    let [node, other] = start_pool().await;
    let written = node.put("/v1/docs/c/x", "1").await.expect(201);
    let cursor = next(&changes(&node, "").await);
    other
        .call(hyper::Method::GET, "/v1/docs/c/x")
        .header("lamplight-session", written.session())
        .send()
        .await
        .expect(200);
    let mut events = Events::open(&other, "/v1/changes", Some(&cursor)).await;
    assert_eq!(events.next().await.unwrap().name, "resync");
    assert_eq!(events.next().await.unwrap().json()["id"], "x");
}

#[tokio::test]
async fn a_reader_behind_what_a_node_keeps_starts_over() {
    let node = start_node().await;
    node.put("/v1/docs/c/x", "1").await.expect(201);
    let cursor = next(&changes(&node, "").await);
    overrun(&node).await;
    node.get(&format!("/v1/changes?since={cursor}")).await.expect_problem(410, "cursor-gone");
    let mut events = Events::open(&node, "/v1/changes", Some(&cursor)).await;
    assert_eq!(events.next().await.unwrap().name, "resync");
    assert_eq!(events.next().await.unwrap().json()["id"], "x");
    assert_eq!(events.next().await.unwrap().json()["collection"], "many");
}

#[tokio::test]
async fn event_streams_end_when_the_node_stops() {
    let node = start_node().await;
    node.put("/v1/docs/c/x", "1").await.expect(201);
    let mut events = Events::open(&node, "/v1/changes", None).await;
    assert_eq!(events.next().await.unwrap().json()["id"], "x");
    node.stop.cancel();
    assert_eq!(events.next().await, None);
}
