//! Links under a pool secret: its proof, what a node makes of the answer where it dials, and sealed frames.

use aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use lamplight::{
    node::CHALLENGE,
    wire::{self, Message},
};
use ring::{aead, agreement, rand::SystemRandom};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::{
    core::halves,
    node::{Asks, POOL_SECRET, WAY_BYTES, on},
    replica::hello,
    text::pieces,
};

/// The base point, of which anyone may say that it is theirs.
const SOUND: &str = "CQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
/// How the frames begin in which a dialler and an acceptor prove the secret.
const FROM_DIALLER: [u8; 2] = [0x82, 0xa0];
const FROM_ACCEPTOR: [u8; 2] = [0x82, 0x20];
const PROOF_BYTES: usize = 32;
/// How a frame begins whose mask changes nothing, behind its kind and length.
const NO_MASK: [u8; 4] = [0; 4];
const TEXT: u8 = 0x81;
const BINARY: u8 = 0x82;

/// A challenge on a line, and the bytes behind the head of a link to a node that has a pool secret. Nobody can prove the
/// secret by chance: whatever is said, no link comes about, and the answer is one of two.
pub fn proof(input: &[u8]) {
    let (challenge, said) = halves(input);
    on(Asks::Secret, |running| {
        if let Ok(challenge) = str::from_utf8(challenge) {
            drop(running.node.admit(Some(challenge), None));
        }
        running.runtime.block_on(async {
            let admission = running.node.admit(Some(SOUND), None).unwrap_or_else(|why| panic!("{}", why.word()));
            let (mut near, far) = duplex(WAY_BYTES);
            let spoken = async {
                // It may hang up before all is said.
                let _ = near.write_all(said).await;
                let _ = near.shutdown().await;
                let mut answer = Vec::new();
                let _ = near.read_to_end(&mut answer).await;
                answer
            };
            let ((), answer) = tokio::join!(running.node.accept(admission, None, async { Ok(far) }), spoken);
            assert!(answer.is_empty() || answer == [0x88, 2, 0x11, 0x31], "it told {answer:?}");
            assert_eq!(running.node.read(|replica, _| replica.linked().count()).await, Ok(0));
        });
        true
    });
}

/// What a node that dials is answered. Behind `0`: all of it; behind anything else, the answer is a sound one up to the
/// challenge, which stands on a line (an empty one is the node's own, sent back), and what follows comes behind the head.
/// Whatever it is, no link comes about, and nothing is told but a challenge and at most one proof.
pub fn dialler(input: &[u8]) {
    let Some((kind, answer)) = input.split_first() else { return };
    on(Asks::Secret, |running| {
        let (mut near, far) = duplex(WAY_BYTES);
        running.reach(far);
        running.runtime.block_on(async {
            running.node.join("http://peer:1".into()).await.expect("it runs");
            let head = read_head(&mut near).await;
            let answer = if *kind == b'0' { answer.to_vec() } else { answered(&head, answer) };
            // It may hang up before all is said.
            let _ = near.write_all(&answer).await;
            let _ = near.shutdown().await;
            let mut said = Vec::new();
            let _ = near.read_to_end(&mut said).await;
            let is_proof = said.starts_with(&FROM_DIALLER) && said.len() == FROM_DIALLER.len() + 4 + PROOF_BYTES;
            assert!(said.is_empty() || is_proof, "it told {said:?}");
        });
        running.settle();
        let linked = running.runtime.block_on(running.node.read(|replica, _| replica.linked().count()));
        assert_eq!((linked, running.node.meters().links_dialled.read()), (Ok(0), 0));
        true
    });
}

/// A head of HTTP, byte by byte, so that nothing behind it is taken.
async fn read_head(near: &mut DuplexStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(near.read_u8().await.expect("a node that dials asks for a link"));
    }
    String::from_utf8(head).expect("it is plain")
}

/// The answer that opens a WebSocket, with this challenge and what is behind it.
fn answered(request: &str, rest: &[u8]) -> Vec<u8> {
    let header = |name: &str| {
        let mut lines = request.lines().filter_map(|line| line.split_once(": "));
        lines.find(|(other, _)| other.eq_ignore_ascii_case(name)).map(|(_, value)| value).expect("it says so")
    };
    let (challenge, behind) = halves(rest);
    let challenge = if challenge.is_empty() { header(CHALLENGE).as_bytes() } else { challenge };
    let accept = derive_accept_key(header("sec-websocket-key").as_bytes());
    let head = format!(
        "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-accept: {accept}\r\n\
         {CHALLENGE}: "
    );
    [head.as_bytes(), challenge, b"\r\n\r\n", behind].concat()
}

