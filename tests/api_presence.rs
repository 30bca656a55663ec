//! Presence: rooms of the clients' WebSocket, over several nodes, and what is no message about them.
#![allow(clippy::unwrap_used, reason = "a test that fails should say where")]

mod support;

use std::collections::BTreeMap;

use serde_json::{Value, json};
use support::{TestNode, feeds::Ws, start_joining, start_node, start_pool};

fn presence(id: &str, room: &str, state: &Value) -> Value {
    json!({ "type": "presence", "id": id, "room": room, "state": state })
}

/// Joins a room, and gives the name that the client has there.
async fn join(ws: &mut Ws, room: &str, state: Value) -> (String, Value) {
    ws.send(presence("p", room, &state)).await;
    let joined = ws.expect("room").await;
    assert_eq!((&joined["id"], &joined["room"]), (&json!("p"), &json!(room)));
    (joined["me"].as_str().unwrap().to_string(), joined["peers"].clone())
}

/// Someone in a room `r`, who knows the others by what they were told.
struct Guest {
    ws: Ws,
    me: String,
    peers: BTreeMap<String, (String, Value)>,
}

impl Guest {
    async fn join(node: &TestNode, state: Value) -> Guest {
        let mut ws = Ws::connect(node).await;
        let (me, peers) = join(&mut ws, "r", state).await;
        let mut guest = Guest { ws, me, peers: BTreeMap::new() };
        peers.as_array().unwrap().iter().for_each(|peer| guest.take(peer));
        guest
    }

    fn take(&mut self, told: &Value) {
        let peer = told["peer"].as_str().unwrap().to_string();
        if told["gone"] == true {
            assert!(self.peers.remove(&peer).is_some(), "{told}");
        } else {
            self.peers.insert(peer, (told["node"].as_str().unwrap().to_string(), told["state"].clone()));
        }
    }

    /// Takes what it is told until all show these states.
    async fn until(&mut self, states: &[Value]) {
        let shown = |peers: &BTreeMap<String, (String, Value)>| {
            let mut shown: Vec<String> = peers.values().map(|(_, state)| state.to_string()).collect();
            shown.sort_unstable();
            shown
        };
        let mut wanted: Vec<String> = states.iter().map(Value::to_string).collect();
        wanted.sort_unstable();
        while shown(&self.peers) != wanted {
            let told = self.ws.expect("peer").await;
            self.take(&told);
        }
    }

    async fn show(&mut self, state: Value) {
        self.ws.send(presence("p", "r", &state)).await;
    }
}

#[tokio::test]
async fn who_joins_sees_itself_and_who_is_there() {
    let node = start_node().await;
    let mut first = Ws::connect(&node).await;
    let (me, peers) = join(&mut first, "r", json!({ "name": "ada" })).await;
    assert_eq!(peers, json!([{ "peer": me, "node": node.node.id().to_string(), "state": { "name": "ada" } }]));
    let mut second = Ws::connect(&node).await;
    let (other, peers) = join(&mut second, "r", json!(null)).await;
    assert_eq!(peers.as_array().unwrap().len(), 1, "who shows nothing is not seen: {peers}");
    assert_ne!(other, me);

    second.send(presence("p", "r", &json!([1]))).await;
    let node = node.node.id().to_string();
    let shown = json!({ "type": "peer", "id": "p", "peer": other, "node": node, "state": [1] });
    assert_eq!(first.expect("peer").await, shown);
    assert_eq!(second.expect("peer").await, shown);
    second.send(json!({ "type": "unsubscribe", "id": "p" })).await;
    assert_eq!(second.expect("unsubscribed").await["id"], "p");
    let gone = json!({ "type": "peer", "id": "p", "peer": other, "node": node, "gone": true });
    assert_eq!(first.expect("peer").await, gone);
    // Whoever has left is not told any more, and comes back as another.
    first.send(presence("p", "r", &json!(2))).await;
    first.expect("peer").await;
    second.ping().await;
    let (again, _) = join(&mut second, "r", json!(null)).await;
    assert_ne!(again, other);
}

#[tokio::test]
async fn rooms_of_one_connection_are_told_apart() {
    let node = start_node().await;
    let mut ws = Ws::connect(&node).await;
    for id in ["one", "two"] {
        ws.send(presence(id, id, &json!(id))).await;
        let joined = ws.expect("room").await;
        assert_eq!((&joined["id"], &joined["peers"][0]["state"]), (&json!(id), &json!(id)));
    }
    ws.send(presence("two", "two", &json!("zwei"))).await;
    let told = ws.expect("peer").await;
    assert_eq!((&told["id"], &told["state"]), (&json!("two"), &json!("zwei")));
    ws.send(json!({ "type": "unsubscribe", "id": "one" })).await;
    ws.expect("unsubscribed").await;
    ws.send(presence("two", "two", &json!(null))).await;
    assert_eq!(ws.expect("peer").await["gone"], true);
    ws.ping().await;
}

