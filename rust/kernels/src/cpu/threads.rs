//! The compute threads: a pool whose workers wait for parallel regions, spinning shortly and then parked.
//! Knows nothing of what it runs. The caller is worker 0; a panic in a worker becomes one of the caller.
pub mod cgroup;
mod cores;
mod park;
mod quota;
mod rows;

pub use cores::{CoreError, allowed_cores, check_cores, stand_back};
use park::Event;
pub(crate) use rows::Rows;
use std::any::Any;
use std::cell::{Cell, UnsafeCell};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// How long a waiting thread spins before it sleeps: longer than the serial gaps between the regions of a layer,
/// short enough that an idle engine costs nothing.
const SPIN: Duration = Duration::from_micros(50);

/// Threads that this process can keep busy: the cores of its affinity mask, capped by the whole cores of its cgroup's
/// CPU quota (v1 or v2), at least 1.
pub fn available_threads() -> usize {
    threads_for(cores::allowed_cores().len(), quota::cpu_quota())
}

fn threads_for(cores: usize, quota: Option<f64>) -> usize {
    // Rounded down: a thread over the quota is stopped in the middle of regions, and all others wait for it.
    quota
        .map_or(cores, |quota| cores.min(quota as usize))
        .max(1)
}

/// What a region runs, as the workers see it: a borrowed closure whose lifetime ends when [`Pool::run`] returns.
type Body = *const (dyn Fn(usize) + Sync + 'static);

/// Keeps what two threads write in turn off each other's cache line (two, as processors fetch pairs).
#[repr(align(128))]
struct Padded<T>(T);

struct Shared {
    /// Goes up by one when a region starts; workers wait for it.
    start: Padded<Event>,
    /// Workers that have not finished the region.
    pending: Padded<AtomicU32>,
    /// Goes up by one when the last worker finishes; the caller waits for it.
    done: Padded<Event>,
    /// Written by the caller before `start` goes up, read by workers after.
    body: UnsafeCell<Option<Body>>,
    stop: AtomicBool,
    /// The first panic of a region's workers.
    panic: Mutex<Option<Box<dyn Any + Send>>>,
    spin: Duration,
}

// SAFETY: `body` is written only while no worker runs (pending == 0, under `Pool::caller`) and read only between the
// release of `start` and the release of `pending`; the closure it points to is Sync. All else is Sync by itself.
unsafe impl Sync for Shared {}
// SAFETY: as above; the pointer is only used while its owner waits in `run`.
unsafe impl Send for Shared {}

/// A fixed number of threads that run regions together.
pub struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    /// One region at a time.
    caller: Mutex<()>,
    /// Of each thread's share of tasks, the next.
    next: Vec<Padded<AtomicUsize>>,
    /// Thread `i` runs on core `i` modulo their number; empty = where the system likes.
    cores: Vec<usize>,
}

thread_local! {
    /// The pool whose region this thread is running, if any.
    static INSIDE: Cell<*const Shared> = const { Cell::new(std::ptr::null()) };
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pool")
            .field("threads", &self.threads())
            .finish_non_exhaustive()
    }
}

impl Pool {
    /// A pool of `threads` threads (0 counts as 1): the caller of [`Pool::run`] and `threads - 1` workers.
    pub fn new(threads: usize) -> std::io::Result<Pool> {
        Self::on_cores(threads, &[])
    }

    /// As [`Pool::new`] with the workers bound to `cores` in turn, from the second one on; [`Pool::bind_caller`] takes
    /// the first. None: they run where the system likes.
    pub fn on_cores(threads: usize, cores: &[usize]) -> std::io::Result<Pool> {
        let threads = threads.max(1);
        let room = match cores.len() {
            0 => available_threads(),
            count => threads_for(count, quota::cpu_quota()),
        };
        // A spinning thread that lacks a core of its own only delays the one it waits for.
        let spin = if threads <= room {
            SPIN
        } else {
            Duration::ZERO
        };
        let shared = Arc::new(Shared {
            start: Padded(Event::new()),
            pending: Padded(AtomicU32::new(0)),
            done: Padded(Event::new()),
            body: UnsafeCell::new(None),
            stop: AtomicBool::new(false),
            panic: Mutex::new(None),
            spin,
        });
        let mut pool = Pool {
            shared,
            workers: Vec::with_capacity(threads - 1),
            caller: Mutex::new(()),
            next: (0..threads).map(|_| Padded(AtomicUsize::new(0))).collect(),
            cores: cores.to_vec(),
        };
        for worker in 1..threads {
            let shared = pool.shared.clone();
            let core = pool.core(worker);
            let builder = std::thread::Builder::new().name(format!("compute-{worker}"));
            // On an error the pool is dropped, which stops the workers that already run.
            pool.workers.push(builder.spawn(move || {
                core.into_iter().for_each(cores::bind_to);
                work(&shared, worker);
            })?);
        }
        Ok(pool)
    }