/// What a peer that has proved the secret sends, piece by piece: the first byte of each says how it is sealed, if it is.
/// What the peer has sealed is opened in its order, up to the first frame that is anything else; from there on nothing is.
pub fn sealed(input: &[u8]) {
    on(Asks::Secret, |running| {
        let before = running.node.meters().received_bytes.read();
        let sent = running.runtime.block_on(async {
            let pool = running.node.read(|replica, _| replica.pool().cloned()).await.expect("it runs");
            let challenge = Challenge::new();
            let admission =
                running.node.admit(Some(&challenge.shown()), None).unwrap_or_else(|why| panic!("{}", why.word()));
            let (mut peer, hello) = (
                challenge.answered(admission.challenge().expect("there is a secret")),
                wire::encode(&Message::Hello(hello(pool))),
            );
            let (near, far) = duplex(WAY_BYTES);
            let ((), sent) = tokio::join!(
                running.node.accept(admission, None, async { Ok(far) }),
                peer.speak(near, &hello, pieces(input)),
            );
            sent
        });
        assert_eq!(
            running.node.meters().received_bytes.read() - before,
            sent as u64,
            "bytes of frames that were opened"
        );
        running.settle();
        assert_eq!(running.runtime.block_on(running.node.read(|replica, _| replica.linked().count())), Ok(0));
        true
    });
}

/// The dialler's half of docs/pool-secret.md, once more: what is sealed here is not the node's own work.
struct Challenge {
    private: agreement::EphemeralPrivateKey,
    public: Vec<u8>,
}

impl Challenge {
    fn new() -> Challenge {
        let private = agreement::EphemeralPrivateKey::generate(&agreement::X25519, &SystemRandom::new());
        let private = private.expect("chance");
        let public = private.compute_public_key().expect("it has one").as_ref().to_vec();
        Challenge { private, public }
    }

    fn shown(&self) -> String {
        BASE64_URL_SAFE_NO_PAD.encode(&self.public)
    }

    fn answered(self, acceptor: &str) -> Peer {
        let acceptor = BASE64_URL_SAFE_NO_PAD.decode(acceptor).expect("a challenge");
        let theirs = agreement::UnparsedPublicKey::new(&agreement::X25519, &acceptor);
        let agreed = agreement::agree_ephemeral(self.private, &theirs, <[u8]>::to_vec).expect("a good key");
        let key = blake3::derive_key("lamplight 2026-11 pool secret", POOL_SECRET);
        let made = |purpose: u8| {
            let parts = [&[purpose], &*self.public, &acceptor, &agreed].concat();
            *blake3::keyed_hash(&key, &parts).as_bytes()
        };
        Peer { proofs: [made(1), made(2)], own: Seal::new(&made(3)), other: Seal::new(&made(4)) }
    }
}

/// A peer that knows the secret.
struct Peer {
    /// Its own, and the one that it is given.
    proofs: [[u8; PROOF_BYTES]; 2],
    /// For what it sends, and for what it is sent.
    own: Seal,
    other: Seal,
}

impl Peer {
    /// Proves the secret, says hello and these pieces, and hears what is answered; gives the bytes of the frames before the
    /// first that it has not sealed as the next.
    async fn speak(&mut self, mut near: DuplexStream, hello: &[u8], pieces: Vec<&[u8]>) -> usize {
        near.write_all(&[&FROM_DIALLER, &NO_MASK[..], &self.proofs[0]].concat()).await.expect("it reads a proof");
        let mut answer = [0; FROM_ACCEPTOR.len() + PROOF_BYTES];
        near.read_exact(&mut answer).await.expect("it proves the same");
        assert_eq!(answer[..], [&FROM_ACCEPTOR[..], &self.proofs[1]].concat());
        let (frames, sound) = self.frames(hello, pieces);
        let (mut back, mut out) = tokio::io::split(near);
        let said = async {
            // It may hang up before all is said.
            let _ = out.write_all(&frames).await;
            let _ = out.shutdown().await;
        };
        let mut heard = Vec::new();
        let _ = tokio::join!(said, back.read_to_end(&mut heard));
        self.hear(&heard);
        sound
    }

