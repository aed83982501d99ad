//! Logits of a step, and the maxima that a backend found while they were still in its caches.
//! Knows nothing of sampling.
use candle_vllm_kernels::cpu::logits::maxima_len;

use crate::Tensor;

/// Float32 logits on the host, `[rows, vocabulary]`.
#[derive(Default)]
pub struct Logits {
    values: Tensor,
    /// `[rows, maxima_len(vocabulary)]`
    maxima: Option<Tensor>,
}

impl Logits {
    /// `values` with the maxima of each row, as [`candle_vllm_kernels::cpu::logits::maxima`] finds them.
    ///
    /// # Panics
    /// When the shapes do not belong together.
    pub fn with_maxima(values: Tensor, maxima: Tensor) -> Self {
        let [rows, columns] = values.shape();
        assert_eq!(maxima.shape(), [rows, maxima_len(columns)]);
        Self {
            values,
            maxima: Some(maxima),
        }
    }

    /// `[rows, vocabulary]`.
    pub fn shape(&self) -> [usize; 2] {
        self.values.shape()
    }

    /// All values, row-major.
    pub fn data(&self) -> &[f32] {
        self.values.data()
    }

    /// One row.
    pub fn row(&self, r: usize) -> &[f32] {
        self.values.row(r)
    }

    /// The maxima of a row, where they are known.
    pub fn maxima(&self, r: usize) -> Option<&[f32]> {
        self.maxima.as_ref().map(|maxima| maxima.row(r))
    }
}

impl From<Tensor> for Logits {
    fn from(values: Tensor) -> Self {
        Self {
            values,
            maxima: None,
        }
    }
}
