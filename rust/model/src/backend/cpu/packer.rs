//! Stored matrices into the kernels' layout, and with which arithmetic each is multiplied.
//! The one place that decides precision, by the role of a weight; names are for error messages only.
use std::sync::Arc;

use candle_vllm_kernels::cpu::{ByHead, Compute, Matrix, Mode, ggml, ggml::GgmlType};
use half::{bf16, f16};

use super::super::Packer;
use crate::{
    Error, Result,
    quant::{Described, Format, Measured, Packed, PerHead, Role},
    weights::Stored,
};

/// How weights are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dtype {
    /// As the checkpoint stores them.
    Auto,
    /// Exact: float32 weights, activations and sums.
    F32,
    /// As `Auto`, and dense weights are kept in bfloat16.
    Bf16,
    /// As `Auto`, and dense weights are kept in float16.
    F16,
}

/// To how many bits the activations are rounded that quantised weights meet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activations {
    /// The width that the machine multiplies fastest, 16 bits with AMX, else 8; attention's values have 15 at least, and
    /// what meets the down projection where weights have 8.
    Auto,
    /// 8 bits, one scale a block of 32 (weights of more than 6 bits with AVX2: 15 bits, which cost the same there).
    Int8,
    /// 16-bit fixed point with AMX, else 15 bits, one scale a block of 32.
    Int16,
}

/// What decides how a model is computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arithmetic {
    /// How weights are kept.
    pub dtype: Dtype,
    /// What quantised weights meet.
    pub activations: Activations,
}

impl From<Dtype> for Arithmetic {
    /// With the fastest activations.
    fn from(dtype: Dtype) -> Self {
        Self {
            dtype,
            activations: Activations::Auto,
        }
    }
}

impl Arithmetic {
    /// How a weight of `role` is multiplied that is packed as `kept`. 8 bits keep the accuracy that users of 4-bit weights
    /// know (`tests/parity/test_smollm2.py`) with either way of attention once its values are exact to 15; of all roles
    /// theirs is the smallest matrix, and the one that buys most for its size. Beside weights of 8 bits they would cost more
    /// than the weights do: SmolLM2's perplexity with Q8_0 is +0.31 %, with 15 bits of what `Down` meets +0.21 %.
    fn mode(self, role: Role, kept: GgmlType) -> Mode {
        match (self.dtype, self.activations, role) {
            (Dtype::F32, ..) | (_, _, Role::Router) => Mode::Exact,
            // Looked up, never multiplied: the form that needs nothing beside the packed blocks.
            (_, _, Role::Embedding | Role::Positions) => Mode::Int8,
            (_, Activations::Int16, _) | (_, Activations::Auto, Role::Value) => Mode::Int16,
            (_, Activations::Auto, Role::Down) if kept == GgmlType::Q8_0 => Mode::Int16,
            (_, Activations::Auto, _) => Mode::Fast,
            (_, Activations::Int8, _) => Mode::Int8,
        }
    }
}

/// Packs for one instruction set and arithmetic, on the threads that will compute.
pub struct CpuPacker {
    pub compute: Arc<Compute>,
    pub arithmetic: Arithmetic,
}

impl CpuPacker {
    fn pack(&self, name: &str, role: Role, stored: &Stored<'_>) -> Result<Matrix> {
        let shape = [stored.shape[0], stored.shape[1]];
        let kept = self.kept(role, stored.dtype);
        let mode = self.arithmetic.mode(role, kept);
        let pack = |dtype, data: &[u8]| Matrix::pack_on(&self.compute, mode, dtype, shape, data);
        let matrix = match kept {
            same if same == stored.dtype => pack(same, &stored.data),
            GgmlType::BF16 => pack(
                GgmlType::BF16,
                &narrowed(stored, |v| bf16::from_f32(v).to_le_bytes()),
            ),
            other => pack(other, &narrowed(stored, |v| f16::from_f32(v).to_le_bytes())),
        };
        matrix.map_err(|e| Error::Load(format!("tensor {name}: {e}")))
    }

    /// As which type a stored one is packed: dense ones are narrowed where that was asked for.
    fn kept(&self, role: Role, stored: GgmlType) -> GgmlType {
        let dense = matches!(stored, GgmlType::F32 | GgmlType::F16 | GgmlType::BF16);
        match (self.arithmetic.dtype, dense && role != Role::Router) {
            (Dtype::Bf16, true) => GgmlType::BF16,
            (Dtype::F16, true) => GgmlType::F16,
            _ => stored,
        }
    }
}

