//! The pool, the log, health, and the page: what answers in every state of a node.
#![allow(clippy::unwrap_used, reason = "a test that fails should say where")]

mod support;

use hyper::Method;
use serde_json::{Value, json};
use support::{Answer, TestNode, start_joining, start_node, start_pool, until};

/// Asks for the pool until it is as wanted: links come and go by themselves, some time after a call.
async fn pool_once(node: &TestNode, wanted: impl Fn(&Value) -> bool) -> Value {
    loop {
        let pool = node.get("/v1/pool").await.expect(200).json();
        if wanted(&pool) {
            return pool;
        }
    }
}

fn links(pool: &Value) -> Vec<&str> {
    pool["members"].as_array().unwrap().iter().map(|member| member["link"].as_str().unwrap()).collect()
}

async fn cut(node: &TestNode, cut: bool) {
    let answer = node.post("/v1/pool/links", &json!({ "cut": cut }).to_string()).await.expect(200);
    assert_eq!(answer.json(), json!({ "cut": cut }));
}

async fn log(node: &TestNode, query: &str) -> Value {
    node.get(&format!("/v1/log?{query}")).await.expect(200).json()
}

fn stamps(log: &Value) -> Vec<String> {
    log["ops"].as_array().unwrap().iter().map(|op| op["stamp"].as_str().unwrap().to_string()).collect()
}

async fn documents(node: &TestNode, session: &str) -> Value {
    let call = node.call(Method::GET, "/v1/docs/c?limit=1000").header("lamplight-session", session);
    call.send().await.expect(200).json()["docs"].clone()
}

#[tokio::test]
async fn the_pool_names_its_members_and_their_links() {
    let [a, b] = start_pool().await;
    a.put("/v1/docs/c/x", "1").await.expect(201);
    let pool = pool_once(&a, |pool| links(pool).contains(&"linked")).await;
    assert_eq!(pool["node"], a.node.id().to_string());
    assert_eq!((&pool["state"], &pool["cut"], &pool["docs"]), (&json!("member"), &json!(false), &json!(1)));
    assert_eq!((&pool["ops"], &pool["problems"]), (&json!("3"), &json!([])));
    assert_eq!(pool["pool"]["name"], "lamplight");
    assert_eq!(pool["pool"], b.get("/v1/pool").await.json()["pool"]);
    let members = pool["members"].as_array().unwrap();
    let oneself = members.iter().find(|member| member["self"] == true).unwrap();
    assert_eq!((&oneself["link"], &oneself["urls"]), (&json!("self"), &json!([a.url])));
    assert_eq!((&oneself["head"]["seq"], &oneself["clock"]), (&json!("3"), &pool["clock"]));
    let other = members.iter().find(|member| member["self"] == false).unwrap();
    assert_eq!((&other["id"], &other["alive"]), (&json!(b.node.id().to_string()), &json!(true)));
}

#[tokio::test]
async fn a_node_without_a_pool_tells_its_state_and_why() {
    let node = start_joining().await;
    let pool = pool_once(&node, |pool| pool["problems"] != json!([])).await;
    assert_eq!((&pool["state"], &pool["pool"], &pool["members"]), (&json!("joining"), &json!(null), &json!([])));
    assert_eq!(pool["problems"][0]["url"], "http://127.0.0.1:9");
    node.get("/livez").await.expect(200);
    node.get("/readyz").await.expect_problem(503, "not-ready");
    assert_eq!(log(&node, "").await, json!({ "ops": [], "next": null }));
    node.get("/").await.expect(200);
}