#[tokio::test]
async fn what_a_client_shows_is_seen_on_every_node_until_it_is_gone() {
    let [a, b, c] = start_pool().await;
    let mut ada = Guest::join(&a, json!("ada")).await;
    let mut others = [Guest::join(&b, json!("bob")).await, Guest::join(&c, json!(null)).await];
    for guest in others.iter_mut().chain([&mut ada]) {
        guest.until(&[json!("ada"), json!("bob")]).await;
    }
    assert!(others.iter().all(|guest| guest.peers[&ada.me].0 == a.node.id().to_string()));
    ada.show(json!({ "at": [3, 4] })).await;
    for guest in &mut others {
        guest.until(&[json!({ "at": [3, 4] }), json!("bob")]).await;
    }
    ada.show(json!(null)).await;
    for guest in &mut others {
        guest.until(&[json!("bob")]).await;
    }
    ada.show(json!("again")).await;
    for guest in &mut others {
        guest.until(&[json!("again"), json!("bob")]).await;
    }
    // Its connection breaks.
    drop(ada);
    for guest in &mut others {
        guest.until(&[json!("bob")]).await;
    }
}

#[tokio::test]
async fn a_client_whose_network_is_gone_is_gone_without_a_word() {
    let node = start_node().await;
    let mut guest = Guest::join(&node, json!("here")).await;
    // Nobody reads from it any more, so its pings are not answered, and it is not closed either.
    let _mute = Guest::join(&node, json!("mute")).await;
    guest.until(&[json!("here"), json!("mute")]).await;
    guest.until(&[json!("here")]).await;
}

#[tokio::test]
async fn the_clients_of_a_node_that_is_gone_are_gone_within_seconds() {
    let [a, b, c] = start_pool().await;
    let mut on_a = Guest::join(&a, json!("a")).await;
    let _on_c = Guest::join(&c, json!("c")).await;
    let mut on_b = Guest::join(&b, json!("b")).await;
    on_a.until(&[json!("a"), json!("b"), json!("c")]).await;
    on_b.until(&[json!("a"), json!("b"), json!("c")]).await;
    // It says nothing more on any link, as one that was killed.
    c.node.cut(true).await.unwrap();
    on_a.until(&[json!("a"), json!("b")]).await;
    on_b.until(&[json!("a"), json!("b")]).await;
    // It comes back with what its clients show.
    c.node.cut(false).await.unwrap();
    on_a.until(&[json!("a"), json!("b"), json!("c")]).await;
    on_b.until(&[json!("a"), json!("b"), json!("c")]).await;
}

#[tokio::test]
async fn who_falls_behind_is_told_of_the_whole_room_anew() {
    let node = start_node().await;
    let mut slow = Ws::connect_narrow(&node).await;
    let (me, _) = join(&mut slow, "r", json!("slow")).await;
    // More than the socket takes, and than is kept for one who does not read.
    let state = "s".repeat(4_000);
    for round in 0..3 {
        for client in 0..1_500 {
            let shown = Some(format!("\"{state}{round}\""));
            node.node.present("room:r".into(), client.to_string(), shown).await.unwrap().unwrap();
        }
    }
    let mut peers: BTreeMap<String, Value> = BTreeMap::new();
    let mut anew = false;
    while !(anew && peers.len() == 1_501 && peers.values().all(|state| state.as_str().unwrap().ends_with(['2', 'w']))) {
        let told = slow.next().await;
        if told["type"] == "room" {
            assert_eq!((&told["id"], &told["me"]), (&json!("p"), &json!(me)));
            peers.clear();
            anew = true;
        }
        let listed = told["peers"].as_array().cloned().unwrap_or_else(|| vec![told.clone()]);
        for peer in listed {
            peers.insert(peer["peer"].as_str().unwrap().to_string(), peer["state"].clone());
        }
    }
}

