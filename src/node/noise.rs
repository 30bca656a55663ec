//! The Noise protocol of links: its name and primitives, the static key of a node, and the encryption of frames.
//!
//! `Noise_XXpsk3_25519_ChaChaPoly_SHA256` of the Noise Protocol Framework (revision 34), by the crate `snow`. Cipher, hash
//! and random numbers are those of `ring`. X25519 is that of `curve25519-dalek`, because `ring` has only ephemeral keys.
//!
//! | message | tokens | authenticated |
//! |---|---|---|
//! | 1, dialler | `e` | the prologue |
//! | 2, acceptor | `e, ee, s, es` | both ephemeral keys, and the acceptor's static key |
//! | 3, dialler | `s, se, psk` | all of that, the dialler's static key, and the secret |
//! | 4, acceptor | empty transport message | the secret |
//!
//! `psk3` and not `psk0`: a tag of message 1 under the secret would let anybody who listens try out secrets,
//! offline. With `psk3` the dialler proves the secret first, to the holder of the ephemeral key of message 2 alone, and the
//! acceptor only to a dialler that has proved it. `XX`: neither side knows the other's static key before.
//!
//! The prologue names the version of this handshake and not the wire version. Nodes of different wire versions agree on one
//! in their hellos, or refuse each other there with the reason; the hellos are inside the session, so nobody can change
//! that. The payloads of messages 1 to 3 are empty for the same reason: pool, node ids and addresses are in the hello.
//!
//! Erased on drop: the pool secret's key in [`Key`], the private half of [`LinkKey`]. `snow` does not erase its copies.

use bytes::Bytes;
use curve25519_dalek::MontgomeryPoint;
use ring::rand::{SecureRandom, SystemRandom};
use snow::{
    Builder, Error, HandshakeState, TransportState,
    params::{CipherChoice, DHChoice, HashChoice},
    resolvers::{BoxedCryptoResolver, CryptoResolver, RingResolver},
    types::{Cipher, Dh, Hash, Random},
};
use zeroize::Zeroizing;

use super::secret::Key;
use crate::{op::PublicKey, replica::LinkKeys};

/// Length of an X25519 key.
pub const KEY_BYTES: usize = 32;
/// Lengths of the messages of a handshake.
pub const MESSAGE_1_BYTES: usize = KEY_BYTES + TAG_BYTES;
pub const MESSAGE_2_BYTES: usize = 2 * (KEY_BYTES + TAG_BYTES);
pub const MESSAGE_3_BYTES: usize = KEY_BYTES + 2 * TAG_BYTES;
pub const MESSAGE_4_BYTES: usize = TAG_BYTES;

const PROTOCOL: &str = "Noise_XXpsk3_25519_ChaChaPoly_SHA256";
const PROLOGUE: &[u8] = b"lamplight link 1";
const PSK_LOCATION: usize = 3;
const TAG_BYTES: usize = 16;
/// Longest Noise message.
const MESSAGE_BYTES_MAX: usize = 65_535;
/// Most bytes of a frame in one Noise message: with them go the tag and a byte that says whether more follows.
const PIECE_BYTES_MAX: usize = MESSAGE_BYTES_MAX - PIECE_OVERHEAD;
const PIECE_OVERHEAD: usize = TAG_BYTES + 1;
/// The last byte of a piece.
const LAST: u8 = 0;
const MORE: u8 = 1;
/// Messages of one direction under one key (section 11.3). A later key does not tell an earlier one, so a key that is read from
/// memory decrypts no more than this many of the messages before. The copies that `snow` leaves in memory may tell more. The
/// cipher itself would be safe for 2^64.
const REKEY_EVERY: u64 = 1_024;

/// Length of an encrypted frame of `length` bytes.
pub const fn sealed_len(length: usize) -> usize {
    let pieces = if length == 0 { 1 } else { length.div_ceil(PIECE_BYTES_MAX) };
    length + pieces * PIECE_OVERHEAD
}

/// The static key of a node under one id.
#[derive(Clone)]
pub struct LinkKey {
    private: Zeroizing<[u8; KEY_BYTES]>,
    public: PublicKey,
}

