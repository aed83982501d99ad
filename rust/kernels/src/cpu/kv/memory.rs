//! A large zeroed stretch of memory that the system backs only where it is touched. Knows nothing of what it holds.
use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::ptr::NonNull;

/// A large page: the start is aligned to it, and the system is asked for pages of this size.
const LARGE_PAGE: usize = 2 << 20;

/// Zeroed bytes at a fixed address, aligned to 2 MiB when they are that many, to 64 bytes otherwise.
#[derive(Debug)]
pub(super) struct Memory {
    base: NonNull<u8>,
    layout: Layout,
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: it owns its bytes as a Vec does; all access is through raw pointers whose users keep to borrows of the owner.
unsafe impl Send for Memory {}
// SAFETY: as above.
unsafe impl Sync for Memory {}

impl Memory {
    /// `len` zeroed bytes, or `None` when the system refuses.
    pub fn zeroed(len: usize) -> Option<Memory> {
        let align = if len >= LARGE_PAGE { LARGE_PAGE } else { 64 };
        // Aligned by hand: the allocator zeroes memory of a large alignment by writing it, which would touch it all.
        let layout = Layout::from_size_align(len.checked_add(align)?, 16).ok()?;
        // SAFETY: the size is at least `align`.
        let base = NonNull::new(unsafe { alloc_zeroed(layout) })?;
        let pad = base.as_ptr().align_offset(align);
        // SAFETY: `pad < align`, so `len` bytes remain.
        let start = unsafe { base.add(pad) };
        #[cfg(target_os = "linux")]
        if align == LARGE_PAGE {
            // SAFETY: the whole large pages of this allocation; the advice changes no contents and may be refused.
            unsafe {
                libc::madvise(
                    start.as_ptr().cast(),
                    len & !(LARGE_PAGE - 1),
                    libc::MADV_HUGEPAGE,
                );
            }
        }
        Some(Memory {
            base,
            layout,
            start,
            len,
        })
    }

    /// First byte.
    pub fn as_ptr(&self) -> *mut u8 {
        self.start.as_ptr()
    }

    /// Bytes.
    pub fn len(&self) -> usize {
        self.len
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: allocated with this layout.
        unsafe { dealloc(self.base.as_ptr(), self.layout) };
    }
}
