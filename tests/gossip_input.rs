//! What peers may send to `/v1/gossip` that no node of this version sends: each is refused with its reason, and the
//! node, its documents and its other links go on as if it had never been.
#![allow(clippy::unwrap_used, reason = "a test that fails should say where")]

mod support;

use std::{
    borrow::Cow,
    time::{SystemTime, UNIX_EPOCH},
};

use futures_util::{SinkExt, StreamExt};
use hyper::Method;
use lamplight::{
    op::{Body, Command, DocKey, Hash, Head, Newcomer, NodeId, Op, OpId, PoolId, TIME_MAX},
    replica::{Now, Presence, Replica},
    wire::{
        self, Announcement, Attendance, Beat, CLIENT_BYTES_MAX, Dispute, Hello, Message, PRESENT_MAX, Present, Pulse,
        ROOM_BYTES_MAX, Refusal, STATE_BYTES_MAX, Stand, Why,
    },
};
use serde_json::Value;
use support::{TestNode, start_pool, until};
use tokio::net::TcpStream;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async, tungstenite};
use uuid::Uuid;

/// The steps in which a peer drives the clock.
const STEP: u64 = 1 << 44;
/// A time that no pool can have reached before the year 2054.
const FAR_AHEAD: u64 = 1 << 50;

/// Someone who speaks to a node as a peer would.
struct Peer {
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    node: NodeId,
    pool: (PoolId, String),
}

impl Peer {
    /// One that has only connected.
    async fn silent(node: &TestNode) -> Peer {
        let (socket, _) = connect_async(format!("{}/v1/gossip", node.url.replace("http", "ws"))).await.unwrap();
        let pool = node.node.read(|replica, _| replica.pool().cloned().unwrap()).await.unwrap();
        Peer { socket, node: NodeId(Uuid::new_v4()), pool }
    }

    /// One that the node has greeted.
    async fn greeted(node: &TestNode) -> Peer {
        let mut peer = Peer::silent(node).await;
        let hello = peer.hello();
        peer.send(&Message::Hello(hello)).await;
        while !matches!(peer.next().await, Some(Message::Heads(_))) {}
        peer
    }

    fn hello(&self) -> Hello {
        Hello::newcomer(self.node, "peer", Some(self.pool.clone()))
    }

    async fn send(&mut self, message: &Message) {
        self.send_bytes(wire::encode(message)).await;
    }

    async fn send_bytes(&mut self, bytes: Vec<u8>) {
        self.socket.send(tungstenite::Message::binary(bytes)).await.unwrap();
    }

    /// An op of this peer.
    fn op(&self, seq: u64, time: u64, commands: Vec<Command<'_>>) -> Op {
        op(self.node, seq, time, commands)
    }

    async fn send_ops(&mut self, ops: &[Op]) {
        self.send(&Message::Ops(ops.to_vec(), Vec::new(), Vec::new())).await;
    }

    /// The next message; none at the end.
    async fn next(&mut self) -> Option<Message> {
        loop {
            match self.socket.next().await? {
                Ok(tungstenite::Message::Binary(bytes)) => return Some(wire::decode(&bytes).unwrap()),
                Ok(_) => {}
                Err(_) => return None,
            }
        }
    }

    /// Waits until it is told of two histories.
    async fn disputed(&mut self) -> Dispute {
        loop {
            if let Message::Dispute(dispute) = self.next().await.expect("it is told of the dispute") {
                return dispute;
            }
        }
    }

    /// Waits for the refusal, and for the end behind it.
    async fn refused(mut self) -> Refusal {
        loop {
            if let Message::Refusal(refusal) = self.next().await.expect("it is told why") {
                assert_eq!(self.next().await, None);
                return refusal;
            }
        }
    }

    async fn expect_refused(self, why: Why, words: &str) {
        let refusal = self.refused().await;
        assert_eq!(refusal.why, why, "{}", refusal.detail);
        assert!(refusal.detail.contains(words), "{}", refusal.detail);
    }
}

fn op(origin: NodeId, seq: u64, time: u64, commands: Vec<Command<'_>>) -> Op {
    let body = Body { wall_ms: 0, seen: Vec::new(), key: None, guards: Vec::new(), commands };
    Op::encode(OpId { origin, seq }, time, &body).unwrap()
}