impl LinkKey {
    /// The key with this private half.
    pub fn new(private: Zeroizing<[u8; KEY_BYTES]>) -> LinkKey {
        let public = PublicKey(MontgomeryPoint::mul_base_clamped(*private).to_bytes());
        LinkKey { private, public }
    }

    /// A new key; none if the system has no random numbers.
    #[cfg(test)]
    pub fn generate() -> Option<LinkKey> {
        random_key().map(LinkKey::new)
    }

    fn private(&self) -> &[u8] {
        &*self.private
    }

    /// The public half.
    pub fn public(&self) -> PublicKey {
        self.public
    }
}

/// Random bytes for a private key; none if the system has no random numbers.
pub fn random_key() -> Option<Zeroizing<[u8; KEY_BYTES]>> {
    let mut key = Zeroizing::new([0; KEY_BYTES]);
    SystemRandom::new().fill(&mut *key).ok().map(|()| key)
}

/// The handshake of a dialler.
pub fn initiator(key: &LinkKey) -> Result<HandshakeState, Error> {
    builder(key, Box::new(Primitives { ephemeral: None }))?.build_initiator()
}

/// The handshake of an acceptor with this ephemeral private key.
///
/// A handshake that has failed at message 3 cannot be tried with another secret: `snow` restores the hashes of its state, but not
/// the cipher's key. The acceptor makes a second one with the same ephemeral key and the same messages instead. Up to message
/// 3 the two are equal, because the secret plays no part before.
pub fn responder(key: &LinkKey, ephemeral: &Zeroizing<[u8; KEY_BYTES]>) -> Result<HandshakeState, Error> {
    builder(key, Box::new(Primitives { ephemeral: Some(ephemeral.clone()) }))?.build_responder()
}

fn builder(key: &LinkKey, primitives: BoxedCryptoResolver) -> Result<Builder<'_>, Error> {
    Builder::with_resolver(PROTOCOL.parse()?, primitives).prologue(PROLOGUE)?.local_private_key(key.private())
}

/// Sets the secret that a handshake proves or checks.
pub fn set_secret(state: &mut HandshakeState, secret: &Key) -> Result<(), Error> {
    state.set_psk(PSK_LOCATION, secret.bytes())
}

/// The primitives of the protocol's name.
struct Primitives {
    /// The ephemeral private key, if it is chosen.
    ephemeral: Option<Zeroizing<[u8; KEY_BYTES]>>,
}

impl CryptoResolver for Primitives {
    fn resolve_rng(&self) -> Option<Box<dyn Random>> {
        match &self.ephemeral {
            Some(key) => Some(Box::new(Chosen(Some(key.clone())))),
            None => RingResolver.resolve_rng(),
        }
    }

    fn resolve_dh(&self, choice: &DHChoice) -> Option<Box<dyn Dh>> {
        match choice {
            DHChoice::Curve25519 => Some(Box::<X25519>::default()),
            DHChoice::Curve448 => None,
        }
    }

    fn resolve_hash(&self, choice: &HashChoice) -> Option<Box<dyn Hash>> {
        RingResolver.resolve_hash(choice)
    }

    fn resolve_cipher(&self, choice: &CipherChoice) -> Option<Box<dyn Cipher>> {
        RingResolver.resolve_cipher(choice)
    }
}

/// Random numbers that are one chosen key, once.
struct Chosen(Option<Zeroizing<[u8; KEY_BYTES]>>);

impl Random for Chosen {
    fn try_fill_bytes(&mut self, dest: &mut [u8]) -> Result<(), Error> {
        let key = self.0.take().filter(|key| key.len() == dest.len()).ok_or(Error::Rng)?;
        dest.copy_from_slice(&*key);
        Ok(())
    }
}

/// X25519. It refuses public keys of small order, with which every private key agrees on zero.
#[derive(Default)]
struct X25519 {
    private: Zeroizing<[u8; KEY_BYTES]>,
    public: [u8; KEY_BYTES],
}