    fn core(&self, worker: usize) -> Option<usize> {
        self.cores.get(worker % self.cores.len().max(1)).copied()
    }

    /// Binds the calling thread, which is to run the regions from now on, to its core; does nothing in a pool without
    /// cores. Not for threads that belong to others.
    pub fn bind_caller(&self) {
        self.core(0).into_iter().for_each(cores::bind_to);
    }

    /// Number of threads, the caller among them.
    pub fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Calls `f(worker)` once for each worker `0..threads()`, all at the same time, the caller being worker 0; returns
    /// when all are done. Called from inside one of this pool's regions it runs them one after the other instead.
    ///
    /// # Panics
    /// With the panic of `f`, after all workers have finished.
    pub fn run(&self, f: &(dyn Fn(usize) + Sync)) {
        let shared: *const Shared = &*self.shared;
        if self.workers.is_empty() || INSIDE.get() == shared {
            (0..self.threads()).for_each(f);
            return;
        }
        self.region(&lock(&self.caller), f);
    }

    /// [`Pool::run`] where this thread runs no region; `_one` is of `caller`.
    fn region(&self, _one: &MutexGuard<'_, ()>, f: &(dyn Fn(usize) + Sync)) {
        let shared: *const Shared = &*self.shared;
        // SAFETY: only the lifetime changes. The workers use the pointer before they count `pending` down, and this
        // function does not return, nor unwind, before `pending` is 0.
        let body: Body =
            unsafe { std::mem::transmute::<*const (dyn Fn(usize) + Sync + '_), Body>(f) };
        let seen = self.shared.done.0.now();
        // SAFETY: no region runs: `caller` is held, and the last region's `pending` was seen to be 0.
        unsafe { *self.shared.body.get() = Some(body) };
        self.shared
            .pending
            .0
            .store(self.workers.len() as u32, Ordering::Relaxed);
        self.shared.start.0.signal();
        let outer = INSIDE.replace(shared);
        let own = catch_unwind(AssertUnwindSafe(|| f(0)));
        INSIDE.set(outer);
        self.shared.done.0.wait(seen, self.shared.spin);
        let theirs = lock(&self.shared.panic).take();
        if let Some(panic) = own.err().or(theirs) {
            resume_unwind(panic);
        }
    }

    /// Calls `f(task)` once for each task `0..tasks`. Each thread has a share of neighbouring tasks, the same ones from
    /// call to call, and takes them in order: what one brings into its caches serves the next. A thread that is done
    /// takes from the shares of others. A single task runs on the caller alone.
    ///
    /// # Panics
    /// As [`Pool::run`]; tasks not yet begun may then be left out.
    pub fn for_each(&self, tasks: usize, f: &(dyn Fn(usize) + Sync)) {
        let threads = self.threads();
        let inside = INSIDE.get() == std::ptr::from_ref(&*self.shared);
        if tasks <= 1 || threads == 1 || inside {
            (0..tasks).for_each(f);
            return;
        }
        let one = lock(&self.caller);
        let share = |worker: usize| worker * tasks / threads..(worker + 1) * tasks / threads;
        for (worker, next) in self.next.iter().enumerate() {
            // Workers see it with the start of the region.
            next.0.store(share(worker).start, Ordering::Relaxed);
        }
        self.region(&one, &|worker| {
            for victim in (worker..threads).chain(0..worker) {
                loop {
                    let task = self.next[victim].0.fetch_add(1, Ordering::Relaxed);
                    if task >= share(victim).end {
                        break;
                    }
                    f(task);
                }
            }
        });
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.shared.start.0.signal();
        for worker in self.workers.drain(..) {
            // A worker catches the panics of regions; there is nothing to report.
            let _ = worker.join();
        }
    }
}

/// A lock whose data holds no invariant that a panic could break.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Body of a worker thread.
fn work(shared: &Shared, worker: usize) {
    INSIDE.set(shared);
    let mut seen = 0;
    loop {
        seen = shared.start.0.wait(seen, shared.spin);
        if shared.stop.load(Ordering::Relaxed) {
            return;
        }
        // SAFETY: written before `start` went up, which `wait` acquired; not changed until this worker counts down.
        if let Some(body) = unsafe { *shared.body.get() } {
            // SAFETY: the caller keeps the closure alive until `pending` is 0.
            let outcome = catch_unwind(AssertUnwindSafe(|| unsafe { (*body)(worker) }));
            if let Err(panic) = outcome {
                lock(&shared.panic).get_or_insert(panic);
            }
        }
        if shared.pending.0.fetch_sub(1, Ordering::AcqRel) == 1 {
            shared.done.0.signal();
        }
    }
}

#[cfg(test)]
mod tests;
