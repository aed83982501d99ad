//! The gated feed-forward part of a layer.
use candle_vllm_kernels::cpu::Activation;

use crate::{
    Result, Tensor,
    backend::Backend,
    layers::{Linear, Norm},
    loader::Loader,
    quant::Role,
};

/// `x + down(act(gate(norm x)) * up(norm x))`.
pub struct Mlp {
    /// Before the matrices.
    pub norm: Norm,
    /// Into the activation.
    pub gate: Linear,
    /// Beside the activation.
    pub up: Linear,
    /// Back to the residual stream.
    pub down: Linear,
    /// Applied to the gate.
    pub activation: Activation,
}

impl Mlp {
    /// Loads `{prefix}.mlp.*` and the norm before it.
    pub fn load(loader: &Loader<'_>, prefix: &str, activation: Activation) -> Result<Self> {
        let (h, f) = (
            loader.config().hidden_size,
            loader.config().intermediate_size,
        );
        let part = |name: &str, role, shape| {
            Linear::load(loader, &format!("{prefix}.mlp.{name}_proj"), role, shape)
        };
        Ok(Self {
            norm: Norm::load(loader, &format!("{prefix}.post_attention_layernorm"), h)?,
            gate: part("gate", Role::Gate, [f, h])?,
            up: part("up", Role::Up, [f, h])?,
            down: part("down", Role::Down, [h, f])?,
            activation,
        })
    }

    /// Adds this part's output to `x`, shape `[rows, hidden]`.
    pub fn forward(&self, backend: &mut dyn Backend, x: &mut Tensor) -> Result<()> {
        let hidden = backend.gate_up(x, self)?;
        backend.linear_add(&hidden, &self.down, x)
    }
}
