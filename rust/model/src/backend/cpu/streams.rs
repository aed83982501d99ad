//! Work by a few numbers a row on the CPU.
use candle_vllm_kernels::cpu::{self as kernels, Activation};

use super::Cpu;
use crate::{
    Error, Result, Tensor,
    backend::{Backend, Linear, Norm},
    quant::Vector,
};

impl Cpu {
    /// Each row of x times the vector.
    pub(super) fn weighed(&mut self, x: &Tensor, columns: &Vector) -> Result<Tensor> {
        let [rows, width] = x.shape();
        let mut out = self.spare.tensor(rows, width);
        let to = out.data_mut()?;
        to.copy_from_slice(x.data());
        kernels::weigh_rows(&self.compute, to, columns.values()?);
        Ok(out)
    }

    /// Sums of the streams by the weights of each row.
    pub(super) fn combined(
        &mut self,
        streams: &[&Tensor],
        weights: &Tensor,
    ) -> Result<Vec<Tensor>> {
        let none = || Error::Run("no streams to add up".into());
        let [rows, width] = streams.first().ok_or_else(none)?.shape();
        let count = weights.shape()[1] / streams.len();
        let outs = (0..count).map(|_| self.spare.tensor(rows, width));
        let mut outs: Vec<Tensor> = outs.collect();
        let given: Vec<&[f32]> = streams.iter().map(|s| s.data()).collect();
        let mut to = Vec::with_capacity(count);
        for out in &mut outs {
            to.push(out.data_mut()?);
        }
        kernels::combine_rows(&self.compute, &given, weights.data(), width, &mut to);
        Ok(outs)
    }

    /// The hidden rows of a part whose gate only outliers pass.
    pub(super) fn feed_outliers(
        &mut self,
        x: &Tensor,
        norm: Option<&Norm>,
        (gate, up): (&Linear, &Linear),
        (cut, activation): (f32, Activation),
    ) -> Result<Tensor> {
        let mut products = self.project(x, norm, &[gate, up])?;
        let (Some(up), Some(mut gate)) = (products.pop(), products.pop()) else {
            return Err(Error::Run("a product is missing".into()));
        };
        let width = up.shape()[1];
        let to = gate.data_mut()?;
        kernels::gate_outliers(&self.compute, to, up.data(), width, cut, activation);
        Ok(gate)
    }
}