impl Packer for CpuPacker {
    fn matrix(&self, name: &str, role: Role, weight: &Described<'_>) -> Result<Box<dyn Format>> {
        let matrix = match weight {
            Described::Stored(stored) => self.pack(name, role, stored)?,
            Described::Made(rows) => {
                let dtype = rows.packs_as();
                let mode = self.arithmetic.mode(role, dtype);
                Matrix::pack_rows(&self.compute, mode, dtype, rows.shape(), rows.as_ref())
                    .map_err(|e| Error::Load(format!("tensor {name}: {e}")))?
            }
        };
        Ok(Box::new(Packed(matrix)))
    }

    fn per_head(&self, [heads, n, k]: [usize; 3], values: Vec<f32>) -> Result<PerHead> {
        if !k.is_multiple_of(2) {
            return Err(Error::Load(format!(
                "a head's matrix has {k} inputs, an odd number"
            )));
        }
        let exact = self.arithmetic.dtype == Dtype::F32;
        let at = |head: usize, output: usize, input: usize| values[(head * n + output) * k + input];
        Ok(PerHead::packed(ByHead::new([heads, n, k], exact, at)))
    }

    fn measure(&self, name: &str, role: Role, weight: &Described<'_>) -> Result<Measured> {
        let (kept, shape) = match weight {
            Described::Stored(stored) => {
                let shape = [stored.shape[0], stored.shape[1]];
                (self.kept(role, stored.dtype), shape)
            }
            Described::Made(rows) => (rows.packs_as(), rows.shape()),
        };
        let mode = self.arithmetic.mode(role, kept);
        let (label, bytes) = Matrix::measure(self.compute.cpu, mode, kept, shape)
            .map_err(|e| Error::Load(format!("tensor {name}: {e}")))?;
        Ok(Measured::new(shape, label, bytes))
    }
}

fn narrowed(stored: &Stored<'_>, to: impl Fn(f32) -> [u8; 2]) -> Vec<u8> {
    let mut values = vec![0.0; stored.shape.iter().product()];
    ggml::dequantize(stored.dtype, &stored.data, &mut values);
    values.into_iter().flat_map(to).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use candle_vllm_kernels::cpu::Cpu;

    const ROLES: [Role; 9] = [
        Role::Embedding,
        Role::Query,
        Role::Key,
        Role::Value,
        Role::Output,
        Role::Gate,
        Role::Up,
        Role::Down,
        Role::Head,
    ];

    fn bits(arithmetic: (Dtype, Activations), role: Role, dtype: GgmlType) -> Option<u32> {
        let (kept, activations) = arithmetic;
        let packer = CpuPacker {
            compute: Arc::new(Compute::new(1).unwrap()),
            arithmetic: Arithmetic {
                dtype: kept,
                activations,
            },
        };
        let stored = Stored {
            dtype,
            shape: vec![16, 32],
            data: vec![0; 16 * dtype.block_bytes()].into(),
        };
        packer.pack("", role, &stored).unwrap().activation_bits()
    }

    #[test]
    fn role_and_type_decide_the_width() {
        let amx = Cpu::detect().unwrap().name() == "amx";
        let wide = if amx { 16 } else { 15 };
        for role in ROLES.into_iter().filter(|r| *r != Role::Embedding) {
            let of = |activations, dtype| bits((Dtype::Auto, activations), role, dtype).unwrap();
            let fastest = if amx { 16 } else { 8 };
            let auto = if role == Role::Value { wide } else { fastest };
            assert_eq!(of(Activations::Auto, GgmlType::Q4_0), auto, "{role:?}");
            if role == Role::Down {
                assert_eq!(of(Activations::Auto, GgmlType::Q8_0), wide);
            }
            assert_eq!(of(Activations::Int8, GgmlType::Q4_0), 8, "{role:?}");
            for dtype in [GgmlType::Q4_0, GgmlType::Q8_0] {
                assert_eq!(of(Activations::Int16, dtype), wide, "{role:?}");
                assert_eq!(bits((Dtype::F32, Activations::Auto), role, dtype), None);
            }
        }
        let of = |activations, role| bits((Dtype::Auto, activations), role, GgmlType::Q4_0);
        assert_eq!(of(Activations::Int8, Role::Router), None);
        assert_eq!(of(Activations::Int16, Role::Embedding), Some(8));
    }
}
