//! What was said in the log: no cause is to fill it.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// How long nothing more is said of a cause.
const QUIET: Duration = Duration::from_secs(60);
/// Most causes remembered; past that all may be said again.
const CAUSES_MAX: usize = 1_024;

/// The causes that were told of lately.
#[derive(Debug, Default)]
pub struct Said(Mutex<BTreeMap<String, Instant>>);

impl Said {
    /// Whether a cause is to be told now: at most once a minute.
    pub fn is_news(&self, cause: &str) -> bool {
        self.is_news_at(cause, Instant::now())
    }

    fn is_news_at(&self, cause: &str, now: Instant) -> bool {
        // Nothing panics while it is held.
        let mut said = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if said.get(cause).is_some_and(|at| now.duration_since(*at) < QUIET) {
            return false;
        }
        if said.len() >= CAUSES_MAX {
            said.clear();
        }
        said.insert(cause.to_string(), now);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_is_told_once_a_minute() {
        let (said, begin) = (Said::default(), Instant::now());
        assert!(said.is_news_at("a", begin) && said.is_news_at("b", begin) && !said.is_news_at("a", begin));
        assert!(!said.is_news_at("a", begin + QUIET / 2));
        assert!(said.is_news_at("a", begin + QUIET) && !said.is_news_at("a", begin + QUIET));
        (0..2 * CAUSES_MAX).for_each(|n| assert!(said.is_news_at(&n.to_string(), begin) || n < 2));
        assert!(said.0.lock().expect("nobody panicked").len() <= CAUSES_MAX);
    }
}
