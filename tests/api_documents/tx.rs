//! Transactions, and the receipts of ops.

use hyper::Method;
use serde_json::json;

use crate::support::start_node;

#[tokio::test]
async fn a_transaction_writes_several_documents_as_one_op() {
    let node = start_node().await;
    node.put("/v1/docs/c/gone", "1").await.expect(201);
    node.put("/v1/docs/c/merged", r#"{"a":1}"#).await.expect(201);
    let patched = node.put("/v1/docs/d/patched", r#"{"n":1}"#).await.expect(201).json();
    let ops = node.ops().await;
    let tx = json!({
        "guards": [
            { "exists": { "collection": "c", "id": "gone" } },
            { "absent": { "collection": "c", "id": "new" } },
            { "version": { "collection": "d", "id": "patched", "version": patched["version"] } },
        ],
        "commands": [
            { "put": { "collection": "c", "id": "new", "value": { "b": 1.0, "a": null } } },
            { "merge": { "collection": "c", "id": "merged", "value": { "a": null, "b": 2 } } },
            { "patch": { "collection": "d", "id": "patched", "patch": [{ "op": "increment", "path": "/n", "by": 2 }] } },
            { "delete": { "collection": "c", "id": "gone" } },
        ],
    });
    let receipt = node.post("/v1/tx", &tx.to_string()).await.expect(200).json();
    assert_eq!(node.ops().await, ops + 1);
    assert_eq!(receipt["docs"].as_array().unwrap().len(), 4);
    assert_eq!(receipt["docs"][3], json!({ "collection": "c", "id": "gone", "deleted": true }));
    assert_eq!(receipt.get("id"), None, "only a receipt of one document names it at the top");
    assert_eq!(node.get("/v1/docs/c/new").await.text(), r#"{"a":null,"b":1}"#);
    assert_eq!(node.get("/v1/docs/c/merged").await.text(), r#"{"b":2}"#);
    assert_eq!(node.get("/v1/docs/d/patched").await.text(), r#"{"n":3}"#);
    node.get("/v1/docs/c/gone").await.expect_problem(404, "not-found");
}

#[tokio::test]
async fn a_transaction_whose_guard_fails_answers_409_and_changes_nothing() {
    let node = start_node().await;
    let version = node.put("/v1/docs/c/here", "1").await.expect(201).json()["version"].clone();
    let ops = node.ops().await;
    let here = json!({ "collection": "c", "id": "here" });
    let away = json!({ "collection": "c", "id": "away" });
    let stale = json!({ "collection": "c", "id": "here", "version": "0".repeat(32) });
    for (guard, current) in [
        (json!({ "exists": away }), json!(null)),
        (json!({ "absent": here }), version.clone()),
        (json!({ "version": stale }), version.clone()),
    ] {
        let commands = json!([{ "put": { "collection": "c", "id": "new", "value": 1 } }]);
        let tx = json!({ "guards": [{ "exists": here }, guard], "commands": commands }).to_string();
        let refused = node.post("/v1/tx", &tx).await;
        let detail = refused.expect_problem(409, "guard-failed");
        assert!(detail.contains("guard 1"), "{detail}");
        assert_eq!((&refused.json()["guard"], &refused.json()["current"]), (&json!(1), &current));
    }
    node.get("/v1/docs/c/new").await.expect_problem(404, "not-found");
    assert_eq!(node.ops().await, ops);
}

#[tokio::test]
async fn a_transaction_of_which_one_patch_fails_answers_409_and_changes_nothing() {
    let node = start_node().await;
    let ops = node.ops().await;
    let tx = r#"{"commands":[{"put":{"collection":"c","id":"a","value":{"n":1}}},
        {"patch":{"collection":"c","id":"a","patch":[{"op":"test","path":"/n","value":2}]}}]}"#;
    let refused = node.post("/v1/tx", tx).await;
    refused.expect_problem(409, "patch-failed");
    assert_eq!(refused.json()["command"], 1);
    let absent = r#"{"commands":[{"patch":{"collection":"c","id":"none","patch":[]}}]}"#;
    node.post("/v1/tx", absent).await.expect_problem(409, "patch-failed");
    node.get("/v1/docs/c/a").await.expect_problem(404, "not-found");
    assert_eq!(node.ops().await, ops);
}

#[tokio::test]
async fn a_transaction_with_a_key_takes_effect_once_whether_the_key_is_in_it_or_in_the_header() {
    let node = start_node().await;
    node.put("/v1/docs/c/n", r#"{"n":0}"#).await.expect(201);
    let commands =
        r#""commands":[{"patch":{"collection":"c","id":"n","patch":[{"op":"increment","path":"/n","by":1}]}}]"#;
    let (keyed, plain) = (format!(r#"{{{commands},"key":"k"}}"#), format!("{{{commands}}}"));
    let first = node.post("/v1/tx", &keyed).await.expect(200).json();
    let again = node.post("/v1/tx", &keyed).await.expect(200).json();
    let headed = node.call(Method::POST, "/v1/tx").json(&plain).header("idempotency-key", "k").send().await;
    assert_eq!((&again, &headed.expect(200).json()), (&first, &first));
    assert_eq!(node.get("/v1/docs/c/n").await.text(), r#"{"n":1}"#);
    let other = r#"{"commands":[{"delete":{"collection":"c","id":"n"}}],"key":"k"}"#;
    node.post("/v1/tx", other).await.expect_problem(422, "key-reused");
    let both = node.call(Method::POST, "/v1/tx").json(&keyed).header("idempotency-key", "other").send().await;
    both.expect_problem(400, "bad-request");
}

#[tokio::test]
async fn a_document_as_deep_as_it_may_be_fits_into_a_transaction() {
    let node = start_node().await;
    let deep = format!("{}{}", "[".repeat(64), "]".repeat(64));
    let tx = |value: &str| format!(r#"{{"commands":[{{"put":{{"collection":"c","id":"a","value":{value}}}}}]}}"#);
    node.post("/v1/tx", &tx(&deep)).await.expect(200);
    assert_eq!(node.get("/v1/docs/c/a").await.text(), deep);
    node.post("/v1/tx", &tx(&format!("[{deep}]"))).await.expect_problem(400, "too-deep");
}

#[tokio::test]
async fn the_receipt_of_an_op_names_what_the_op_stored_whatever_came_later() {
    let node = start_node().await;
    let put = node.put("/v1/docs/c/a", "1").await.expect(201).json();
    let path = format!("/v1/ops/{}", put["op"].as_str().unwrap());
    assert_eq!(node.get(&path).await.expect(200).json(), put);
    let deleted = node.delete("/v1/docs/c/a").await.expect(200).json();
    assert_eq!(deleted["docs"], json!([{ "collection": "c", "id": "a", "deleted": true }]));
    assert_eq!(node.get(&path).await.expect(200).json(), put);
}

#[tokio::test]
async fn an_op_that_is_not_held_answers_404() {
    let node = start_node().await;
    node.get(&format!("/v1/ops/{}.99", node.node.id())).await.expect_problem(404, "not-found");
    node.get(&format!("/v1/ops/{}.1", uuid::Uuid::new_v4())).await.expect_problem(404, "not-found");
}

#[tokio::test]
async fn a_transaction_that_costs_too_much_is_refused_and_changes_nothing() {
    let node = start_node().await;
    let value = format!(r#"{{"a":[{}0],"b":0}}"#, r#"{"":0},"#.repeat(35_000));
    node.put("/v1/docs/c/a", &value).await.expect(201);
    let ops = node.ops().await;
    let steps = [r#"{"op":"copy","from":"/a","path":"/b"}"#; 32].join(",");
    let command = format!(r#"{{"patch":{{"collection":"c","id":"a","patch":[{steps}]}}}}"#);
    let tx = format!(r#"{{"commands":[{}]}}"#, vec![command; 100].join(","));
    let detail = node.post("/v1/tx", &tx).await.expect_problem(422, "too-costly");
    assert!(detail.contains("split it"), "{detail}");
    node.patch("/v1/docs/c/a", &format!("[{steps}]")).await.expect_problem(422, "too-costly");
    // Its own text costs too much, wherever it comes to lie.
    let merge = format!(r#"{{"x":[{}0]}}"#, "0,".repeat(400_000));
    let command = format!(r#"{{"merge":{{"collection":"c","id":"a","value":{merge}}}}}"#);
    let tx = format!(r#"{{"commands":[{command},{command}]}}"#);
    node.post("/v1/tx", &tx).await.expect_problem(422, "too-costly");
    assert_eq!(node.get("/v1/docs/c/a").await.text(), value);
    assert_eq!(node.ops().await, ops);
    // Fewer steps go.
    node.patch("/v1/docs/c/a", r#"[{"op":"copy","from":"/a","path":"/b"}]"#).await.expect(200);
}
