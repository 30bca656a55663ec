//! `/metrics`: that it is what Prometheus reads, that it moves by what was done, and that nobody can make it grow.
#![allow(clippy::unwrap_used, reason = "a test that fails should say where")]
#![allow(clippy::float_cmp, reason = "what is compared are whole numbers")]

mod support;

use std::collections::{BTreeMap, BTreeSet};

use futures_util::StreamExt;
use hyper::Method;
use lamplight::storage::{Store, SyncMode};
use serde_json::{Value, json};
use support::{
    exposition::{Family, Labels, Scrape},
    feeds::Ws,
    start_joining, start_node, start_on, start_pool,
};

/// Asserts what the naming rules of Prometheus ask for.
fn check_names(scrape: &Scrape) {
    for (name, Family { kind, .. }) in &scrape.0 {
        assert!(name.starts_with("lamplight_") || name.starts_with("process_"), "{name}");
        assert_eq!(kind == "counter", name.ends_with("_total"), "{name}");
        let is_histogram = kind == "histogram";
        assert!(!is_histogram || name.ends_with("_seconds"), "{name}");
        for unit in ["_ms", "_us", "_milliseconds", "_kib", "_kilobytes", "_percent", "_minutes"] {
            assert!(!name.contains(unit), "{name} is not in a base unit");
        }
        for suffix in ["_bucket", "_sum", "_count"] {
            assert!(!name.ends_with(suffix), "{name} reads as a part of a histogram");
        }
    }
}

/// Asserts that each histogram's buckets hold those before them, and the last one all.
fn check_histograms(scrape: &Scrape) -> usize {
    let histograms = scrape.0.iter().filter(|(_, family)| family.kind == "histogram");
    let mut checked = 0;
    for (name, family) in histograms {
        let mut series: BTreeMap<Labels, BTreeMap<&str, Vec<(f64, f64)>>> = BTreeMap::new();
        for (suffix, labels, value) in &family.samples {
            let bound = labels.iter().find(|(name, _)| name == "le").map_or(0.0, |(_, bound)| bound.parse().unwrap());
            let others: Labels = labels.iter().filter(|(name, _)| name != "le").cloned().collect();
            series.entry(others).or_default().entry(suffix).or_default().push((bound, *value));
        }
        for (labels, parts) in series {
            let (buckets, count, sum) = (&parts["_bucket"], parts["_count"][0].1, parts["_sum"][0].1);
            assert!(
                buckets.windows(2).all(|pair| pair[0].0 < pair[1].0 && pair[0].1 <= pair[1].1),
                "{name} {labels:?} {buckets:?}"
            );
            assert_eq!(buckets.last(), Some(&(f64::INFINITY, count)), "{name} {labels:?}");
            assert!((count > 0.0) == (sum > 0.0), "{name} {labels:?}: {count} in {sum} s");
            checked += 1;
        }
    }
    checked
}

fn check_all(scrape: &Scrape) {
    check_names(scrape);
    check_histograms(scrape);
}

#[tokio::test]
async fn every_line_is_of_the_format_and_every_name_follows_the_rules() {
    let node = start_node().await;
    node.put("/v1/docs/c/x", "1").await.expect(201);
    let scrape = Scrape::of(&node).await;
    check_all(&scrape);
    // The other format tells the same, by the same names.
    let open = node.call(Method::GET, "/metrics").header("accept", "application/openmetrics-text; version=1.0.0");
    let open = Scrape::read_open(&open.send().await.expect(200));
    check_all(&open);
    let names = |scrape: &Scrape| scrape.0.keys().cloned().collect::<BTreeSet<_>>();
    assert_eq!(names(&scrape), names(&open));
    node.get("/metrics?x=1").await.expect_problem(400, "bad-query");
    node.post("/metrics", "{}").await.expect_problem(405, "method-not-allowed");
}

