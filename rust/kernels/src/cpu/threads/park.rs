//! An event counter that threads wait on: spin for a while, then sleep in the kernel (futex on Linux, a condition
//! variable elsewhere). Signalling costs a system call only when someone sleeps.
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// A counter that only goes up (and wraps).
pub struct Event {
    count: AtomicU32,
    sleepers: AtomicU32,
    #[cfg(not(target_os = "linux"))]
    bed: (std::sync::Mutex<()>, std::sync::Condvar),
}

/// Pauses between two looks at the clock while spinning: about a microsecond.
const PAUSES: u32 = 20;

impl Event {
    /// A counter at 0.
    pub fn new() -> Self {
        Self {
            count: AtomicU32::new(0),
            sleepers: AtomicU32::new(0),
            #[cfg(not(target_os = "linux"))]
            bed: Default::default(),
        }
    }

    /// The count now.
    pub fn now(&self) -> u32 {
        self.count.load(Ordering::Acquire)
    }

    /// Counts up and wakes all that wait. What was written before is seen by those who wake.
    pub fn signal(&self) {
        // SeqCst here and in `sleep`: either this thread sees the sleeper, or the sleeper sees the new count.
        self.count.fetch_add(1, Ordering::SeqCst);
        if self.sleepers.load(Ordering::SeqCst) != 0 {
            self.wake();
        }
    }

    /// Returns the count as soon as it differs from `seen`, after spinning for at most `spin` and then asleep.
    pub fn wait(&self, seen: u32, spin: Duration) -> u32 {
        let mut began = None;
        loop {
            for _ in 0..PAUSES {
                let count = self.now();
                if count != seen {
                    return count;
                }
                if spin.is_zero() {
                    break;
                }
                std::hint::spin_loop();
            }
            if spin.is_zero() || began.get_or_insert_with(Instant::now).elapsed() >= spin {
                return self.sleep(seen);
            }
        }
    }

    fn sleep(&self, seen: u32) -> u32 {
        self.sleepers.fetch_add(1, Ordering::SeqCst);
        let count = loop {
            let count = self.count.load(Ordering::SeqCst);
            if count != seen {
                break count;
            }
            self.park(seen);
        };
        self.sleepers.fetch_sub(1, Ordering::Relaxed);
        count
    }

    #[cfg(target_os = "linux")]
    fn park(&self, seen: u32) {
        // SAFETY: the word outlives the call; the kernel only compares it. No timeout is given. Returning early
        // (a signal, or a count that has changed) is fine: `sleep` looks again.
        unsafe {
            let op = libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG;
            libc::syscall(
                libc::SYS_futex,
                self.count.as_ptr(),
                op,
                seen,
                std::ptr::null::<libc::timespec>(),
            );
        }
    }

    #[cfg(target_os = "linux")]
    fn wake(&self) {
        // SAFETY: waking by address reads no memory.
        unsafe {
            let op = libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG;
            libc::syscall(libc::SYS_futex, self.count.as_ptr(), op, i32::MAX);
        }
    }

    #[cfg(not(target_os = "linux"))]
    fn park(&self, seen: u32) {
        let mut bed = self
            .bed
            .0
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        // `wake` takes the lock too, so a count that changes after this look finds this thread waiting.
        while self.count.load(Ordering::SeqCst) == seen {
            bed = self
                .bed
                .1
                .wait(bed)
                .unwrap_or_else(std::sync::PoisonError::into_inner);
        }
    }

    #[cfg(not(target_os = "linux"))]
    fn wake(&self) {
        drop(
            self.bed
                .0
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner),
        );
        self.bed.1.notify_all();
    }
}