    /// The frames as they go over the link, and how many bytes are in those that are to be opened.
    fn frames(&mut self, hello: &[u8], pieces: Vec<&[u8]>) -> (Vec<u8>, usize) {
        // What is answered by nothing: a node that has much to say to who does not listen ends the link.
        let held = wire::encode(&Message::Held(0));
        let mut last = self.own.seal(hello);
        let mut bytes = framed(BINARY, &last);
        let (mut sound, mut is_sound) = (hello.len(), true);
        for piece in pieces {
            let Some((kind, rest)) = piece.split_first() else { continue };
            let byte = |place: usize| usize::from(rest.get(place).copied().unwrap_or_default());
            let (mut opcode, mut frame) = (BINARY, self.own.seal(&held));
            let sealed = frame.clone();
            match kind % 8 {
                0 => {}
                // A byte of it is another.
                1 => {
                    let place = byte(0) % frame.len();
                    frame[place] ^= byte(1) as u8;
                }
                // It is cut short, or goes on.
                2 => frame.truncate(byte(0)),
                3 => frame.extend(rest),
                // It comes again, or the one before it does; one is left out.
                4 => frame.clone_from(&last),
                5 => frame = self.own.seal(&held),
                // What the other side would have sealed, sent back.
                6 => frame = Seal::new(&self.other.bytes).seal(&held),
                // What nobody has sealed.
                _ => {
                    opcode = if byte(0).is_multiple_of(2) { BINARY } else { TEXT };
                    frame = rest.to_vec();
                }
            }
            is_sound &= frame == sealed && opcode == BINARY;
            sound += if is_sound { held.len() } else { 0 };
            bytes.extend(framed(opcode, &frame));
            last = frame;
        }
        (bytes, sound)
    }

    /// All that the node has said is sealed, in order, and a message.
    fn hear(&mut self, mut bytes: &[u8]) {
        while let [kind, length, rest @ ..] = bytes {
            let (length, rest) = match (length, rest) {
                (126, [high, low, rest @ ..]) => (usize::from(u16::from_be_bytes([*high, *low])), rest),
                _ => (usize::from(*length), rest),
            };
            // What it was saying when the link broke may be cut short.
            let Some((frame, behind)) = rest.split_at_checked(length) else { return };
            bytes = behind;
            if *kind == BINARY {
                wire::decode(&self.other.open(frame)).expect("a message");
            }
        }
    }
}

/// A WebSocket frame of a client.
fn framed(kind: u8, payload: &[u8]) -> Vec<u8> {
    let length = match u8::try_from(payload.len()) {
        Ok(length @ ..126) => vec![0x80 | length],
        _ => [&[0xfe], &(payload.len() as u16).to_be_bytes()[..]].concat(),
    };
    [&[kind], &*length, &NO_MASK, payload].concat()
}

/// Seals the frames of one direction, or opens them, each with its number.
struct Seal {
    bytes: [u8; 32],
    key: LessSafeKey,
    count: u64,
}

impl Seal {
    fn new(bytes: &[u8; 32]) -> Seal {
        let key = UnboundKey::new(&CHACHA20_POLY1305, bytes).expect("32 bytes are the length of its key");
        Seal { bytes: *bytes, key: LessSafeKey::new(key), count: 0 }
    }

    fn seal(&mut self, frame: &[u8]) -> Vec<u8> {
        let (nonce, mut sealed) = (self.next(), frame.to_vec());
        self.key.seal_in_place_append_tag(nonce, Aad::empty(), &mut sealed).expect("it is short");
        sealed
    }

    fn open(&mut self, sealed: &[u8]) -> Vec<u8> {
        let (nonce, mut opened) = (self.next(), sealed.to_vec());
        self.key.open_in_place(nonce, Aad::empty(), &mut opened).expect("the next that was sealed").to_vec()
    }

    fn next(&mut self) -> Nonce {
        let mut nonce = [0; NONCE_LEN];
        nonce[4..].copy_from_slice(&self.count.to_be_bytes());
        self.count += 1;
        Nonce::assume_unique_for_key(nonce)
    }
}
