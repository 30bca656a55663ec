//! Listings of documents and of collections.

use hyper::Method;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};

use crate::support::{TestNode, start_node};

/// The query of a listing.
fn query(parameters: &[(&str, &str)]) -> String {
    let pairs =
        parameters.iter().map(|(name, value)| format!("{name}={}", utf8_percent_encode(value, NON_ALPHANUMERIC)));
    format!("/v1/docs/c?{}", pairs.collect::<Vec<_>>().join("&"))
}

fn ids(page: &Value) -> Vec<String> {
    page["docs"].as_array().unwrap().iter().map(|doc| doc["id"].as_str().unwrap().to_string()).collect()
}

async fn check(node: &TestNode, parameters: &[(&str, &str)], expected: &[&str]) {
    let page = node.get(&query(parameters)).await.expect(200).json();
    assert_eq!(ids(&page), expected, "{parameters:?}");
    assert_eq!(page["next"], Value::Null, "{parameters:?}");
}

/// The ids of every page, one list a page.
async fn pages(node: &TestNode, parameters: &[(&str, &str)]) -> Vec<Vec<String>> {
    let mut pages = Vec::new();
    let mut after: Option<String> = None;
    loop {
        let cursor = after.as_deref().map(|after| ("after", after));
        let parameters: Vec<_> = parameters.iter().copied().chain(cursor).collect();
        let page = node.get(&query(&parameters)).await.expect(200).json();
        pages.push(ids(&page));
        match &page["next"] {
            Value::String(next) => after = Some(next.clone()),
            _ => return pages,
        }
    }
}