#[tokio::test]
async fn messages_about_rooms_that_mean_nothing_are_answered_by_errors() {
    let node = start_node().await;
    let mut ws = Ws::connect(&node).await;
    let wrong = [
        (json!({ "type": "presence", "id": "p", "state": 1 }), "bad-request", "room"),
        (json!({ "type": "presence", "id": "p", "room": "r" }), "bad-request", "state"),
        (json!({ "type": "presence", "room": "r", "state": 1 }), "bad-request", "\"id\""),
        (json!({ "type": "presence", "id": "p", "room": 5, "state": 1 }), "bad-request", "string"),
        (json!({ "type": "presence", "id": "p", "room": "r", "state": 1, "ttl": 5 }), "unknown-field", "ttl"),
        (presence("p", "", &json!(1)), "bad-name", "1 to 256"),
        (presence("p", &"r".repeat(257), &json!(1)), "bad-name", "1 to 256"),
        (presence("p", "a\nb", &json!(1)), "bad-name", "control"),
        (presence("p", "r", &json!("s".repeat(4_095))), "too-large", "4096"),
    ];
    for (message, slug, words) in wrong {
        ws.send(message.clone()).await;
        let error = ws.expect_error(slug).await;
        assert_eq!(error["id"], message.get("id").cloned().unwrap_or_default());
        assert!(error["problem"]["detail"].as_str().unwrap().contains(words), "{error}");
    }
    let texts = [
        (r#"{"type":"presence","id":"p","room":"r","state":{"a":1,"a":2}}"#, "duplicate-key"),
        (r#"{"type":"presence","id":"p","room":"r","state":{"a":}"#, "malformed-json"),
        (r#"{"type":"presence","id":"p","room":"r","state":0.1234567890123456789}"#, "inexact-number"),
    ];
    for (text, slug) in texts {
        ws.send_text(text).await;
        ws.expect_error(slug).await;
    }
    let deep = format!(r#"{{"type":"presence","id":"p","room":"r","state":{}{}}}"#, "[".repeat(200), "]".repeat(200));
    ws.send_text(&deep).await;
    ws.expect_error("too-deep").await;

    // The longest that may be.
    let (room, state) = ("r".repeat(256), json!("s".repeat(4_094)));
    ws.send(presence("p", &room, &state)).await;
    assert_eq!(ws.expect("room").await["peers"][0]["state"], state);
    ws.send(presence("p", "other", &json!(1))).await;
    let detail = ws.expect_error("bad-request").await["problem"]["detail"].to_string();
    assert!(detail.contains("unsubscribe it first"), "{detail}");
    // What is refused changes nothing.
    ws.send(presence("p", &room, &json!("s".repeat(4_095)))).await;
    ws.expect_error("too-large").await;
    let mut other = Ws::connect(&node).await;
    let (_, peers) = join(&mut other, &room, json!(null)).await;
    assert_eq!(peers[0]["state"], state);
}

#[tokio::test]
async fn ids_are_shared_with_subscriptions_and_rooms_of_a_connection_are_bounded() {
    let node = start_node().await;
    let mut ws = Ws::connect(&node).await;
    ws.subscribe("s", "c").await;
    ws.expect("snapshot").await;
    ws.send(presence("s", "r", &json!(1))).await;
    ws.expect_error("bad-request").await;
    for number in 0..64 {
        ws.send(presence(&format!("p{number}"), &format!("r{number}"), &json!(null))).await;
        ws.expect("room").await;
    }
    ws.send(presence("p64", "r64", &json!(null))).await;
    let detail = ws.expect_error("bad-request").await["problem"]["detail"].to_string();
    assert!(detail.contains("at most 64 rooms"), "{detail}");
    ws.subscribe("p0", "c").await;
    ws.expect_error("bad-request").await;
    ws.send(json!({ "type": "unsubscribe", "id": "p0" })).await;
    ws.expect("unsubscribed").await;
    ws.send(json!({ "type": "unsubscribe", "id": "p0" })).await;
    ws.expect_error("not-found").await;
    ws.send(presence("p64", "r64", &json!(null))).await;
    ws.expect("room").await;
}

#[tokio::test]
async fn a_node_that_is_no_member_has_no_rooms() {
    let node = start_joining().await;
    let mut ws = Ws::connect(&node).await;
    ws.send(presence("p", "r", &json!(1))).await;
    ws.expect_error("not-ready").await;
}

#[tokio::test]
async fn rooms_of_another_kind_are_out_of_reach_and_what_is_no_json_is_not_told() {
    let node = start_node().await;
    for room in ["yjs:c/x", "room:r"] {
        node.node.present(room.into(), "1".into(), Some("1 {no JSON".into())).await.unwrap().unwrap();
    }
    let mut ws = Ws::connect(&node).await;
    for (id, room) in [("one", "yjs:c/x"), ("two", "room:r"), ("three", "r")] {
        ws.send(presence(id, room, &json!(null))).await;
        assert_eq!(ws.expect("room").await["peers"], json!([]), "{room}");
    }
}

#[tokio::test]
async fn a_connection_that_ends_while_it_joins_leaves_nobody_behind() {
    let node = start_node().await;
    let mut guest = Guest::join(&node, json!("stays")).await;
    for number in 0..20 {
        let mut ws = Ws::connect(&node).await;
        for room in ["r", "r2"] {
            ws.send(presence(room, room, &json!(number))).await;
        }
        drop(ws);
    }
    guest.show(json!("last")).await;
    // Those who were seen are told to be gone, each after it was seen.
    guest.until(&[json!("last")]).await;
    let gone = |presence: &lamplight::replica::Presence| presence.all().count() == 1;
    let mut end = node.node.presence_end();
    while !node.node.presence(gone).await.unwrap() {
        end.changed().await.unwrap();
    }
}
