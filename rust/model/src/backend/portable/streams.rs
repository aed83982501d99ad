//! What is done with rows by a few numbers a row, in candle ops.
use candle_core::{D, Device, Tensor as Candle};

use super::candle_vector;
use crate::{Result, Tensor, quant::Vector};

pub fn weigh(device: &Device, x: &Tensor, columns: &Vector) -> Result<Tensor> {
    let columns = candle_vector(columns, device)?;
    Tensor::from_candle(x.to_candle(device)?.broadcast_mul(&columns)?)
}

pub fn combine(device: &Device, streams: &[&Tensor], weights: &Tensor) -> Result<Vec<Tensor>> {
    let streams = streams.iter().map(|s| s.to_candle(device));
    let streams = Candle::stack(&streams.collect::<Result<Vec<_>>>()?, 1)?;
    let (rows, n, _) = streams.dims3()?;
    let count = weights.shape()[1] / n;
    let weights = weights.to_candle(device)?.reshape((rows, count, n))?;
    let sums = weights.matmul(&streams)?;
    (0..count)
        .map(|i| Tensor::from_candle(sums.narrow(1, i, 1)?.squeeze(1)?.contiguous()?))
        .collect()
}

fn mean_square(x: &Candle) -> Result<Candle> {
    Ok(x.sqr()?.mean_keepdim(D::Minus1)?)
}

pub fn resize(device: &Device, x: &Tensor, like: &Tensor, least: f32) -> Result<Tensor> {
    let (x, like) = (x.to_candle(device)?, like.to_candle(device)?);
    let own = mean_square(&x)?.maximum(f64::from(least))?;
    let factor = mean_square(&like)?.div(&own)?.sqrt()?;
    Tensor::from_candle(x.broadcast_mul(&factor)?)
}

/// What is above a row's mean by `deviations` of its standard deviations, less that; else 0.
pub fn cut(device: &Device, x: &Tensor, deviations: f32) -> Result<Tensor> {
    let x = x.to_candle(device)?;
    let mean = x.mean_keepdim(D::Minus1)?;
    let deviation = mean_square(&x.broadcast_sub(&mean)?)?.sqrt()?;
    let cut = (mean + (deviation * f64::from(deviations))?)?;
    Tensor::from_candle(x.broadcast_sub(&cut)?.relu()?)
}
