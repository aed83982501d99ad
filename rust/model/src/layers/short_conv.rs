//! Gated short convolution in place of attention (LFM2).
use super::{Mixer, Place};
use crate::{
    Kv, Result, Tensor,
    backend::{self, Backend, Join, KvPlace, Linear, Norm, Pass},
    quant::Role,
};

/// The convolution of the (normalised) residual stream, and the way back to it.
pub struct ShortConv {
    norm: Option<Norm>,
    /// Into two gates and what is convolved: `[B | C | x]`.
    inputs: Linear,
    conv: backend::ShortConv,
    output: Join,
}

impl ShortConv {
    /// Loads the part of a layer whose states lie at `at`.
    ///
    /// # Errors
    /// `Load` for what is missing or has another shape.
    pub fn load(place: &Place<'_>, taps: usize, at: KvPlace) -> Result<Self> {
        let (loader, c) = (place.loader, place.loader.config());
        let h = c.hidden_size;
        let conv = place.whole("conv.conv");
        let by_column = loader.values(&conv, h * taps)?;
        let by_tap = (0..taps).flat_map(|t| by_column.iter().skip(t).step_by(taps));
        let weight = by_tap.copied().collect();
        let bias = Some(format!("{conv}.bias")).filter(|name| loader.contains(name));
        Ok(Self {
            norm: place.stream_norm(place.family.names.input_norm)?,
            inputs: place.linear("conv.in_proj", Role::Query, [3 * h, h])?,
            conv: backend::ShortConv {
                place: at,
                width: h,
                taps,
                weight: loader.made(&conv, weight, h * taps)?,
                bias: bias.map(|name| loader.vector(&name, h, 0.0)).transpose()?,
            },
            output: Join {
                linear: place.linear("conv.out_proj", Role::Output, [h, h])?,
                norm: place.stream_norm(place.family.names.post_attention)?,
                factor: c.scales.residual as f32,
            },
        })
    }
}

impl Mixer for ShortConv {
    fn norm(&self) -> Option<&Norm> {
        self.norm.as_ref()
    }

    fn output(&self) -> &Join {
        &self.output
    }

    fn mix(
        &self,
        backend: &mut dyn Backend,
        x: &Tensor,
        pass: &mut Pass<'_>,
        kv: &mut Kv,
    ) -> Result<Tensor> {
        let inputs = backend.project(x, self.norm.as_ref(), &[&self.inputs])?;
        backend.short_conv(&self.conv, &inputs[0], pass, kv)
    }
}
