//! The door of a node: which of those who open a link are let on to it.
//!
//! Where the pool has a secret, a link is nothing to the node's task before its peer has proved that. Until then a peer
//! costs one small place here, for a few seconds at most. Where an address has taken its share, its oldest peer gives way, and where
//! all places are taken, the oldest of the address that has the most. So whoever opens many connections from a few addresses does
//! not keep out a node at another one. Links that are proved are no matter of this door.
//!
//! A place, and a turn by the rate of handshakes (`handshake_rate`), come before any cryptography.

use std::{
    collections::VecDeque,
    convert::Infallible,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::oneshot,
    time::{Instant, timeout_at},
};

use super::{
    handshake::{Acceptor, Unproved},
    handshake_rate::Handshakes,
    node_key::NodeKey,
    noise::{LinkKey, Session},
    secret::{Key, PoolSecret},
    whence::Whence,
};
use crate::op::{NodeId, PublicKey};

/// Peers that have proved nothing yet, at once, and those of one address. One that can proves it within the time of two messages.
const UNPROVED_MAX: usize = 64;
const UNPROVED_EACH_MAX: usize = 8;
/// How long a peer may take for the proof.
const PROOF_TIMEOUT: Duration = Duration::from_secs(5);
/// How often the log says that peers know another secret: they dial again and again.
const COMPLAIN_EVERY: Duration = Duration::from_secs(10);

/// Header that names to a dialler why it was not admitted, as far as it can do something about it.
pub const REFUSAL: &str = "lamplight-refusal";

/// The handshake that a peer offers in the headers of its request.
#[derive(Clone, Copy, Debug)]
pub enum Offer<'a> {
    /// None: it has no pool secret.
    Plain,
    /// Message 1 of this version's handshake.
    Noise(&'a str),
    /// The challenge of protocol versions up to 5.
    Earlier,
}

/// Why no WebSocket is opened for a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotAdmitted {
    /// The pool has a secret, and the peer offers no proof.
    SecretNeeded,
    /// The pool has none, and the peer asks for a proof.
    NoSecret,
    /// Its handshake is of another version.
    OtherVersion,
    /// Too many handshakes were begun from its address, or from all.
    TooMany,
    /// Its first message is malformed, or there can be no answer to it.
    Failed(Unproved),
}

impl NotAdmitted {
    /// As the header says it.
    pub fn word(self) -> &'static str {
        match self {
            NotAdmitted::SecretNeeded => "secret-needed",
            NotAdmitted::NoSecret => "no-secret",
            NotAdmitted::OtherVersion => "other-version",
            NotAdmitted::TooMany => "too-many",
            NotAdmitted::Failed(_) => "failed",
        }
    }

    /// What a word of the header stands for, if the dialler can do something about it.
    pub(super) fn of_word(word: &str) -> Option<NotAdmitted> {
        let known = [NotAdmitted::SecretNeeded, NotAdmitted::NoSecret, NotAdmitted::OtherVersion, NotAdmitted::TooMany];
        known.into_iter().find(|why| why.word() == word)
    }
}

/// The door of a node. A clone is the same door.
#[derive(Clone)]
pub(super) struct Door {
    secret: PoolSecret,
    /// The node's secret key; none if the system gave no random numbers for one.
    node_key: Option<NodeKey>,
    /// The static key of the node's present id.
    key: Arc<Mutex<Option<LinkKey>>>,
    hall: Arc<Mutex<Hall>>,
}

/// Those who stand between the door and the node.
struct Hall {
    /// From the first who came; dropping one sends that peer away.
    unproved: VecDeque<(Whence, oneshot::Sender<Infallible>)>,
    handshakes: Handshakes,
    /// The recent warnings to the operator, each with its time.
    complained: Vec<(&'static str, Instant)>,
}

impl Hall {
    fn new(handshakes: Handshakes) -> Hall {
        Hall { unproved: VecDeque::new(), handshakes, complained: Vec::new() }
    }

    /// A place for one more peer; it ends when the peer has to give way.
    fn enter(&mut self, whence: Whence) -> oneshot::Receiver<Infallible> {
        self.unproved.retain(|(_, place)| !place.is_closed());
        let full = if self.places_of(whence) >= UNPROVED_EACH_MAX {
            Some(whence)
        } else {
            let all =
                (self.unproved.len() >= UNPROVED_MAX).then(|| self.unproved.iter().rev().map(|(other, _)| *other));
            // Of equals the last is taken: from the newest on, that is the oldest.
            all.and_then(|all| all.max_by_key(|other| self.places_of(*other)))
        };
        if let Some(oldest) = full.and_then(|full| self.unproved.iter().position(|(other, _)| *other == full)) {
            self.unproved.remove(oldest);
        }
        let (giving_way, place) = oneshot::channel();
        self.unproved.push_back((whence, giving_way));
        place
    }

