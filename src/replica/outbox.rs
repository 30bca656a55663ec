//! What may leave a node only once its journal holds what it rests on.

use std::collections::VecDeque;

use super::Effect;
use crate::{
    plant::{Rule, left_out},
    wire::Message,
};

/// Things in the order in which they came about, each with the place in the journal up to which it rests on it.
#[derive(Debug)]
pub struct Outbox<T>(VecDeque<(u64, T)>);

impl<T> Outbox<T> {
    /// Puts something behind the others. `end` is the end of the journal now, stored or not.
    pub fn push(&mut self, end: u64, item: T) {
        self.0.push_back((end, item));
    }

    /// The first, if the journal is stored as far as it needs.
    pub fn next(&mut self, stored: u64) -> Option<T> {
        let (end, _) = self.0.front()?;
        if *end > stored {
            return None;
        }
        self.0.pop_front().map(|(_, item)| item)
    }

    /// How many things wait.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl<T> Default for Outbox<T> {
    fn default() -> Outbox<T> {
        Outbox(VecDeque::new())
    }
}

impl Effect {
    /// Whether it tells anyone anything, and so must wait until what it rests on is stored.
    pub fn waits(&self) -> bool {
        match self {
            // Presence is never stored, and says nothing of what is.
            Effect::Store(_) | Effect::Send(_, Message::Presence(_) | Message::Attendance(_)) => false,
            Effect::Send(_, Message::Heads(_) | Message::Beat(_)) => {
                !left_out(Rule::DurableHeads) && !left_out(Rule::StoreFirst)
            }
            // That a link closes must not overtake what was said on it.
            _ => !left_out(Rule::StoreFirst),
        }
    }
}
