//! Memory for packed weights and activations: zeroed, aligned to a cache line, on large pages where it is big.
//! Knows nothing of what is kept in it.
use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::ptr::NonNull;

/// Alignment of a buffer in bytes: a cache line, and an AVX-512 register.
pub(crate) const LINE: usize = 64;
/// Size of a large page in bytes; a buffer of at least this size is aligned to it.
const LARGE_PAGE: usize = 2 << 20;

/// Zeroed bytes at a fixed address.
pub(crate) struct Buffer {
    at: NonNull<u8>,
    layout: Layout,
}

// SAFETY: a Buffer owns its memory like a Vec does; shared access only reads.
unsafe impl Send for Buffer {}
// SAFETY: as above.
unsafe impl Sync for Buffer {}

impl Buffer {
    /// `bytes` zeroed bytes.
    pub fn zeroed(bytes: usize) -> Buffer {
        let align = if bytes >= LARGE_PAGE {
            LARGE_PAGE
        } else {
            LINE
        };
        let layout = match Layout::from_size_align(bytes.max(1), align) {
            Ok(layout) => layout,
            // Only sizes above isize::MAX come here; the allocator's own answer to those is the right one.
            Err(_) => handle_alloc_error(Layout::new::<u8>()),
        };
        // SAFETY: the layout's size is not zero.
        let Some(at) = NonNull::new(unsafe { alloc_zeroed(layout) }) else {
            handle_alloc_error(layout)
        };
        let buffer = Buffer { at, layout };
        buffer.ask_for_large_pages();
        buffer
    }

    fn ask_for_large_pages(&self) {
        #[cfg(target_os = "linux")]
        if self.layout.align() == LARGE_PAGE {
            let whole = self.layout.size() & !(LARGE_PAGE - 1);
            // SAFETY: the range lies within this allocation; the advice changes no contents. A refusal costs only speed.
            unsafe {
                libc::madvise(self.at.as_ptr().cast(), whole, libc::MADV_HUGEPAGE);
            }
        }
    }

    /// Size in bytes.
    pub fn len(&self) -> usize {
        self.layout.size()
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
        // SAFETY: the memory is initialised and as long as the layout says.
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
        // SAFETY: allocated with this layout in `zeroed`.
        unsafe { dealloc(self.at.as_ptr(), self.layout) }
    }
}

impl std::fmt::Debug for Buffer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Buffer")
            .field("bytes", &self.len())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_zeroed_and_aligned() {
        for bytes in [0, 1, 63, 4096, LARGE_PAGE, LARGE_PAGE + 5] {
            let mut buffer = Buffer::zeroed(bytes);
            assert_eq!(buffer.as_ptr() as usize % LINE, 0);
            assert!(buffer.len() >= bytes);
            assert!(buffer.bytes().iter().all(|&b| b == 0));
            buffer.bytes_mut().fill(7);
            let before = buffer.len();
            buffer.reserve(bytes);
            assert_eq!(buffer.len(), before);
            buffer.reserve(before + 1);
            assert!(buffer.len() > before && buffer.bytes()[0] == 0);
        }
    }
}
