//! What there is little of, shared fairly: so much in all, and so much for each client.
//!
//! A client is a token or an address, as for the limit of requests. So whoever takes all that it may leaves the others
//! theirs.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::rates::Caller;

/// Something of which there is so much.
#[derive(Debug)]
pub struct Shares {
    max: usize,
    each_max: usize,
    taken: Mutex<Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    all: usize,
    each: HashMap<Caller, usize>,
}

/// Which limits a client is held to when it takes more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bounds {
    /// Its own, and that of all clients together.
    All,
    /// Its own.
    Own,
    /// None: it counts, also beyond the limits.
    None,
}

/// Which limit would be passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Beyond {
    /// That of all clients together.
    All,
    /// That of one client.
    Each(usize),
}

impl Shares {
    /// So much in all, and so much for each.
    pub fn new(max: usize, each_max: usize) -> Arc<Shares> {
        Arc::new(Shares { max, each_max, taken: Mutex::default() })
    }

    /// Takes some for a client, until the share is dropped.
    pub fn take(self: &Arc<Self>, caller: Caller, amount: usize) -> Result<Share, Beyond> {
        let mut share = Share { shares: Arc::clone(self), caller, amount: 0 };
        share.resize(amount)?;
        Ok(share)
    }

    /// How much there is in all.
    pub fn max(&self) -> usize {
        self.max
    }

    /// How much all clients have taken.
    pub fn all_taken(&self) -> usize {
        self.taken().all
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What one client has taken.
#[derive(Debug)]
pub struct Share {
    shares: Arc<Shares>,
    caller: Caller,
    amount: usize,
}

impl Share {
    /// How much it is.
    pub fn amount(&self) -> usize {
        self.amount
    }

    /// Takes more, or gives some back. Where there is not so much, it stays as it is.
    pub fn resize(&mut self, amount: usize) -> Result<(), Beyond> {
        self.resize_within(amount, Bounds::All)
    }

    /// The same, within some of the limits.
    pub fn resize_within(&mut self, amount: usize, bounds: Bounds) -> Result<(), Beyond> {
        let Shares { max, each_max, .. } = *self.shares;
        let mut taken = self.shares.taken();
        let all = taken.all - self.amount + amount;
        let each = taken.each.get(&self.caller).copied().unwrap_or_default() - self.amount + amount;
        let grows = amount > self.amount;
        if grows && bounds != Bounds::None && each > each_max {
            return Err(Beyond::Each(each_max));
        }
        if grows && bounds == Bounds::All && all > max {
            return Err(Beyond::All);
        }
        taken.all = all;
        if each == 0 {
            taken.each.remove(&self.caller);
        } else {
            taken.each.insert(self.caller.clone(), each);
        }
        self.amount = amount;
        Ok(())
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        // To give back passes no limit.
        let _ = self.resize(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::access::Principal;

    #[test]
    fn one_client_takes_its_share_and_leaves_the_others_theirs() {
        let shares = Shares::new(5, 3);
        let take = |name: &str, amount| shares.take(Caller::Token(Principal::named(name)), amount);
        let mut ada = take("ada", 2).unwrap();
        assert_eq!(take("ada", 2).unwrap_err(), Beyond::Each(3));
        let more = take("ada", 1).unwrap();
        assert_eq!(ada.resize(3).unwrap_err(), Beyond::Each(3));
        let ben = take("ben", 2).unwrap();
        assert_eq!(take("cleo", 1).unwrap_err(), Beyond::All);
        ada.resize(1).unwrap();
        let _cleo = take("cleo", 1).unwrap();
        drop((ada, more, ben));
        let left = shares.taken();
        assert_eq!((left.all, left.each.len()), (1, 1), "nothing is left behind");
    }
}
