//! `wait=final`: answers that come once nothing can come before the op any more. `wait=N`: once so many members hold it.

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use hyper::Method;
use lamplight::{op::NodeId, replica::Replica};
use serde_json::{Value, json};

use crate::support::{Answer, TestNode, start_node, start_pool, until};

const DOC: &str = "/v1/docs/names/ada";

async fn cut(node: &TestNode, cut: bool) {
    node.post("/v1/pool/links", &json!({ "cut": cut }).to_string()).await.expect(200);
}

async fn op(node: &TestNode, op: &Value) -> Value {
    node.get(&format!("/v1/ops/{}?wait=final&timeout=60s", op.as_str().unwrap())).await.expect(200).json()
}

fn has_issued(origin: NodeId, seq: u64) -> impl Fn(&Replica) -> bool + Clone + Send + 'static {
    move |replica| replica.log().head(origin).seq >= seq
}

#[tokio::test]
async fn a_lone_node_answers_every_write_at_once_and_it_is_final() {
    let node = start_node().await;
    let wait = "?wait=final&timeout=60s";
    let put = node.put(&format!("{DOC}{wait}"), "1").await.expect(201).json();
    let merged = node.merge(&format!("{DOC}{wait}"), "{\"n\":1}").await.expect(200).json();
    let posted = node.post(&format!("/v1/docs/names{wait}"), "1").await.expect(201);
    assert!(posted.header("location").starts_with("/v1/docs/names/"));
    let tx = r#"{"commands":[{"put":{"collection":"c","id":"x","value":1}}]}"#;
    let tx = node.post(&format!("/v1/tx{wait}"), tx).await.expect(200).json();
    let deleted = node.delete(&format!("{DOC}{wait}")).await.expect(200).json();
    for receipt in [&put, &merged, &posted.json(), &tx, &deleted] {
        assert_eq!((&receipt["status"], &receipt["verdict"]), (&json!("final"), &json!("applied")), "{receipt}");
    }
    assert_eq!(op(&node, &put["op"]).await["status"], "final");
}

#[tokio::test]
async fn three_nodes_agree_that_a_write_is_final_and_then_so_is_its_document() {
    let [a, b, c] = start_pool().await;
    let written = a.put(&format!("{DOC}?wait=final&timeout=60s"), "1").await.expect(201);
    assert_eq!(written.json()["status"], "final");
    assert_eq!(a.get(DOC).await.header("lamplight-status"), "final");
    for node in [&b, &c] {
        assert_eq!(op(node, &written.json()["op"]).await["status"], "final");
        assert_eq!(node.get(DOC).await.header("lamplight-status"), "final");
    }
}

#[tokio::test]
async fn a_write_that_waits_in_vain_answers_202_and_becomes_final_later() {
    let [a, b] = start_pool().await;
    cut(&b, true).await;
    let written = a.put(&format!("{DOC}?wait=final&timeout=50ms"), "1").await.expect(202);
    let receipt = written.json();
    assert_eq!((&receipt["status"], &receipt["verdict"]), (&json!("tentative"), &json!("applied")));
    assert_eq!(written.header("location"), format!("/v1/ops/{}", receipt["op"].as_str().unwrap()));
    assert_eq!(a.get(DOC).await.header("lamplight-status"), "tentative");
    let asked = a.get(&format!("{}?wait=final&timeout=50ms", written.header("location"))).await.expect(202);
    assert_eq!((asked.json(), asked.header("location")), (receipt.clone(), written.header("location")));
    cut(&b, false).await;
    assert_eq!(op(&a, &receipt["op"]).await["status"], "final");
}

/// Two sides of a cut pool write, each waiting for the verdict; then the cut is joined.
async fn on_both_sides([a, b]: [&TestNode; 2], write: impl AsyncFn(&TestNode) -> Answer) -> (Answer, Answer) {
    let seqs = [a, b].map(|node| node.node.id());
    let seq_of =
        async |node: &TestNode, id: NodeId| node.node.read(move |replica, _| replica.log().head(id).seq).await.unwrap();
    let (of_a, of_b) = (seq_of(a, seqs[0]).await, seq_of(b, seqs[1]).await);
    cut(a, true).await;
    let join = async {
        until(&a.node, has_issued(seqs[0], of_a + 1)).await;
        until(&b.node, has_issued(seqs[1], of_b + 1)).await;
        cut(a, false).await;
    };
    let (on_a, on_b, ()) = tokio::join!(write(a), write(b), join);
    (on_a, on_b)
}

