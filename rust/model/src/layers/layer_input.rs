//! What a layer is given of a token beside the residual stream: a row of a table that all layers share, and a projection
//! of the token's embedding.
use candle_vllm_kernels::cpu::Activation;

use super::{Place, mlp::activation};
use crate::{
    Result, Tensor,
    backend::{Backend, Join, Linear, Norm},
    family::Family,
    loader::Loader,
    quant::{Format, Role, Shard},
};

/// Makes the inputs of all layers.
pub struct LayerInputs {
    /// A row a token, of the inputs of all layers one after the other. Only looked up: it stays as it is stored.
    table: Box<dyn Format>,
    /// Factor on the rows.
    factor: f32,
    projection: Linear,
    /// Of each layer's part of the projection.
    norm: Norm,
}

impl LayerInputs {
    /// Loads the parts before the layers; `None` where layers have no inputs.
    pub fn load(loader: &Loader<'_>, family: &Family) -> Result<Option<Self>> {
        let c = loader.config();
        let Some(shape) = c.layer_inputs else {
            return Ok(None);
        };
        let (h, all) = (c.hidden_size, c.layers * shape.width);
        let table = "model.embed_tokens_per_layer";
        let table = loader.source(table, Role::Embedding, Shard::Whole)?;
        let name = "model.per_layer_model_projection";
        let projection = loader.linear(name, Role::Up, Shard::Whole, [all, h])?;
        let name = "model.per_layer_projection_norm.weight";
        // Both halves of the sum are divided by the root of 2, the projection by that of its width before its norm:
        // the factors go to the weights of the norm and to its epsilon.
        let half = std::f32::consts::FRAC_1_SQRT_2;
        let mut weight = loader.floats(name, &Shard::Whole)?;
        weight
            .iter_mut()
            .for_each(|w| *w = (*w + family.norm.offset()) * half);
        Ok(Some(Self {
            table: loader.matrix(table, [shape.rows, all])?,
            factor: (shape.width as f32).sqrt() * half,
            projection,
            norm: Norm {
                weight: loader.made(name, weight, shape.width)?,
                bias: None,
                eps: (c.norm_eps * h as f64) as f32,
                centred: false,
            },
        }))
    }

    /// The inputs of `tokens`, whose embeddings are x: `[rows, layers * width]`.
    pub fn make(&self, backend: &mut dyn Backend, tokens: &[u32], x: &Tensor) -> Result<Tensor> {
        let rows = self.table.shape()[0] as u32;
        let known = |&token: &u32| if token < rows { token } else { 0 };
        let ids: Vec<u32> = tokens.iter().map(known).collect();
        let projected = backend.linear(x, &self.projection)?;
        let mut all = backend.normalise(&projected, self.norm.weight.len(), &self.norm)?;
        let looked_up = backend.embed(self.table.as_ref(), &ids, self.factor)?;
        backend.add(&mut all, &looked_up, 1.0)?;
        Ok(all)
    }
}

/// How a layer takes its input: `x += norm(W (act(gate x) * input))`.
pub struct LayerInput {
    gate: Linear,
    activation: Activation,
    /// Its first column in the inputs of all layers.
    first: usize,
    join: Join,
}

impl LayerInput {
    /// Loads the part of a layer; `None` where layers have no inputs.
    pub fn load(place: &Place<'_>) -> Result<Option<Self>> {
        let c = place.loader.config();
        let Some(shape) = c.layer_inputs else {
            return Ok(None);
        };
        let (h, width) = (c.hidden_size, shape.width);
        Ok(Some(Self {
            gate: place.linear("per_layer_input_gate", Role::Gate, [width, h])?,
            activation: activation(place)?,
            first: place.number * width,
            join: Join {
                linear: place.linear("per_layer_projection", Role::Down, [h, width])?,
                norm: Some(place.norm("post_per_layer_input_norm", h)?),
                factor: 1.0,
            },
        }))
    }

    /// What of `inputs`, those of all layers, the rows let through: what [`LayerInput::add`] takes.
    pub fn let_through(
        &self,
        backend: &mut dyn Backend,
        x: &Tensor,
        inputs: &Tensor,
    ) -> Result<Tensor> {
        backend.gated(x, &self.gate, self.activation, (inputs, self.first))
    }

    /// Adds it to each of several streams.
    pub fn add_to_all(
        &self,
        backend: &mut dyn Backend,
        y: &Tensor,
        streams: &mut [Tensor],
    ) -> Result<()> {
        let y = backend.linear(y, &self.join.linear)?;
        let own = backend.normalised(&y, self.join.norm.as_ref())?;
        let y = own.as_ref().unwrap_or(&y);
        streams.iter_mut().try_for_each(|x| backend.add(x, y, 1.0))
    }

    /// Adds it to the residual stream.
    pub fn add(&self, backend: &mut dyn Backend, y: &Tensor, x: &mut Tensor) -> Result<()> {
        backend.join(y, &self.join, x)
    }
}
