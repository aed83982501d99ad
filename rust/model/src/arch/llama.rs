//! Every pre-norm dense decoder: Llama, Mistral, Qwen2, Qwen3, SmolLM. They differ by flags and configuration only.
//! x = embed; each layer: x += attention(norm x), x += mlp(norm x); logits = head(norm x).
use std::{ops::Range, sync::Arc};

use candle_vllm_kernels::cpu::{Activation, Compute};

use super::{Flags, Runtime};
use crate::{
    Error, Kv, Logits, Model, Pending, Result, Spec, Step, Tensor,
    backend::{Backend, KvDtype, KvShape},
    config::Config,
    layers::{Attention, Mlp, Norm, Rope},
    loader::{self, Loader},
    quant::{Format, Role},
};

struct Layer {
    attention: Attention,
    mlp: Mlp,
}

/// What one thread loads.
enum Part {
    Table(Box<dyn Format>),
    Layer(Box<Layer>),
}

struct Llama {
    spec: Spec,
    kv: KvShape,
    backend: Box<dyn Backend>,
    embedding: Box<dyn Format>,
    layers: Vec<Layer>,
    norm: Norm,
    /// `None`: the embedding is the head too.
    head: Option<Box<dyn Format>>,
}

fn activation(config: &Config) -> Result<Activation> {
    Ok(match config.activation.as_str() {
        "silu" | "swish" => Activation::Silu,
        "gelu" => Activation::Gelu,
        "gelu_pytorch_tanh" | "gelu_new" => Activation::GeluTanh,
        "relu" => Activation::Relu,
        other => {
            return Err(Error::Load(format!(
                "hidden_act {other:?} is not supported; silu, gelu, relu are"
            )));
        }
    })
}

fn layer(loader: &Loader<'_>, number: usize, flags: &Flags, rope: &Arc<Rope>) -> Result<Layer> {
    let prefix = format!("model.layers.{number}");
    let attention = Attention::load(loader, &prefix, number, flags.qk_norm, rope.clone())?;
    let mlp = Mlp::load(loader, &prefix, activation(loader.config())?)?;
    Ok(Layer { attention, mlp })
}

/// The residual stream twice, what attention takes and gives, what the MLP holds, and the widest of them once more as
/// the input of a product.
fn row_bytes(c: &Config) -> usize {
    let queries = c.heads * c.head_dim;
    let keys = c.kv_heads * c.head_dim;
    let widest = c.hidden_size.max(c.intermediate_size).max(queries);
    let values = 2 * c.hidden_size + 2 * queries + 2 * keys + 2 * c.intermediate_size + widest;
    values * size_of::<f32>()
}

fn spec(loader: &Loader<'_>, backend: &dyn Backend, kv: &KvShape, dtype: &str) -> Spec {
    let c = loader.config();
    let kv_dtype = match kv.dtype {
        KvDtype::F32 => "f32",
        KvDtype::Bf16 => "bf16",
    };
    Spec {
        architecture: c.architecture.clone(),
        layers: c.layers,
        hidden_size: c.hidden_size,
        vocab_size: c.vocab_size,
        max_position: c.max_position,
        kv_block_bytes: backend.kv_block_bytes(kv),
        block_size: backend.block_size(),
        row_bytes: row_bytes(c),
        dtype: dtype.into(),
        kv_dtype: kv_dtype.into(),
        parameters: loader.parameters(),
        weight_bytes: loader.packed_bytes(),
        device: backend.name(),
        threads: backend.threads(),
    }
}

/// Loads all weights, on the threads that will compute.
pub fn load(
    loader: &Loader<'_>,
    backend: Box<dyn Backend>,
    runtime: &Runtime,
    flags: &Flags,
) -> Result<Box<dyn Model>> {
    let c = loader.config();
    let rope = Arc::new(Rope::new(c));
    let table = |name: &str, role| loader.matrix(name, role, [c.vocab_size, c.hidden_size]);
    let tied = c.tie_word_embeddings;
    let first = if tied { Role::Head } else { Role::Embedding };
    let part = |i: usize| match i {
        0 => table("model.embed_tokens.weight", first).map(Part::Table),
        1 if !tied => table("lm_head.weight", Role::Head).map(Part::Table),
        _ => {
            layer(loader, i + usize::from(tied) - 2, flags, &rope).map(|l| Part::Layer(Box::new(l)))
        }
    };
    let parts = c.layers + if tied { 1 } else { 2 };
    let (mut tables, mut layers) = (Vec::new(), Vec::with_capacity(c.layers));
    for part in loader::on_threads(backend.compute(), parts, part)? {
        match part {
            Part::Table(table) => tables.push(table),
            Part::Layer(layer) => layers.push(*layer),
        }
    }
    let head = if tied { None } else { tables.pop() };
    let Some(embedding) = tables.pop() else {
        return Err(Error::Load("the model has no embedding".into()));
    };
    let norm = Norm::load(loader, "model.norm", c.hidden_size)?;
    let kv = KvShape {
        layers: c.layers,
        kv_heads: c.kv_heads,
        head_dim: c.head_dim,
        dtype: runtime.kv_dtype,
    };
    let dtype = match layers.first() {
        Some(l) if !runtime.exact => l.mlp.gate.format.label(),
        _ => "f32",
    };
    let spec = spec(loader, backend.as_ref(), &kv, dtype);
    Ok(Box::new(Llama {
        spec,
        kv,
        backend,
        embedding,
        layers,
        norm,
        head,
    }))
}

impl Model for Llama {
    fn spec(&self) -> &Spec {
        &self.spec
    }

    fn compute(&self) -> Option<&Compute> {
        self.backend.compute()
    }

    fn new_kv(&self, blocks: usize) -> Result<Kv> {
        self.backend.new_kv(&self.kv, blocks)
    }

    fn launch<'a>(&'a mut self, step: &'a Step, kv: &'a mut Kv) -> Result<Pending<'a>> {
        Ok(Pending::new(move || self.run(step, kv)))
    }
}

impl Llama {
    fn run(&mut self, step: &Step, kv: &mut Kv) -> Result<Logits> {
        let backend = self.backend.as_mut();
        let wanted: Vec<Range<usize>> = step.slices.iter().map(|s| s.logits.clone()).collect();
        let all = step.logits_rows() == step.tokens.len();
        let mut pass = backend.begin(step, kv)?;
        let mut x = backend.embed(self.embedding.as_ref(), &step.tokens)?;
        for (i, layer) in self.layers.iter().enumerate() {
            let mut mixed = layer.attention.mix(backend, &x, &mut pass, kv)?;
            if i + 1 == self.layers.len() && !all {
                if step.logits_rows() == 0 {
                    return Ok(Tensor::new(0, self.spec.vocab_size, Vec::new()).into());
                }
                // Nothing reads the other rows any more.
                (mixed, x) = (
                    backend.select(&mixed, &wanted)?,
                    backend.select(&x, &wanted)?,
                );
            }
            backend.linear_add(&mixed, &layer.attention.output, &mut x)?;
            layer.mlp.forward(backend, &mut x)?;
        }
        backend.head(
            &x,
            &self.norm,
            self.head.as_deref().unwrap_or(self.embedding.as_ref()),
        )
    }
}