fn put<'a>(id: &'a str, value: &'a str) -> Vec<Command<'a>> {
    vec![Command::Put(DocKey::new("c", id), value.into())]
}

/// Two linked nodes with a document, and what they must be like afterwards.
struct Scene {
    a: TestNode,
    b: TestNode,
    docs: Value,
}

impl Scene {
    async fn set() -> Scene {
        let [a, b] = start_pool().await;
        a.put("/v1/docs/c/x", "1").await.expect(201);
        let docs = a.get("/v1/changes").await.expect(200).json()["changes"].clone();
        Scene { a, b, docs }
    }

    /// The same, with a document that is final: what takes long does not change that.
    async fn settled() -> Scene {
        let mut scene = Scene::set().await;
        scene.a.put("/v1/docs/c/x?wait=final&timeout=60s", "1").await.expect(200);
        scene.docs = scene.a.get("/v1/changes").await.expect(200).json()["changes"].clone();
        scene
    }

    /// The node is well: its documents and clock are what they were, it takes writes, and passes them on.
    async fn is_unharmed(&self) {
        assert_eq!(self.a.get("/v1/changes").await.expect(200).json()["changes"], self.docs);
        assert!(self.a.node.read(|replica, _| replica.clock()).await.unwrap() < 1000);
        let written = self.a.put("/v1/docs/c/after", "2").await.expect(201);
        let read = self.b.call(Method::GET, "/v1/docs/c/after").header("lamplight-session", written.session());
        assert_eq!(read.send().await.expect(200).text(), "2");
    }
}

#[tokio::test]
async fn frames_that_are_no_messages_are_refused() {
    let scene = Scene::set().await;
    let mut peer = Peer::greeted(&scene.a).await;
    peer.socket.send(tungstenite::Message::text("hello")).await.unwrap();
    peer.expect_refused(Why::Broken, "cut short").await;

    let frames = [vec![], vec![wire::VERSION], vec![wire::VERSION, 200], vec![0], vec![255], vec![wire::VERSION; 4096]];
    for frame in frames {
        let mut peer = Peer::greeted(&scene.a).await;
        peer.send_bytes(frame).await;
        peer.expect_refused(Why::Broken, "cut short").await;
    }
    scene.is_unharmed().await;
}

#[tokio::test]
async fn a_frame_that_is_cut_short_anywhere_or_goes_on_is_refused() {
    let scene = Scene::settled().await;
    let peer = Peer::silent(&scene.a).await;
    let ops = vec![peer.op(1, 50, put("new", "1"))];
    let head = Head::default().extended(&ops[0]);
    let frame = wire::encode(&Message::Ops(ops, vec![(peer.node, head)], Vec::new()));
    let hello = wire::encode(&Message::Hello(peer.hello()));
    let cuts = |frame: &[u8]| (1..frame.len()).map(|end| frame[..end].to_vec()).collect::<Vec<_>>();
    let longer = [&frame[..], &[0]].concat();
    for bytes in cuts(&frame).into_iter().chain(cuts(&hello)).chain([longer]) {
        let mut peer = Peer::silent(&scene.a).await;
        peer.send_bytes(bytes).await;
        assert_eq!(peer.refused().await.why, Why::Broken);
    }
    scene.is_unharmed().await;
}

#[tokio::test]
async fn another_protocol_version_is_named_and_refused() {
    let scene = Scene::set().await;
    let mut peer = Peer::silent(&scene.a).await;
    peer.send_bytes(vec![0, 17, 19, 1, 2, 3]).await;
    peer.expect_refused(Why::OtherVersion, "17 to 19").await;
    let mut peer = Peer::greeted(&scene.a).await;
    peer.send_bytes(vec![77, 1, 2, 3]).await;
    peer.expect_refused(Why::OtherVersion, "77").await;
    scene.is_unharmed().await;
}

#[tokio::test]
async fn a_frame_before_the_hello_is_refused() {
    let scene = Scene::set().await;
    let mut peer = Peer::silent(&scene.a).await;
    let op = peer.op(1, 50, put("new", "1"));
    peer.send_ops(&[op]).await;
    peer.expect_refused(Why::Broken, "before the hello").await;
    scene.is_unharmed().await;
}

