//! Alternating updates (arXiv 2301.13310): the residual stream is several, of which a layer computes with one, predicted of
//! all, and corrects all by what comes of it.
use candle_vllm_kernels::cpu::Activation;

use super::Place;
use crate::{
    Result, Tensor,
    backend::{Backend, Feed, Linear, Norm},
    config::AltUp as Shape,
    quant::{Role, Vector},
};

/// A layer's rules for its streams.
pub struct AltUp {
    /// The stream that the layer computes with.
    pub active: usize,
    /// Before the router.
    norm: Norm,
    /// What a row is like: one number a stream, of the active one.
    router: Feed,
    /// From these numbers to the weights of the predictions' sums.
    predict: Linear,
    /// From these numbers to the weights of the corrections' sums, over the predictions and what the layer made.
    correct: Linear,
    /// Of what the layer's input by token is gated by.
    pub scale: Option<Vector>,
}

impl AltUp {
    /// Loads the part of a layer.
    pub fn load(place: &Place<'_>, shape: &Shape) -> Result<Self> {
        let (loader, h, n) = (
            place.loader,
            place.loader.config().hidden_size,
            shape.streams,
        );
        let name = |part: &str| place.whole(&format!("altup.{part}"));
        let mut norm = place.norm("altup.router_norm", h)?;
        let mut weight = norm.weight.values()?.to_vec();
        weight.iter_mut().for_each(|w| *w /= h as f32);
        norm.weight = loader.made(&name("router_norm"), weight, h)?;
        let linear = |part: &str, shape| {
            let part = format!("altup.{part}");
            place.linear(&part, Role::Router, shape)
        };
        let mut predict = linear("prediction_coefs", [n * n, n])?;
        // A prediction is a change of its stream.
        let itself = |i| if i / n == i % n { 1.0 } else { 0.0 };
        let itself = (0..n * n).map(itself).collect();
        predict.bias = Some(loader.made(&name("prediction_coefs"), itself, n * n)?);
        let scale = || loader.vector(&name("correct_output_scale"), h, 0.0);
        Ok(Self {
            active: shape.active,
            norm,
            router: Feed {
                gate: None,
                up: linear("modality_router", [n, h])?,
                activation: Activation::Tanh,
                cut: None,
            },
            predict,
            correct: correction(place, &name("correction_coefs"), shape)?,
            scale: shape.scaled.then(scale).transpose()?,
        })
    }

    /// What the layer expects of each stream.
    pub fn predict(&self, backend: &mut dyn Backend, streams: &[Tensor]) -> Result<Vec<Tensor>> {
        let like = backend.feed(&streams[self.active], Some(&self.norm), &self.router)?;
        let weights = backend.linear(&like, &self.predict)?;
        backend.combine(&streams.iter().collect::<Vec<_>>(), &weights)
    }

    /// The streams, where the active one is `made` and not what was predicted.
    pub fn correct(
        &self,
        backend: &mut dyn Backend,
        predictions: &[Tensor],
        made: &Tensor,
    ) -> Result<Vec<Tensor>> {
        let like = backend.feed(made, Some(&self.norm), &self.router)?;
        let weights = backend.linear(&like, &self.correct)?;
        let all: Vec<&Tensor> = predictions.iter().chain([made]).collect();
        backend.combine(&all, &weights)
    }
}

/// `p_i + (1 + c_i) (made - p_active)` for every stream i as sums over all p and `made`: c is a product, and so are the
/// sums' weights, with what does not depend on it as their bias.
fn correction(place: &Place<'_>, name: &str, shape: &Shape) -> Result<Linear> {
    let (loader, n, active) = (place.loader, shape.streams, shape.active);
    let given = loader.values(name, n * n)?;
    let (mut weight, mut bias) = (vec![0.0; n * (n + 1) * n], vec![0.0; n * (n + 1)]);
    for i in 0..n {
        let at = i * (n + 1);
        bias[at + i] += 1.0;
        for (column, sign) in [(active, -1.0), (n, 1.0)] {
            bias[at + column] += sign;
            let row = weight[(at + column) * n..].iter_mut();
            row.zip(&given[i * n..(i + 1) * n])
                .for_each(|(w, c)| *w = sign * c);
        }
    }
    let shape = [n * (n + 1), n];
    Ok(Linear {
        format: loader.made_matrix(name, Role::Router, shape, &weight)?,
        bias: Some(loader.made(name, bias, n * (n + 1))?),
    })
}