#[tokio::test]
async fn it_answers_in_every_state() {
    let joining = start_joining().await;
    let scrape = Scrape::until(&joining, |scrape| scrape.value("lamplight_dials_failed_total", &[]) > 0.0).await;
    check_all(&scrape);
    assert_eq!(scrape.value("lamplight_node_state", &[("state", "joining")]), 1.0);
    assert_eq!(scrape.value("lamplight_node_answers", &[]), 1.0);

    // Its task is gone: what the shell knows is told all the same.
    let node = start_node().await;
    node.put("/v1/docs/c/x", "1").await.expect(201);
    node.node.stop().await.unwrap();
    let scrape = Scrape::of(&node).await;
    check_all(&scrape);
    assert_eq!(scrape.value("lamplight_node_answers", &[]), 0.0);
    assert_eq!(scrape.value("lamplight_ops_total", &[("source", "issued")]), 2.0);
    assert!(!scrape.0.contains_key("lamplight_clock"));
}

#[tokio::test]
async fn counters_move_by_what_was_done() {
    let node = start_node().await;
    let before = Scrape::of(&node).await;
    for id in ["x", "y", "z"] {
        node.put(&format!("/v1/docs/c/{id}"), "1").await.expect(201);
    }
    node.put("/v1/docs/other/x", "1").await.expect(201);
    node.call(Method::PUT, "/v1/docs/c/x").header("if-none-match", "*").json("2").send().await.expect(412);
    node.patch("/v1/docs/c/nowhere", "[]").await.expect(404);
    node.delete("/v1/docs/c/z").await.expect(200);
    node.get("/v1/docs/c/x").await.expect(200);
    let after = Scrape::of(&node).await;
    check_all(&after);
    let moved = |name: &str, labels: &[(&str, &str)]| after.value(name, labels) - before.value(name, labels);
    assert_eq!(moved("lamplight_ops_total", &[("source", "issued")]), 5.0);
    assert_eq!(moved("lamplight_ops_total", &[("source", "heard")]), 0.0);
    assert_eq!(moved("lamplight_ops_refused_total", &[("why", "rejected")]), 1.0);
    assert_eq!(moved("lamplight_ops_refused_total", &[("why", "absent")]), 1.0);
    assert_eq!(moved("lamplight_clock", &[]), 5.0);
    assert_eq!(moved("lamplight_log_ops", &[]), 5.0);
    assert_eq!(moved("lamplight_replay_ops_judged_total", &[]), 5.0);
    assert_eq!((moved("lamplight_documents", &[]), moved("lamplight_collections", &[])), (3.0, 2.0));
    // A node alone is final at once.
    assert_eq!((after.value("lamplight_final_lag", &[]), after.value("lamplight_final_lag_seconds", &[])), (0.0, 0.0));
    let requests = |route: &str, method: &str, status: &str| {
        moved("lamplight_http_requests_total", &[("route", route), ("method", method), ("status", status)])
    };
    let doc = "/v1/docs/{collection}/{id}";
    assert_eq!((requests(doc, "PUT", "2xx"), requests(doc, "PUT", "4xx")), (4.0, 1.0));
    assert_eq!((requests(doc, "PATCH", "4xx"), requests(doc, "DELETE", "2xx")), (1.0, 1.0));
    assert_eq!((requests(doc, "GET", "2xx"), requests("/metrics", "GET", "2xx")), (1.0, 1.0));
    let puts = after.0["lamplight_http_request_duration_seconds"].samples.iter().find(|(suffix, labels, _)| {
        suffix == "_count" && labels.iter().map(|(_, value)| value.as_str()).eq([doc, "PUT"])
    });
    assert_eq!(puts.unwrap().2, 5.0);
}