#[tokio::test]
async fn a_node_of_another_pool_is_told_so() {
    let scene = Scene::set().await;
    let mut peer = Peer::silent(&scene.a).await;
    let hello = Hello { pool: Some((PoolId(Uuid::new_v4()), "other".into())), ..peer.hello() };
    peer.send(&Message::Hello(hello)).await;
    peer.expect_refused(Why::OtherPool, "\"other\"").await;
    scene.is_unharmed().await;
}

#[tokio::test]
async fn another_history_under_the_same_id_is_a_fork() {
    let mut scene = Scene::set().await;
    scene.b.put("/v1/docs/c/x", "1").await.expect(200);
    let origin = scene.b.node.id();
    let holds = move |replica: &Replica| replica.log().head(origin).seq == 1;
    until(&scene.a.node, holds).await;
    scene.docs = scene.a.get("/v1/changes").await.expect(200).json()["changes"].clone();
    let forged = Head { seq: 1, hash: Hash([7; 16]) };
    let mut peer = Peer::greeted(&scene.a).await;
    peer.send(&Message::Heads(vec![(origin, forged)])).await;
    // It is told where the two differ, and stays with its own where the peer does not insist.
    let dispute = peer.disputed().await;
    assert_eq!((dispute.origin, dispute.at), (origin, 1));
    peer.send(&Message::Dispute(Dispute { points: Vec::new(), stand: Stand::Open, ..dispute })).await;
    peer.expect_refused(Why::Fork, &origin.to_string()).await;

    // The op is sound, but it is not the one whose hash stands beside it.
    let mut peer = Peer::greeted(&scene.a).await;
    let op = peer.op(1, 50, put("new", "1"));
    let stated = vec![(peer.node, forged)];
    peer.send(&Message::Ops(vec![op], stated, Vec::new())).await;
    peer.expect_refused(Why::Fork, "differs").await;
    scene.is_unharmed().await;
}

#[tokio::test]
async fn a_node_that_hears_of_another_past_of_its_own_comes_back_under_a_new_id_with_all_the_data() {
    let scene = Scene::set().await;
    // What b does not hold, a issues again.
    scene.b.node.cut(true).await.unwrap();
    scene.a.put("/v1/docs/c/unshared", "2").await.expect(201);
    let origin = scene.a.node.id();
    let mut peer = Peer::greeted(&scene.a).await;
    // With this it is made a member; once it says that it is one, its word counts.
    peer.send(&Message::Heads(Vec::new())).await;
    let hello = Hello { member: true, ..peer.hello() };
    peer.send(&Message::Hello(hello)).await;
    peer.send(&Message::Heads(vec![(origin, Head { seq: 1_000, hash: Hash([7; 16]) })])).await;
    peer.expect_refused(Why::Fork, &origin.to_string()).await;
    scene.b.node.cut(false).await.unwrap();
    let back = move |replica: &Replica| {
        let there = |id: &str| replica.state().get("c", id).is_some();
        replica.node() != origin && there("x") && there("unshared")
    };
    until(&scene.a.node, back).await;
    until(&scene.b.node, |replica| replica.state().get("c", "unshared").is_some()).await;
    assert_ne!(scene.a.node.id(), origin);
}

#[tokio::test]
async fn an_op_behind_a_gap_waits_until_the_gap_is_filled() {
    let scene = Scene::set().await;
    let mut peer = Peer::greeted(&scene.a).await;
    let ops = [peer.op(1, 50, put("new", "1")), peer.op(2, 51, put("new", "2"))];
    peer.send_ops(&ops[1..]).await;
    while scene.a.node.read(|replica, _| replica.early()).await.unwrap() == 0 {}
    scene.a.get("/v1/docs/c/new").await.expect(404);
    peer.send_ops(&ops[..1]).await;
    until(&scene.a.node, |replica: &Replica| replica.state().get("c", "new").is_some()).await;
    assert_eq!(scene.a.get("/v1/docs/c/new").await.text(), "2");
}

