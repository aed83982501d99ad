//! Memory for packed weights and activations: zeroed, aligned to a cache line, on large pages where it is big.
//! Knows nothing of what is kept in it.
mod mapping;

use mapping::Mapping;
use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::ptr::NonNull;
use std::sync::Arc;

/// Alignment of a buffer in bytes: a cache line, and an AVX-512 register.
pub(crate) const LINE: usize = 64;
/// From this size on a buffer gets pages of its own, large ones if the system has them.
const LARGE: usize = 2 << 20;

/// Zeroed bytes at a fixed address.
pub(crate) struct Buffer {
    at: NonNull<u8>,
    bytes: usize,
    owner: Owner,
}

enum Owner {
    Heap(Layout),
    /// Kept alive by the buffers in it.
    Mapping {
        _mapping: Arc<Mapping>,
    },
}

// SAFETY: a Buffer owns its memory like a Vec does; shared access only reads.
unsafe impl Send for Buffer {}
// SAFETY: as above.
unsafe impl Sync for Buffer {}

impl Buffer {
    /// `bytes` zeroed bytes.
    pub fn zeroed(bytes: usize) -> Buffer {
        let mapping = if bytes >= LARGE {
            Mapping::new(bytes)
        } else {
            None
        };
        match mapping {
            Some(mapping) => Self::within(Arc::new(mapping), 0, bytes),
            None => Self::heap(bytes),
        }
    }

    /// `bytes` zeroed bytes that live as long as a model: buffers of this kind share regions of large pages.
    pub fn lasting(bytes: usize) -> Buffer {
        match mapping::share(bytes.next_multiple_of(LINE)) {
            Some((mapping, offset)) => Self::within(mapping, offset, bytes),
            None => Self::heap(bytes),
        }
    }

    fn heap(bytes: usize) -> Buffer {
        let layout = match Layout::from_size_align(bytes.max(1), LINE) {
            Ok(layout) => layout,
            // Only sizes above isize::MAX come here; the allocator's own answer to those is the right one.
            Err(_) => handle_alloc_error(Layout::new::<u8>()),
        };
        // SAFETY: the layout's size is not zero.
        let Some(at) = NonNull::new(unsafe { alloc_zeroed(layout) }) else {
            handle_alloc_error(layout)
        };
        Buffer {
            at,
            bytes,
            owner: Owner::Heap(layout),
        }
    }

    fn within(mapping: Arc<Mapping>, offset: usize, bytes: usize) -> Buffer {
        let at = mapping.at(offset);
        Buffer {
            at,
            bytes,
            owner: Owner::Mapping { _mapping: mapping },
        }
    }

    /// Size in bytes.
    pub fn len(&self) -> usize {
        self.bytes
    }

    /// Start of the memory.
    pub fn as_ptr(&self) -> *const u8 {
        self.at.as_ptr()
    }

    /// Start of the memory, to write to.
    pub fn as_mut_ptr(&mut self) -> *mut u8 {
        self.at.as_ptr()
    }

    /// All bytes.
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: the memory is initialised, at least as long as stated, and belongs to this buffer alone.
        unsafe { std::slice::from_raw_parts(self.as_ptr(), self.len()) }
    }

    /// All bytes, to write to.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `bytes`; `self` is borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(self.as_mut_ptr(), self.len()) }
    }

    /// Makes it at least `bytes` long; what it held is lost when it grows.
    pub fn reserve(&mut self, bytes: usize) {
        if self.len() < bytes {
            *self = Buffer::zeroed(bytes.next_multiple_of(4096));
        }
    }
}

impl Default for Buffer {
    fn default() -> Self {
        Buffer::zeroed(0)
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if let Owner::Heap(layout) = &self.owner {
            // SAFETY: allocated with this layout in `heap`.
            unsafe { dealloc(self.at.as_ptr(), *layout) }
        }
    }
}

impl std::fmt::Debug for Buffer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Buffer")
            .field("bytes", &self.len())
            .finish()
    }
}

/// Asks for the cache line at `at`, which need not exist: into the first cache, or the second, for which more requests can be
/// under way than the first one has places for.
#[inline(always)]
pub(crate) fn prefetch<const LEVEL: usize>(at: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch of any address is harmless.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _MM_HINT_T1, _mm_prefetch};
        if LEVEL == 1 {
            _mm_prefetch::<_MM_HINT_T0>(at.cast());
        } else {
            _mm_prefetch::<_MM_HINT_T1>(at.cast());
        }
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: as above.
    unsafe {
        use std::arch::asm;
        if LEVEL == 1 {
            asm!("prfm pldl1keep, [{}]", in(reg) at, options(nostack, readonly, preserves_flags));
        } else {
            asm!("prfm pldl2keep, [{}]", in(reg) at, options(nostack, readonly, preserves_flags));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_zeroed_and_aligned() {
        for bytes in [0, 1, 63, 4096, LARGE, LARGE + 5] {
            for make in [Buffer::zeroed, Buffer::lasting] {
                let mut buffer = make(bytes);
                assert_eq!(buffer.as_ptr() as usize % LINE, 0);
                assert_eq!(buffer.len(), bytes);
                assert!(buffer.bytes().iter().all(|&b| b == 0));
                buffer.bytes_mut().fill(7);
                buffer.reserve(bytes);
                assert_eq!(buffer.len(), bytes);
                buffer.reserve(bytes + 1);
                assert!(buffer.len() > bytes && buffer.bytes()[0] == 0);
            }
        }
    }

    #[test]
    fn lasting_buffers_do_not_overlap() {
        let mut buffers: Vec<Buffer> = (0..100)
            .map(|i| Buffer::lasting(100_000 + i * 7_000))
            .collect();
        for (i, buffer) in buffers.iter_mut().enumerate() {
            buffer.bytes_mut().fill(i as u8);
        }
        for (i, buffer) in buffers.iter().enumerate() {
            assert!(buffer.bytes().iter().all(|&b| b == i as u8), "buffer {i}");
        }
    }
}