    fn places_of(&self, whence: Whence) -> usize {
        self.unproved.iter().filter(|(other, _)| *other == whence).count()
    }
}

/// A peer that may go on to the proof, if there is to be one.
pub struct Admission {
    handshake: Option<Acceptor>,
    whence: Whence,
    until: Instant,
    /// Ends when the peer has to give way.
    place: oneshot::Receiver<Infallible>,
}

impl Admission {
    /// Message 2 of the handshake, for the header of the answer.
    pub fn header(&self) -> Option<String> {
        self.handshake.as_ref().map(Acceptor::header)
    }
}

/// What a link is proved by; none where the pool has no secret.
pub(super) type Proof = Option<(Key, Session)>;

impl Door {
    /// The door of a node with this secret key; with one of this process alone, if there is none.
    pub(super) fn new(secret: PoolSecret, node_key: Option<NodeKey>, handshakes: Handshakes) -> Door {
        let node_key = node_key.or_else(NodeKey::generate).filter(|_| secret.is_set());
        Door { secret, node_key, key: Arc::default(), hall: Arc::new(Mutex::new(Hall::new(handshakes))) }
    }

    /// Goes on with the static key of this id, and returns its public half; none where the pool has no secret.
    pub(super) fn go_by(&self, node: NodeId) -> Option<PublicKey> {
        let key = self.node_key.as_ref()?.link_key(node);
        let public = key.public();
        *self.key.lock().unwrap_or_else(PoisonError::into_inner) = Some(key);
        Some(public)
    }

    /// The static key of the node's present id.
    pub(super) fn key(&self) -> Result<LinkKey, Unproved> {
        self.key.lock().unwrap_or_else(PoisonError::into_inner).clone().ok_or(Unproved::NoChance)
    }

    pub(super) fn secret(&self) -> &PoolSecret {
        &self.secret
    }

    /// Lets a peer that offers this go on to the proof. Peers of unknown addresses count as one.
    pub(super) fn admit(&self, offer: Offer, from: Option<IpAddr>) -> Result<Admission, NotAdmitted> {
        let message = match (offer, self.secret.is_set()) {
            (Offer::Plain, false) => None,
            (Offer::Plain, true) => return Err(NotAdmitted::SecretNeeded),
            (Offer::Noise(_) | Offer::Earlier, false) => return Err(NotAdmitted::NoSecret),
            (Offer::Earlier, true) => return Err(self.other_version()),
            (Offer::Noise(message), true) => Some(message),
        };
        let (whence, now) = (Whence::of(from.unwrap_or(IpAddr::from([0; 4]))), Instant::now());
        // One that is refused for the rate takes no place, so nobody gives way to it.
        let place = self.hall(|hall| {
            let has_turn = message.is_none() || hall.handshakes.admit(whence, now);
            has_turn.then(|| hall.enter(whence)).ok_or(NotAdmitted::TooMany)
        })?;
        let handshake = message.map(|message| self.key().and_then(|key| Acceptor::new(&key, message))).transpose();
        let handshake = handshake.map_err(|why| match why {
            Unproved::OtherVersion => self.other_version(),
            why => NotAdmitted::Failed(why),
        })?;
        Ok(Admission { handshake, whence, until: now + PROOF_TIMEOUT, place })
    }

    /// Waits for the connection of an admitted peer, and for its proof.
    pub(super) async fn pass<Io>(
        &self,
        admission: Admission,
        opening: impl Future<Output = Result<Io, String>>,
    ) -> Result<(Io, Proof), String>
    where
        Io: AsyncRead + AsyncWrite + Unpin,
    {
        let Admission { handshake, whence, until, place } = admission;
        let proved = async {
            let mut io = opening.await?;
            let Some(handshake) = handshake else { return Ok((io, None)) };
            match handshake.check(&mut io, &self.secret.all()).await {
                Ok(proof) => {
                    self.hall(|hall| hall.handshakes.proved(whence, Instant::now()));
                    Ok((io, Some(proof)))
                }
                Err(why) => {
                    if why == Unproved::OtherSecret {
                        self.complain(
                            "a node with another pool secret was refused: if it is one of this pool, check \
                             --pool-secret-file on both",
                        );
                    }
                    Err(why.to_string())
                }
            }
        };
        tokio::select! {
            proved = timeout_at(until, proved) => {
                proved.unwrap_or_else(|_| Err("it proved no pool secret in time".into()))
            }
            _ = place => Err("it gave way to others that have proved nothing either".into()),
        }
    }

    /// The refusal of a peer whose handshake is of another version.
    fn other_version(&self) -> NotAdmitted {
        self.complain(
            "a node with another version of lamplight was refused: if it is one of this pool, update the older of the two",
        );
        NotAdmitted::OtherVersion
    }

    /// Warns the operator, who may have changed the secret or the version on one side only; but not at each attempt.
    fn complain(&self, words: &'static str) {
        let now = Instant::now();
        let is_news = self.hall(|hall| {
            hall.complained.retain(|(_, last)| now < *last + COMPLAIN_EVERY);
            let is_news = hall.complained.iter().all(|(said, _)| *said != words);
            hall.complained.extend(is_news.then_some((words, now)));
            is_news
        });
        if is_news {
            tracing::warn!("{words}");
        }
    }