#[tokio::test]
async fn a_time_far_ahead_does_not_move_the_clock() {
    let scene = Scene::set().await;
    for time in [FAR_AHEAD, TIME_MAX] {
        let mut peer = Peer::greeted(&scene.a).await;
        let op = peer.op(1, time, put("new", "1"));
        peer.send_ops(&[op]).await;
        peer.expect_refused(Why::Broken, "compare the wall clocks").await;
    }
    for clock in [FAR_AHEAD, TIME_MAX, TIME_MAX + 1, u64::MAX] {
        let mut peer = Peer::silent(&scene.a).await;
        let hello = Hello { clock, ..peer.hello() };
        peer.send(&Message::Hello(hello)).await;
        peer.expect_refused(Why::Broken, "compare the wall clocks").await;

        let mut peer = Peer::greeted(&scene.a).await;
        peer.send(&Message::Beat(Beat {
            clock,
            digest: Hash::default(),
            state: 0,
            frontier: u64::MAX,
            presence: 0,
            pulses: Vec::new(),
        }))
        .await;
        peer.expect_refused(Why::Broken, "compare the wall clocks").await;
    }
    scene.is_unharmed().await;
}

#[tokio::test]
async fn a_peer_that_drives_the_clock_as_far_as_it_can_leaves_room_for_every_write_to_come() {
    let scene = Scene::set().await;
    let wall_ms = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64;
    let bound = |wall_ms| Now { mono_ms: 0, wall_ms }.time_bound();
    let mut peer = Peer::greeted(&scene.a).await;
    let (digest, mut clock) = (Hash::default(), STEP);
    // Many small steps lead no further than one large step.
    while clock < bound(wall_ms) + STEP {
        let beat = Beat { clock, digest, state: 0, frontier: 0, presence: 0, pulses: Vec::new() };
        peer.send(&Message::Beat(beat)).await;
        clock += STEP;
    }
    peer.expect_refused(Why::Broken, "compare the wall clocks").await;
    let reached = scene.a.node.read(|replica, _| replica.clock()).await.unwrap();
    assert!(bound(wall_ms) - STEP <= reached && reached <= bound(wall_ms + 60_000), "{reached}");
    assert!(bound(wall_ms + 31_557_600_000) > bound(wall_ms) + (1 << 44), "times for another year");
    let written = scene.a.put("/v1/docs/c/after", "2").await.expect(201);
    let read = scene.b.call(Method::GET, "/v1/docs/c/after").header("lamplight-session", written.session());
    assert_eq!(read.send().await.expect(200).text(), "2");
}

#[tokio::test]
async fn signs_of_life_of_others_cannot_poison_the_clock() {
    let scene = Scene::set().await;
    let mut peer = Peer::greeted(&scene.a).await;
    let greatest =
        Announcement { seq: u64::MAX, clock: u64::MAX, complete: u64::MAX, holding: Hash::default(), wanted: u64::MAX };
    let pulses = vec![(scene.b.node.id(), Pulse { count: (u64::MAX, u64::MAX), said: greatest })];
    peer.send(&Message::Beat(Beat {
        clock: 1,
        digest: Hash::default(),
        state: 0,
        frontier: u64::MAX,
        presence: 0,
        pulses,
    }))
    .await;
    // It is heard in the order of sending, so what is wrong behind it tells that it was taken.
    peer.send_bytes(vec![77]).await;
    peer.expect_refused(Why::OtherVersion, "77").await;
    scene.is_unharmed().await;
}

fn present(node: NodeId, room: usize, client: usize, state: usize) -> Present {
    Present {
        node,
        room: "r".repeat(room).into(),
        client: "c".repeat(client).into(),
        version: (0, 1),
        state: Some("s".repeat(state).into()),
    }
}

/// What clients show at the node; waits for this many.
async fn seen(node: &TestNode, count: usize) -> Vec<(NodeId, String)> {
    let mut end = node.node.presence_end();
    loop {
        let all = |presence: &Presence| presence.all().map(|seen| (seen.node, seen.room.to_string())).collect();
        let seen: Vec<(NodeId, String)> = node.node.presence(all).await.unwrap();
        if seen.len() == count {
            return seen;
        }
        end.changed().await.unwrap();
    }
}

