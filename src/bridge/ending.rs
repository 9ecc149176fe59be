use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use tokio::sync::Notify;

/// Tells those who hold links of a session for as long as they like, as WebSockets do, when to bring them to an end: its
/// agent or this replica stops soon.
#[derive(Clone, Debug, Default)]
pub struct Ending(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    asked: AtomicBool,
    news: Notify,
}

// === impl Ending ===

impl Ending {
    /// Whether the links are to end. It costs a look at an atomic.
    #[must_use]
    pub fn is_asked(&self) -> bool {
        self.0.asked.load(Ordering::Acquire)
    }

    /// Waits until the links are to end.
    pub async fn asked(&self) {
        // Made before the look, so that what is asked in between is heard.
        let news = self.0.news.notified();
        if !self.is_asked() {
            news.await;
        }
    }

    /// Asks for it.
    pub(crate) fn ask(&self) {
        self.0.asked.store(true, Ordering::Release);
        self.0.news.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn it_is_heard_before_and_after() {
        let ending = Ending::default();
        assert!(!ending.is_asked());
        let (asking, early) = (ending.clone(), ending.clone());
        let early = tokio::spawn(async move { early.asked().await });
        tokio::task::yield_now().await;
        asking.ask();
        early.await.expect("heard");
        ending.asked().await;
        assert!(ending.is_asked());
    }
}
