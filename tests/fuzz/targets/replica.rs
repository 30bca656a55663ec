//! A peer that says anything: a replica hears it, and is well afterwards.

use lamplight::{
    op::{NodeId, PoolId},
    replica::{Config, Draft, Effect, Event, LinkId, Now, Replica, Standing},
    wire::{self, Hello, Message},
};
use uuid::Uuid;

/// Frames of a link, each behind two bytes of length. The peer has said hello before.
pub fn peer(mut input: &[u8]) {
    let (mut replica, mut mono_ms) = (founder(), 0);
    let mut say = |replica: &mut Replica, event| {
        mono_ms += 10;
        replica.handle(Now { mono_ms, wall_ms: 0 }, event)
    };
    say(&mut replica, Event::Tick);
    let pool = replica.pool().cloned();
    let link = LinkId(1);
    say(&mut replica, Event::Opened(link, None, None));
    let hello = hello(pool);
    say(&mut replica, Event::Heard(link, Message::Hello(hello)));
    let mut closed = false;
    while let [low, high, rest @ ..] = input {
        let length = usize::from(u16::from_le_bytes([*low, *high]));
        let (frame, behind) = rest.split_at_checked(length).unwrap_or((rest, &[]));
        input = behind;
        let event = match wire::decode(frame) {
            Ok(message) => Event::Heard(link, message),
            Err(why) => Event::Broken(link, why),
        };
        for effect in say(&mut replica, event) {
            match effect {
                Effect::Send(_, message) => {
                    assert_eq!(wire::decode(&wire::encode(&message)), Ok(message), "its peers understand it");
                }
                Effect::Close(_) => closed = true,
                _ => {}
            }
        }
        if closed {
            break;
        }
        say(&mut replica, Event::Flushed(link));
        say(&mut replica, Event::Shown(link));
    }
    if !closed {
        say(&mut replica, Event::Closed(link));
    }
    say(&mut replica, Event::Tick);
    if replica.standing() == Standing::Member {
        let draft = Draft { key: None, guards: Vec::new(), commands: Vec::new(), present: false };
        say(&mut replica, Event::Submit(1, draft));
    }
}

/// What a member of a pool, another node, says first.
pub(super) fn hello(pool: Option<(PoolId, String)>) -> Hello {
    Hello { member: true, ..Hello::newcomer(node(2), "b", pool) }
}

fn node(id: u128) -> NodeId {
    NodeId(Uuid::from_u128(id))
}

fn founder() -> Replica {
    Replica::new(Config::founder(node(1), 7))
}
