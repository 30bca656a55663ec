//! Sorts and filters: what they order and hold for, and which are refused.

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;

use crate::support::{TestNode, start_node};

fn query(parameters: &[(&str, &str)]) -> String {
    let pairs =
        parameters.iter().map(|(name, value)| format!("{name}={}", utf8_percent_encode(value, NON_ALPHANUMERIC)));
    format!("/v1/docs/c?{}", pairs.collect::<Vec<_>>().join("&"))
}

async fn ids(node: &TestNode, parameters: &[(&str, &str)]) -> Vec<String> {
    let page = node.get(&query(parameters)).await.expect(200).json();
    page["docs"].as_array().unwrap().iter().map(|doc| doc["id"].as_str().unwrap().to_string()).collect()
}

async fn filled() -> TestNode {
    let node = start_node().await;
    for (id, value) in [
        ("a", r#"{"n":1,"s":"y","tags":["x","y"],"rows":[{"k":1},{"k":2}]}"#),
        ("b", r#"{"n":1,"s":"x","tags":["y"]}"#),
        ("c", r#"{"n":2,"s":"x","tags":[1,5]}"#),
        ("d", r#"{"n":2,"s":"y","tags":"x"}"#),
        ("e", r#"{"in":{"deep":3}}"#),
    ] {
        node.put(&format!("/v1/docs/c/{id}"), value).await.expect(201);
    }
    node
}

#[tokio::test]
async fn a_sort_has_several_keys_each_with_its_direction() {
    let node = filled().await;
    assert_eq!(ids(&node, &[("sort", "n,s")]).await, ["e", "b", "a", "c", "d"]);
    assert_eq!(ids(&node, &[("sort", "n,-s")]).await, ["e", "a", "b", "d", "c"]);
    assert_eq!(ids(&node, &[("sort", "-n,s")]).await, ["c", "d", "b", "a", "e"]);
    assert_eq!(ids(&node, &[("sort", "-n,-id")]).await, ["d", "c", "b", "a", "e"]);
    assert_eq!(ids(&node, &[("sort", "-id")]).await, ["e", "d", "c", "b", "a"]);
    assert_eq!(ids(&node, &[("sort", "tags.0")]).await, ["d", "e", "c", "a", "b"]);
}

#[tokio::test]
async fn pages_of_a_sort_by_several_keys_follow_one_another() {
    let node = filled().await;
    let (mut all, mut after) = (Vec::new(), None::<String>);
    loop {
        let cursor = after.as_deref().map(|after| ("after", after));
        let parameters: Vec<_> = [("sort", "-n,s"), ("limit", "2")].into_iter().chain(cursor).collect();
        let page = node.get(&query(&parameters)).await.expect(200).json();
        all.extend(page["docs"].as_array().unwrap().iter().map(|doc| doc["id"].as_str().unwrap().to_string()));
        match &page["next"] {
            Value::String(next) => after = Some(next.clone()),
            _ => break,
        }
    }
    assert_eq!(all, ["c", "d", "b", "a", "e"]);
    let first = node.get(&query(&[("sort", "-n,s"), ("limit", "2")])).await.json();
    let other = query(&[("sort", "-n,-s"), ("after", first["next"].as_str().unwrap())]);
    node.get(&other).await.expect_problem(400, "bad-cursor");
}

#[tokio::test]
async fn a_sort_that_orders_nothing_is_refused() {
    let node = filled().await;
    for sort in [
        "",
        "-",
        ",",
        "n,",
        ",n",
        "n,,s",
        "n,n",
        "n,-n",
        "n:desc",
        "n:ASC",
        "n desc",
        "n asc",
        " n",
        "n ",
        "+n",
        "[\"n\"]",
        "{\"n\":1}",
        "n,s:desc",
        "a,b,c,d,e,f,g,h,i",
    ] {
        let detail = node.get(&query(&[("sort", sort)])).await.expect_problem(400, "bad-query");
        assert!(detail.contains("sort=") || detail.contains("keys"), "{sort}: {detail}");
    }
}

#[tokio::test]
async fn a_filter_goes_into_arrays() {
    let node = filled().await;
    assert_eq!(ids(&node, &[("filter", r#"{"tags":{"$contains":"y"}}"#)]).await, ["a", "b"]);
    assert_eq!(ids(&node, &[("filter", r#"{"tags":{"$contains":{"$gt":2}}}"#)]).await, ["c"]);
    assert_eq!(ids(&node, &[("filter", r#"{"rows":{"$contains":{"k":2}}}"#)]).await, ["a"]);
    assert_eq!(ids(&node, &[("filter", r#"{"tags.0":"x"}"#)]).await, ["a"]);
    assert_eq!(ids(&node, &[("filter", r#"{"rows.1.k":2}"#)]).await, ["a"]);
}

#[tokio::test]
async fn an_operator_below_a_value_is_refused_with_the_way_to_write_it() {
    let node = filled().await;
    let refused = |filter: &'static str| {
        let path = query(&[("filter", filter)]);
        let node = &node;
        async move { node.get(&path).await.expect_problem(400, "bad-filter") }
    };
    let detail = refused(r#"{"in":{"deep":{"$gt":1}}}"#).await;
    assert!(detail.contains(r#""in.deep""#), "{detail}");
    refused(r#"{"in":{"deep":{"x":[{"$gt":1}]}}}"#).await;
    refused(r#"{"in":[{"$gt":1}]}"#).await;
    refused(r#"{"in":{"$ne":{"$gt":1}}}"#).await;
    refused(r#"{"in":{"$ne":{"deep":{"$gt":1}}}}"#).await;
    refused(r#"{"tags":{"$contains":{"k":{"$gt":1}}}}"#).await;
    assert_eq!(ids(&node, &[("filter", r#"{"in.deep":{"$gt":1}}"#)]).await, ["e"]);
}