impl Dh for X25519 {
    fn name(&self) -> &'static str {
        "25519"
    }

    fn pub_len(&self) -> usize {
        KEY_BYTES
    }

    fn priv_len(&self) -> usize {
        KEY_BYTES
    }

    fn set(&mut self, privkey: &[u8]) {
        self.private.copy_from_slice(privkey);
        self.public = MontgomeryPoint::mul_base_clamped(*self.private).to_bytes();
    }

    fn generate(&mut self, rng: &mut dyn Random) -> Result<(), Error> {
        let mut private = Zeroizing::new([0; KEY_BYTES]);
        rng.try_fill_bytes(&mut *private)?;
        self.set(&*private);
        Ok(())
    }

    fn pubkey(&self) -> &[u8] {
        &self.public
    }

    fn privkey(&self) -> &[u8] {
        &*self.private
    }

    fn dh(&self, pubkey: &[u8], out: &mut [u8]) -> Result<(), Error> {
        // `snow` gives keys in buffers that have room for those of other curves.
        let theirs = pubkey.first_chunk::<KEY_BYTES>().ok_or(Error::Dh)?;
        let agreed = MontgomeryPoint(*theirs).mul_clamped(*self.private).to_bytes();
        // The same time for every key that is not refused.
        if agreed.iter().fold(0, |any, byte| any | byte) == 0 {
            return Err(Error::Dh);
        }
        out.get_mut(..KEY_BYTES).ok_or(Error::Dh)?.copy_from_slice(&agreed);
        Ok(())
    }
}

/// The encryption of a link's frames, both ways.
///
/// Each frame becomes one or more Noise messages, one after the other: all but the last have the greatest length, and the
/// last byte of each, encrypted like the rest, says whether another follows. So a frame that is cut between two messages is noticed
/// as one that is cut within a message. Messages are numbered for each direction and decrypted in that order only.
pub struct Session {
    state: TransportState,
    keys: LinkKeys,
    rekey_every: u64,
}

impl Session {
    /// The session of a handshake that is complete, of the node with this static key.
    pub fn new(state: HandshakeState, own: PublicKey) -> Result<Session, Error> {
        let state = state.into_transport_mode()?;
        let peer = state.get_remote_static().and_then(|key| key.try_into().ok()).ok_or(Error::Dh)?;
        let keys = LinkKeys { own, peer: PublicKey(peer) };
        Ok(Session { state, keys, rekey_every: REKEY_EVERY })
    }

    #[cfg(test)]
    pub fn rekey_every(&mut self, messages: u64) {
        self.rekey_every = messages;
    }

    /// The static keys that both sides have proved.
    pub fn keys(&self) -> LinkKeys {
        self.keys
    }

    /// An empty message, which proves to the peer that this side has come to the same keys.
    pub fn confirmation(&mut self) -> Result<[u8; MESSAGE_4_BYTES], Error> {
        let mut message = [0; MESSAGE_4_BYTES];
        self.write(&[], &mut message)?;
        Ok(message)
    }

    /// Checks the peer's [`Session::confirmation`].
    pub fn confirm(&mut self, message: &[u8; MESSAGE_4_BYTES]) -> Result<(), Error> {
        self.read(message, &mut []).map(|_| ())
    }

    /// The frame as it goes over the link.
    pub fn seal(&mut self, frame: &[u8]) -> Bytes {
        let (mut sealed, mut end, mut rest) = (vec![0; sealed_len(frame.len())], 0, frame);
        let mut piece = Vec::with_capacity(frame.len().min(PIECE_BYTES_MAX) + 1);
        loop {
            let (now, later) = rest.split_at(rest.len().min(PIECE_BYTES_MAX));
            piece.clear();
            piece.extend_from_slice(now);
            piece.push(if later.is_empty() { LAST } else { MORE });
            end += self.write(&piece, &mut sealed[end..]).expect("it has room, and no link lives for 2^64 messages");
            rest = later;
            if rest.is_empty() {
                return sealed.into();
            }
        }
    }

    /// The frame that was sealed; none if it is not whole, or not the next one of the peer. The caller ends the link then.
    pub fn open(&mut self, sealed: &[u8]) -> Option<Bytes> {
        let mut frame = Vec::with_capacity(sealed.len());
        let mut messages = sealed.chunks(MESSAGE_BYTES_MAX);
        while let Some(message) = messages.next() {
            let start = frame.len();
            frame.resize(start + message.len(), 0);
            let length = self.read(message, &mut frame[start..]).ok()?;
            frame.truncate(start + length);
            match (frame.pop().filter(|_| length > 0)?, messages.len()) {
                (LAST, 0) => return Some(frame.into()),
                (MORE, 1..) => {}
                _ => return None,
            }
        }
        None
    }