#[tokio::test]
async fn presence_over_its_bounds_is_no_message() {
    let scene = Scene::settled().await;
    let node = scene.b.node.id();
    let wrong = [
        vec![present(node, 0, 1, 1)],
        vec![present(node, ROOM_BYTES_MAX + 1, 1, 1)],
        vec![present(node, 1, 0, 1)],
        vec![present(node, 1, CLIENT_BYTES_MAX + 1, 1)],
        vec![present(node, 1, 1, STATE_BYTES_MAX + 1)],
        vec![present(node, 1, 1, 1); PRESENT_MAX + 1],
    ];
    for presents in wrong {
        let mut peer = Peer::greeted(&scene.a).await;
        peer.send(&Message::Presence(presents)).await;
        peer.expect_refused(Why::Broken, "no message").await;
    }
    let whole = wire::encode(&Message::Presence(vec![present(node, 3, 3, 3)]));
    for end in 1..whole.len() {
        let mut peer = Peer::greeted(&scene.a).await;
        peer.send_bytes(whole[..end].to_vec()).await;
        peer.expect_refused(Why::Broken, "cut short").await;
    }
    // It is not valid UTF-8.
    let mut bytes = whole.clone();
    *bytes.last_mut().unwrap() = 0xff;
    let mut peer = Peer::greeted(&scene.a).await;
    peer.send_bytes(bytes).await;
    peer.expect_refused(Why::Broken, "no message").await;
    assert_eq!(seen(&scene.a, 0).await, []);
    scene.is_unharmed().await;
}

#[tokio::test]
async fn presence_is_taken_from_members_only_and_of_members_that_are_heard_only() {
    let scene = Scene::settled().await;
    let (a, b) = (scene.a.node.id(), scene.b.node.id());
    let of = |node: NodeId| Message::Presence(vec![present(node, 1, 1, 1)]);
    // One that the node has greeted, but that is no member.
    let mut stranger = Peer::greeted(&scene.a).await;
    stranger.send(&of(b)).await;
    stranger.send(&of(stranger.node)).await;
    stranger.send(&Message::Attendance(vec![(b, Attendance { version: (u64::MAX, 1), digest: 7 })])).await;
    stranger.send_bytes(vec![77]).await;
    stranger.expect_refused(Why::OtherVersion, "77").await;
    assert_eq!(seen(&scene.a, 0).await, []);

    let mut peer = Peer::greeted(&scene.a).await;
    // With this it is made a member, and with its pulse it is heard by those to whom it has no link.
    peer.send(&Message::Heads(Vec::new())).await;
    let pulses = vec![(peer.node, Pulse { count: (0, 1), said: Announcement::default() })];
    let digest = Hash::default();
    peer.send(&Message::Beat(Beat { clock: 1, digest, state: 0, frontier: 0, presence: 0, pulses })).await;
    let unknown = NodeId(Uuid::new_v4());
    // Nobody is a client of a node that is none, nor does anyone but the node itself say who its clients are; not even if it
    // claims that the node has another life far ahead.
    let far = Present { version: (u64::MAX, u64::MAX), ..present(a, 5, 5, 5) };
    peer.send(&Message::Presence(vec![present(unknown, 1, 1, 1), present(a, 2, 2, 2), far])).await;
    peer.send(&of(peer.node)).await;
    assert_eq!(seen(&scene.a, 1).await, [(peer.node, "r".to_string())]);
    assert_eq!(seen(&scene.b, 1).await, [(peer.node, "r".to_string())]);
    let node = peer.node;
    drop(peer);
    // Its clients go with it, as soon as it counts as gone.
    assert_eq!(seen(&scene.a, 0).await, []);
    assert_eq!(seen(&scene.b, 0).await, []);
    // It would hold back what is final, and the unharmed are not asked about that.
    assert!(scene.a.node.read(move |replica, _| replica.roster().knows(node)).await.unwrap());
    scene.is_unharmed().await;
}

