//! Messages to the editors of a text, kept until they have taken them or are too far behind.
//!
//! All editors of a text share one ring, in which each has a place of its own. It is bounded in entries and in bytes, so that an editor
//! that reads slowly costs no more than any other: past that it gets the whole text again. While nobody edits, nothing is kept.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::sync::watch;

/// Most entries that a slow editor may be behind, and most bytes of them, unless one entry has more.
const NEWS_MAX: (usize, usize) = (256, 1 << 20);

/// A message to the editors of a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum News {
    /// An update.
    Update(Arc<[u8]>),
    /// The text that they edit is no more.
    Gone,
    /// More than is kept: they are to get the whole text.
    Whole,
}

impl News {
    fn bytes(&self) -> usize {
        match self {
            News::Update(update) => update.len(),
            News::Gone | News::Whole => 0,
        }
    }
}

/// The ring. A clone is the same.
#[derive(Clone, Debug)]
pub struct NewsRing(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    kept: Mutex<Kept>,
    /// The place behind the newest entry.
    end: watch::Sender<u64>,
    bytes: AtomicUsize,
}

#[derive(Debug, Default)]
struct Kept {
    news: VecDeque<News>,
    /// The place of the oldest.
    first: u64,
}

impl Default for NewsRing {
    fn default() -> NewsRing {
        let (end, _) = watch::channel(0);
        NewsRing(Arc::new(Shared { kept: Mutex::default(), end, bytes: AtomicUsize::new(0) }))
    }
}

impl NewsRing {
    /// Tells all who follow.
    pub fn send(&self, news: News) {
        let shared = &*self.0;
        let mut kept = shared.kept();
        let mut bytes = shared.bytes.load(Ordering::Relaxed) + news.bytes();
        kept.news.push_back(news);
        let is_followed = shared.end.receiver_count() > 0;
        while !is_followed && !kept.news.is_empty()
            || kept.news.len() > NEWS_MAX.0
            || bytes > NEWS_MAX.1 && kept.news.len() > 1
        {
            let Some(oldest) = kept.news.pop_front() else { break };
            bytes -= oldest.bytes();
            kept.first += 1;
        }
        shared.bytes.store(bytes, Ordering::Relaxed);
        shared.end.send_replace(kept.first + kept.news.len() as u64);
    }

    /// Follows what is told from now on.
    pub fn follow(&self) -> NewsReader {
        let kept = self.0.kept();
        let place = kept.first + kept.news.len() as u64;
        NewsReader { end: self.0.end.subscribe(), ring: self.clone(), place }
    }

    /// The bytes that are kept.
    pub fn bytes(&self) -> usize {
        self.0.bytes.load(Ordering::Relaxed)
    }
}

impl Shared {
    fn kept(&self) -> MutexGuard<'_, Kept> {
        // Nothing panics while it is held.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Someone who follows a ring.
#[derive(Debug)]
pub struct NewsReader {
    ring: NewsRing,
    end: watch::Receiver<u64>,
    place: u64,
}

impl NewsReader {
    /// The next news, once there are any.
    pub async fn next(&mut self) -> News {
        let place = self.place;
        // The ring that tells is held here, so it does not end.
        let _ = self.end.wait_for(|end| *end > place).await;
        let kept = self.ring.0.kept();
        let at = self.place.checked_sub(kept.first).and_then(|at| usize::try_from(at).ok());
        if let Some(news) = at.and_then(|at| kept.news.get(at)) {
            self.place += 1;
            return news.clone();
        }
        // That the text is no more is still told.
        let is_gone = kept.news.contains(&News::Gone);
        self.place = kept.first + kept.news.len() as u64;
        if is_gone { News::Gone } else { News::Whole }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    fn update(bytes: usize) -> News {
        News::Update(vec![7; bytes].into())
    }

    #[tokio::test]
    async fn each_is_told_all_in_order_from_the_moment_on_at_which_it_follows() {
        let ring = NewsRing::default();
        ring.send(update(1));
        assert_eq!(ring.bytes(), 0, "nobody follows");
        let (mut one, mut other) = (ring.follow(), ring.follow());
        ring.send(update(2));
        ring.send(update(3));
        let mut late = ring.follow();
        ring.send(News::Gone);
        for reader in [&mut one, &mut other] {
            assert_eq!(
                [reader.next().await, reader.next().await, reader.next().await],
                [update(2), update(3), News::Gone]
            );
            assert_eq!(reader.next().now_or_never(), None);
        }
        assert_eq!(late.next().await, News::Gone);
        drop((one, other, late));
        ring.send(update(4));
        assert_eq!(ring.bytes(), 0);
    }

    #[tokio::test]
    async fn what_waits_for_a_slow_editor_is_bounded_and_it_gets_the_whole_text_then() {
        let ring = NewsRing::default();
        let (mut slow, mut quick) = (ring.follow(), ring.follow());
        for _ in 0..10 {
            ring.send(update(2 << 20));
            assert_eq!(quick.next().await, update(2 << 20), "one entry is kept in any case");
            assert!(ring.bytes() <= 2 << 20, "{}", ring.bytes());
        }
        assert_eq!(slow.next().await, News::Whole);
        assert_eq!(slow.next().now_or_never(), None);
        for _ in 0..2 * NEWS_MAX.0 {
            ring.send(update(1));
        }
        assert!(ring.bytes() <= NEWS_MAX.0);
        assert_eq!(slow.next().await, News::Whole);
        ring.send(News::Gone);
        (0..NEWS_MAX.0 / 2).for_each(|_| ring.send(update(1)));
        assert_eq!(slow.next().await, News::Gone);
    }
}
