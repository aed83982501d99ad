//! A slice as rows of equal length that several threads write, each its own. Knows nothing of who writes which.
use std::marker::PhantomData;
use std::ops::Range;

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
        // SAFETY: as the caller's.
        unsafe { self.rows(index..index + 1) }
    }

    /// Several rows, one after the other.
    ///
    /// # Safety
    /// As [`Rows::row`].
    ///
    /// # Panics
    /// As [`Rows::row`].
    #[allow(clippy::mut_from_ref)]
    pub unsafe fn rows(&self, rows: Range<usize>) -> &mut [T] {
        assert!(
            rows.start <= rows.end && rows.end <= self.rows,
            "rows {rows:?} of {}",
            self.rows
        );
        let len = rows.len() * self.width;
        // SAFETY: the rows lie in the slice; the caller answers for its being the only user.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(rows.start * self.width), len) }
    }
}