#[tokio::test]
async fn writes_on_both_sides_of_a_cut_are_everywhere_once_it_is_joined() {
    let [a, b] = start_pool().await;
    let before = a.put("/v1/docs/c/both", r#"{"from":"start"}"#).await.expect(201);
    documents(&b, before.session()).await;
    cut(&a, true).await;
    pool_once(&b, |pool| !links(pool).contains(&"linked")).await;
    // The one that is cut writes more, so its clock is ahead, and it wins.
    for n in 0..20 {
        a.put("/v1/docs/c/both", &json!({ "from": "a", "n": n }).to_string()).await.expect(200);
        a.put(&format!("/v1/docs/c/a{n}"), "1").await.expect(201);
        b.put(&format!("/v1/docs/c/b{n}"), "2").await.expect(201);
    }
    let lost = b.put("/v1/docs/c/both", r#"{"from":"b"}"#).await.expect(200);
    let (sessions, ops) = (a.get("/livez").await.session().to_string(), log(&a, "limit=1000").await);
    assert!(!stamps(&ops).contains(&lost.json()["stamp"].as_str().unwrap().to_string()));
    cut(&a, false).await;
    let on_b = documents(&b, &sessions).await;
    let on_a = documents(&a, lost.session()).await;
    assert_eq!(on_a, on_b);
    assert_eq!(on_a.as_array().unwrap().len(), 41);
    assert_eq!(on_a.as_array().unwrap().last().unwrap()["value"], json!({ "from": "a", "n": 19 }));
    assert_eq!(stamps(&log(&a, "limit=1000").await), stamps(&log(&b, "limit=1000").await));
}

#[tokio::test]
async fn a_node_of_another_pool_is_refused_and_the_one_that_tried_says_so() {
    let [a, c] = start_pool().await;
    let b = start_node().await;
    for node in [&a, &b] {
        node.put("/v1/docs/c/x", &json!(node.url).to_string()).await.expect(201);
    }
    // Also a node that has links tries at once, so that the operator sees what comes of it.
    pool_once(&a, |pool| links(pool).contains(&"linked")).await;
    let join = a.post("/v1/pool/join", &json!({ "url": format!("{}/", b.url) }).to_string()).await.expect(202);
    assert_eq!(join.json(), json!({ "url": b.url }));
    let pool = pool_once(&a, |pool| pool["problems"] != json!([])).await;
    assert_eq!(pool["problems"][0]["url"], b.url);
    let detail = pool["problems"][0]["detail"].as_str().unwrap();
    assert!(detail.contains(&b.node.id().to_string()) && detail.contains("belongs to"), "{detail}");
    assert_eq!(b.get("/v1/docs/c/x").await.json(), b.url);
    assert_eq!(a.get("/v1/pool").await.json()["members"].as_array().unwrap().len(), 2);
    assert_eq!(c.get("/v1/pool").await.json()["members"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn a_node_alone_in_an_empty_pool_gives_it_up_to_join_another() {
    let (a, b) = (start_node().await, start_node().await);
    let written = a.put("/v1/docs/c/x", "1").await.expect(201);
    b.post("/v1/pool/join", &json!({ "url": a.url }).to_string()).await.expect(202);
    until(&b.node, |replica| replica.roster().present().count() == 2).await;
    assert_eq!(documents(&b, written.session()).await[0]["value"], 1);
    assert_eq!(a.get("/v1/pool").await.json()["pool"], b.get("/v1/pool").await.json()["pool"]);
}

#[tokio::test]
async fn calls_on_the_pool_that_mean_nothing_are_refused() {
    let node = start_node().await;
    for url in ["", "x", "http://x", "ftp://x:1", "https://x:1/path", "http://x:1/path", "http://:1", "http://x:70000"]
    {
        let join = node.post("/v1/pool/join", &json!({ "url": url }).to_string()).await;
        join.expect_problem(400, "bad-request");
    }
    for (path, body, slug) in [
        ("join", "{}", "bad-request"),
        ("join", r#"{"url":7}"#, "bad-request"),
        ("join", r#"{"url":"http://x:1","force":true}"#, "unknown-field"),
        ("links", "{}", "bad-request"),
        ("links", r#"{"cut":1}"#, "bad-request"),
        ("links", r#"{"cut":true,"for":"1m"}"#, "unknown-field"),
        ("links", r#"{"cut":true,"cut":false}"#, "duplicate-key"),
        ("links", "no", "malformed-json"),
        ("links?cut=true", r#"{"cut":true}"#, "bad-query"),
    ] {
        node.post(&format!("/v1/pool/{path}"), body).await.expect_problem(400, slug);
    }
    node.get("/v1/pool?x=1").await.expect_problem(400, "bad-query");
    let typed = node.call(Method::POST, "/v1/pool/links").typed("text/plain", r#"{"cut":true}"#).send().await;
    typed.expect_problem(415, "unsupported-type");
    assert_eq!(node.get("/v1/pool").await.json()["cut"], false);
}

#[tokio::test]
async fn the_log_shows_ops_as_they_were_issued() {
    let node = start_node().await;
    let first = node.put("/v1/docs/c/x", r#"{"n":1}"#).await.expect(201).json();
    let version = &first["version"];
    let commands = json!([
        { "merge": { "collection": "c", "id": "x", "value": { "n": null } } },
        { "patch": { "collection": "c", "id": "x", "patch": [{ "op": "add", "path": "/m", "value": [1, 2.5] }] } },
        { "delete": { "collection": "c", "id": "y" } },
    ]);
    let guards = json!([
        { "version": { "collection": "c", "id": "x", "version": version } },
        { "exists": { "collection": "c", "id": "x" } },
        { "absent": { "collection": "c", "id": "y" } },
    ]);
    let tx = json!({ "guards": guards, "commands": commands, "key": "k" });
    let receipt = node.post("/v1/tx", &tx.to_string()).await.expect(200).json();
    let log = log(&node, "").await;
    let ops = log["ops"].as_array().unwrap();
    let id = node.node.id().to_string();
    assert_eq!(ops.len(), 3);
    assert_eq!(ops[0]["commands"], json!([{ "add": { "node": id, "name": "node-0", "urls": [node.url] } }]));
    assert_eq!((&ops[1]["op"], &ops[1]["commands"][0]["put"]["value"]), (&first["op"], &json!({ "n": 1 })));
    let mut expected = json!({
        "op": receipt["op"], "stamp": receipt["stamp"], "origin": id, "seq": "3", "time": "3", "seen": {},
        "guards": guards, "commands": commands, "key": "k", "verdict": "applied", "status": "final",
    });
    expected["wall"] = ops[2]["wall"].clone();
    assert_eq!(ops[2], expected);
    assert!(expected["wall"].as_str().is_some_and(|wall| wall.ends_with('Z') && wall.starts_with("20")));
}

#[tokio::test]
async fn the_log_is_read_in_pages_both_ways_and_by_origin() {
    let [a, b] = start_pool().await;
    for n in 0..5 {
        let written = a.put(&format!("/v1/docs/c/{n}"), "1").await.expect(201);
        documents(&b, written.session()).await;
        let written = b.put(&format!("/v1/docs/c/{n}"), "2").await.expect(200);
        documents(&a, written.session()).await;
    }
    let all = stamps(&log(&a, "").await);
    assert_eq!((all.len(), &all), (12, &stamps(&log(&b, "").await)));
    let mut newest_first = all.clone();
    newest_first.reverse();
    for (order, expected) in [("asc", &all), ("desc", &newest_first)] {
        let (mut seen, mut since) = (Vec::new(), String::new());
        loop {
            let page = log(&a, &format!("limit=5&order={order}{since}")).await;
            seen.extend(stamps(&page));
            let Some(next) = page["next"].as_str() else { break };
            since = format!("&since={next}");
        }
        assert_eq!(&seen, expected);
    }
    let origin = b.node.id();
    let own = log(&a, &format!("origin={origin}")).await;
    let seqs = |log: &Value| -> Vec<String> {
        log["ops"].as_array().unwrap().iter().map(|op| op["seq"].as_str().unwrap().to_string()).collect()
    };
    assert_eq!(seqs(&own), ["1", "2", "3", "4", "5"]);
    assert_eq!(own["ops"][0]["seen"][a.node.id().to_string()], "3");
    assert_eq!(seqs(&log(&a, &format!("origin={origin}&since=3")).await), ["4", "5"]);
    assert_eq!(seqs(&log(&a, &format!("origin={origin}&since=3&order=desc")).await), ["2", "1"]);
    assert_eq!(seqs(&log(&a, &format!("origin={origin}&since=0")).await).len(), 5);
    assert_eq!(seqs(&log(&a, &format!("origin={origin}&since=9")).await), [""; 0]);
    for (bad, slug) in [
        ("limit=1001", "bad-query"),
        ("order=up", "bad-query"),
        ("origin=me", "bad-query"),
        ("since=3", "bad-cursor"),
        ("since=", "bad-cursor"),
        ("after=3", "bad-query"),
    ] {
        a.get(&format!("/v1/log?{bad}")).await.expect_problem(400, slug);
    }
}

#[tokio::test]
async fn an_op_whose_guard_fails_at_its_place_is_in_the_log_as_rejected() {
    let [a, b] = start_pool().await;
    let before = a.put("/v1/docs/c/x", "0").await.expect(201);
    documents(&b, before.session()).await;
    cut(&a, true).await;
    // Both replace the same version; the one with the smaller stamp is there first.
    let version = format!("\"{}\"", before.json()["version"].as_str().unwrap());
    let put = async |node: &TestNode, value: &str| {
        node.call(Method::PUT, "/v1/docs/c/x").json(value).header("if-match", &version).send().await.expect(200)
    };
    let (on_a, on_b) = (put(&a, "1").await, put(&b, "2").await);
    cut(&a, false).await;
    assert_eq!(documents(&a, on_b.session()).await, documents(&b, on_a.session()).await);
    let log = log(&a, "order=desc&limit=2").await;
    assert_eq!((&log["ops"][1]["verdict"], log["ops"][1].get("reason")), (&json!("applied"), None));
    assert_eq!(log["ops"][0]["verdict"], "rejected");
    assert!(log["ops"][0]["reason"].as_str().unwrap().contains("guard 0"));
}

#[tokio::test]
async fn the_page_and_its_files_are_served_with_what_a_browser_needs() {
    let node = start_node().await;
    let page = node.get("/?side&collection=x").await.expect(200);
    assert_eq!(page.header("content-type"), "text/html; charset=utf-8");
    assert!(page.header("content-security-policy").contains("script-src 'self'"));
    let script = node.get("/static/app.js").await.expect(200);
    assert_eq!(script.header("content-type"), "text/javascript; charset=utf-8");
    assert_eq!(node.get("/static/style.css").await.header("content-type"), "text/css; charset=utf-8");
    assert_eq!((script.header("x-content-type-options"), script.header("cache-control")), ("nosniff", "no-cache"));
    let again = node.call(Method::GET, "/static/app.js").header("if-none-match", script.header("etag")).send().await;
    assert_eq!((again.expect(304).body.len(), node.get("/static/app.js").await.body == script.body), (0, true));
    for nothing in ["nothing.js", "..%2FCargo.toml", "%2Fetc%2Fpasswd", "app.js%00", ""] {
        node.get(&format!("/static/{nothing}")).await.expect_problem(404, "not-found");
    }
    node.post("/", "").await.expect_problem(405, "method-not-allowed");
}

async fn remove(node: &TestNode, member: impl std::fmt::Display, query: &str) -> Answer {
    node.delete(&format!("/v1/pool/members/{member}{query}")).await
}

fn ids(pool: &Value) -> Vec<&str> {
    pool["members"].as_array().unwrap().iter().map(|member| member["id"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn the_pool_tells_how_far_all_is_final_and_who_holds_it_back() {
    let alone = start_node().await;
    alone.put("/v1/docs/c/x", "1").await.expect(201);
    let pool = alone.get("/v1/pool").await.json();
    assert_eq!((&pool["frontier"], &pool["final_lag"]), (&json!("2"), &json!("0")));
    assert_eq!(pool["held_back_by"], json!([]));

    let [a, b, c] = start_pool().await;
    a.put("/v1/docs/c/x?wait=final&timeout=60s", "1").await.expect(201);
    pool_once(&a, |pool| pool["held_back_by"] == json!([])).await;
    cut(&c, true).await;
    pool_once(&a, |pool| links(pool).iter().filter(|link| **link == "linked").count() == 1).await;
    a.put("/v1/docs/c/x?wait=final&timeout=50ms", "2").await.expect(202);
    let silent = c.node.id().to_string();
    let held = |pool: &Value| -> Vec<String> {
        let held = pool["held_back_by"].as_array().unwrap().iter();
        held.map(|holder| holder["member"].as_str().unwrap().to_string()).collect()
    };
    let pool = pool_once(&a, |pool| held(pool) == [silent.clone()]).await;
    let holder = &pool["held_back_by"][0];
    assert_eq!((&holder["name"], &holder["why"]), (&json!("node-2"), &json!("silent")));
    assert!(holder["since_ms"].is_u64(), "{pool}");
    assert_ne!(pool["final_lag"], "0");
    pool_once(&b, |pool| held(pool) == [silent.clone()]).await;
    cut(&c, false).await;
    pool_once(&a, |pool| pool["held_back_by"] == json!([]) && pool["final_lag"] == "0").await;
}

#[tokio::test]
async fn who_cannot_be_evicted_is_told_why() {
    let [a, b] = start_pool().await;
    remove(&a, uuid::Uuid::new_v4(), "").await.expect_problem(404, "not-found");
    remove(&a, "node-1", "").await.expect_problem(400, "bad-name");
    remove(&a, b.node.id(), "?force=yes").await.expect_problem(400, "bad-query");
    remove(&a, b.node.id(), "?froce=true").await.expect_problem(400, "bad-query");
    let detail = remove(&a, b.node.id(), "").await.expect_problem(409, "member-alive");
    assert!(detail.contains("force=true") && !detail.contains("  "), "{detail}");
    let alone = start_node().await;
    remove(&alone, alone.node.id(), "").await.expect_problem(409, "last-member");
    let joining = start_joining().await;
    remove(&joining, joining.node.id(), "").await.expect_problem(503, "not-ready");
}

#[tokio::test]
async fn of_two_members_the_one_that_is_left_needs_force_to_go_on() {
    let [a, b] = start_pool().await;
    a.put("/v1/docs/c/x?wait=final&timeout=60s", "1").await.expect(201);
    let (gone, path) = (b.node.id(), format!("/v1/pool/members/{}", b.node.id()));
    b.stop().await;
    let tentative = a.put("/v1/docs/c/y?wait=final&timeout=50ms", "1").await.expect(202).json();
    // It is taken for alive for some time after it was last heard of.
    let refused = loop {
        let refused = a.delete(&path).await.expect(409);
        if refused.json()["type"] != "urn:lamplight:problem:member-alive" {
            break refused;
        }
    };
    assert!(refused.expect_problem(409, "no-majority").contains("force=true"));
    let evicted = remove(&a, gone, "?force=true&wait=final&timeout=60s").await.expect(200).json();
    assert_eq!((&evicted["status"], &evicted["docs"]), (&json!("final"), &json!([])));
    let receipt = a.get(&format!("/v1/ops/{}", tentative["op"].as_str().unwrap())).await.expect(200).json();
    assert_eq!(receipt["status"], "final");
    let pool = a.get("/v1/pool").await.json();
    assert_eq!((ids(&pool), &pool["held_back_by"]), (vec![&*a.node.id().to_string()], &json!([])));
    remove(&a, gone, "?force=true").await.expect_problem(404, "not-found");
}

#[tokio::test]
async fn a_member_whose_eviction_is_not_answered_yet_is_listed_as_evicted() {
    let [a, b, c] = start_pool().await;
    a.put("/v1/docs/c/x?wait=final&timeout=60s", "1").await.expect(201);
    // It joins again as another, so it is known by another id then.
    let old = c.node.id().to_string();
    cut(&a, true).await;
    let evicted = remove(&a, &old, "?force=true").await.expect(202);
    assert_eq!(evicted.json()["status"], "tentative");
    let path = evicted.header("location").to_string();
    let pool = a.get("/v1/pool").await.json();
    let member = |pool: &Value, id: &str| -> Value {
        pool["members"].as_array().unwrap().iter().find(|member| member["id"] == id).unwrap().clone()
    };
    assert_eq!(member(&pool, &old)["evicted"], true);
    assert_eq!(member(&pool, &b.node.id().to_string()).get("evicted"), None);
    let why: Vec<&Value> = pool["held_back_by"].as_array().unwrap().iter().map(|holder| &holder["why"]).collect();
    assert!(why.contains(&&json!("eviction")), "{pool}");
    cut(&a, false).await;
    assert_eq!(a.get(&format!("{path}?wait=final&timeout=60s")).await.expect(200).json()["status"], "final");
    for node in [&a, &b] {
        pool_once(node, |pool| !ids(pool).contains(&&*old)).await;
    }
}

#[tokio::test]
async fn a_node_that_retires_says_so_and_the_others_go_on_without_it() {
    let [a, b] = start_pool().await;
    a.put("/v1/docs/c/x?wait=final&timeout=60s", "1").await.expect(201);
    let retired = b.node.id();
    let answer = remove(&b, retired, "").await.expect(202);
    for answer in [b.put("/v1/docs/c/y", "1").await, b.get("/v1/docs/c/x").await, b.get("/readyz").await] {
        assert!(answer.expect_problem(503, "retired").contains("another"));
        assert_eq!(answer.header("retry-after"), "");
    }
    assert_eq!(b.get("/v1/pool").await.json()["state"], "retired");
    assert_eq!(b.get(answer.header("location")).await.expect(200).json()["verdict"], "applied");
    pool_once(&a, |pool| ids(pool) == [a.node.id().to_string()]).await;
    assert_eq!(a.put("/v1/docs/c/y?wait=final&timeout=60s", "1").await.expect(201).json()["status"], "final");
    remove(&a, retired, "").await.expect_problem(404, "not-found");
    // The others have parted from it by now, and it stays what it is.
    let parted = |pool: &Value| !links(pool).contains(&"linked");
    pool_once(&a, parted).await;
    let pool = pool_once(&b, parted).await;
    assert_eq!((&pool["state"], &pool["node"]), (&json!("retired"), &json!(retired.to_string())));
}

#[tokio::test]
async fn the_pool_tells_what_the_log_still_has() {
    let node = start_node().await;
    node.put("/v1/docs/c/x", "1").await.expect(201);
    let pool = node.get("/v1/pool").await.json();
    assert_eq!((&pool["horizon"], &pool["kept"]["ops"]), (&json!("0"), &json!("2")));
    assert!(pool["kept"]["bytes"].as_str().unwrap().parse::<u64>().unwrap() > 50, "{pool}");
    assert_eq!(pool.get("progress"), None);
}