    fn write(&mut self, payload: &[u8], message: &mut [u8]) -> Result<usize, Error> {
        let length = self.state.write_message(payload, message)?;
        if self.state.sending_nonce().is_multiple_of(self.rekey_every) {
            self.state.rekey_outgoing();
        }
        Ok(length)
    }

    fn read(&mut self, message: &[u8], payload: &mut [u8]) -> Result<usize, Error> {
        let length = self.state.read_message(message, payload)?;
        if self.state.receiving_nonce().is_multiple_of(self.rekey_every) {
            self.state.rekey_incoming();
        }
        Ok(length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::secret::PoolSecret;

    /// The two sessions of a link, the dialler's first.
    fn sessions() -> (Session, Session) {
        let keys = [(); 2].map(|()| LinkKey::generate().expect("random numbers"));
        let secret = PoolSecret::new(b"0123456789abcdef").expect("long enough").first().expect("there is one");
        let mut dialler = initiator(&keys[0]).expect("a name that snow knows");
        let mut acceptor = responder(&keys[1], &random_key().expect("random numbers")).expect("a name that snow knows");
        for state in [&mut dialler, &mut acceptor] {
            set_secret(state, &secret).expect("32 bytes");
        }
        let mut message = [0; MESSAGE_2_BYTES];
        for length in [MESSAGE_1_BYTES, MESSAGE_2_BYTES, MESSAGE_3_BYTES] {
            let (writer, reader) =
                if length == MESSAGE_2_BYTES { (&mut acceptor, &mut dialler) } else { (&mut dialler, &mut acceptor) };
            assert_eq!(writer.write_message(&[], &mut message), Ok(length));
            assert_eq!(reader.read_message(&message[..length], &mut []), Ok(0));
        }
        let [dialler_key, acceptor_key] = keys.map(|key| key.public());
        let dialler = Session::new(dialler, dialler_key).expect("complete");
        (dialler, Session::new(acceptor, acceptor_key).expect("complete"))
    }

    fn bytes(length: usize) -> Vec<u8> {
        fastrand::Rng::with_seed(length as u64).u8(..).to_le_bytes().into_iter().cycle().take(length).collect()
    }

    fn hex(text: &str) -> Vec<u8> {
        let digit = |at: usize| u8::from_str_radix(&text[at..at + 2], 16).expect("hex");
        (0..text.len()).step_by(2).map(digit).collect()
    }

    /// Vector of `Noise_XXpsk3_25519_ChaChaPoly_SHA256` from cacophony, which `snow` is tested with too: payload and message of
    /// each step.
    #[test]
    fn the_primitives_are_those_of_the_published_vector() {
        let steps = [
            (
                "4c756477696720766f6e204d69736573",
                "ca35def5ae56cec33dc2036731ab14896bc4c75dbb07a61f879f8e3afa4c7944c9f5ff0e8079630cb7e270c20bbf4808\
                 21b77a384a645c71a2fd9b3db1c16a5f",
            ),
            (
                "4d757272617920526f746862617264",
                "95ebc60d2b1fa672c1f46a8aa265ef51bfe38e7ccb39ec5be34069f144808843b123def17f71e6ae8e57e0e1dec5949c\
                 5f7415c6f33517398747d821a06dc23ad430aa1fd7381d46195c378a819fd574425462cbb2d4ca339e738a0b7001dc91\
                 423fbf55a99af0c6f1df21012ceb2f",
            ),
            (
                "462e20412e20486179656b",
                "52187316111b118d4c060364f7b975dc0809b2590779aff2d63113c564f11744493384db7bf32d5ae6686df6ab06d508\
                 d2e07caaf1d6afc010b978735fc78900e71ae1d314130d042e729a",
            ),
            ("4361726c204d656e676572", "eaedc672d4c21e0e2955758756fb98f194c4e90d5deb5b6cf30b27"),
            (
                "4a65616e2d426170746973746520536179",
                "522d543c5fe799d09a3d9da7ff54d0dc03c8af1dc7751d2ff708339d2290943e98",
            ),
        ];
        let secret: [u8; 32] =
            hex("54686973206973206d7920417573747269616e20706572737065637469766521").try_into().expect("32 bytes");
        let state = |key: &str, ephemeral: &str| {
            let chosen = Zeroizing::new(hex(ephemeral).try_into().expect("32 bytes"));
            let (prologue, key) = (hex("4a6f686e2047616c74"), hex(key));
            let builder = Builder::with_resolver(
                PROTOCOL.parse().expect("a name that snow knows"),
                Box::new(Primitives { ephemeral: Some(chosen) }),
            );
            let builder = builder.prologue(&prologue).and_then(|builder| builder.local_private_key(&key));
            let builder = builder.and_then(|builder| builder.psk(PSK_LOCATION as u8, &secret)).expect("good keys");
            if ephemeral.starts_with("89") { builder.build_initiator() } else { builder.build_responder() }
        };
        let mut dialler = state(
            "e61ef9919cde45dd5f82166404bd08e38bceb5dfdfded0a34c8df7ed542214d1",
            "893e28b9dc6ca8d611ab664754b8ceb7bac5117349a4439a6b0569da977c464a",
        )
        .expect("complete");
        let mut acceptor = state(
            "4a3acbfdb163dec651dfa3194dece676d437029c62a408b4c5ea9114246e4893",
            "bbdb4cdbd309f1a1f2e1456967fe288cadd6f712d65dc7b7793d5e63da6b375b",
        )
        .expect("complete");
        for (step, (payload, expected)) in steps[..3].iter().enumerate() {
            let (writer, reader) =
                if step % 2 == 0 { (&mut dialler, &mut acceptor) } else { (&mut acceptor, &mut dialler) };
            let (mut message, mut read) = ([0; 200], [0; 200]);
            let length = writer.write_message(&hex(payload), &mut message).expect("it has room");
            assert_eq!(message[..length], hex(expected), "{step}");
            let length = reader.read_message(&message[..length], &mut read).expect("it is whole");
            assert_eq!(read[..length], hex(payload), "{step}");
        }
        let [mut dialler, mut acceptor] =
            [dialler, acceptor].map(|state| Session::new(state, PublicKey([0; KEY_BYTES])).expect("complete"));
        for (step, (payload, expected)) in steps[3..].iter().enumerate() {
            let writer = if step % 2 == 0 { &mut acceptor } else { &mut dialler };
            let mut message = [0; 200];
            let length = writer.write(&hex(payload), &mut message).expect("it has room");
            assert_eq!(message[..length], hex(expected), "{step}");
        }
    }

    #[test]
    fn a_frame_of_any_length_is_opened_as_it_was_sealed() {
        let (mut dialler, mut acceptor) = sessions();
        for length in (0..3).chain(65_500..65_560).chain(131_030..131_050).chain([1_000_000]) {
            let frame = bytes(length);
            let sealed = dialler.seal(&frame);
            assert_eq!(sealed.len(), sealed_len(length), "{length}");
            assert_eq!(acceptor.open(&sealed).expect("sealed"), frame, "{length}");
            let back = acceptor.seal(&frame);
            assert_ne!(sealed, back);
            assert_eq!(dialler.open(&back).expect("sealed"), frame, "{length}");
        }
    }

    #[test]
    fn keys_change_with_the_messages_and_both_sides_keep_up() {
        for every in [1, 2, 3, 7] {
            let (mut dialler, mut acceptor) = sessions();
            dialler.rekey_every(every);
            acceptor.rekey_every(every);
            for n in 0..40 {
                let frame = bytes(if n % 5 == 0 { 150_000 } else { n });
                let sealed = dialler.seal(&frame);
                assert_eq!(acceptor.open(&sealed).expect("sealed"), frame, "{n}, every {every}");
                let sealed = acceptor.seal(&frame);
                assert_eq!(dialler.open(&sealed).expect("sealed"), frame, "{n}, every {every}");
            }
        }
        let (mut dialler, mut acceptor) = sessions();
        dialler.rekey_every(2);
        let sealed = [b"one", b"two", b"six"].map(|frame| dialler.seal(frame));
        assert_eq!(sealed.map(|sealed| acceptor.open(&sealed).is_some()), [true, true, false], "the key is another");
    }

    #[test]
    fn the_usual_number_of_messages_under_a_key_is_crossed() {
        let (mut dialler, mut acceptor) = sessions();
        for n in 0..2 * REKEY_EVERY + 2 {
            let sealed = dialler.seal(&n.to_le_bytes());
            assert_eq!(acceptor.open(&sealed).expect("sealed"), n.to_le_bytes().as_slice());
        }
    }

    #[test]
    fn a_frame_that_is_altered_repeated_left_out_cut_or_sent_back_is_not_opened() {
        let sealed = || {
            let (mut dialler, acceptor) = sessions();
            let frames = ["one", "two"].map(|text| dialler.seal(text.as_bytes()));
            (dialler, acceptor, frames)
        };
        let (_, _, [one, _]) = sealed();
        for place in 0..one.len() {
            let (_, mut acceptor, [one, _]) = sealed();
            let mut altered = one.to_vec();
            altered[place] ^= 1;
            assert!(acceptor.open(&altered).is_none(), "{place}");
        }
        for end in 0..one.len() {
            let (_, mut acceptor, [one, _]) = sealed();
            assert!(acceptor.open(&one[..end]).is_none(), "{end}");
        }
        let (_, mut acceptor, [_, two]) = sealed();
        assert!(acceptor.open(&two).is_none(), "the first is left out");
        let (_, mut acceptor, [one, _]) = sealed();
        assert!(acceptor.open(&one).is_some());
        assert!(acceptor.open(&one).is_none(), "it is repeated");
        let (_, mut acceptor, [one, two]) = sealed();
        assert!(acceptor.open(&[one, two].concat()).is_none(), "two in one");
        let (mut dialler, _, [one, _]) = sealed();
        assert!(dialler.open(&one).is_none(), "it is sent back");
        let (_, mut acceptor, _) = sealed();
        let (_, _, [other, _]) = sealed();
        assert!(acceptor.open(&other).is_none(), "it is of another link");
    }

    #[test]
    fn a_frame_that_is_cut_or_goes_on_at_the_end_of_a_message_is_not_opened() {
        let sealed = |length: usize| {
            let (mut dialler, acceptor) = sessions();
            let frames = [dialler.seal(&bytes(length)), dialler.seal(b"two")];
            (acceptor, frames)
        };
        for messages in 1..3 {
            let (mut acceptor, [one, _]) = sealed(3 * PIECE_BYTES_MAX);
            assert!(acceptor.open(&one[..messages * MESSAGE_BYTES_MAX]).is_none(), "{messages}");
            let (mut acceptor, [one, _]) = sealed(3 * PIECE_BYTES_MAX);
            assert!(acceptor.open(&one[messages * MESSAGE_BYTES_MAX..]).is_none(), "without the first {messages}");
        }
        // A whole frame with the next behind it, where the first ends with a message of the greatest length.
        let (mut acceptor, [one, two]) = sealed(PIECE_BYTES_MAX);
        assert_eq!(one.len(), MESSAGE_BYTES_MAX);
        assert!(acceptor.open(&[one, two].concat()).is_none());
        // What the peer has encrypted without the byte that says whether more follows.
        for payload in [&[][..], &[2], b"x"] {
            let (mut dialler, mut acceptor) = sessions();
            let mut message = vec![0; payload.len() + TAG_BYTES];
            dialler.write(payload, &mut message).expect("it has room");
            assert!(acceptor.open(&message).is_none(), "{payload:?}");
        }
    }

    #[test]
    fn a_key_of_small_order_agrees_with_none() {
        let mut dh = X25519::default();
        dh.generate(&mut *RingResolver.resolve_rng().expect("it has one")).expect("random numbers");
        let one = [&[1][..], &[0; 31]].concat();
        for key in [[0; 32].as_slice(), &one] {
            assert_eq!(dh.dh(key, &mut [0; 32]), Err(Error::Dh));
        }
        let base = [&[9][..], &[0; 31]].concat();
        let mut agreed = [0; 32];
        assert_eq!(dh.dh(&base, &mut agreed), Ok(()));
        assert_eq!(agreed, dh.pubkey());
    }
}
