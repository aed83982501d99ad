//! Where events of requests arrive: one batch a step, one wake-up, and only if somebody waits.
//! Knows nothing of what runs; the engine posts, one reader (a blocking call or an event loop) drains.
use std::collections::HashMap;
use std::io::{PipeReader, PipeWriter, Read, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use crate::error::{Error, Result};
use crate::event::Event;
use crate::fault::{Faults, Place};

#[derive(Default)]
struct State {
    events: Vec<Event>,
    /// Requests whose last event has not come, and whether a first one has.
    open: HashMap<u64, bool>,
    /// Made when somebody asks for the descriptor, and may be watching it from then on.
    pipe: Option<Pipe>,
    /// Exactly one byte lies in the pipe.
    signalled: bool,
    /// Whoever watches wants to be woken by urgent events only.
    resting: bool,
    /// Among the events is the first or the last one of a request.
    urgent: bool,
    waiting: usize,
}

/// A pipe of the standard library: an eventfd would need unsafe code and saves a microsecond a wake-up.
/// It never holds more than one byte, so neither end can block.
struct Pipe {
    reader: PipeReader,
    writer: PipeWriter,
}

#[cfg(unix)]
fn descriptor(reader: &PipeReader) -> Option<i32> {
    use std::os::fd::AsRawFd;
    Some(reader.as_raw_fd())
}

#[cfg(not(unix))]
fn descriptor(_: &PipeReader) -> Option<i32> {
    None
}

#[derive(Default)]
pub(crate) struct Inner {
    state: Mutex<State>,
    arrived: Condvar,
}

/// A box for events; clones share it. When the last clone is dropped, the requests submitted with it are cancelled.
/// It costs descriptors only once somebody asks for one.
#[derive(Clone, Default)]
pub struct Mailbox {
    inner: Arc<Inner>,
}

impl Mailbox {
    /// An empty mailbox.
    pub fn new() -> Self {
        Self::default()
    }

    /// Blocks until there are events or the time is over (`None` = no limit), and takes all of them.
    pub fn poll(&self, timeout: Option<Duration>) -> Vec<Event> {
        // A timeout too far away to be a point in time is none.
        let until = timeout.and_then(|t| Instant::now().checked_add(t));
        let mut state = self.inner.state.lock();
        state.waiting += 1;
        while state.events.is_empty() {
            match until {
                None => self.inner.arrived.wait(&mut state),
                Some(until) => {
                    if self.inner.arrived.wait_until(&mut state, until).timed_out() {
                        break;
                    }
                }
            }
        }
        state.waiting -= 1;
        state.take()
    }

    /// Takes what is there without waiting; afterwards [`Mailbox::fd`] is not readable.
    pub fn try_poll(&self) -> Vec<Event> {
        self.inner.state.lock().take()
    }

    /// A descriptor that is readable while events wait, to watch with poll, select, epoll or kqueue. Never read from it.
    /// Fails when the process has no descriptors left. None where the system watches no pipes (Windows).
    pub fn fd(&self) -> Result<Option<i32>> {
        if cfg!(not(unix)) {
            return Ok(None);
        }
        let mut state = self.inner.state.lock();
        if state.pipe.is_none() {
            let (reader, writer) = std::io::pipe()
                .map_err(|e| Error::Generation(format!("cannot open a pipe for a mailbox: {e}")))?;
            state.pipe = Some(Pipe { reader, writer });
        }
        state.signal();
        Ok(state
            .pipe
            .as_ref()
            .and_then(|pipe| descriptor(&pipe.reader)))
    }

    /// Whether the descriptor keeps still until the first or the last event of a request comes: whoever waits for
    /// those is served at once, and whoever reads many long answers is not woken for each token.
    pub fn rest(&self, resting: bool) {
        let mut state = self.inner.state.lock();
        state.resting = resting;
        state.signal();
    }

    pub(crate) fn inner(&self) -> &Arc<Inner> {
        &self.inner
    }
}

impl Inner {
    /// Events of this request will come, up to a last one.
    pub(crate) fn await_end(&self, request: u64) {
        self.state.lock().open.insert(request, false);
    }

    /// Adds events and wakes who waits.
    pub(crate) fn post(&self, events: &mut Vec<Event>) {
        let mut state = self.state.lock();
        for event in events.iter() {
            let last = event.finish.is_some();
            let heard = match last {
                true => state.open.remove(&event.request),
                false => state
                    .open
                    .get_mut(&event.request)
                    .map(|heard| std::mem::replace(heard, true)),
            };
            state.urgent |= last || heard == Some(false);
        }
        self.add(&mut state, events);
    }

    /// Adds a request's last event, unless it has had one.
    pub(crate) fn post_last(&self, event: Event) {
        let mut state = self.state.lock();
        if state.open.remove(&event.request).is_some() {
            state.urgent = true;
            self.add(&mut state, &mut vec![event]);
        }
    }

    fn add(&self, state: &mut State, events: &mut Vec<Event>) {
        state.events.append(events);
        state.signal();
        if state.waiting > 0 {
            self.arrived.notify_all();
        }
    }
}

impl State {
    fn signal(&mut self) {
        let worth = !self.events.is_empty() && (self.urgent || !self.resting);
        if let Some(pipe) = &self.pipe
            && worth
            && !self.signalled
        {
            self.signalled = (&pipe.writer).write_all(&[1]).is_ok();
        }
    }

    fn take(&mut self) -> Vec<Event> {
        if let Some(pipe) = &self.pipe
            && self.signalled
        {
            self.signalled = (&pipe.reader).read_exact(&mut [0]).is_err();
        }
        self.urgent = false;
        std::mem::take(&mut self.events)
    }
}

/// Events of one step, sorted by mailbox, so that each mailbox is locked and signalled once.
#[derive(Default)]
pub(crate) struct Outbox {
    batches: Vec<(Arc<Inner>, Vec<Event>)>,
    /// Lists of earlier steps, empty, for those of the next.
    spare: Vec<Vec<Event>>,
}

impl Outbox {
    /// Keeps an event for a mailbox until [`Outbox::flush`].
    pub(crate) fn push(&mut self, to: &Arc<Inner>, event: Event) {
        match self
            .batches
            .iter_mut()
            .find(|(inner, _)| Arc::ptr_eq(inner, to))
        {
            Some((_, events)) => events.push(event),
            None => {
                let mut events = self.spare.pop().unwrap_or_default();
                events.push(event);
                self.batches.push((to.clone(), events));
            }
        }
    }

    /// Hands every mailbox its events.
    pub(crate) fn flush(&mut self, faults: &Faults) {
        self.spare.truncate(self.batches.len());
        for (inner, mut events) in self.batches.drain(..) {
            inner.post(&mut events);
            faults.at(Place::Flush);
            self.spare.push(events);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use crate::event::{Finish, FinishReason, RequestStats};

    fn event(request: u64) -> Event {
        Event {
            request,
            tokens: vec![],
            text: String::new(),
            logprobs: vec![],
            prompt_logprobs: None,
            finish: None,
        }
    }

    #[cfg(unix)]
    fn readable(fd: i32) -> bool {
        let mut p = libc::pollfd {
            fd,
            events: libc::POLLIN,
            revents: 0,
        };
        // SAFETY: `p` is one valid pollfd and the count says one.
        unsafe { libc::poll(&mut p, 1, 0) == 1 }
    }

    #[test]
    fn a_poll_waits_for_the_post_and_drains_all() {
        let mailbox = Mailbox::new();
        let other = mailbox.clone();
        let thread = std::thread::spawn(move || other.poll(None));
        std::thread::sleep(Duration::from_millis(20));
        mailbox.inner().post(&mut vec![event(1), event(2)]);
        assert_eq!(thread.join().unwrap().len(), 2);
        assert!(mailbox.try_poll().is_empty());
    }

    #[test]
    fn a_poll_ends_with_its_time() {
        let mailbox = Mailbox::new();
        let begin = Instant::now();
        assert!(mailbox.poll(Some(Duration::from_millis(30))).is_empty());
        assert!(begin.elapsed() >= Duration::from_millis(30));
        assert!(mailbox.poll(Some(Duration::ZERO)).is_empty());
    }

    #[test]
    fn the_descriptor_is_readable_exactly_while_events_wait() {
        let mailbox = Mailbox::new();
        mailbox.inner().post(&mut vec![event(1)]);
        let fd = mailbox.fd().unwrap().unwrap();
        assert!(
            readable(fd),
            "also when the event came before anybody watched"
        );
        for _ in 0..3 {
            mailbox.inner().post(&mut vec![event(2)]);
        }
        assert_eq!(mailbox.try_poll().len(), 4);
        assert!(!readable(fd));
        mailbox.inner().post(&mut vec![event(3)]);
        assert!(readable(fd));
        assert_eq!(mailbox.poll(Some(Duration::ZERO)).len(), 1);
        assert!(!readable(fd));
    }

    #[test]
    fn while_its_reader_rests_only_first_and_last_events_signal() {
        let mailbox = Mailbox::new();
        let fd = mailbox.fd().unwrap().unwrap();
        let post = |request| mailbox.inner().post(&mut vec![event(request)]);
        mailbox.inner().await_end(1);
        mailbox.inner().await_end(2);
        mailbox.rest(true);
        post(1);
        assert!(readable(fd), "the first event of a request");
        mailbox.try_poll();
        post(1);
        post(1);
        assert!(!readable(fd), "more of the same");
        post(2);
        assert!(readable(fd), "the first event of another request");
        assert_eq!(mailbox.try_poll().len(), 3);
        post(2);
        assert!(!readable(fd));
        mailbox.rest(false);
        assert!(readable(fd), "after the rest what came meanwhile");
        mailbox.rest(true);
        mailbox.try_poll();
        let last = Finish {
            reason: FinishReason::Stop,
            stop_reason: None,
            stats: RequestStats::default(),
        };
        mailbox.inner().post(&mut vec![Event {
            finish: Some(last.clone()),
            ..event(2)
        }]);
        assert!(readable(fd), "the last event of a request");
        mailbox.try_poll();
        mailbox.inner().post_last(Event {
            finish: Some(last),
            ..event(1)
        });
        assert!(readable(fd), "also the one that ends it from outside");
    }

    #[test]
    fn an_outbox_keeps_mailboxes_apart_and_in_order() {
        let (a, b) = (Mailbox::new(), Mailbox::new());
        let mut out = Outbox::default();
        for (to, id) in [(&a, 1), (&b, 2), (&a, 3)] {
            out.push(to.inner(), event(id));
        }
        assert!(a.try_poll().is_empty());
        out.flush(&Faults::default());
        let ids = |m: &Mailbox| m.try_poll().iter().map(|e| e.request).collect::<Vec<_>>();
        assert_eq!((ids(&a), ids(&b)), (vec![1, 3], vec![2]));
    }
}
