//! Presence: rooms of the clients' WebSocket, over several nodes, and what is no message about them.
#![allow(clippy::unwrap_used, reason = "a test that fails should say where")]

mod support;

use std::collections::BTreeMap;

use serde_json::{Value, json};
use support::{TestNode, feeds::Ws, start_node, start_pool};

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