#[tokio::test]
async fn links_and_members_are_counted_on_both_sides() {
    let [a, b] = start_pool().await;
    let written = a.put("/v1/docs/c/x", "1").await.expect(201);
    b.call(Method::GET, "/v1/docs/c/x").header("lamplight-session", written.session()).send().await.expect(200);
    let linked = |scrape: &Scrape| scrape.value("lamplight_links_open", &[]) == 1.0;
    let (of_a, of_b) = (Scrape::until(&a, linked).await, Scrape::until(&b, linked).await);
    for scrape in [&of_a, &of_b] {
        check_all(scrape);
        let opened = ["node", "peer"].map(|by| scrape.value("lamplight_links_opened_total", &[("dialled_by", by)]));
        assert!(opened.iter().sum::<f64>() >= 1.0, "{opened:?}");
        assert!(scrape.value("lamplight_links_received_bytes_total", &[]) > 0.0);
        assert!(scrape.value("lamplight_links_sent_bytes_total", &[]) > 0.0);
        assert_eq!(scrape.value("lamplight_members", &[("liveness", "self")]), 1.0);
    }
    assert!(of_b.value("lamplight_ops_total", &[("source", "heard")]) >= 1.0);
    assert!(
        of_b.value("lamplight_ops_received_total", &[]) >= of_b.value("lamplight_ops_total", &[("source", "heard")])
    );
    assert_eq!(of_b.value("lamplight_documents", &[]), 1.0);

    b.post("/v1/pool/links", r#"{"cut":true}"#).await.expect(200);
    let cut = Scrape::until(&b, |scrape| scrape.value("lamplight_links_open", &[]) == 0.0).await;
    assert_eq!(cut.value("lamplight_links_cut", &[]), 1.0);
    // What is written now cannot become final, and the age of that is told.
    b.put("/v1/docs/c/y", "1").await.expect(201);
    let held = Scrape::until(&b, |scrape| scrape.value("lamplight_final_lag_seconds", &[]) > 0.0).await;
    assert_eq!(held.value("lamplight_members_holding_back", &[("why", "silent")]), 1.0);
    assert!(held.value("lamplight_final_lag", &[]) >= 1.0);
    let refused = |scrape: &Scrape| scrape.value("lamplight_links_refused_total", &[("refused_by", "peer")]) > 0.0;
    Scrape::until(&a, refused).await;
}

#[tokio::test]
async fn clients_can_make_no_label() {
    let node = start_node().await;
    for n in 0..50 {
        node.get(&format!("/nowhere/{n}")).await.expect(404);
        node.get(&format!("/v1/docs/collection-{n}/id-{n}")).await.expect(404);
        node.get(&format!("/static/{n}.js")).await.expect(404);
        node.put(&format!("/v1/docs/collection-{n}/id"), "1").await.expect(201);
    }
    for method in ["OPTIONS", "TRACE", "BREW"] {
        node.call(Method::from_bytes(method.as_bytes()).unwrap(), "/v1/pool").send().await.expect(405);
    }
    let scrape = Scrape::of(&node).await;
    check_all(&scrape);
    let routes = ["none", "/v1/docs/{collection}/{id}", "/static/{file}", "/v1/pool"];
    assert_eq!(scrape.values_of("route"), routes.into());
    assert_eq!(scrape.values_of("method"), ["GET", "PUT", "other"].into());
    assert_eq!(scrape.values_of("status"), ["2xx", "4xx"].into());
    let calls = |route, method, status| {
        scrape.value("lamplight_http_requests_total", &[("route", route), ("method", method), ("status", status)])
    };
    assert_eq!((calls("none", "GET", "4xx"), calls("/v1/pool", "other", "4xx")), (50.0, 3.0));
    let known = ["dialled_by", "le", "liveness", "method", "name", "node", "pool", "queue", "refused_by"];
    let known: BTreeSet<&str> =
        known.into_iter().chain(["route", "source", "state", "status", "version", "why"]).collect();
    let labels = scrape.0.values().flat_map(|family| &family.samples).flat_map(|(_, labels, _)| labels);
    assert_eq!(labels.map(|(name, _)| name.as_str()).collect::<BTreeSet<_>>(), known);
}

#[tokio::test]
async fn connections_are_counted_while_they_last() {
    let node = start_node().await;
    let mut ws = Ws::connect(&node).await;
    ws.subscribe("s1", "c").await;
    ws.expect("snapshot").await;
    ws.subscribe("s2", "d").await;
    ws.expect("snapshot").await;
    ws.send(json!({ "type": "presence", "id": "p", "room": "r", "state": { "name": "ann" } })).await;
    ws.expect("room").await;
    let url = format!("{}/v1/yjs/c/text", node.url.replace("http", "ws"));
    let (mut editor, _) = tokio_tungstenite::connect_async(url).await.unwrap();
    editor.next().await.unwrap().unwrap();
    let figures = |scrape: &Scrape| {
        let names = ["websocket_clients", "subscriptions", "presence_entries", "yjs_editors", "texts_worked_out"];
        names.map(|name| scrape.value(&format!("lamplight_{name}"), &[]))
    };
    assert_eq!(figures(&Scrape::of(&node).await), [1.0, 2.0, 1.0, 1.0, 1.0]);
    ws.send(json!({ "type": "unsubscribe", "id": "s2" })).await;
    ws.expect("unsubscribed").await;
    assert_eq!(figures(&Scrape::of(&node).await)[..2], [1.0, 1.0]);
    drop(ws);
    drop(editor);
    // A text is kept for a while when its last editor has left.
    Scrape::until(&node, |scrape| figures(scrape) == [0.0, 0.0, 0.0, 0.0, 1.0]).await;
}

#[tokio::test]
async fn the_journal_is_measured_and_in_memory_there_is_none() {
    let memory = start_node().await;
    let scrape = Scrape::of(&memory).await;
    let journal: Vec<&String> = scrape.0.keys().filter(|name| name.starts_with("lamplight_journal_")).collect();
    assert_eq!(journal.len(), 5, "{journal:?}");
    assert!(journal.iter().all(|name| scrape.0[*name].samples.is_empty()));

    let dir = std::env::temp_dir().join(format!("lamplight-metrics-{}", std::process::id()));
    let (store, _) = Store::open(&dir, SyncMode::Always, &mut drop).unwrap();
    let node = start_on(store).await;
    let before = Scrape::of(&node).await;
    node.put("/v1/docs/c/x", "1").await.expect(201);
    let after = Scrape::of(&node).await;
    check_all(&after);
    let count = |scrape: &Scrape| {
        let mut samples = scrape.0["lamplight_journal_sync_seconds"].samples.iter();
        samples.find(|(suffix, ..)| suffix == "_count").unwrap().2
    };
    assert!(count(&after) > count(&before), "a write waits for a sync");
    for name in ["lamplight_journal_bytes", "lamplight_journal_written_bytes_total"] {
        assert!(after.value(name, &[]) > before.value(name, &[]), "{name}");
    }
    assert_eq!(after.value("lamplight_journal_segments", &[]), 1.0);
    assert_eq!(after.value("lamplight_journal_has_room", &[]), 1.0);
    node.stop().await;
    std::fs::remove_dir_all(dir).unwrap();
}

/// The names of metrics in a text.
fn named(text: &str) -> BTreeSet<String> {
    let words = text.split(|char: char| !(char.is_ascii_alphanumeric() || char == '_'));
    let metrics = words.filter(|word| word.starts_with("lamplight_") || word.starts_with("process_"));
    metrics.map(String::from).collect()
}

/// Asserts that a text names only metrics that there are, and returns how many.
fn check_named(text: &str, scrape: &Scrape) -> usize {
    let named = named(text);
    for name in &named {
        let histogram = ["_bucket", "_sum", "_count"].iter().find_map(|suffix| name.strip_suffix(suffix));
        let is_part = histogram.is_some_and(|name| scrape.0.get(name).is_some_and(|family| family.kind == "histogram"));
        assert!(scrape.0.contains_key(name) || is_part, "there is no {name}");
    }
    named.len()
}

#[tokio::test]
async fn the_dashboard_and_the_page_for_operators_name_only_metrics_that_there_are() {
    let scrape = Scrape::of(&start_node().await).await;
    let dashboard: Value = serde_json::from_str(include_str!("../docs/grafana.json")).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let (mut ids, mut shown) = (BTreeSet::new(), String::new());
    for panel in panels {
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "two panels have the id {}", panel["id"]);
        let targets = panel["targets"].as_array().map(Vec::as_slice).unwrap_or_default();
        assert_eq!(panel["type"] == "row", targets.is_empty(), "{panel}");
        for target in targets {
            let expr = target["expr"].as_str().unwrap();
            assert!(check_named(expr, &scrape) > 0, "{expr}");
            shown += expr;
            shown += "\n";
        }
    }
    // All but what only tells a series of another apart.
    let shown = named(&shown);
    let aside = ["build_info", "node_info", "clock", "frontier", "horizon", "ops_waiting", "log_ops", "presence_bytes"];
    for name in scrape.0.keys().filter_map(|name| name.strip_prefix("lamplight_")) {
        let is_shown =
            shown.iter().any(|shown| shown.strip_prefix("lamplight_").is_some_and(|of| of.starts_with(name)));
        assert!(is_shown || aside.contains(&name) || name == "journal_segments", "no panel shows lamplight_{name}");
    }
    let page = include_str!("../docs/operations.md");
    assert!(check_named(page, &scrape) > 30);
}
