//! Memory that was freed goes back to the system when a model is closed.
//! Knows nothing of what it held.

/// Gives pages that no allocation uses back to the system.
///
/// glibc keeps freed weights in its arenas for later: after closing SmolLM2 70 MB of nothing stay resident.
/// Does nothing where the allocator is another. Takes milliseconds; not for hot paths.
pub fn release_free() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: malloc_trim takes no pointer, may be called from any thread, and touches free memory alone.
    unsafe {
        libc::malloc_trim(0);
    }
}
