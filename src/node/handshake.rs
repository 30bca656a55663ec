//! The proof of the pool's secret at the beginning of a link, and the seal on its frames.
//!
//! Both sides make a fresh X25519 key for the link: its public half is their challenge. Those go over in the headers of the
//! request that opens the WebSocket and of its answer, so nothing but them is said before the proof. Then the dialler
//! proves that it knows the secret, by a keyed hash over both challenges, what they come to, and which side says it; and
//! only to who has done that the acceptor proves the same. So a recorded proof is worth nothing for another challenge,
//! nor is a proof that is sent back to its maker, and one who has dialled learns nothing by which it could try out
//! secrets. Keys made of the same things seal each frame of the link, with a count a direction: who stands between the
//! two can read, alter, repeat or leave out none, and who learns the secret later cannot read what was recorded.
//!
//! Both proofs are WebSocket frames of one fixed length. They are read by the few lines here, byte by byte of a known
//! number, before any other parser sees the connection. Rests on `secret`; it knows nothing of messages.

use std::fmt;

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use bytes::{Bytes, BytesMut};
use ring::{
    aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey},
    agreement::{EphemeralPrivateKey, UnparsedPublicKey, X25519, agree_ephemeral},
    rand::SystemRandom,
};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use zeroize::Zeroizing;

use super::secret::Key;

/// Header with the challenge of who says it.
pub const CHALLENGE: &str = "lamplight-challenge";
/// How much longer a frame is for its seal, in bytes.
pub const SEAL_BYTES: usize = 16;

/// Length of a challenge and of a proof, in bytes.
const PROOF_BYTES: usize = 32;
/// How a frame with a proof begins: binary, whole, and its length; from who dialled with a mask.
const FROM_DIALLER: [u8; 2] = [0x82, 0x80 | PROOF_BYTES as u8];
const FROM_ACCEPTOR: [u8; 2] = [0x82, PROOF_BYTES as u8];
/// The close frame for a proof that does not hold, with a code of the range that applications may use.
const REFUSED: [u8; 4] = [0x88, 2, REFUSED_CODE[0], REFUSED_CODE[1]];
const REFUSED_CODE: [u8; 2] = 4_401_u16.to_be_bytes();

/// Why there is no proof. Nothing has been told but what stands above.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unproved {
    /// The peer proves another secret than is accepted here, or accepts another than is proved here.
    OtherSecret,
    /// The connection ended.
    Ended,
    /// It sent something else.
    Malformed,
    /// This machine gives no random numbers.
    NoChance,
}

impl fmt::Display for Unproved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Unproved::OtherSecret => "the pool secret is another",
            Unproved::Ended => "it ended the connection before the pool secret was proved",
            Unproved::Malformed => "it sent something else than a proof of the pool secret",
            Unproved::NoChance => "this machine has no random numbers for a challenge",
        })
    }
}

/// What this side asks the other to prove the secret with; good for one link.
pub struct Challenge {
    private: EphemeralPrivateKey,
    public: [u8; PROOF_BYTES],
}

impl Challenge {
    /// A fresh one.
    pub fn new() -> Result<Challenge, Unproved> {
        let private = EphemeralPrivateKey::generate(&X25519, &SystemRandom::new()).map_err(|_| Unproved::NoChance)?;
        let public = private.compute_public_key().map_err(|_| Unproved::NoChance)?;
        let public = public.as_ref().try_into().map_err(|_| Unproved::NoChance)?;
        Ok(Challenge { private, public })
    }

    /// As a header says it.
    pub fn shown(&self) -> String {
        BASE64_URL_SAFE_NO_PAD.encode(self.public)
    }

    /// Both challenges, of which the dialler made this one.
    pub fn answered(self, acceptor: &str) -> Result<Met, Unproved> {
        let acceptor = read_challenge(acceptor)?;
        Met::new(self.public, acceptor, self.private, &acceptor)
    }

    /// Both challenges, of which the acceptor made this one.
    pub fn answers(self, dialler: &str) -> Result<Met, Unproved> {
        let dialler = read_challenge(dialler)?;
        Met::new(dialler, self.public, self.private, &dialler)
    }
}

fn read_challenge(text: &str) -> Result<[u8; PROOF_BYTES], Unproved> {
    let mut challenge = [0; PROOF_BYTES];
    match BASE64_URL_SAFE_NO_PAD.decode_slice(text, &mut challenge) {
        Ok(PROOF_BYTES) => Ok(challenge),
        _ => Err(Unproved::Malformed),
    }
}

