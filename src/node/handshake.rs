//! The handshake at the beginning of a link: its messages in headers and in raw frames.
//!
//! The messages are those of the Noise protocol in `noise`, which says what each proves. Message 1 is in a header of the
//! request that opens the WebSocket, message 2 in a header of its answer. Messages 3 and 4 are WebSocket frames of fixed
//! lengths. They are read by the few lines here, byte by byte of a known number, before any other parser sees the connection.
//!
//! A peer that has proved nothing gets message 2: an ephemeral key, and this node's static key. A recorded handshake is
//! worth nothing, because the other side's ephemeral key is new. Rests on `noise` and `secret`; it knows nothing of the
//! messages of nodes.

use std::fmt;

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use snow::HandshakeState;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use zeroize::Zeroizing;

use super::{
    noise::{
        KEY_BYTES, LinkKey, MESSAGE_1_BYTES, MESSAGE_2_BYTES, MESSAGE_3_BYTES, MESSAGE_4_BYTES, Session, initiator,
        random_key, responder, set_secret,
    },
    secret::Key,
};
use crate::op::PublicKey;

/// Header with message 1 in a request, and message 2 in its answer.
pub const HANDSHAKE: &str = "lamplight-noise";
/// Header with the challenge of protocol versions up to 5, whose handshake was another.
pub const EARLIER_HANDSHAKE: &str = "lamplight-challenge";

/// The beginning of a frame with message 3 or 4: binary, whole, and its length; from the dialler with a mask.
const FROM_DIALLER: [u8; 2] = [0x82, 0x80 | MESSAGE_3_BYTES as u8];
const FROM_ACCEPTOR: [u8; 2] = [0x82, MESSAGE_4_BYTES as u8];
/// The close frame for a message 3 that does not hold, with a code of the range that applications may use.
const REFUSED: [u8; 4] = [0x88, 2, REFUSED_CODE[0], REFUSED_CODE[1]];
const REFUSED_CODE: [u8; 2] = 4_401_u16.to_be_bytes();

/// Reason why there is no session. The peer has been told nothing but what is above.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unproved {
    /// The peer proves another secret than is accepted here, or accepts another than is proved here.
    OtherSecret,
    /// The connection ended.
    Ended,
    /// It sent something else.
    Malformed,
    /// Its first message is of another version of the handshake.
    OtherVersion,
    /// This machine gives no random numbers.
    NoChance,
}

impl fmt::Display for Unproved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Unproved::OtherSecret => "the pool secret is another",
            Unproved::Ended => "it ended the connection before the pool secret was proved",
            Unproved::Malformed => "it sent something else than a proof of the pool secret",
            Unproved::OtherVersion => "it speaks another version of the handshake",
            Unproved::NoChance => "this machine has no random numbers for a key",
        })
    }
}

/// The handshake of the node that dials; good for one link.
pub struct Dialler {
    key: PublicKey,
    state: HandshakeState,
    message: [u8; MESSAGE_1_BYTES],
}

impl Dialler {
    /// A new handshake of the node with this key.
    pub fn new(key: &LinkKey) -> Result<Dialler, Unproved> {
        let mut state = initiator(key).map_err(|_| Unproved::NoChance)?;
        let mut message = [0; MESSAGE_1_BYTES];
        state.write_message(&[], &mut message).map_err(|_| Unproved::NoChance)?;
        Ok(Dialler { key: key.public(), state, message })
    }

    /// Message 1, for the header.
    pub fn header(&self) -> String {
        BASE64_URL_SAFE_NO_PAD.encode(self.message)
    }

