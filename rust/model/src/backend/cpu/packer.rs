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
    /// The width that the machine multiplies fastest, 16 bits with AMX, else 8; attention's values have 15 at least.
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
    /// How a weight of `role` is multiplied. 8 bits keep the accuracy that users of 4-bit weights know
    /// (`tests/parity/test_smollm2.py`) with either way of attention once its values are exact to 15; of all roles
    /// theirs is the smallest matrix, and the one that buys most for its size.
    fn mode(self, role: Role) -> Mode {
        match (self.dtype, self.activations, role) {
            (Dtype::F32, ..) | (_, _, Role::Router) => Mode::Exact,
            // Looked up, never multiplied: the form that needs nothing beside the packed blocks.
            (_, _, Role::Embedding | Role::Positions) => Mode::Int8,
            (_, Activations::Int16, _) | (_, Activations::Auto, Role::Value) => Mode::Int16,
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
        let mode = self.arithmetic.mode(role);
        let pack = |dtype, data: &[u8]| Matrix::pack_on(&self.compute, mode, dtype, shape, data);
        let matrix = match self.kept(role, stored.dtype) {
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
                let (mode, dtype) = (self.arithmetic.mode(role), rows.packs_as());
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
        let mode = self.arithmetic.mode(role);
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

    fn bits(dtype: Dtype, activations: Activations, role: Role, name: &str) -> Option<u32> {
        let packer = CpuPacker {
            compute: Arc::new(Compute::new(1).unwrap()),
            arithmetic: Arithmetic { dtype, activations },
        };
        let stored = Stored {
            dtype: GgmlType::Q4_0,
            shape: vec![16, 32],
            data: vec![0; 16 * 18].into(),
        };
        packer.pack(name, role, &stored).unwrap().activation_bits()
    }

    #[test]
    fn a_role_and_not_a_name_decides_the_width() {
        let amx = Cpu::detect().unwrap().name() == "amx";
        let wide = if amx { 16 } else { 15 };
        for role in ROLES.into_iter().filter(|r| *r != Role::Embedding) {
            for name in ["model.layers.0.self_attn.q_proj.weight", "w2", "out_proj"] {
                let of = |activations| bits(Dtype::Auto, activations, role, name).unwrap();
                let fastest = if amx { 16 } else { 8 };
                let auto = if role == Role::Value { wide } else { fastest };
                assert_eq!(of(Activations::Auto), auto, "{role:?}");
                assert_eq!(of(Activations::Int8), 8, "{role:?}");
                assert_eq!(of(Activations::Int16), wide, "{role:?}");
                assert_eq!(bits(Dtype::F32, Activations::Auto, role, name), None);
            }
        }
        let router = bits(Dtype::Auto, Activations::Int8, Role::Router, "gate");
        assert_eq!(router, None);
        let table = bits(Dtype::Auto, Activations::Int16, Role::Embedding, "lm_head");
        assert_eq!(table, Some(8));
    }
}