#[tokio::test]
async fn of_two_sides_that_claim_a_name_exactly_one_has_it_on_every_node() {
    let [a, b, c] = start_pool().await;
    let claim = async |node: &TestNode| {
        let call = node.call(Method::PUT, &format!("{DOC}?wait=final&timeout=60s")).json(&json!(node.url).to_string());
        call.header("if-none-match", "*").send().await
    };
    let (on_a, on_b) = on_both_sides([&a, &b], claim).await;
    let (won, lost, winner) = if on_a.status == 201 { (on_a, on_b, &a) } else { (on_b, on_a, &b) };
    let won = won.expect(201).json();
    assert_eq!((&won["status"], &won["verdict"]), (&json!("final"), &json!("applied")));
    let detail = lost.expect_problem(412, "version-mismatch");
    assert!(detail.contains("exists already"), "{detail}");
    for node in [&a, &b, &c] {
        assert_eq!(op(node, &won["op"]).await["status"], "final");
        let refused = op(node, &lost.json()["op"]).await;
        assert_eq!((&refused["status"], &refused["verdict"]), (&json!("rejected"), &json!("rejected")));
        assert!(refused["reason"].as_str().unwrap().contains("guard 0"), "{refused}");
        assert_eq!(node.get(DOC).await.expect(200).json(), winner.url);
    }
}

#[tokio::test]
async fn a_repeated_key_of_a_claim_that_lost_is_refused_again() {
    let [a, b] = start_pool().await;
    let claim = async |node: &TestNode, query: &str| {
        let call = node.call(Method::PUT, &format!("{DOC}{query}")).json(&json!(node.url).to_string());
        call.header("if-none-match", "*").header("idempotency-key", &node.url).send().await
    };
    let (on_a, on_b) = on_both_sides([&a, &b], async |node| claim(node, "?wait=final&timeout=60s").await).await;
    let (winner, loser, lost) = if on_a.status == 201 { (&a, &b, on_b) } else { (&b, &a, on_a) };
    lost.expect_problem(412, "version-mismatch");
    for query in ["", "?wait=final&timeout=60s", "?wait=1"] {
        let again = claim(loser, query).await;
        again.expect_problem(412, "version-mismatch");
        assert_eq!(again.json()["op"], lost.json()["op"]);
        claim(winner, query).await.expect(200);
    }
    // Nothing was written, so its receipt names no version.
    assert_eq!(op(loser, &lost.json()["op"]).await["docs"], json!([]));
}