    /// Proves the secret to the node that was dialled, whose answer had this header, and has it prove the same.
    pub async fn prove<Io>(mut self, io: &mut Io, answer: &str, secret: &Key) -> Result<Session, Unproved>
    where
        Io: AsyncRead + AsyncWrite + Unpin,
    {
        let answer = decode::<MESSAGE_2_BYTES>(answer)?;
        // It fails for keys of small order.
        self.state.read_message(&answer, &mut []).map_err(|_| Unproved::Malformed)?;
        let mut message = [0; MESSAGE_3_BYTES];
        set_secret(&mut self.state, secret).map_err(|_| Unproved::Malformed)?;
        self.state.write_message(&[], &mut message).map_err(|_| Unproved::Malformed)?;
        let mut frame = Vec::with_capacity(FROM_DIALLER.len() + 4 + MESSAGE_3_BYTES);
        frame.extend(FROM_DIALLER);
        // The mask that RFC 6455 asks for; it protects proxies and hides nothing.
        let mask = fastrand::u32(..).to_be_bytes();
        frame.extend(mask);
        frame.extend(message.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
        io.write_all(&frame).await.map_err(|_| Unproved::Ended)?;
        io.flush().await.map_err(|_| Unproved::Ended)?;
        let mut head = [0; FROM_ACCEPTOR.len()];
        io.read_exact(&mut head).await.map_err(|_| Unproved::Ended)?;
        if head == REFUSED[..2] {
            return Err(Unproved::OtherSecret);
        }
        if head != FROM_ACCEPTOR {
            return Err(Unproved::Malformed);
        }
        let mut message = [0; MESSAGE_4_BYTES];
        io.read_exact(&mut message).await.map_err(|_| Unproved::Ended)?;
        let mut session = Session::new(self.state, self.key).map_err(|_| Unproved::Malformed)?;
        session.confirm(&message).map_err(|_| Unproved::OtherSecret)?;
        Ok(session)
    }
}

/// The handshake of the node that was dialled; good for one link.
pub struct Acceptor {
    key: LinkKey,
    ephemeral: Zeroizing<[u8; KEY_BYTES]>,
    opening: [u8; MESSAGE_1_BYTES],
    state: HandshakeState,
    message: [u8; MESSAGE_2_BYTES],
}

impl Acceptor {
    /// The handshake of the node with this key, with a peer whose request had this header.
    pub fn new(key: &LinkKey, header: &str) -> Result<Acceptor, Unproved> {
        let opening = decode::<MESSAGE_1_BYTES>(header)?;
        let ephemeral = random_key().ok_or(Unproved::NoChance)?;
        let (state, message) = answer(key, &ephemeral, &opening)?;
        Ok(Acceptor { key: key.clone(), ephemeral, opening, state, message })
    }

    /// Message 2, for the header.
    pub fn header(&self) -> String {
        BASE64_URL_SAFE_NO_PAD.encode(self.message)
    }

    /// Has the dialler prove one of the accepted secrets, then proves the same one, and says which it is.
    pub async fn check<Io>(self, io: &mut Io, accepted: &[Key]) -> Result<(Key, Session), Unproved>
    where
        Io: AsyncRead + AsyncWrite + Unpin,
    {
        let mut head = [0; FROM_DIALLER.len()];
        io.read_exact(&mut head).await.map_err(|_| Unproved::Ended)?;
        if head != FROM_DIALLER {
            return Err(Unproved::Malformed);
        }
        let (mut mask, mut message) = ([0; 4], [0; MESSAGE_3_BYTES]);
        io.read_exact(&mut mask).await.map_err(|_| Unproved::Ended)?;
        io.read_exact(&mut message).await.map_err(|_| Unproved::Ended)?;
        message.iter_mut().zip(mask.iter().cycle()).for_each(|(byte, mask)| *byte ^= mask);
        let (secret, mut session) = match self.read(&message, accepted) {
            Ok(proved) => proved,
            Err(why) => {
                // It makes no difference if the peer does not read it.
                let _ = io.write_all(&REFUSED).await;
                let _ = io.shutdown().await;
                return Err(why);
            }
        };
        let confirmation = session.confirmation().map_err(|_| Unproved::Malformed)?;
        let mut frame = [0; FROM_ACCEPTOR.len() + MESSAGE_4_BYTES];
        frame[..FROM_ACCEPTOR.len()].copy_from_slice(&FROM_ACCEPTOR);
        frame[FROM_ACCEPTOR.len()..].copy_from_slice(&confirmation);
        io.write_all(&frame).await.map_err(|_| Unproved::Ended)?;
        io.flush().await.map_err(|_| Unproved::Ended)?;
        Ok((secret, session))
    }

