//! Mappings of large pages mapped from the system, and the one that lasting buffers are taken from at the moment.
//! A mapping goes back to the system when the last buffer in it is dropped.
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, PoisonError, Weak};

/// Size of a large page in bytes.
#[cfg(unix)]
const LARGE_PAGE: usize = 2 << 20;
/// Size of a shared mapping in bytes: pages that nobody touched take no memory.
const SHARED: usize = 32 << 20;
/// Below this size in bytes a buffer is not worth a large page.
const SMALL: usize = 64 << 10;

/// Zeroed memory mapped from the system, aligned to a large page.
pub(super) struct Mapping {
    #[cfg(unix)]
    mapping: (NonNull<u8>, usize),
    at: NonNull<u8>,
}

// SAFETY: a Mapping owns its mapping; only the buffers in it, which do not overlap, write to it.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// At least `bytes` bytes; None where the system gives none.
    #[cfg(unix)]
    pub fn new(bytes: usize) -> Option<Mapping> {
        let length = bytes.checked_add(LARGE_PAGE)?;
        // SAFETY: a new anonymous mapping touches nothing that exists.
        let mapping = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                length,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANON,
                -1,
                0,
            )
        };
        if mapping == libc::MAP_FAILED {
            return None;
        }
        let start = NonNull::new(mapping.cast::<u8>())?;
        let skip = start.as_ptr().align_offset(LARGE_PAGE);
        // SAFETY: the mapping is a large page longer than asked for, so the aligned start lies in it.
        let at = unsafe { start.add(skip) };
        // SAFETY: the range lies within the mapping; the advice changes no contents. A refusal costs only speed.
        #[cfg(target_os = "linux")]
        unsafe {
            libc::madvise(at.as_ptr().cast(), bytes, libc::MADV_HUGEPAGE);
        }
        Some(Mapping {
            mapping: (start, length),
            at,
        })
    }

    /// Without a way to map memory every buffer comes from the heap.
    #[cfg(not(unix))]
    pub fn new(_bytes: usize) -> Option<Mapping> {
        None
    }

    /// The address `offset` bytes into the mapping.
    pub fn at(&self, offset: usize) -> NonNull<u8> {
        // SAFETY: callers stay within the bytes they asked for.
        unsafe { self.at.add(offset) }
    }
}

#[cfg(unix)]
impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: mapped in `new`; the last buffer in it is gone.
        unsafe {
            libc::munmap(self.mapping.0.as_ptr().cast(), self.mapping.1);
        }
    }
}

/// The mapping that is being filled and how far; it is not kept alive from here.
static FILLING: Mutex<(Weak<Mapping>, usize)> = Mutex::new((Weak::new(), 0));

/// Room for `bytes` in a shared mapping, and where; a mapping of its own where that is large, none where it is small.
pub(super) fn share(bytes: usize) -> Option<(Arc<Mapping>, usize)> {
    if bytes < SMALL {
        return None;
    }
    if bytes > SHARED / 4 {
        return Some((Arc::new(Mapping::new(bytes)?), 0));
    }
    // The pair is replaced as a whole, so a panic elsewhere leaves it sound.
    let mut filling = FILLING.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(mapping) = filling.0.upgrade()
        && filling.1 + bytes <= SHARED
    {
        let offset = filling.1;
        filling.1 += bytes;
        return Some((mapping, offset));
    }
    let mapping = Arc::new(Mapping::new(SHARED)?);
    *filling = (Arc::downgrade(&mapping), bytes);
    Some((mapping, 0))
}
