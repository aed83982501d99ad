//! A slice as rows of equal length that several threads write, each its own. Knows nothing of who writes which.
use std::marker::PhantomData;

/// Rows of a slice.
pub(crate) struct Rows<'a, T> {
    start: *mut T,
    rows: usize,
    width: usize,
    slice: PhantomData<&'a mut [T]>,
}

// SAFETY: rows are handed out one by one under the contract of `row`.
unsafe impl<T: Send> Sync for Rows<'_, T> {}

impl<'a, T> Rows<'a, T> {
    /// Rows of `width` elements; what is left at the end belongs to none.
    pub fn new(slice: &'a mut [T], width: usize) -> Self {
        let rows = slice.len().checked_div(width).unwrap_or(0);
        Rows {
            start: slice.as_mut_ptr(),
            rows,
            width,
            slice: PhantomData,
        }
    }

    /// Row `index`.
    ///
    /// # Safety
    /// No other thread uses this row while the result lives, and the caller has no other reference to it.
    ///
    /// # Panics
    /// When there is no such row.
    #[allow(clippy::mut_from_ref)]
    pub unsafe fn row(&self, index: usize) -> &mut [T] {
        assert!(index < self.rows, "row {index} of {}", self.rows);
        // SAFETY: the row lies in the slice; the caller answers for its being the only user.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(index * self.width), self.width) }
    }
}