/// Two challenges, and what they come to: nobody but their makers knows that.
pub struct Met {
    dialler: [u8; PROOF_BYTES],
    acceptor: [u8; PROOF_BYTES],
    agreed: Zeroizing<[u8; 32]>,
}

/// What is made of a key and two challenges. Each is another number in the hash, so none can stand for another.
#[derive(Clone, Copy)]
enum Purpose {
    DiallerProof = 1,
    AcceptorProof = 2,
    DiallerFrames = 3,
    AcceptorFrames = 4,
}

impl Met {
    fn new(
        dialler: [u8; PROOF_BYTES],
        acceptor: [u8; PROOF_BYTES],
        private: EphemeralPrivateKey,
        theirs: &[u8],
    ) -> Result<Met, Unproved> {
        let mut agreed = Zeroizing::new([0; 32]);
        // A challenge that is no good key, such as one that makes all agree on zero, is refused here.
        agree_ephemeral(private, &UnparsedPublicKey::new(&X25519, theirs), |shared| agreed.copy_from_slice(shared))
            .map_err(|_| Unproved::Malformed)?;
        Ok(Met { dialler, acceptor, agreed })
    }

    fn derive(&self, key: &Key, purpose: Purpose) -> blake3::Hash {
        let mut hasher = blake3::Hasher::new_keyed(key.bytes());
        hasher.update(&[purpose as u8]).update(&self.dialler).update(&self.acceptor).update(&*self.agreed);
        hasher.finalize()
    }

    /// Proves the secret to who was dialled, and has it prove the same.
    pub async fn prove<Io>(&self, io: &mut Io, key: &Key) -> Result<Seals, Unproved>
    where
        Io: AsyncRead + AsyncWrite + Unpin,
    {
        let mut frame = Vec::with_capacity(FROM_DIALLER.len() + 4 + PROOF_BYTES);
        frame.extend(FROM_DIALLER);
        // The mask that RFC 6455 asks for; it protects proxies and hides nothing.
        let mask = fastrand::u32(..).to_be_bytes();
        frame.extend(mask);
        let proof = self.derive(key, Purpose::DiallerProof);
        frame.extend(proof.as_bytes().iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
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
        let mut proof = [0; PROOF_BYTES];
        io.read_exact(&mut proof).await.map_err(|_| Unproved::Ended)?;
        if self.derive(key, Purpose::AcceptorProof) != blake3::Hash::from_bytes(proof) {
            return Err(Unproved::OtherSecret);
        }
        Ok(self.seals(key, Purpose::DiallerFrames, Purpose::AcceptorFrames))
    }

    /// Has the dialler prove one of the accepted secrets, then proves the same one, and says which it is.
    pub async fn check<Io>(&self, io: &mut Io, accepted: &[Key]) -> Result<(Key, Seals), Unproved>
    where
        Io: AsyncRead + AsyncWrite + Unpin,
    {
        let mut head = [0; FROM_DIALLER.len()];
        io.read_exact(&mut head).await.map_err(|_| Unproved::Ended)?;
        if head != FROM_DIALLER {
            return Err(Unproved::Malformed);
        }
        let (mut mask, mut proof) = ([0; 4], [0; PROOF_BYTES]);
        io.read_exact(&mut mask).await.map_err(|_| Unproved::Ended)?;
        io.read_exact(&mut proof).await.map_err(|_| Unproved::Ended)?;
        proof.iter_mut().zip(mask.iter().cycle()).for_each(|(byte, mask)| *byte ^= mask);
        // Hashes compare in the same time, however much of them is right.
        let proof = blake3::Hash::from_bytes(proof);
        let Some(key) = accepted.iter().find(|key| self.derive(key, Purpose::DiallerProof) == proof) else {
            // Whether it is heard makes no difference.
            let _ = io.write_all(&REFUSED).await;
            let _ = io.shutdown().await;
            return Err(Unproved::OtherSecret);
        };
        let mut frame = [0; FROM_ACCEPTOR.len() + PROOF_BYTES];
        frame[..FROM_ACCEPTOR.len()].copy_from_slice(&FROM_ACCEPTOR);
        frame[FROM_ACCEPTOR.len()..].copy_from_slice(self.derive(key, Purpose::AcceptorProof).as_bytes());
        io.write_all(&frame).await.map_err(|_| Unproved::Ended)?;
        io.flush().await.map_err(|_| Unproved::Ended)?;
        Ok((key.clone(), self.seals(key, Purpose::AcceptorFrames, Purpose::DiallerFrames)))
    }

    fn seals(&self, key: &Key, outgoing: Purpose, incoming: Purpose) -> Seals {
        let seal = |purpose| Seal::new(&Zeroizing::new(*self.derive(key, purpose).as_bytes()));
        Seals { outgoing: seal(outgoing), incoming: seal(incoming) }
    }
}

/// What seals the frames of a link, both ways.
pub struct Seals {
    /// For what this side sends.
    pub outgoing: Seal,
    /// For what the other side sends.
    pub incoming: Seal,
}

/// Seals the frames of one direction, or opens them: each with its number, so in their order and no other.
pub struct Seal {
    key: LessSafeKey,
    count: u64,
}

impl Seal {
    fn new(key: &[u8; 32]) -> Seal {
        let key = UnboundKey::new(&CHACHA20_POLY1305, key).expect("32 bytes are the length of its key");
        Seal { key: LessSafeKey::new(key), count: 0 }
    }

