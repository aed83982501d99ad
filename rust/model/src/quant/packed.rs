//! Every format that the CPU kernels pack: dense and ggml's quantised types.
use candle_vllm_kernels::cpu::Matrix;

use super::Format;
use crate::Result;

/// A matrix in the kernels' own layout.
pub struct Packed(pub Matrix);

impl Format for Packed {
    fn shape(&self) -> [usize; 2] {
        [self.0.n(), self.0.k()]
    }
    fn label(&self) -> &str {
        self.0.label()
    }
    fn bytes(&self) -> usize {
        self.0.bytes()
    }
    fn dequantize(&self) -> Result<Vec<f32>> {
        Ok(self.0.dequantize())
    }
    fn rows(&self, ids: &[u32], out: &mut [f32]) -> Result<()> {
        self.0.rows(ids, out);
        Ok(())
    }
    fn packed(&self) -> Option<&Matrix> {
        Some(&self.0)
    }
}