/// RFC 9110, 9.3.4: a validator in the response to a write is of what that write stored.
#[tokio::test]
async fn a_write_that_waits_names_the_version_that_it_stored_and_not_a_later_one() {
    let [a, b] = start_pool().await;
    let of = async |text: &str| a.put("/v1/docs/other/x", text).await.header("etag").to_string();
    let (anns, merged) = (of(r#"{"by":"ann"}"#).await, of(r#"{"by":"ann","n":1}"#).await);
    let wait = "?wait=final&timeout=60s";
    let issued = async || a.node.read(|replica, _| replica.log().head(replica.node()).seq).await.unwrap();
    for tx in [false, true] {
        cut(&b, true).await;
        let (before, id) = (issued().await, a.node.id());
        let ann = async {
            let put = json!({ "put": { "collection": "names", "id": "ada", "value": { "by": "ann" } } });
            let put = json!({ "commands": [put] }).to_string();
            if tx {
                a.post(&format!("/v1/tx{wait}"), &put).await
            } else {
                a.put(&format!("{DOC}{wait}"), r#"{"by":"ann"}"#).await
            }
        };
        let merge = async {
            until(&a.node, has_issued(id, before + 1)).await;
            a.merge(&format!("{DOC}{wait}"), r#"{"n":1}"#).await
        };
        let bob = async {
            until(&a.node, has_issued(id, before + 2)).await;
            a.put(DOC, r#"{"by":"bob"}"#).await.expect(200);
            cut(&b, false).await;
        };
        let (ann, merge, ()) = tokio::join!(ann, merge, bob);
        for (answer, stored) in [(&ann, &anns), (&merge, &merged)] {
            assert_eq!(format!("{:?}", answer.json()["version"].as_str().unwrap()), *stored);
            assert_eq!(answer.json()["status"], "final");
            for node in [&a, &b] {
                assert_eq!(op(node, &answer.json()["op"]).await["version"], answer.json()["version"]);
            }
        }
        assert!(tx || ann.header("etag") == anns, "{}", ann.header("etag"));
        assert_eq!(merge.header("etag"), merged);
        // So a conditional write that builds on it does not overwrite what it has not seen.
        let next = a.call(Method::PUT, DOC).json("1").header("if-match", &anns).send().await;
        next.expect_problem(412, "version-mismatch");
    }
}

#[tokio::test]
async fn a_guard_of_a_transaction_that_fails_at_its_final_place_answers_409() {
    let [a, b] = start_pool().await;
    let seats = a.put("/v1/docs/c/seats?wait=final&timeout=60s", r#"{"free":1}"#).await.expect(201);
    b.call(Method::GET, "/v1/docs/c/seats").header("lamplight-session", seats.session()).send().await.expect(200);
    let book = async |node: &TestNode| {
        let tx = json!({ "commands": [{ "patch": { "collection": "c", "id": "seats", "patch": [
            { "op": "test", "path": "/free", "value": 1 }, { "op": "increment", "path": "/free", "by": -1 },
        ] } }] });
        node.post("/v1/tx?wait=final&timeout=60s", &tx.to_string()).await
    };
    let (on_a, on_b) = on_both_sides([&a, &b], book).await;
    let (won, lost) = if on_a.status == 200 { (on_a, on_b) } else { (on_b, on_a) };
    assert_eq!(won.expect(200).json()["status"], "final");
    lost.expect_problem(409, "patch-failed");
    assert_eq!(a.get(&format!("/v1/ops/{}", lost.json()["op"].as_str().unwrap())).await.json()["status"], "rejected");
    assert_eq!(a.get("/v1/docs/c/seats").await.text(), r#"{"free":0}"#);
}

#[tokio::test]
async fn one_request_sent_to_both_sides_under_one_key_gets_one_final_receipt() {
    let [a, b] = start_pool().await;
    let write = async |node: &TestNode| {
        let call = node.call(Method::PUT, &format!("{DOC}?wait=final&timeout=60s")).json("1");
        call.header("idempotency-key", "once").send().await
    };
    let (on_a, on_b) = on_both_sides([&a, &b], write).await;
    let (on_a, on_b) = (on_a.json(), on_b.json());
    assert_eq!((&on_a["op"], &on_a["status"]), (&on_b["op"], &json!("final")));
    assert_eq!(on_b["status"], "final");
}

#[tokio::test]
async fn what_wait_and_timeout_may_say_is_told() {
    let node = start_node().await;
    for (query, words) in [
        ("wait=2", "from 1 to 1"),
        ("wait=0", "from 1 to 1"),
        ("wait=99999999999999999999999999", "from 1 to 1"),
        ("wait=-1", "a number of members"),
        ("wait=1.0", "a number of members"),
        ("wait=1&timeout=61s", "at most 60s"),
        ("wait=all", "wait is final"),
        ("wait=", "wait is final"),
        ("timeout=5s", "timeout is for wait=final"),
        ("wait=final&timeout=61s", "at most 60s"),
        ("wait=final&timeout=5", "500ms"),
        ("wait=final&timeout=-1s", "500ms"),
        ("wait=final&wait=final", "twice"),
        ("wiat=final", "wait, timeout"),
    ] {
        for answer in [
            node.put(&format!("{DOC}?{query}"), "1").await,
            node.merge(&format!("{DOC}?{query}"), "1").await,
            node.delete(&format!("{DOC}?{query}")).await,
            node.post(&format!("/v1/docs/names?{query}"), "1").await,
            node.post(&format!("/v1/tx?{query}"), "{}").await,
            node.get(&format!("/v1/ops/{}.1?{query}", node.node.id())).await,
        ] {
            let detail = answer.expect_problem(400, "bad-query");
            assert!(detail.contains(words), "{query}: {detail}");
        }
    }
    node.get(&format!("{DOC}?wait=final")).await.expect_problem(400, "bad-query");
    node.delete(&format!("/v1/pool/members/{}?wait=2", node.node.id())).await.expect_problem(400, "bad-query");
    let bulk = node.call(Method::POST, "/v1/docs/names?wait=final").typed("application/x-ndjson", "").send().await;
    assert!(bulk.expect_problem(400, "bad-query").contains("bulk"));
    node.get("/v1/docs/names").await.expect(200);
    assert_eq!(node.ops().await, 1);
}

#[tokio::test]
async fn a_write_waits_until_as_many_members_hold_it_as_it_says() {
    let [a, b, c] = start_pool().await;
    let put = async |wait: &str| a.put(&format!("/v1/docs/c/x?{wait}"), "1").await;
    let all = put("wait=3&timeout=60s").await.expect(201);
    assert_eq!((&all.json()["held_by"], &all.json()["verdict"]), (&json!(3), &json!("applied")));
    assert!(!all.header("etag").is_empty());
    cut(&c, true).await;
    // Two of three hold it, whatever becomes of the third; final it cannot be.
    let two = put("wait=2&timeout=60s").await.expect(200).json();
    assert_eq!((&two["held_by"], &two["status"]), (&json!(2), &json!("tentative")));
    assert_eq!(put("wait=1").await.expect(200).json()["status"], "tentative");
    let three = put("wait=3&timeout=100ms").await.expect(202);
    assert_eq!((&three.json()["held_by"], &three.json()["status"]), (&json!(2), &json!("tentative")));
    let path = three.header("location").to_string();
    assert_eq!(path, format!("/v1/ops/{}", three.json()["op"].as_str().unwrap()));
    put("wait=4").await.expect_problem(400, "bad-query");
    // Of an op of another node is known that its origin holds it, too.
    b.call(Method::GET, "/v1/docs/c/x").header("lamplight-session", three.session()).send().await.expect(200);
    for node in [&a, &b] {
        assert_eq!(node.get(&format!("{path}?wait=2&timeout=60s")).await.expect(200).json()["held_by"], 2);
        assert_eq!(node.get(&format!("{path}?wait=3&timeout=100ms")).await.expect(202).json()["held_by"], 2);
        node.get(&format!("{path}?wait=4")).await.expect_problem(400, "bad-query");
        assert_eq!(node.get(&path).await.expect(200).json().get("held_by"), None);
    }
    let all = format!("{path}?wait=3&timeout=60s");
    let (on_a, on_b, ()) = tokio::join!(a.get(&all), b.get(&all), cut(&c, false));
    for answer in [on_a, on_b] {
        assert_eq!(answer.expect(200).json()["held_by"], 3);
    }
}

#[tokio::test]
async fn every_call_that_writes_can_wait_until_members_hold_it() {
    let [a, _b] = start_pool().await;
    let wait = "?wait=2&timeout=60s";
    let put = a.put(&format!("{DOC}{wait}"), "1").await.expect(201).json();
    let merged = a.merge(&format!("{DOC}{wait}"), "{\"n\":1}").await.expect(200).json();
    let posted = a.post(&format!("/v1/docs/names{wait}"), "1").await.expect(201);
    assert!(posted.header("location").starts_with("/v1/docs/names/"));
    let tx =
        r#"{"commands":[{"put":{"collection":"c","id":"x","value":1}},{"put":{"collection":"c","id":"y","value":1}}]}"#;
    let tx = a.post(&format!("/v1/tx{wait}"), tx).await.expect(200).json();
    let deleted = a.delete(&format!("{DOC}{wait}")).await.expect(200).json();
    for receipt in [&put, &merged, &posted.json(), &tx, &deleted] {
        assert_eq!((&receipt["held_by"], &receipt["verdict"]), (&json!(2), &json!("applied")), "{receipt}");
    }
}

#[tokio::test]
async fn a_write_that_two_nodes_took_under_one_key_is_waited_for_on_both() {
    let [a, b] = start_pool().await;
    let write = async |node: &TestNode, session: &str| {
        let call = node.call(Method::PUT, &format!("{DOC}?wait=2&timeout=60s")).json("1");
        call.header("idempotency-key", "once").header("lamplight-session", session).send().await
    };
    let first = write(&a, "").await;
    first.expect_problem(400, "bad-header");
    let first = a.call(Method::PUT, DOC).json("1").header("idempotency-key", "once").send().await.expect(201);
    let again = write(&b, first.session()).await.expect(200).json();
    assert_eq!((&again["op"], &again["held_by"]), (&first.json()["op"], &json!(2)));
}

/// A node that was cut off has taken a write, and the others go on without it: it comes back as another, and whoever waits
/// gets the receipt of the op as it was issued again.
#[tokio::test]
async fn who_waits_at_a_node_that_is_evicted_gets_the_receipt_of_the_op_as_it_is_issued_again() {
    let [a, b, c] = start_pool().await;
    a.put("/v1/docs/c/x?wait=final&timeout=60s", "1").await.expect(201);
    let old = c.node.id();
    let seq = c.node.read(move |replica, _| replica.log().head(old).seq).await.unwrap();
    cut(&c, true).await;
    let told = async {
        // The op that is issued next; it is waited for by its id as well, also while it is not known.
        until(&c.node, has_issued(old, seq + 1)).await;
        c.get(&format!("/v1/ops/{old}.{}?wait=final&timeout=60s", seq + 1)).await
    };
    let heal = async {
        until(&c.node, has_issued(old, seq + 1)).await;
        let evicted = a.delete(&format!("/v1/pool/members/{old}?force=true&wait=final&timeout=60s")).await;
        evicted.expect(200);
        cut(&c, false).await;
        // In the midst of it.
        until(&c.node, move |replica| replica.node() != old).await;
        c.get(&format!("/v1/ops/{old}.{}?wait=final&timeout=60s", seq + 1)).await
    };
    let write = c.put("/v1/docs/c/only?wait=final&timeout=60s", "7");
    let (written, told, midst) = tokio::join!(write, told, heal);
    let written = written.expect(201).json();
    let issued = format!("{}.", c.node.id());
    assert_eq!((&written["status"], &written["verdict"]), (&json!("final"), &json!("applied")));
    assert!(written["op"].as_str().unwrap().starts_with(&issued), "{written} under {issued}");
    assert_ne!(c.node.id(), old);
    for receipt in [told, midst] {
        assert_eq!(receipt.expect(200).json()["op"], written["op"]);
    }
    let late = c.get(&format!("/v1/ops/{old}.{}", seq + 1)).await.expect(200).json();
    assert_eq!(late["op"], written["op"]);
    for node in [&a, &b, &c] {
        assert_eq!(op(node, &written["op"]).await["status"], "final");
        assert_eq!(node.get("/v1/docs/c/only").await.expect(200).text(), "7");
        let history = node.get("/v1/docs/c/only/history").await.expect(200).json();
        assert_eq!(history["ops"].as_array().unwrap().len(), 1, "{history}");
    }
}

#[tokio::test]
async fn who_waits_in_vain_at_a_node_that_comes_back_as_another_is_told_where_to_ask() {
    let [a, b] = start_pool().await;
    a.put("/v1/docs/c/x?wait=final&timeout=60s", "1").await.expect(201);
    let (old, seq) = b.node.read(|replica, _| (replica.node(), replica.log().head(replica.node()).seq)).await.unwrap();
    cut(&b, true).await;
    let gone = async {
        until(&b.node, has_issued(old, seq + 1)).await;
        a.delete(&format!("/v1/pool/members/{old}?force=true&wait=final&timeout=60s")).await.expect(200);
        cut(&b, false).await;
        until(&b.node, move |replica| replica.node() != old).await;
        cut(&b, true).await;
    };
    let (written, ()) = tokio::join!(b.put("/v1/docs/c/y?wait=final&timeout=2s", "1"), gone);
    let written = written.expect(202);
    assert_eq!(written.header("location"), format!("/v1/ops/{old}.{}", seq + 1));
    assert_eq!(written.json()["status"], "tentative");
    cut(&b, false).await;
    assert_eq!(
        b.get(&format!("{}?wait=final&timeout=60s", written.header("location"))).await.expect(200).json()["status"],
        "final"
    );
}

/// What a node holds that has just come back as another is less than its clients have seen.
#[tokio::test]
async fn an_answer_of_a_node_that_came_back_as_another_gives_the_session_back_as_it_came() {
    let [a, b] = start_pool().await;
    let seen = a.put("/v1/docs/c/x?wait=final&timeout=60s", "1").await.expect(201).session().to_string();
    let (old, seq) = b.node.read(|replica, _| (replica.node(), replica.log().head(replica.node()).seq)).await.unwrap();
    b.call(Method::GET, "/v1/docs/c/x").header("lamplight-session", &seen).send().await.expect(200);
    cut(&b, true).await;
    let wait = "?wait=final&timeout=60s";
    let call = |method, path: &str| b.call(method, &format!("{path}{wait}")).header("lamplight-session", &seen);
    let tx = r#"{"commands":[{"put":{"collection":"c","id":"t","value":1}}]}"#;
    let merge = "application/merge-patch+json";
    let reborn = async {
        until(&b.node, has_issued(old, seq + 5)).await;
        let told = call(Method::GET, &format!("/v1/ops/{old}.{}", seq + 1)).send();
        let evicted = async {
            a.delete(&format!("/v1/pool/members/{old}?force=true&wait=final&timeout=60s")).await.expect(200);
            cut(&b, false).await;
            until(&b.node, move |replica| replica.node() != old).await;
            cut(&b, true).await;
            // Whoever waits is answered when the node is to stop.
            b.stop.cancel();
        };
        tokio::join!(told, evicted).0
    };
    let answers = tokio::join!(
        call(Method::PUT, "/v1/docs/c/p").json("1").send(),
        call(Method::PATCH, "/v1/docs/c/x").typed(merge, "{}").send(),
        call(Method::POST, "/v1/docs/c").json("1").send(),
        call(Method::POST, "/v1/tx").json(tx).send(),
        call(Method::PUT, "/v1/docs/c/text").typed("text/plain", "tea").send(),
        reborn,
    );
    let answers: [Answer; 6] = answers.into();
    for answer in answers {
        assert!([202, 503].contains(&answer.status.as_u16()), "{} {}", answer.status, answer.text());
        assert_eq!(answer.session(), seen, "{}", answer.text());
    }
}

/// Who wrote at a node that the others went on without has seen ops that come under other ids.
#[tokio::test]
async fn a_session_of_ops_that_were_issued_again_is_good_at_the_node_that_did() {
    let [a, b] = start_pool().await;
    a.put("/v1/docs/c/x?wait=final&timeout=60s", "1").await.expect(201);
    let old = b.node.id();
    cut(&b, true).await;
    let written = b.put("/v1/docs/c/y", "1").await.expect(201);
    a.delete(&format!("/v1/pool/members/{old}?force=true&wait=final&timeout=60s")).await.expect(200);
    cut(&b, false).await;
    let again = op(&b, &written.json()["op"]).await;
    assert_ne!(again["op"], written.json()["op"]);
    let read = b.call(Method::GET, "/v1/docs/c/y").header("lamplight-session", written.session()).send().await;
    assert_eq!(read.expect(200).text(), "1");
    // One that has seen more of it is not.
    let session = |seq: u64| {
        let seen = [(old, seq)].to_vec();
        BASE64_URL_SAFE_NO_PAD.encode(postcard::to_allocvec(&seen).unwrap())
    };
    let seq = written.json()["op"].as_str().unwrap().rsplit_once('.').unwrap().1.parse::<u64>().unwrap();
    for (seq, status) in [(seq, 200), (seq + 1, 503)] {
        b.call(Method::GET, "/v1/docs/c/y").header("lamplight-session", session(seq)).send().await.expect(status);
    }
}

#[tokio::test]
async fn the_final_view_shows_a_document_as_far_as_all_is_final() {
    let [a, b] = start_pool().await;
    let put = async |path: &str, json: &str, status| a.put(&format!("/v1/docs/c/{path}"), json).await.expect(status);
    let first = put("x?wait=final&timeout=60s", r#"{"n":1}"#, 201).await;
    put("gone?wait=final&timeout=60s", "1", 201).await;
    let shown = a.get("/v1/docs/c/x?view=final").await.expect(200);
    assert_eq!((shown.header("etag"), shown.header("lamplight-status")), (first.header("etag"), "final"));
    cut(&b, true).await;
    // Twenty merges, so that there are checkpoints amidst what is tentative; then one op that replaces all.
    for n in 2..22 {
        a.merge("/v1/docs/c/x", &json!({ "n": n }).to_string()).await.expect(200);
    }
    let last = put("x", "7", 200).await;
    a.delete("/v1/docs/c/gone").await.expect(200);
    let new = put("new", "1", 201).await.json();
    let shown = a.get("/v1/docs/c/x?view=final").await.expect(200);
    assert_eq!((shown.text(), shown.header("etag")), (r#"{"n":1}"#.into(), first.header("etag")));
    assert_eq!(
        (shown.header("lamplight-status"), shown.header("lamplight-stamp")),
        ("final", first.json()["stamp"].as_str().unwrap())
    );
    assert_eq!(a.get("/v1/docs/c/x").await.text(), "7");
    assert_eq!(a.get("/v1/docs/c/gone?view=final").await.expect(200).text(), "1");
    let detail = a.get("/v1/docs/c/new?view=final").await.expect_problem(404, "not-found");
    assert!(detail.contains("tentative"), "{detail}");
    a.get("/v1/docs/c/none?view=final").await.expect_problem(404, "not-found");
    cut(&b, false).await;
    assert_eq!(op(&a, &new["op"]).await["status"], "final");
    a.get("/v1/docs/c/gone?view=final").await.expect_problem(404, "not-found");
    assert_eq!(a.get("/v1/docs/c/x?view=final").await.header("etag"), last.header("etag"));
}

#[tokio::test]
async fn views_that_are_not_there_are_refused() {
    let node = start_node().await;
    node.get("/v1/docs/c/x?view=all").await.expect_problem(400, "bad-query");
    for path in ["/v1/docs/c", "/v1/changes"] {
        node.get(&format!("{path}?view=all")).await.expect_problem(400, "bad-query");
    }
    for path in ["/v1/collections", "/v1/log", "/v1/docs/c/x/history"] {
        node.get(&format!("{path}?view=final")).await.expect_problem(400, "bad-query");
    }
}

#[tokio::test]
async fn a_merge_that_comes_after_a_deletion_on_the_other_side_of_a_cut_leaves_no_fragment() {
    let [a, b] = start_pool().await;
    let put = a.put(DOC, r#"{"name":"Ada","born":1815}"#).await.expect(201);
    b.call(Method::GET, DOC).header("lamplight-session", put.session()).send().await.expect(200);
    cut(&a, true).await;
    b.delete(DOC).await.expect(200);
    // Its clock is past that of the deletion.
    for n in 0..5 {
        a.put("/v1/docs/names/other", &n.to_string()).await;
    }
    let issued = a.node.read(|replica, _| replica.log().head(replica.node()).seq).await.unwrap() + 1;
    let join = async {
        until(&a.node, has_issued(a.node.id(), issued)).await;
        cut(&a, false).await;
    };
    let path = format!("{DOC}?wait=final&timeout=60s");
    let (merged, ()) = tokio::join!(a.merge(&path, r#"{"born":1816}"#), join);
    merged.expect_problem(409, "guard-failed");
    for node in [&a, &b] {
        assert_eq!(op(node, &merged.json()["op"]).await["status"], "rejected");
        node.get(DOC).await.expect_problem(404, "not-found");
    }
}