    /// Tries message 3 with each accepted secret.
    fn read(self, message: &[u8; MESSAGE_3_BYTES], accepted: &[Key]) -> Result<(Key, Session), Unproved> {
        let mut first = Some(self.state);
        for secret in accepted {
            let mut state = match first.take() {
                Some(state) => state,
                None => answer(&self.key, &self.ephemeral, &self.opening)?.0,
            };
            set_secret(&mut state, secret).map_err(|_| Unproved::Malformed)?;
            if state.read_message(message, &mut []).is_ok() {
                let session = Session::new(state, self.key.public()).map_err(|_| Unproved::Malformed)?;
                return Ok((secret.clone(), session));
            }
            // The static key comes before the secret: who has not even sent that has not heard message 2.
            if state.get_remote_static().is_none() {
                return Err(Unproved::Malformed);
            }
        }
        Err(Unproved::OtherSecret)
    }
}

/// An acceptor's handshake after message 2, and that message.
fn answer(
    key: &LinkKey,
    ephemeral: &Zeroizing<[u8; KEY_BYTES]>,
    opening: &[u8; MESSAGE_1_BYTES],
) -> Result<(HandshakeState, [u8; MESSAGE_2_BYTES]), Unproved> {
    let mut state = responder(key, ephemeral).map_err(|_| Unproved::NoChance)?;
    // Its tag says that the prologue is the same.
    state.read_message(opening, &mut []).map_err(|_| Unproved::OtherVersion)?;
    let mut message = [0; MESSAGE_2_BYTES];
    // It fails for an ephemeral key of small order.
    state.write_message(&[], &mut message).map_err(|_| Unproved::Malformed)?;
    Ok((state, message))
}

/// A message of a fixed length, of a header.
fn decode<const LENGTH: usize>(text: &str) -> Result<[u8; LENGTH], Unproved> {
    let mut message = [0; LENGTH];
    match BASE64_URL_SAFE_NO_PAD.decode_slice(text, &mut message) {
        Ok(length) if length == LENGTH => Ok(message),
        _ => Err(Unproved::Malformed),
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{DuplexStream, duplex};

    use super::*;
    use crate::{node::secret::PoolSecret, replica::LinkKeys};

    fn secret(text: &str) -> Key {
        PoolSecret::new(text.as_bytes()).expect("long enough").first().expect("there is one")
    }

    fn dialler() -> Dialler {
        Dialler::new(&LinkKey::generate().expect("random numbers")).expect("random numbers")
    }

    fn acceptor(header: &str) -> Result<Acceptor, Unproved> {
        Acceptor::new(&LinkKey::generate().expect("random numbers"), header)
    }

    fn both() -> (DuplexStream, DuplexStream) {
        duplex(1 << 10)
    }

    async fn link(proved: &Key, accepted: &[Key]) -> (Result<Session, Unproved>, Result<(Key, Session), Unproved>) {
        let (dialler, (mut near, mut far)) = (dialler(), both());
        let acceptor = acceptor(&dialler.header()).expect("a message");
        let answer = acceptor.header();
        tokio::join!(dialler.prove(&mut near, &answer, proved), acceptor.check(&mut far, accepted))
    }

    /// The frame with message 3 of a dialler that was given message 2 by this acceptor.
    async fn proof(dialler: Dialler, acceptor: &Acceptor, secret: &Key) -> Vec<u8> {
        let (mut near, mut far) = both();
        far.shutdown().await.expect("it is open");
        let proved = dialler.prove(&mut near, &acceptor.header(), secret).await;
        assert_eq!(proved.err(), Some(Unproved::Ended));
        drop(near);
        let mut said = Vec::new();
        far.read_to_end(&mut said).await.expect("memory");
        said
    }

    /// The answer of an acceptor to these bytes, after which the dialler says no more.
    async fn answer_to(acceptor: Acceptor, bytes: &[u8]) -> (Option<Unproved>, Vec<u8>) {
        let (mut near, mut far) = both();
        near.write_all(bytes).await.expect("there is room");
        near.shutdown().await.expect("it is open");
        let why = acceptor.check(&mut far, &[secret("0123456789abcdef")]).await.err();
        drop(far);
        let mut said = Vec::new();
        near.read_to_end(&mut said).await.expect("memory");
        (why, said)
    }

    async fn answer(bytes: &[u8]) -> (Option<Unproved>, Vec<u8>) {
        answer_to(acceptor(&dialler().header()).expect("a message"), bytes).await
    }

    /// The result of a dialler that reads these bytes as message 4.
    async fn taken(bytes: &[u8]) -> Option<Unproved> {
        let (dialler, (mut near, mut far)) = (dialler(), both());
        let acceptor = acceptor(&dialler.header()).expect("a message");
        far.write_all(bytes).await.expect("there is room");
        far.shutdown().await.expect("it is open");
        dialler.prove(&mut near, &acceptor.header(), &secret("0123456789abcdef")).await.err()
    }

    #[tokio::test]
    async fn who_knows_one_secret_reads_what_the_other_seals_and_knows_its_key() {
        let secrets: Vec<Key> = (0..8).map(|n| secret(&format!("0123456789abcde{n}"))).collect();
        for proved in &secrets {
            let keys = [(); 2].map(|()| LinkKey::generate().expect("random numbers"));
            let (dialler, (mut near, mut far)) = (Dialler::new(&keys[0]).expect("random numbers"), both());
            let acceptor = Acceptor::new(&keys[1], &dialler.header()).expect("a message");
            let answer = acceptor.header();
            let (dialler, acceptor) =
                tokio::join!(dialler.prove(&mut near, &answer, proved), acceptor.check(&mut far, &secrets));
            let (mut dialler, (used, mut acceptor)) = (dialler.expect("proved"), acceptor.expect("checked"));
            assert!(used == *proved);
            for text in ["", "one", "two"] {
                let sealed = dialler.seal(text.as_bytes());
                assert_eq!(acceptor.open(&sealed).expect("sealed"), text);
                let sealed = acceptor.seal(text.as_bytes());
                assert_eq!(dialler.open(&sealed).expect("sealed"), text);
            }
            let [near, far] = keys.map(|key| key.public());
            assert_eq!(dialler.keys(), LinkKeys { own: near, peer: far });
            assert_eq!(acceptor.keys(), LinkKeys { own: far, peer: near });
        }
    }

    #[tokio::test]
    async fn another_secret_is_refused_and_both_know_why() {
        let others = [secret("fedcba9876543210"), secret("fedcba9876543211")];
        for accepted in [&others[..1], &others] {
            let (proved, checked) = link(&secret("0123456789abcdef"), accepted).await;
            assert_eq!(proved.err(), Some(Unproved::OtherSecret));
            assert_eq!(checked.err(), Some(Unproved::OtherSecret));
        }
    }

    #[tokio::test]
    async fn a_handshake_message_is_worth_nothing_altered_sent_back_or_to_another() {
        let known = secret("0123456789abcdef");
        // Message 3, to the acceptor that it is for.
        let one = dialler();
        let for_it = acceptor(&one.header()).expect("a message");
        let proof_for_it = proof(one, &for_it, &known).await;
        assert_eq!(answer_to(for_it, &proof_for_it).await.0, None);
        // To another one, whose ephemeral key is another.
        assert_eq!(answer(&proof_for_it).await, (Some(Unproved::Malformed), REFUSED.to_vec()));
        for place in FROM_DIALLER.len()..proof_for_it.len() {
            let dialler = dialler();
            let acceptor = acceptor(&dialler.header()).expect("a message");
            let mut altered = proof(dialler, &acceptor, &known).await;
            altered[place] ^= 1;
            let (why, said) = answer_to(acceptor, &altered).await;
            assert!(matches!(why, Some(Unproved::Malformed | Unproved::OtherSecret)), "{place}");
            assert_eq!(said, REFUSED, "{place}");
        }
        // Message 1 altered: the acceptor refuses it.
        let header = dialler().header();
        for place in 0..header.len() {
            let mut altered = header.clone().into_bytes();
            altered[place] = if altered[place] == b'A' { b'B' } else { b'A' };
            let altered = String::from_utf8(altered).expect("it is plain");
            assert!(matches!(acceptor(&altered).err(), Some(Unproved::OtherVersion | Unproved::Malformed)), "{place}");
        }
        // Message 2 altered, of another handshake, or made of message 1: the dialler says nothing.
        let silent = async |dialler: Dialler, answer: &str| {
            let (mut near, mut far) = both();
            assert_eq!(dialler.prove(&mut near, answer, &known).await.err(), Some(Unproved::Malformed), "{answer}");
            drop(near);
            assert_eq!(far.read_u8().await.map_err(|_| ()), Err(()), "it said something");
        };
        for place in 0..MESSAGE_2_BYTES {
            let dialler = dialler();
            let mut altered = acceptor(&dialler.header()).expect("a message").message;
            altered[place] ^= 1;
            silent(dialler, &BASE64_URL_SAFE_NO_PAD.encode(altered)).await;
        }
        silent(dialler(), &acceptor(&dialler().header()).expect("a message").header()).await;
        let own = dialler();
        let doubled = BASE64_URL_SAFE_NO_PAD.encode([own.message, own.message].concat());
        silent(own, &doubled).await;
    }

    #[tokio::test]
    async fn a_header_that_is_no_message_is_refused() {
        let good = dialler().header();
        let mut cases: Vec<String> = (0..good.len()).map(|end| good[..end].into()).collect();
        cases.extend([format!("{good}A"), format!("{good}="), format!("{}!", &good[1..]), "A".repeat(4_096)]);
        for case in cases {
            assert_eq!(acceptor(&case).err(), Some(Unproved::Malformed), "{case}");
            let (mut near, _far) = both();
            let proved = dialler().prove(&mut near, &case, &secret("0123456789abcdef")).await;
            assert_eq!(proved.err(), Some(Unproved::Malformed), "{case}");
        }
        assert_eq!(acceptor(&"A".repeat(64)).err(), Some(Unproved::OtherVersion), "a tag that does not hold");
    }

    #[tokio::test]
    async fn whatever_else_is_sent_than_a_proof_nothing_is_told() {
        let mut rng = fastrand::Rng::with_seed(7);
        let whole = [&FROM_DIALLER[..], &[9; 4 + MESSAGE_3_BYTES]].concat();
        for end in 0..whole.len() {
            assert_eq!(answer(&whole[..end]).await, (Some(Unproved::Ended), vec![]), "{end}");
        }
        assert_eq!(answer(&whole).await, (Some(Unproved::Malformed), REFUSED.to_vec()));
        for _ in 0..2_000 {
            let mut bytes: Vec<u8> = (0..rng.usize(..200)).map(|_| rng.u8(..)).collect();
            if rng.bool() && bytes.len() >= 2 {
                bytes[..2].copy_from_slice(&FROM_DIALLER);
            }
            let (why, said) = answer(&bytes).await;
            assert!(why.is_some(), "{bytes:?}");
            assert!(said.is_empty() || said == REFUSED, "{bytes:?}");
        }
    }

    #[tokio::test]
    async fn a_dialler_takes_nothing_for_a_proof_but_one() {
        let mut rng = fastrand::Rng::with_seed(8);
        let whole = [&FROM_ACCEPTOR[..], &[9; MESSAGE_4_BYTES]].concat();
        for end in 0..whole.len() {
            assert_eq!(taken(&whole[..end]).await, Some(Unproved::Ended), "{end}");
        }
        assert_eq!(taken(&whole).await, Some(Unproved::OtherSecret));
        assert_eq!(taken(&REFUSED).await, Some(Unproved::OtherSecret));
        for _ in 0..2_000 {
            let mut bytes: Vec<u8> = (0..rng.usize(..200)).map(|_| rng.u8(..)).collect();
            if rng.bool() && bytes.len() >= 2 {
                bytes[..2].copy_from_slice(&FROM_ACCEPTOR);
            }
            assert!(taken(&bytes).await.is_some(), "{bytes:?}");
        }
    }
}