async fn filled() -> TestNode {
    let node = start_node().await;
    for (id, value) in [
        ("a", r#"{"n":3,"s":"x","in":{"deep":1}}"#),
        ("b", r#"{"n":1,"s":"y"}"#),
        ("c", r#"{"n":2.5}"#),
        ("d", r#"{"n":"3","s":"x"}"#),
        ("e", r#"{"n":null}"#),
        ("f", "[1]"),
    ] {
        node.put(&format!("/v1/docs/c/{id}"), value).await.expect(201);
    }
    node
}

#[tokio::test]
async fn a_listing_shows_the_documents_by_id_each_with_version_stamp_status_and_value() {
    let node = start_node().await;
    node.put("/v1/docs/c/b", r#"{"n":2}"#).await.expect(201);
    let first = node.put("/v1/docs/c/a", r#"{"n":1}"#).await.expect(201).json();
    node.put("/v1/docs/other/x", "1").await.expect(201);
    let page = node.get("/v1/docs/c").await.expect(200).json();
    let (version, stamp) = (&first["version"], &first["stamp"]);
    let doc = json!({ "id": "a", "version": version, "stamp": stamp, "status": "final", "value": { "n": 1 } });
    assert_eq!((&page["docs"][0], ids(&page)), (&doc, vec!["a".into(), "b".into()]));
    assert_eq!(page["next"], Value::Null);
    let empty = node.get("/v1/docs/nothing").await.expect(200).json();
    assert_eq!(empty, json!({ "docs": [], "next": null }));
}

#[tokio::test]
async fn a_filter_shows_only_what_meets_it() {
    let node = filled().await;
    check(&node, &[("filter", r#"{"s":"x"}"#)], &["a", "d"]).await;
    check(&node, &[("filter", r#"{"in.deep":1}"#)], &["a"]).await;
    check(&node, &[("filter", r#"{"n":{"$gt":1,"$lte":3}}"#)], &["a", "c"]).await;
    check(&node, &[("filter", r#"{"n":{"$gte":"3"}}"#)], &["d"]).await;
    check(&node, &[("filter", r#"{"n":{"$lt":2.5}}"#)], &["b"]).await;
    check(&node, &[("filter", r#"{"n":{"$in":[1,null]}}"#)], &["b", "e"]).await;
    check(&node, &[("filter", r#"{"s":{"$exists":false}}"#)], &["c", "e", "f"]).await;
    check(&node, &[("filter", r#"{"s":{"$ne":"x"}}"#)], &["b", "c", "e", "f"]).await;
    check(&node, &[("filter", r#"{"$or":[{"n":3},{"n":1}]}"#)], &["a", "b"]).await;
    check(&node, &[("filter", r#"{"$and":[{"s":"x"},{"$not":{"n":3}}]}"#)], &["d"]).await;
    check(&node, &[("filter", "{}")], &["a", "b", "c", "d", "e", "f"]).await;
}

#[tokio::test]
async fn a_sort_orders_by_type_then_value_then_id() {
    let node = filled().await;
    check(&node, &[("sort", "n")], &["f", "e", "b", "c", "a", "d"]).await;
    check(&node, &[("sort", "-n")], &["d", "a", "c", "b", "e", "f"]).await;
    check(&node, &[("sort", "s")], &["c", "e", "f", "a", "d", "b"]).await;
    check(&node, &[("sort", "-s")], &["b", "a", "d", "c", "e", "f"]).await;
    check(&node, &[("sort", "-in.deep"), ("filter", r#"{"s":"x"}"#)], &["a", "d"]).await;
}

#[tokio::test]
async fn pages_follow_one_another_without_gaps_and_the_last_has_no_next() {
    let node = filled().await;
    assert_eq!(pages(&node, &[("limit", "4")]).await, [vec!["a", "b", "c", "d"], vec!["e", "f"]]);
    assert_eq!(pages(&node, &[("limit", "3")]).await, [["a", "b", "c"], ["d", "e", "f"]], "no empty page at the end");
    assert_eq!(pages(&node, &[("limit", "2"), ("sort", "s")]).await, [["c", "e"], ["f", "a"], ["d", "b"]]);
    assert_eq!(pages(&node, &[("limit", "4"), ("sort", "-n")]).await, [vec!["d", "a", "c", "b"], vec!["e", "f"]]);
    let filter = ("filter", r#"{"s":{"$exists":true}}"#);
    assert_eq!(pages(&node, &[("limit", "1"), filter]).await, [["a"], ["b"], ["d"]]);
    assert_eq!(pages(&node, &[("limit", "2"), filter, ("sort", "n")]).await, [vec!["b", "a"], vec!["d"]]);
}

#[tokio::test]
async fn a_page_goes_on_behind_its_cursor_though_the_document_there_is_gone_and_others_came() {
    let node = filled().await;
    let first = node.get(&query(&[("limit", "2"), ("sort", "n")])).await.json();
    assert_eq!(ids(&first), ["f", "e"]);
    node.delete("/v1/docs/c/e").await.expect(200);
    node.put("/v1/docs/c/before", r#"{"n":false}"#).await.expect(201);
    let after = first["next"].as_str().unwrap();
    // It is behind null, so it belongs to the next page.
    check(&node, &[("sort", "n"), ("after", after)], &["before", "b", "c", "a", "d"]).await;
}

#[tokio::test]
async fn a_collection_larger_than_one_look_is_listed_whole_and_deleted_documents_take_no_place() {
    let node = start_node().await;
    let put = |n| format!("{{\"id\":\"{n:05}\",\"value\":{{\"n\":{}}}}}", 2_500 - n);
    let puts = (0..2_500).map(put).collect::<Vec<_>>().join("\n");
    node.call(Method::POST, "/v1/docs/c").typed("application/x-ndjson", puts).send().await.expect(200);
    for n in 0..1_100 {
        node.delete(&format!("/v1/docs/c/{n:05}")).await.expect(200);
    }
    let by_id: Vec<String> = (1_100..2_500).map(|n| format!("{n:05}")).collect();
    let listed = pages(&node, &[("limit", "900")]).await;
    assert_eq!((listed.len(), listed.concat()), (2, by_id.clone()));
    let sorted = pages(&node, &[("limit", "1000"), ("sort", "n")]).await;
    assert_eq!((sorted.len(), sorted.concat()), (2, by_id.into_iter().rev().collect()));
    check(&node, &[("filter", r#"{"n":{"$lte":2}}"#)], &["02498", "02499"]).await;
    assert_eq!(node.get("/v1/docs/c").await.json()["docs"].as_array().unwrap().len(), 100, "the usual limit");
}

#[tokio::test]
async fn pages_of_large_documents_end_early_and_still_have_no_gaps() {
    let node = start_node().await;
    let large = "x".repeat(1_000_000);
    for n in 0..20 {
        // Small ones between the large ones could slip in where a page was cut.
        let padding = if n % 3 == 0 { "" } else { &large };
        let value = format!(r#"{{"n":{},"p":"{padding}"}}"#, (n * 7) % 20);
        node.put(&format!("/v1/docs/c/{n:02}"), &value).await.expect(201);
    }
    let by_id = pages(&node, &[]).await;
    assert!(by_id.len() > 1);
    assert_eq!(by_id.concat(), (0..20).map(|n| format!("{n:02}")).collect::<Vec<_>>());
    let by_n = pages(&node, &[("sort", "n")]).await;
    assert!(by_n.len() > 1);
    // 7 and 3 are inverse to one another modulo 20.
    assert_eq!(by_n.concat(), (0..20).map(|n| format!("{:02}", (n * 3) % 20)).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_sort_key_too_large_for_a_cursor_is_refused_when_a_cursor_would_need_it() {
    let node = start_node().await;
    let large = format!(r#"{{"s":"{}"}}"#, "x".repeat(10_000));
    node.put("/v1/docs/c/a", &large).await.expect(201);
    node.put("/v1/docs/c/b", &large).await.expect(201);
    check(&node, &[("sort", "s")], &["a", "b"]).await;
    node.get(&query(&[("sort", "s"), ("limit", "1")])).await.expect_problem(400, "bad-query");
}

#[tokio::test]
async fn collections_are_listed_by_name_with_how_many_documents_they_hold() {
    let node = start_node().await;
    assert_eq!(node.get("/v1/collections").await.expect(200).json(), json!({ "collections": [], "next": null }));
    for path in ["/v1/docs/b/1", "/v1/docs/a/1", "/v1/docs/a/2", "/v1/docs/gone/1"] {
        node.call(Method::PUT, path).json("1").header("idempotency-key", path).send().await.expect(201);
    }
    node.delete("/v1/docs/gone/1").await.expect(200);
    let expected = json!([{ "name": "a", "docs": 2 }, { "name": "b", "docs": 1 }]);
    assert_eq!(node.get("/v1/collections").await.json()["collections"], expected);
}

#[tokio::test]
async fn collections_more_than_the_node_counts_in_one_turn_are_all_listed() {
    let node = start_node().await;
    let command = |n: usize| json!({ "put": { "collection": format!("c{n:04}"), "id": "a", "value": n } });
    for first in [0, 1000, 2000] {
        let commands: Vec<_> = (first..first + 500).map(command).collect();
        node.post("/v1/tx", &json!({ "commands": commands }).to_string()).await.expect(200);
    }
    node.delete("/v1/docs/c1000/a").await.expect(200);
    let (mut shown, mut query, mut pages) = (Vec::new(), "limit=1000".to_string(), 0);
    loop {
        let mut page = node.get(&format!("/v1/collections?{query}")).await.expect(200).json();
        shown.append(page["collections"].as_array_mut().unwrap());
        pages += 1;
        let Some(next) = page["next"].as_str() else { break };
        query = format!("limit=1000&after={next}");
    }
    assert_eq!(pages, 2);
    let expected = (0..500).chain(1001..1500).chain(2000..2500);
    let expected: Vec<_> = expected.map(|n| json!({ "name": format!("c{n:04}"), "docs": 1 })).collect();
    assert_eq!(json!(shown), json!(expected));
    assert_eq!(node.get("/v1/pool").await.json()["docs"], expected.len());
}

#[tokio::test]
async fn collections_come_in_pages_as_documents_do() {
    let node = start_node().await;
    let command = |n: usize| json!({ "put": { "collection": format!("c{n:03}"), "id": "a", "value": n } });
    let commands: Vec<_> = (0..101).map(command).collect();
    node.post("/v1/tx", &json!({ "commands": commands }).to_string()).await.expect(200);
    let first = node.get("/v1/collections").await.expect(200).json();
    assert_eq!(first["collections"].as_array().unwrap().len(), 100, "as many as a page has if nothing is said");
    let next = first["next"].as_str().unwrap();
    let last = node.get(&format!("/v1/collections?after={next}")).await.expect(200).json();
    assert_eq!(last, json!({ "collections": [{ "name": "c100", "docs": 1 }], "next": null }));
    let exact = node.get("/v1/collections?limit=101").await.expect(200).json();
    assert_eq!(exact["next"], Value::Null, "a full page may be the last");
    let of_documents = node.get("/v1/docs/c000?limit=1").await.expect(200).json()["next"].clone();
    assert_eq!(of_documents, Value::Null);
    for (query, slug) in [
        ("limit=0", "bad-query"),
        ("limit=1001", "bad-query"),
        ("after=zz", "bad-cursor"),
        ("after=bnVsbA", "bad-cursor"),
        ("filter=1", "bad-query"),
    ] {
        node.get(&format!("/v1/collections?{query}")).await.expect_problem(400, slug);
    }
}
