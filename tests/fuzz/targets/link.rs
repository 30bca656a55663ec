//! Links under a pool secret: its proof, what a node makes of the answer where it dials, and encrypted frames.

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use curve25519_dalek::MontgomeryPoint;
use lamplight::{
    node::{HANDSHAKE, Offer},
    wire::{self, Message},
};
use snow::{
    Builder, HandshakeState, TransportState,
    params::{CipherChoice, DHChoice, HashChoice},
    resolvers::{CryptoResolver, RingResolver},
    types::{Cipher, Dh, Hash, Random},
};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::{
    core::halves,
    node::{Asks, POOL_SECRET, WAY_BYTES, on},
    replica::hello,
    text::pieces,
};

/// A message 1 like any other: its key is the base point, of which anyone may say that it is theirs.
const SOUND: &str = "CQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAATsmwGr9YpA0n63vpzxveB";
/// How the frames begin in which a dialler and an acceptor prove the secret.
const FROM_DIALLER: [u8; 2] = [0x82, 0xc0];
const FROM_ACCEPTOR: [u8; 2] = [0x82, 0x10];
/// Lengths of the messages of a handshake, and of the longest message of Noise.
const MESSAGE_BYTES: [usize; 4] = [48, 96, 64, 16];
const MESSAGE_BYTES_MAX: usize = 65_535;
/// A close frame that says that a secret is another.
const REFUSED: [u8; 4] = [0x88, 2, 0x11, 0x31];
/// How a frame begins whose mask changes nothing, behind its kind and length.
const NO_MASK: [u8; 4] = [0; 4];
const TEXT: u8 = 0x81;
const BINARY: u8 = 0x82;

/// A header on a line, and the bytes behind the head of a link to a node that has a pool secret. Where the line is empty, they
/// are laid over a message 3 that proves another secret. Nobody can prove the secret by chance: whatever is said, no link
/// comes about, and the answer is one of two.
pub fn proof(input: &[u8]) {
    let (header, said) = halves(input);
    on(Asks::Secret, |running| {
        if let Ok(header) = str::from_utf8(header) {
            drop(running.node.admit(Offer::Noise(header), None));
        }
        running.runtime.block_on(async {
            let mut stranger = (header.is_empty()).then(|| handshake(b"a secret of others").0);
            let opening = stranger.as_mut().map_or_else(|| SOUND.to_string(), |state| encoded(&written(state, 0)));
            let admission =
                running.node.admit(Offer::Noise(&opening), None).unwrap_or_else(|why| panic!("{}", why.word()));
            let said = match &mut stranger {
                None => said.to_vec(),
                Some(state) => {
                    read(state, &admission.header().expect("there is a secret"));
                    let proof = [&FROM_DIALLER, &NO_MASK[..], &written(state, 2)].concat();
                    proof.iter().zip(said.iter().chain(std::iter::repeat(&0))).map(|(one, other)| one ^ other).collect()
                }
            };
            let (mut near, far) = duplex(WAY_BYTES);
            let spoken = async {
                // It may hang up before all is said.
                let _ = near.write_all(&said).await;
                let _ = near.shutdown().await;
                let mut answer = Vec::new();
                let _ = near.read_to_end(&mut answer).await;
                answer
            };
            let ((), answer) = tokio::join!(running.node.accept(admission, None, async { Ok(far) }), spoken);
            assert!(answer.is_empty() || answer == REFUSED, "it told {answer:?}");
            assert_eq!(running.node.read(|replica, _| replica.linked().count()).await, Ok(0));
        });
        true
    });
}

