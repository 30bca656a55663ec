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
const REFUSED: [u8; 4] = [0x88, 2, (4_401_u16 >> 8) as u8, (4_401_u16 & 0xff) as u8];

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