    fn hall<T>(&self, change: impl FnOnce(&mut Hall) -> T) -> T {
        change(&mut self.hall.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn enter(hall: &mut Hall, peer: u8) -> oneshot::Receiver<Infallible> {
        hall.enter(Whence::of(IpAddr::from([10, 0, 0, peer])))
    }

    /// A first message like any other: its key is the base point.
    const MESSAGE_1: &str = "CQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAATsmwGr9YpA0n63vpzxveB";

    fn door() -> Door {
        let door = Door::new(PoolSecret::new(b"0123456789abcdef").expect("long enough"), None, Handshakes::new(true));
        door.go_by(NodeId(uuid::Uuid::from_u128(1))).expect("random numbers");
        door
    }

    #[test]
    fn handshakes_beyond_the_rate_are_refused_before_they_take_a_place_or_cost_anything() {
        let (door, began) = (door(), std::time::Instant::now());
        let from = |peer| Some(IpAddr::from([10, 0, 0, peer]));
        let mut kept = Vec::new();
        let mut refused = 0;
        for _ in 0..20_000 {
            match door.admit(Offer::Noise(MESSAGE_1), from(1)) {
                Ok(admission) => kept.push(admission),
                Err(why) => {
                    assert_eq!(why, NotAdmitted::TooMany);
                    refused += 1;
                }
            }
        }
        let most = 40 + 8 * began.elapsed().as_secs() as usize;
        assert!(kept.len() <= most && kept.len() + refused == 20_000, "{}", kept.len());
        let places = door.hall(|hall| hall.unproved.iter().filter(|(_, place)| !place.is_closed()).count());
        assert_eq!(places, UNPROVED_EACH_MAX);
        assert!(door.admit(Offer::Noise(MESSAGE_1), from(2)).is_ok(), "another address has a rate of its own");
        // What is malformed counts, too.
        let malformed = |_: &u32| matches!(door.admit(Offer::Noise("x"), from(3)), Err(NotAdmitted::Failed(_)));
        assert!((0..1_000).filter(malformed).count() <= most);
    }

    #[test]
    fn each_id_of_the_node_has_a_static_key_of_its_own_and_a_door_without_a_secret_has_none() {
        let (door, ids) = (door(), [1, 2].map(|id| NodeId(uuid::Uuid::from_u128(id))));
        let keys = ids.map(|id| door.go_by(id));
        assert!(keys[0].is_some() && keys[0] != keys[1] && door.go_by(ids[0]) == keys[0]);
        assert_eq!(door.key().map(|key| Some(key.public())), Ok(keys[0]));
        let open = Door::new(PoolSecret::none(), NodeKey::generate(), Handshakes::new(true));
        assert_eq!((open.go_by(ids[0]), open.key().err()), (None, Some(Unproved::NoChance)));
    }

    fn stays(place: &mut oneshot::Receiver<Infallible>) -> bool {
        place.try_recv() == Err(oneshot::error::TryRecvError::Empty)
    }

    #[test]
    fn however_many_come_from_one_address_one_of_another_keeps_its_place() {
        let mut hall = Hall::new(Handshakes::new(true));
        let mut node = enter(&mut hall, 1);
        let mut crowd: Vec<_> = (0..1_000).map(|_| enter(&mut hall, 2)).collect();
        assert!(stays(&mut node));
        assert_eq!(crowd.iter_mut().filter_map(|place| stays(place).then_some(())).count(), UNPROVED_EACH_MAX);
    }

    #[test]
    fn of_many_addresses_with_a_place_each_the_oldest_gives_way() {
        let mut hall = Hall::new(Handshakes::new(true));
        let mut crowd: Vec<_> = (0..UNPROVED_MAX as u8).map(|peer| enter(&mut hall, peer)).collect();
        let mut node = enter(&mut hall, 200);
        let _next = enter(&mut hall, 201);
        assert!(stays(&mut node));
        assert_eq!(crowd.iter_mut().map(stays).collect::<Vec<_>>()[..3], [false, false, true]);
    }

    #[test]
    fn of_few_addresses_that_take_all_places_the_one_with_the_most_gives_way() {
        let mut hall = Hall::new(Handshakes::new(true));
        let mut node = enter(&mut hall, 1);
        let crowd: Vec<_> = (0..1_000).map(|n| enter(&mut hall, 2 + (n % 50) as u8)).collect();
        assert!(stays(&mut node));
        assert_eq!(hall.unproved.len(), UNPROVED_MAX);
        let mut late = enter(&mut hall, 200);
        assert!(stays(&mut late) && stays(&mut node));
        drop(crowd);
        let _alone = enter(&mut hall, 3);
        assert_eq!(hall.unproved.len(), 3, "places of those who have gone are free");
    }
}