/// What a node that dials is answered. Behind `0`: all of it. Behind `1`: the answer is a sound one up to message 2, which
/// stands on a line (an empty one is the node's own message, sent back). Behind anything else message 2 is sound too. What
/// follows comes behind the head. Whatever it is, no link comes about, and nothing is told but message 1 and at most one proof.
pub fn dialler(input: &[u8]) {
    let Some((kind, answer)) = input.split_first() else { return };
    on(Asks::Secret, |running| {
        let (mut near, far) = duplex(WAY_BYTES);
        running.reach(far);
        running.runtime.block_on(async {
            running.node.join("http://peer:1".into()).await.expect("it runs");
            let head = read_head(&mut near).await;
            let answer = match kind {
                b'0' => answer.to_vec(),
                b'1' => {
                    let (message, behind) = halves(answer);
                    answered(
                        &head,
                        if message.is_empty() { header(&head, HANDSHAKE).as_bytes() } else { message },
                        behind,
                    )
                }
                _ => {
                    let mut state = handshake(b"a secret of others").1;
                    read(&mut state, header(&head, HANDSHAKE));
                    answered(&head, encoded(&written(&mut state, 1)).as_bytes(), answer)
                }
            };
            // It may hang up before all is said.
            let _ = near.write_all(&answer).await;
            let _ = near.shutdown().await;
            let mut said = Vec::new();
            let _ = near.read_to_end(&mut said).await;
            let is_proof = said.starts_with(&FROM_DIALLER) && said.len() == FROM_DIALLER.len() + 4 + MESSAGE_BYTES[2];
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

/// The value of a header.
fn header<'a>(head: &'a str, name: &str) -> &'a str {
    let mut lines = head.lines().filter_map(|line| line.split_once(": "));
    lines.find(|(other, _)| other.eq_ignore_ascii_case(name)).map(|(_, value)| value).expect("it says so")
}

/// The answer that opens a WebSocket, with this message 2 and what is behind it.
fn answered(request: &str, message: &[u8], behind: &[u8]) -> Vec<u8> {
    let accept = derive_accept_key(header(request, "sec-websocket-key").as_bytes());
    let head = format!(
        "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-accept: {accept}\r\n\
         {HANDSHAKE}: "
    );
    [head.as_bytes(), message, b"\r\n\r\n", behind].concat()
}

/// What a peer that has proved the secret sends, piece by piece: the first byte of each says how it is sealed, if it is.
/// What the peer has sealed is opened in its order, up to the first frame that is anything else; from there on nothing is.
pub fn sealed(input: &[u8]) {
    on(Asks::Secret, |running| {
        let before = running.node.meters().received_bytes.read();
        let sent = running.runtime.block_on(async {
            let pool = running.node.read(|replica, _| replica.pool().cloned()).await.expect("it runs");
            let (mut state, _) = handshake(POOL_SECRET);
            let opening = encoded(&written(&mut state, 0));
            let admission =
                running.node.admit(Offer::Noise(&opening), None).unwrap_or_else(|why| panic!("{}", why.word()));
            read(&mut state, &admission.header().expect("there is a secret"));
            let hello = wire::encode(&Message::Hello(hello(pool)));
            let (near, far) = duplex(WAY_BYTES);
            let ((), sent) = tokio::join!(
                running.node.accept(admission, None, async { Ok(far) }),
                speak(state, near, &hello, pieces(input)),
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

/// Handshakes of a dialler and of an acceptor that know this secret, as docs/pool-secret.md has them: what is encrypted here is
/// not the node's own work.
fn handshake(secret: &[u8]) -> (HandshakeState, HandshakeState) {
    let key = blake3::derive_key("lamplight 2026-11 pool secret", secret);
    let built = |is_dialler: bool| {
        let name = "Noise_XXpsk3_25519_ChaChaPoly_SHA256".parse().expect("a name of Noise");
        let builder = Builder::with_resolver(name, Box::new(Primitives));
        let builder = builder.prologue(b"lamplight link 1").and_then(|builder| builder.local_private_key(&[7; 32]));
        let builder = builder.and_then(|builder| builder.psk(3, &key)).expect("good keys");
        if is_dialler { builder.build_initiator() } else { builder.build_responder() }
    };
    (built(true).expect("good keys"), built(false).expect("good keys"))
}

/// The next message of a handshake, which is this one from zero.
fn written(state: &mut HandshakeState, place: usize) -> Vec<u8> {
    let mut message = vec![0; MESSAGE_BYTES[place]];
    assert_eq!(state.write_message(&[], &mut message), Ok(MESSAGE_BYTES[place]));
    message
}

fn read(state: &mut HandshakeState, header: &str) {
    let message = BASE64_URL_SAFE_NO_PAD.decode(header).expect("a message");
    assert_eq!(state.read_message(&message, &mut []), Ok(0));
}

fn encoded(message: &[u8]) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(message)
}

struct Primitives;

impl CryptoResolver for Primitives {
    fn resolve_rng(&self) -> Option<Box<dyn Random>> {
        RingResolver.resolve_rng()
    }

    fn resolve_dh(&self, _: &DHChoice) -> Option<Box<dyn Dh>> {
        Some(Box::<X25519>::default())
    }

    fn resolve_hash(&self, choice: &HashChoice) -> Option<Box<dyn Hash>> {
        RingResolver.resolve_hash(choice)
    }

    fn resolve_cipher(&self, choice: &CipherChoice) -> Option<Box<dyn Cipher>> {
        RingResolver.resolve_cipher(choice)
    }
}

#[derive(Default)]
struct X25519 {
    private: [u8; 32],
    public: [u8; 32],
}

impl Dh for X25519 {
    fn name(&self) -> &'static str {
        "25519"
    }

    fn pub_len(&self) -> usize {
        32
    }

    fn priv_len(&self) -> usize {
        32
    }

    fn set(&mut self, privkey: &[u8]) {
        self.private.copy_from_slice(privkey);
        self.public = MontgomeryPoint::mul_base_clamped(self.private).to_bytes();
    }

    fn generate(&mut self, rng: &mut dyn Random) -> Result<(), snow::Error> {
        rng.try_fill_bytes(&mut self.private)?;
        self.public = MontgomeryPoint::mul_base_clamped(self.private).to_bytes();
        Ok(())
    }

    fn pubkey(&self) -> &[u8] {
        &self.public
    }

    fn privkey(&self) -> &[u8] {
        &self.private
    }

    fn dh(&self, pubkey: &[u8], out: &mut [u8]) -> Result<(), snow::Error> {
        let theirs = *pubkey.first_chunk().expect("32 bytes");
        out[..32].copy_from_slice(&MontgomeryPoint(theirs).mul_clamped(self.private).to_bytes());
        Ok(())
    }
}

/// Proves the secret, says hello and these pieces, and hears what is answered; gives the bytes of the frames before the first that
/// the peer has not encrypted as the next.
async fn speak(mut state: HandshakeState, mut near: DuplexStream, hello: &[u8], pieces: Vec<&[u8]>) -> usize {
    let proof = [&FROM_DIALLER, &NO_MASK[..], &written(&mut state, 2)].concat();
    near.write_all(&proof).await.expect("it reads a proof");
    let mut answer = [0; FROM_ACCEPTOR.len() + MESSAGE_BYTES[3]];
    near.read_exact(&mut answer).await.expect("it proves the same");
    assert_eq!(answer[..2], FROM_ACCEPTOR);
    let mut peer = Peer { state: state.into_transport_mode().expect("complete"), proof: answer[2..].to_vec() };
    assert_eq!(peer.state.read_message(&answer[2..], &mut []), Ok(0));
    let (frames, sound) = peer.frames(hello, pieces);
    let (mut back, mut out) = tokio::io::split(near);
    let said = async {
        // It may hang up before all is said.
        let _ = out.write_all(&frames).await;
        let _ = out.shutdown().await;
    };
    let mut heard = Vec::new();
    let _ = tokio::join!(said, back.read_to_end(&mut heard));
    peer.hear(&heard);
    sound
}

/// A peer that has proved the secret, and the proof that it was given.
struct Peer {
    state: TransportState,
    proof: Vec<u8>,
}

impl Peer {
    /// The frames as they go over the link, and how many bytes are in those that are to be opened.
    fn frames(&mut self, hello: &[u8], pieces: Vec<&[u8]>) -> (Vec<u8>, usize) {
        // What is answered by nothing: a node that has much to say to who does not listen ends the link.
        let held = wire::encode(&Message::Held(0));
        let mut last = self.seal(hello);
        let mut bytes = framed(BINARY, &last);
        let (mut sound, mut is_sound, mut is_long) = (hello.len(), true, false);
        for piece in pieces {
            let Some((kind, rest)) = piece.split_first() else { continue };
            let byte = |place: usize| usize::from(rest.get(place).copied().unwrap_or_default());
            let (mut opcode, mut frame) = (BINARY, self.seal(&held));
            let sealed = frame.clone();
            match kind % 10 {
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
                5 => frame = self.seal(&held),
                // What the other side has encrypted, sent back.
                6 => frame.clone_from(&self.proof),
                // It is cut between two messages; once, for it is long.
                7 if !is_long => {
                    is_long = true;
                    frame = self.seal(&vec![0; MESSAGE_BYTES_MAX]);
                    frame.truncate(MESSAGE_BYTES_MAX);
                }
                // It does not say whether another message follows, or not as it should.
                7 | 8 => {
                    let mut payload = rest.to_vec();
                    if let Some(last) = payload.last_mut().filter(|last| **last == 0) {
                        *last = 2;
                    }
                    frame = self.message(&payload);
                }
                // What nobody has encrypted.
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

    fn seal(&mut self, frame: &[u8]) -> Vec<u8> {
        let mut pieces = frame.chunks(MESSAGE_BYTES_MAX - 17).peekable();
        let mut sealed = Vec::new();
        while let Some(piece) = pieces.next() {
            sealed.extend(self.message(&[piece, &[u8::from(pieces.peek().is_some())]].concat()));
        }
        sealed
    }

    fn message(&mut self, payload: &[u8]) -> Vec<u8> {
        let mut message = vec![0; payload.len() + 16];
        self.state.write_message(payload, &mut message).expect("it has room");
        message
    }

    /// All that the node has said is encrypted, in order, and a message.
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
                let mut opened = vec![0; frame.len()];
                let length = self.state.read_message(frame, &mut opened).expect("the next that was encrypted");
                opened.truncate(length);
                assert_eq!(opened.pop(), Some(0), "a frame of one message");
                wire::decode(&opened).expect("a message");
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