#[tokio::test]
async fn an_op_whose_content_no_node_can_carry_out_is_refused() {
    let scene = Scene::settled().await;
    let doc = || DocKey::new("c", "x");
    let newcomer = || Newcomer { node: NodeId(Uuid::new_v4()), name: "n".into(), urls: Vec::new() };
    let bad_url = Newcomer { urls: vec!["javascript:alert(1)".into()], ..newcomer() };
    let long_name = Newcomer { name: "n".repeat(200).into(), ..newcomer() };
    let too_large: Cow<'_, str> = format!("\"{}\"", "x".repeat(1 << 20)).into();
    let cases: Vec<(Vec<Command<'_>>, &str)> = vec![
        (vec![Command::Put(doc(), r#"{"b":1,"a":2}"#.into())], "canonical"),
        (vec![Command::Put(doc(), "1.0".into())], "canonical"),
        (vec![Command::Put(doc(), r#"{"a":1,"a":2}"#.into())], "canonical"),
        (vec![Command::Put(doc(), "".into())], "canonical"),
        (vec![Command::Merge(doc(), "{".into())], "canonical"),
        (vec![Command::Put(doc(), too_large)], "bytes"),
        (vec![Command::Patch(doc(), r#"[{"op":"frob","path":""}]"#.into())], "frob"),
        (vec![Command::Patch(doc(), r#"{"op":"remove"}"#.into())], "JSON Patch"),
        (vec![Command::Put(DocKey::new("", "k"), "1".into())], "collection"),
        (vec![Command::Put(DocKey::new("-c", "x"), "1".into())], "collection"),
        (vec![Command::Delete(DocKey::new("c", ".."))], "id"),
        (vec![Command::Delete(DocKey::new("c", "a\nb"))], "id"),
        (vec![Command::Add(newcomer(), 0), Command::Delete(doc())], "alone"),
        (vec![Command::Add(bad_url, 0)], "URLs"),
        (vec![Command::Add(long_name, 0)], "name"),
    ];
    for (commands, words) in cases {
        let mut peer = Peer::greeted(&scene.a).await;
        let op = peer.op(1, 50, commands);
        peer.send_ops(&[op]).await;
        peer.expect_refused(Why::Broken, words).await;
    }
    scene.is_unharmed().await;
}

#[tokio::test]
async fn an_op_in_the_name_of_the_node_itself_or_before_what_it_follows_is_refused() {
    let scene = Scene::set().await;
    let mut peer = Peer::greeted(&scene.a).await;
    peer.send_ops(&[op(scene.a.node.id(), 1000, 50, put("new", "1"))]).await;
    peer.expect_refused(Why::Broken, "never issued").await;
    let mut peer = Peer::greeted(&scene.a).await;
    let (first, second) = (peer.op(1, 50, put("x", "1")), peer.op(2, 50, put("x", "2")));
    peer.send_ops(&[first, second]).await;
    peer.expect_refused(Why::Broken, "not past").await;
    assert_eq!(scene.a.get("/v1/docs/c/x").await.text(), "1");
}

/// Its origin has promised not to: it has forgotten that.
#[tokio::test]
async fn an_op_that_comes_before_what_is_final_is_taken_from_nobody() {
    let scene = Scene::settled().await;
    let frontier = scene.a.node.read(|replica, _| replica.frontier()).await.unwrap();
    let mut peer = Peer::greeted(&scene.a).await;
    let op = peer.op(1, frontier, put("x", "2"));
    peer.send_ops(std::slice::from_ref(&op)).await;
    peer.expect_refused(Why::OldCopy, "before what is final").await;
    // Passed on by another it has no effect either, and says nothing about that one.
    let mut other = Peer::greeted(&scene.a).await;
    other.send_ops(std::slice::from_ref(&op)).await;
    other.send_bytes(vec![77]).await;
    other.expect_refused(Why::OtherVersion, "77").await;
    assert!(scene.a.node.read(move |replica, _| replica.log().get(op.id()).is_none()).await.unwrap());
    scene.is_unharmed().await;
}

/// They go into the log, and are kept as what is wrong with a place.
#[test]
fn of_the_words_of_a_refusal_only_the_first_are_taken_in() {
    let of = |detail: String| Message::Refusal(Refusal { why: Why::Busy, detail, try_instead: Vec::new() });
    let short = of("it has all the links it takes".into());
    assert_eq!(wire::decode(&wire::encode(&short)), Ok(short));
    let long = wire::encode(&of("ü".repeat(1 << 20)));
    assert_eq!(wire::decode(&long), Ok(of("ü".repeat(wire::DETAIL_CHARS_MAX))));
}

#[tokio::test]
async fn a_frame_over_the_bound_ends_its_link_only() {
    let scene = Scene::settled().await;
    let mut peer = Peer::greeted(&scene.a).await;
    // The node may close before it has read all of it, so sending may fail.
    let _ = peer.socket.send(tungstenite::Message::binary(vec![wire::VERSION; 8 << 20])).await;
    while peer.next().await.is_some() {}
    let mut peer = Peer::greeted(&scene.a).await;
    let head = |n: u128| (NodeId(Uuid::from_u128(n)), Head { seq: 1, hash: Hash::default() });
    peer.send(&Message::Heads((0..100_001).map(head).collect())).await;
    peer.expect_refused(Why::Broken, "too many heads").await;
    scene.is_unharmed().await;
}
