//! What a worker and its callers share: the latest figures, and who is still owed a last word.
//! Whatever becomes of the worker, [`Ledger::fail`] answers everybody and refuses those who come later.
use std::collections::HashMap;
use std::sync::{Arc, Weak};

use parking_lot::{Mutex, MutexGuard};

use crate::event::{Event, Finish, FinishReason, RequestStats, StopReason};
use crate::mailbox::Inner;
use crate::stats::Stats;

/// The entries.
#[derive(Default)]
pub struct Entries {
    /// The latest snapshot.
    pub stats: Stats,
    /// Requests submitted and not ended, whether the worker has seen them or not.
    pub live: usize,
    /// Whether the queue stands still for want of blocks.
    pub blocked: bool,
    /// Mailboxes of all requests whose last event was not posted.
    owed: HashMap<u64, Weak<Inner>>,
}

impl Entries {
    /// Counts a request that was handed in; its mailbox will get a last event.
    pub fn enter(&mut self, request: u64, mailbox: &Arc<Inner>) {
        mailbox.await_end(request);
        self.owed.insert(request, Arc::downgrade(mailbox));
        self.live += 1;
    }
}

/// Shared entries; clones are the same ledger.
#[derive(Clone, Default)]
pub struct Ledger(Arc<Mutex<Entries>>);

impl Ledger {
    /// The entries, for as long as nothing else is done.
    pub fn lock(&self) -> MutexGuard<'_, Entries> {
        self.0.lock()
    }

    /// Strikes out requests whose last events were posted.
    pub fn settle(&self, requests: &mut Vec<u64>) {
        if !requests.is_empty() {
            let mut entries = self.lock();
            requests.drain(..).for_each(|request| {
                entries.owed.remove(&request);
            });
        }
    }

    /// Ends every request with an error and the engine for good. The first reason stays.
    pub fn fail(&self, reason: &str) {
        let owed = {
            let mut entries = self.lock();
            let stats = &mut entries.stats;
            stats.healthy = false;
            let reason = stats.failure.get_or_insert_with(|| reason.to_owned());
            tracing::error!(error = %reason, "the engine failed");
            (stats.running, stats.kv_blocks_free) = (0, stats.kv_blocks_total);
            entries.live = 0;
            let owed = std::mem::take(&mut entries.owed);
            let count = owed.len() as u64;
            entries.stats.counters.errors += count;
            entries.stats.counters.finished += count;
            owed
        };
        for (request, mailbox) in owed {
            if let Some(mailbox) = mailbox.upgrade() {
                mailbox.post_last(last_word(request, reason));
            }
        }
    }
}

/// An event that ends a request with an error, of which nothing else is known.
fn last_word(request: u64, reason: &str) -> Event {
    Event {
        finish: Some(Finish {
            reason: FinishReason::Error,
            stop_reason: Some(StopReason::Text(reason.to_owned())),
            stats: RequestStats::default(),
        }),
        ..Event::empty(request)
    }
}

/// Fails the engine when its thread ends in a way that nobody foresaw.
pub struct LastWord(pub Ledger);

impl Drop for LastWord {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0
                .fail("the engine failed and must be opened anew: its thread ended in a panic");
        }
    }
}
