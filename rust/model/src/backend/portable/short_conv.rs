//! Gated short convolution, in candle ops.
use candle_core::{Device, Tensor as Candle};

use crate::{Kv, Result, Step, Tensor, backend::ShortConv, quant::Vector};

pub fn run(
    device: &Device,
    conv: &ShortConv,
    x: &Tensor,
    step: &Step,
    kv: &mut Kv,
) -> Result<Tensor> {
    let ShortConv { width, taps, .. } = *conv;
    let row = |values: &[f32]| Candle::from_slice(values, (1, width), device);
    let weight = conv.weight.values()?.chunks_exact(width).map(row);
    let weight: Vec<Candle> = weight.collect::<candle_core::Result<_>>()?;
    let bias = conv.bias.as_ref().map(Vector::values).transpose()?;
    let x = x.to_candle(device)?;
    let slots = step.slices.iter().map(|s| s.state);
    let states = kv
        .states()
        .enter((conv.place.group, conv.place.layer), slots)?;
    let mut out = Vec::with_capacity(states.len());
    for (slice, state) in step.slices.iter().zip(states) {
        let count = slice.tokens.len();
        let own = x.narrow(0, slice.tokens.start, count)?;
        let part = |i: usize| own.narrow(1, i * width, width);
        let products = (part(0)? * part(2)?)?;
        let before = Candle::from_slice(state, (taps - 1, width), device)?;
        let all = Candle::cat(&[before, products], 0)?;
        let mut sum = Candle::zeros_like(&part(0)?)?;
        if let Some(bias) = bias {
            sum = sum.broadcast_add(&row(bias)?)?;
        }
        for (tap, weight) in weight.iter().enumerate() {
            sum = (sum + all.narrow(0, tap, count)?.broadcast_mul(weight)?)?;
        }
        out.push((part(1)? * sum)?);
        let last = all.narrow(0, count, taps - 1)?.flatten_all()?;
        state.copy_from_slice(&last.to_vec1::<f32>()?);
    }
    Tensor::from_candle(Candle::cat(&out, 0)?)
}
