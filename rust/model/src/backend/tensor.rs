//! An opaque array that a backend made.

/// A float32 array on the host: shape and values. (Device storage joins it with the first device backend.)
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Tensor {
    shape: [usize; 2],
    data: Vec<f32>,
}

impl Tensor {
    /// `data` in row-major order as `[rows, columns]`.
    pub fn new(rows: usize, columns: usize, data: Vec<f32>) -> Self {
        debug_assert_eq!(rows * columns, data.len());
        Self {
            shape: [rows, columns],
            data,
        }
    }
    /// `[rows, columns]`.
    pub fn shape(&self) -> [usize; 2] {
        self.shape
    }
    /// All values, row-major.
    pub fn data(&self) -> &[f32] {
        &self.data
    }
    /// One row.
    pub fn row(&self, r: usize) -> &[f32] {
        &self.data[r * self.shape[1]..][..self.shape[1]]
    }
}
