//! Float32 values in a candle tensor: what the portable backend keeps of any stored type.
use candle_core::{Device, Tensor as Candle};

use super::Format;
use crate::{Result, Tensor};

/// A dense float32 matrix.
pub struct Dense {
    values: Candle,
    shape: [usize; 2],
}

impl Dense {
    /// `values` row-major `[n, k]`.
    pub fn new(values: Vec<f32>, n: usize, k: usize, device: &Device) -> Result<Self> {
        Ok(Self {
            values: Candle::from_vec(values, (n, k), device)?,
            shape: [n, k],
        })
    }
}

impl Format for Dense {
    fn shape(&self) -> [usize; 2] {
        self.shape
    }
    fn label(&self) -> &str {
        "f32"
    }
    fn bytes(&self) -> usize {
        self.shape[0] * self.shape[1] * size_of::<f32>()
    }
    fn dequantize(&self) -> Result<Vec<f32>> {
        Ok(self.values.flatten_all()?.to_vec1()?)
    }
    fn rows(&self, ids: &[u32], out: &mut [f32]) -> Result<()> {
        let ids = Candle::from_slice(ids, ids.len(), self.values.device())?;
        out.copy_from_slice(
            &self
                .values
                .index_select(&ids, 0)?
                .flatten_all()?
                .to_vec1::<f32>()?,
        );
        Ok(())
    }
    fn matmul(&self, x: &Tensor, device: &Device) -> Result<Tensor> {
        Tensor::from_candle(x.to_candle(device)?.matmul(&self.values.t()?)?)
    }
}