    /// The frame as it goes over the link.
    pub fn seal(&mut self, frame: Bytes) -> Bytes {
        let nonce = self.next();
        let mut frame = BytesMut::from(frame);
        self.key.seal_in_place_append_tag(nonce, Aad::empty(), &mut frame).expect("frames are far below 256 GiB");
        frame.freeze()
    }

    /// The frame that was sealed; none if it is not the next one that the peer has sealed.
    pub fn open(&mut self, sealed: Bytes) -> Option<Bytes> {
        let nonce = self.next();
        let mut frame = BytesMut::from(sealed);
        let length = self.key.open_in_place(nonce, Aad::empty(), &mut frame).ok()?.len();
        frame.truncate(length);
        Some(frame.freeze())
    }

    /// The number of the next frame, as the nonce that no other frame under this key has.
    fn next(&mut self) -> Nonce {
        let mut nonce = [0; 12];
        nonce[4..].copy_from_slice(&self.count.to_be_bytes());
        self.count = self.count.checked_add(1).expect("no link lives for 2^64 frames");
        Nonce::assume_unique_for_key(nonce)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{DuplexStream, duplex};

    use super::*;
    use crate::node::secret::PoolSecret;

    fn key(secret: &str) -> Key {
        PoolSecret::new(secret.as_bytes()).expect("long enough").first().expect("there is one")
    }

    /// Challenges that have met, as each side sees them.
    fn met() -> (Met, Met) {
        let (dialler, acceptor) = (Challenge::new().expect("chance"), Challenge::new().expect("chance"));
        let (dialled, accepted) = (dialler.shown(), acceptor.shown());
        (dialler.answered(&accepted).expect("a challenge"), acceptor.answers(&dialled).expect("a challenge"))
    }

    fn both() -> (DuplexStream, DuplexStream) {
        duplex(1 << 10)
    }

    async fn link(proved: &Key, accepted: &[Key]) -> (Result<Seals, Unproved>, Result<(Key, Seals), Unproved>) {
        let ((dialler, acceptor), (mut near, mut far)) = (met(), both());
        tokio::join!(dialler.prove(&mut near, proved), acceptor.check(&mut far, accepted))
    }

    /// What the acceptor says to these bytes, behind which the dialler says no more.
    async fn answer(bytes: &[u8]) -> (Option<Unproved>, Vec<u8>) {
        let ((_, acceptor), (mut near, mut far)) = (met(), both());
        near.write_all(bytes).await.expect("there is room");
        near.shutdown().await.expect("it is open");
        let why = acceptor.check(&mut far, &[key("0123456789abcdef")]).await.err();
        drop(far);
        let mut said = Vec::new();
        near.read_to_end(&mut said).await.expect("memory");
        (why, said)
    }

    /// What the dialler makes of these bytes, whatever it says.
    async fn taken(bytes: &[u8]) -> Option<Unproved> {
        let ((dialler, _), (mut near, mut far)) = (met(), both());
        far.write_all(bytes).await.expect("there is room");
        far.shutdown().await.expect("it is open");
        dialler.prove(&mut near, &key("0123456789abcdef")).await.err()
    }

    #[tokio::test]
    async fn who_knows_one_secret_reads_what_the_other_seals() {
        let (old, new) = (key("0123456789abcdef"), key("fedcba9876543210"));
        let (proved, checked) = link(&old, &[new, old.clone()]).await;
        let (mut dialler, (used, mut acceptor)) = (proved.expect("proved"), checked.expect("checked"));
        assert!(used == old);
        for text in ["", "one", "two"] {
            let sealed = dialler.outgoing.seal(Bytes::from(text));
            assert_eq!(sealed.len(), text.len() + SEAL_BYTES);
            assert_eq!(acceptor.incoming.open(sealed).expect("sealed"), text);
            let sealed = acceptor.outgoing.seal(Bytes::from(text));
            assert_eq!(dialler.incoming.open(sealed).expect("sealed"), text);
        }
    }

    #[tokio::test]
    async fn another_secret_is_refused_and_both_know_why() {
        let (proved, checked) = link(&key("0123456789abcdef"), &[key("fedcba9876543210")]).await;
        assert_eq!(proved.err(), Some(Unproved::OtherSecret));
        assert_eq!(checked.err(), Some(Unproved::OtherSecret));
    }

    #[tokio::test]
    async fn a_frame_that_is_altered_repeated_left_out_or_sent_back_is_not_opened() {
        let key = key("0123456789abcdef");
        let sealed = async || {
            let (proved, checked) = link(&key, std::slice::from_ref(&key)).await;
            let (mut dialler, (_, acceptor)) = (proved.expect("proved"), checked.expect("checked"));
            let frames = ["one", "two"].map(|text| dialler.outgoing.seal(Bytes::from(text)));
            (dialler, acceptor, frames)
        };
        let (_, _, [one, _]) = sealed().await;
        for place in 0..one.len() {
            let (_, mut acceptor, [one, _]) = sealed().await;
            let mut altered = one.to_vec();
            altered[place] ^= 1;
            assert!(acceptor.incoming.open(altered.into()).is_none(), "{place}");
        }
        for end in 0..one.len() {
            let (_, mut acceptor, [one, _]) = sealed().await;
            assert!(acceptor.incoming.open(one.slice(..end)).is_none(), "{end}");
        }
        let (_, mut acceptor, [_, two]) = sealed().await;
        assert!(acceptor.incoming.open(two).is_none(), "the first is left out");
        let (_, mut acceptor, [one, _]) = sealed().await;
        assert!(acceptor.incoming.open(one.clone()).is_some());
        assert!(acceptor.incoming.open(one).is_none(), "it is repeated");
        let (mut dialler, _, [one, _]) = sealed().await;
        assert!(dialler.incoming.open(one).is_none(), "it is sent back");
        let (_, mut acceptor, _) = sealed().await;
        let (_, _, [other, _]) = sealed().await;
        assert!(acceptor.incoming.open(other).is_none(), "it is of another link");
    }

    #[tokio::test]
    async fn a_proof_is_worth_nothing_sent_back_or_for_another_challenge() {
        let key = key("0123456789abcdef");
        let (one, other) = (met().0, met().0);
        assert!(one.derive(&key, Purpose::DiallerProof) != one.derive(&key, Purpose::AcceptorProof));
        assert!(one.derive(&key, Purpose::DiallerProof) != other.derive(&key, Purpose::DiallerProof));
        // Even where a challenge is sent back to its maker, who then agrees with itself.
        let (mine, shown) = Challenge::new()
            .map(|challenge| {
                let shown = challenge.shown();
                (challenge, shown)
            })
            .expect("chance");
        let alone = mine.answered(&shown).expect("a challenge");
        assert!(alone.derive(&key, Purpose::DiallerProof) != alone.derive(&key, Purpose::AcceptorProof));
    }

    #[tokio::test]
    async fn what_is_no_challenge_is_refused() {
        let good = Challenge::new().expect("chance").shown();
        let mut cases: Vec<String> = (0..good.len()).map(|end| good[..end].into()).collect();
        cases.extend([format!("{good}A"), format!("{good}="), format!("{}!", &good[1..]), "A".repeat(4_096)]);
        // Keys of small order, on which all agree on zero.
        cases.push(BASE64_URL_SAFE_NO_PAD.encode([0; 32]));
        cases.push(BASE64_URL_SAFE_NO_PAD.encode([&[1][..], &[0; 31]].concat()));
        for case in cases {
            let refused = |met: Result<Met, Unproved>| met.err() == Some(Unproved::Malformed);
            assert!(refused(Challenge::new().expect("chance").answers(&case)), "{case}");
            assert!(refused(Challenge::new().expect("chance").answered(&case)), "{case}");
        }
    }

    #[tokio::test]
    async fn whatever_else_is_sent_than_a_proof_nothing_is_told() {
        let mut rng = fastrand::Rng::with_seed(7);
        let whole = [&FROM_DIALLER[..], &[9; 4 + PROOF_BYTES]].concat();
        for end in 0..whole.len() {
            assert_eq!(answer(&whole[..end]).await, (Some(Unproved::Ended), vec![]), "{end}");
        }
        assert_eq!(answer(&whole).await, (Some(Unproved::OtherSecret), REFUSED.to_vec()));
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
        let whole = [&FROM_ACCEPTOR[..], &[9; PROOF_BYTES]].concat();
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
