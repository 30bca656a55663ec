//! The past: documents at a time, the difference between two, and their history, also after a partition.
#![allow(clippy::unwrap_used, reason = "a test that fails should say where")]

mod support;

use hyper::Method;
use serde_json::{Value, json};
use support::{Answer, TestNode, start_forgetful_node, start_joining, start_node, start_pool, until};

async fn read(node: &TestNode, path: &str) -> Value {
    node.get(path).await.expect(200).json()
}

/// The time of a receipt's stamp.
fn time(answer: &Answer) -> u64 {
    answer.json()["stamp"].as_str().unwrap().split('@').next().unwrap().parse().unwrap()
}

fn op(answer: &Answer) -> Value {
    answer.json()["op"].clone()
}

async fn get_after(node: &TestNode, path: &str, session: &str) -> Answer {
    node.call(Method::GET, path).header("lamplight-session", session).send().await
}

/// Cuts a node off, and waits until nobody is linked to it any more.
async fn cut_off(node: &TestNode, others: &[&TestNode]) {
    node.post("/v1/pool/links", r#"{"cut":true}"#).await.expect(200);
    let id = node.node.id();
    for other in others {
        loop {
            let pool = read(other, "/v1/pool").await;
            let members = pool["members"].as_array().unwrap();
            let it = members.iter().find(|member| member["id"] == id.to_string()).unwrap();
            if it["link"] != "linked" {
                break;
            }
        }
    }
}

async fn heal(node: &TestNode) {
    node.post("/v1/pool/links", r#"{"cut":false}"#).await.expect(200);
}

async fn final_up_to(node: &TestNode, time: u64) {
    until(&node.node, move |replica| replica.frontier() >= time).await;
}

#[tokio::test]
async fn a_document_at_a_time_is_as_the_ops_up_to_it_made_it() {
    let node = start_node().await;
    let first = node.put("/v1/docs/c/x", r#"{"n":1}"#).await.expect(201);
    node.put("/v1/docs/c/other", "1").await.expect(201);
    let second = node.merge("/v1/docs/c/x", r#"{"m":2}"#).await.expect(200);
    let gone = node.delete("/v1/docs/c/x").await.expect(200);
    let at = |time: u64| format!("/v1/docs/c/x?at={time}");
    let then = node.get(&at(time(&first))).await.expect(200);
    assert_eq!((then.text(), then.header("etag")), (r#"{"n":1}"#.into(), first.header("etag")));
    assert_eq!(
        (then.header("lamplight-status"), then.header("lamplight-stamp")),
        ("final", first.json()["stamp"].as_str().unwrap())
    );
    assert_eq!(node.get(&at(time(&second) - 1)).await.expect(200).text(), r#"{"n":1}"#);
    assert_eq!(node.get(&at(time(&second))).await.expect(200).text(), r#"{"m":2,"n":1}"#);
    let detail = node.get(&at(time(&gone))).await.expect_problem(404, "not-found");
    assert!(detail.contains("at time"), "{detail}");
    node.get(&at(0)).await.expect_problem(404, "not-found");
    let unchanged = node.call(Method::GET, &at(time(&first))).header("if-none-match", first.header("etag"));
    unchanged.send().await.expect(304);
}

#[tokio::test]
async fn a_time_that_means_nothing_is_refused() {
    let node = start_node().await;
    node.put("/v1/docs/c/x", "1").await.expect(201);
    for bad in ["", "x", "-1", "%2B1", "1.5", "1%40x", "99999999999999999999", "1000"] {
        for path in ["x", ""] {
            let path = format!("/v1/docs/c/{path}").trim_end_matches('/').to_string();
            node.get(&format!("{path}?at={bad}")).await.expect_problem(400, "bad-query");
        }
        node.get(&format!("/v1/docs/c/x/diff?from={bad}")).await.expect_problem(400, "bad-query");
        node.get(&format!("/v1/docs/c/x/diff?from=1&to={bad}")).await.expect_problem(400, "bad-query");
    }
    let ahead = node.get("/v1/docs/c/x?at=1000").await.expect_problem(400, "bad-query");
    assert!(ahead.contains("ahead"), "{ahead}");
    for query in ["at=1&view=final", "view=past", "at=1&at=1", "when=1"] {
        node.get(&format!("/v1/docs/c/x?{query}")).await.expect_problem(400, "bad-query");
        node.get(&format!("/v1/docs/c?{query}")).await.expect_problem(400, "bad-query");
    }
    node.get("/v1/docs/c/x/diff").await.expect_problem(400, "bad-query");
    node.get("/v1/docs/-/x/diff?from=1").await.expect_problem(400, "bad-name");
    node.get("/v1/collections?view=final").await.expect_problem(400, "bad-query");
    let joining = start_joining().await;
    for path in ["x?at=0", "x/history", "x/diff?from=0"] {
        joining.get(&format!("/v1/docs/c/{path}")).await.expect_problem(503, "not-ready");
    }
}

fn ids(page: &Value) -> Vec<&str> {
    page["docs"].as_array().unwrap().iter().map(|doc| doc["id"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn a_listing_at_a_time_is_filtered_sorted_and_paged_as_it_was_then() {
    let node = start_node().await;
    let mut then = 0;
    for id in 0..30 {
        let value = json!({ "n": 30 - id }).to_string();
        then = time(&node.put(&format!("/v1/docs/c/{id:02}"), &value).await.expect(201));
    }
    for id in 0..30 {
        match id % 3 {
            0 => node.delete(&format!("/v1/docs/c/{id:02}")).await.expect(200),
            1 => node.put(&format!("/v1/docs/c/{id:02}"), r#"{"n":99}"#).await.expect(200),
            _ => node.put(&format!("/v1/docs/c/new{id}"), r#"{"n":1}"#).await.expect(201),
        };
    }
    let all: Vec<String> = (0..30).map(|id| format!("{id:02}")).collect();
    let listed = read(&node, &format!("/v1/docs/c?at={then}")).await;
    assert_eq!(ids(&listed), all);
    assert_eq!(listed["docs"][1]["value"], json!({ "n": 29 }));
    let some =
        read(&node, &format!("/v1/docs/c?at={then}&sort=n&limit=2&filter=%7B%22n%22%3A%7B%22%24lt%22%3A4%7D%7D")).await;
    assert_eq!(ids(&some), ["29", "28"]);
    let next = some["next"].as_str().unwrap();
    let filter = "filter=%7B%22n%22%3A%7B%22%24lt%22%3A4%7D%7D";
    assert_eq!(ids(&read(&node, &format!("/v1/docs/c?at={then}&sort=n&{filter}&after={next}")).await), ["27"]);
    let other = format!("/v1/docs/c?at={}&sort=n&{filter}&after={next}", then + 1);
    node.get(&other).await.expect_problem(400, "bad-cursor");
    assert_eq!(ids(&read(&node, "/v1/docs/c?at=0").await), [""; 0]);
}

#[tokio::test]
async fn a_difference_is_a_patch_from_one_time_to_the_other() {
    let node = start_node().await;
    let first = node.put("/v1/docs/c/x", r#"{"a":[1,2],"b":{"c":1}}"#).await.expect(201);
    let second = node.put("/v1/docs/c/x", r#"{"a":[1,3],"b":{},"d":null}"#).await.expect(200);
    let (from, to) = (time(&first), time(&second));
    let found = read(&node, &format!("/v1/docs/c/x/diff?from={from}")).await;
    let expected = json!([
        { "op": "replace", "path": "/a/1", "value": 3 },
        { "op": "remove", "path": "/b/c" },
        { "op": "add", "path": "/d", "value": null },
    ]);
    assert_eq!(found["patch"], expected);
    assert_eq!(
        found["from"],
        json!({ "time": from.to_string(), "version": first.json()["version"], "status": "final" })
    );
    assert_eq!((&found["to"]["time"], &found["to"]["version"]), (&json!(to.to_string()), &second.json()["version"]));
    // Backwards, and the document is what it was.
    let back = read(&node, &format!("/v1/docs/c/x/diff?from={to}&to={from}")).await;
    node.patch("/v1/docs/c/x", &back["patch"].to_string()).await.expect(200);
    assert_eq!(node.get("/v1/docs/c/x").await.text(), r#"{"a":[1,2],"b":{"c":1}}"#);
    let created = read(&node, &format!("/v1/docs/c/x/diff?from=0&to={from}")).await;
    assert_eq!((&created["from"]["version"], &created["patch"][0]["op"]), (&json!(null), &json!("add")));
    let gone = read(&node, &format!("/v1/docs/c/x/diff?from={from}&to=0")).await;
    assert_eq!(gone["patch"], json!([{ "op": "remove", "path": "" }]));
    node.get("/v1/docs/c/none/diff?from=0").await.expect_problem(404, "not-found");
}

#[tokio::test]
async fn history_tells_each_op_of_a_document_and_what_it_made_of_it() {
    let node = start_node().await;
    let put = node.put("/v1/docs/c/x", r#"{"n":1}"#).await.expect(201);
    let tx = node.post(
        "/v1/tx",
        r#"{"guards":[{"exists":{"collection":"c","id":"x"}}],"commands":[
        {"put":{"collection":"c","id":"y","value":1}},{"merge":{"collection":"c","id":"x","value":{"m":2}}}]}"#,
    );
    let tx = tx.await.expect(200);
    let delete = node.delete("/v1/docs/c/x").await.expect(200);
    let history = read(&node, "/v1/docs/c/x/history?values=true").await;
    assert_eq!((&history["next"], &history["since"]), (&json!(null), &json!({ "time": "0" })));
    let ops = history["ops"].as_array().unwrap();
    assert_eq!(ops.iter().map(|op| op["op"].clone()).collect::<Vec<_>>(), [op(&put), op(&tx), op(&delete)]);
    let expected = json!({
        "op": op(&put), "stamp": put.json()["stamp"], "origin": node.node.id().to_string(), "wall": ops[0]["wall"],
        "guards": [], "commands": [{ "put": { "collection": "c", "id": "x", "value": { "n": 1 } } }], "others": 0,
        "verdict": "applied", "status": "final", "concurrent": [], "overwrote": [],
        "version": put.json()["version"], "value": { "n": 1 },
    });
    assert_eq!(ops[0], expected);
    assert_eq!((&ops[1]["others"], &ops[1]["value"]), (&json!(1), &json!({ "m": 2, "n": 1 })));
    assert_eq!(ops[1]["guards"], json!([{ "exists": { "collection": "c", "id": "x" } }]));
    assert_eq!((&ops[2]["deleted"], &ops[2]["version"]), (&json!(true), &json!(null)));
    assert_eq!(read(&node, "/v1/docs/c/x/history").await["ops"][0]["value"], json!(null));
    node.get("/v1/docs/c/none/history").await.expect_problem(404, "not-found");
}

#[tokio::test]
async fn pages_of_history_follow_one_another_both_ways() {
    let node = start_node().await;
    let mut expected = Vec::new();
    for n in 0..45 {
        let patch = r#"[{"op":"increment","path":"/n","by":1}]"#;
        let answer =
            if n == 0 { node.put("/v1/docs/c/x", r#"{"n":0}"#).await } else { node.patch("/v1/docs/c/x", patch).await };
        expected.push((op(&answer), json!({ "n": n })));
    }
    for order in ["asc", "desc"] {
        let (mut found, mut since) = (Vec::new(), String::new());
        loop {
            let page = read(&node, &format!("/v1/docs/c/x/history?values=true&limit=7&order={order}{since}")).await;
            found.extend(page["ops"].as_array().unwrap().iter().map(|op| (op["op"].clone(), op["value"].clone())));
            match page["next"].as_str() {
                Some(next) => since = format!("&since={next}"),
                None => break,
            }
        }
        assert_eq!(found, expected, "{order}");
        expected.reverse();
    }
    for bad in ["limit=0", "order=up", "values=maybe", "origin=x"] {
        node.get(&format!("/v1/docs/c/x/history?{bad}")).await.expect_problem(400, "bad-query");
    }
    node.get("/v1/docs/c/x/history?since=7").await.expect_problem(400, "bad-cursor");
}

#[tokio::test]
async fn history_names_what_was_overwritten_on_the_other_side_of_a_cut() {
    let [a, b, c] = start_pool().await;
    let before = a.put("/v1/docs/c/x", r#"{"from":"start"}"#).await.expect(201);
    for node in [&b, &c] {
        get_after(node, "/v1/docs/c/x", before.session()).await.expect(200);
    }
    cut_off(&a, &[&b, &c]).await;
    // The side that is cut off writes more, so its clock is ahead, and its put comes last.
    for _ in 0..5 {
        a.put("/v1/docs/c/busy", "1").await;
    }
    let here = a.put("/v1/docs/c/x", r#"{"from":"a"}"#).await.expect(200);
    let first = b.put("/v1/docs/c/x", r#"{"from":"b"}"#).await.expect(200);
    get_after(&c, "/v1/docs/c/x", first.session()).await.expect(200);
    let second = c.merge("/v1/docs/c/x", r#"{"more":"c"}"#).await.expect(200);
    heal(&a).await;
    get_after(&b, "/v1/docs/c/x", here.session()).await.expect(200);
    get_after(&a, "/v1/docs/c/x", second.session()).await.expect(200);
    let last = time(&here);
    for node in [&a, &b, &c] {
        get_after(node, "/v1/docs/c/x", here.session()).await.expect(200);
        final_up_to(node, last).await;
        let history = read(node, "/v1/docs/c/x/history?values=true").await;
        let ops = history["ops"].as_array().unwrap();
        let told: Vec<_> =
            ops.iter().map(|op| (&op["op"], &op["concurrent"], &op["overwrote"], &op["value"])).collect();
        assert_eq!(told[0], (&op(&before), &json!([]), &json!([]), &json!({ "from": "start" })));
        assert_eq!(told[1], (&op(&first), &json!([op(&here)]), &json!([]), &json!({ "from": "b" })));
        let merged = json!({ "from": "b", "more": "c" });
        assert_eq!(told[2], (&op(&second), &json!([op(&here)]), &json!([]), &merged));
        let both = json!([op(&first), op(&second)]);
        assert_eq!(told[3], (&op(&here), &both, &both, &json!({ "from": "a" })));
        assert_eq!(ops[3]["status"], "final");
        // The overwritten values are still there to be read.
        let lost = read(node, &format!("/v1/docs/c/x?at={}", time(&second))).await;
        assert_eq!(lost, merged);
    }
}

#[tokio::test]
async fn what_is_not_final_yet_is_tentative_at_its_time_and_not_in_the_final_listing() {
    let [a, b] = start_pool().await;
    let before = a.put("/v1/docs/c/x", r#"{"n":1}"#).await.expect(201);
    get_after(&b, "/v1/docs/c/x", before.session()).await.expect(200);
    final_up_to(&a, time(&before)).await;
    cut_off(&b, &[&a]).await;
    let (since, later) = (time(&before), a.put("/v1/docs/c/x", r#"{"n":2}"#).await.expect(200));
    a.put("/v1/docs/c/y", r#"{"n":3}"#).await.expect(201);
    let now = a.get(&format!("/v1/docs/c/x?at={}", time(&later))).await.expect(200);
    assert_eq!((now.header("lamplight-status"), now.text()), ("tentative", r#"{"n":2}"#.into()));
    assert_eq!(a.get(&format!("/v1/docs/c/x?at={since}")).await.header("lamplight-status"), "final");
    let listed = read(&a, "/v1/docs/c?view=final&sort=-n").await;
    assert_eq!((ids(&listed), &listed["docs"][0]["value"]), (vec!["x"], &json!({ "n": 1 })));
    assert_eq!(listed["docs"][0]["status"], "final");
    assert_eq!(ids(&read(&a, "/v1/docs/c?view=final&filter=%7B%22n%22%3A2%7D").await), [""; 0]);
    let difference = read(&a, &format!("/v1/docs/c/x/diff?from={since}")).await;
    assert_eq!((&difference["from"]["status"], &difference["to"]["status"]), (&json!("final"), &json!("tentative")));
    assert_eq!(read(&a, "/v1/docs/c/x/history").await["ops"][1]["status"], "tentative");
    heal(&b).await;
    final_up_to(&a, time(&later) + 1).await;
    assert_eq!(ids(&read(&a, "/v1/docs/c?view=final&sort=-n").await), ["y", "x"]);
}

#[tokio::test]
async fn what_is_forgotten_is_told_as_such_and_what_is_kept_is_there() {
    let node = start_forgetful_node().await;
    let first = node.put("/v1/docs/c/x", r#"{"n":1}"#).await.expect(201);
    let second = node.put("/v1/docs/c/x", r#"{"n":2}"#).await.expect(200);
    let horizon = node.forgotten().await;
    assert_eq!(horizon, time(&second));
    // A document whose ops are forgotten is there, and its history says since when it would be known.
    let history = read(&node, "/v1/docs/c/x/history").await;
    assert_eq!(history, json!({ "ops": [], "next": null, "since": { "time": horizon.to_string() } }));
    let before = time(&first);
    for path in [format!("x?at={before}"), format!("?at={before}"), format!("x/diff?from={before}")] {
        let gone = node.get(format!("/v1/docs/c/{path}").replace("/?", "?").as_str()).await;
        assert!(gone.expect_problem(410, "past-forgotten").contains(&horizon.to_string()), "{path}");
        assert_eq!(gone.json()["horizon"], horizon.to_string());
    }
    let since = first.json()["stamp"].as_str().unwrap().to_string();
    node.get(&format!("/v1/docs/c/x/history?since={since}")).await.expect_problem(410, "past-forgotten");
    let then = node.get(&format!("/v1/docs/c/x?at={horizon}")).await.expect(200);
    assert_eq!(
        (then.text(), then.header("lamplight-stamp")),
        (r#"{"n":2}"#.into(), second.json()["stamp"].as_str().unwrap())
    );
    node.get("/v1/docs/c/none/history").await.expect_problem(404, "not-found");
    let op = second.json()["op"].as_str().unwrap().to_string();
    node.get(&format!("/v1/ops/{op}")).await.expect_problem(410, "past-forgotten");
    node.get(&format!("/v1/ops/{op}9")).await.expect_problem(404, "not-found");
}
