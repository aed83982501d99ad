//! The portable backend: every operation in plain candle ops, float32. Slow, simple, and the oracle of the others.
use std::ops::Range;

use candle_core::{D, DType, Device, Tensor as Candle};
use candle_vllm_kernels::cpu::{Activation, ggml};

use super::{Backend, KvShape, Packer};
use crate::{
    Error, Kv, Result, Slice, Step, Tensor,
    layers::{Attention, Linear, Norm, Rope, attention::Heads},
    quant::{Dense, Format, Role},
    weights::Stored,
};

/// The defaults of [`Backend`] and nothing else.
pub struct Portable;

impl Backend for Portable {
    fn name(&self) -> String {
        "cpu (portable)".into()
    }
}

/// Everything becomes dense float32.
pub struct DensePacker;

impl Packer for DensePacker {
    fn matrix(&self, _name: &str, _role: Role, stored: &Stored<'_>) -> Result<Box<dyn Format>> {
        let mut values = vec![0.0; stored.shape.iter().product()];
        ggml::dequantize(stored.dtype, &stored.data, &mut values);
        Ok(Box::new(Dense::new(
            values,
            stored.shape[0],
            stored.shape[1],
            &Device::Cpu,
        )?))
    }
}

/// Keys and values as float32 `[block, offset, kv_head, head_dim]`, one array a layer.
struct Pages {
    keys: Vec<Vec<f32>>,
    values: Vec<Vec<f32>>,
}

pub fn block_bytes(shape: &KvShape, block_size: usize) -> usize {
    2 * shape.layers * block_size * shape.kv_heads * shape.head_dim * size_of::<f32>()
}

pub fn new_kv(shape: &KvShape, blocks: usize, block_size: usize) -> Kv {
    let layer = || vec![0.0; blocks * block_size * shape.kv_heads * shape.head_dim];
    let layers = || (0..shape.layers).map(|_| layer()).collect();
    Kv::new(
        blocks,
        block_size,
        Box::new(Pages {
            keys: layers(),
            values: layers(),
        }),
    )
}

pub fn embed(table: &dyn Format, ids: &[u32]) -> Result<Tensor> {
    let mut out = vec![0.0; ids.len() * table.shape()[1]];
    table.rows(ids, &mut out)?;
    Ok(Tensor::new(ids.len(), table.shape()[1], out))
}

fn normalised(x: &Candle, norm: &Norm) -> Result<Candle> {
    let weight = Candle::from_slice(&norm.weight, norm.weight.len(), x.device())?;
    let scale = (x.sqr()?.mean_keepdim(D::Minus1)? + f64::from(norm.eps))?.sqrt()?;
    Ok(x.broadcast_div(&scale)?.broadcast_mul(&weight)?)
}

pub fn rms_norm(device: &Device, x: &Tensor, norm: &Norm) -> Result<Tensor> {
    Tensor::from_candle(normalised(&x.to_candle(device)?, norm)?)
}

pub fn linear(device: &Device, x: &Tensor, w: &Linear) -> Result<Tensor> {
    let y = w.format.matmul(x, device)?;
    match &w.bias {
        None => Ok(y),
        Some(b) => {
            let b = Candle::from_slice(b, b.len(), device)?;
            Tensor::from_candle(y.to_candle(device)?.broadcast_add(&b)?)
        }
    }
}

pub fn add(device: &Device, x: &Tensor, y: &Tensor) -> Result<Tensor> {
    Tensor::from_candle((x.to_candle(device)? + y.to_candle(device)?)?)
}

pub fn activate(
    device: &Device,
    gate: &Tensor,
    up: &Tensor,
    activation: Activation,
) -> Result<Tensor> {
    let gate = gate.to_candle(device)?;
    let gate = match activation {
        Activation::Silu => gate.silu()?,
        Activation::Gelu => gate.gelu_erf()?,
        Activation::GeluTanh => gate.gelu()?,
        Activation::Relu => gate.relu()?,
    };
    Tensor::from_candle((gate * up.to_candle(device)?)?)
}

pub fn select(device: &Device, x: &Tensor, rows: &[Range<usize>]) -> Result<Tensor> {
    let ids: Vec<u32> = rows
        .iter()
        .flat_map(|r| r.start as u32..r.end as u32)
        .collect();
    let ids = Candle::from_slice(&ids, ids.len(), device)?;
    Tensor::from_candle(x.to_candle(device)?.index_select(&ids, 0)?)
}

/// cos and sin of each position, `[positions, 1, rotary_dim / 2]`; angles are float32 products, as transformers forms them.
fn angles(rope: &Rope, positions: Range<usize>, device: &Device) -> Result<(Candle, Candle)> {
    let half = rope.inv_freq.len();
    let mut angles = Vec::with_capacity(positions.len() * half);
    for p in positions.clone() {
        match &rope.dynamic {
            Some(d) => angles.extend(d.inv_freq(p).iter().map(|f| p as f32 * f)),
            None => angles.extend(rope.inv_freq.iter().map(|f| p as f32 * f)),
        }
    }
    let angles = Candle::from_vec(angles, (positions.len(), 1, half), device)?;
    let factor = f64::from(rope.attention_factor);
    Ok(((angles.cos()? * factor)?, (angles.sin()? * factor)?))
}

/// Rotates pairs (i, i + rotary_dim / 2) of x `[tokens, heads, head_dim]`.
fn rotate(x: &Candle, (cos, sin): &(Candle, Candle), rotary_dim: usize) -> Result<Candle> {
    let half = rotary_dim / 2;
    let (a, b) = (x.narrow(2, 0, half)?, x.narrow(2, half, half)?);
    let first = (a.broadcast_mul(cos)? - b.broadcast_mul(sin)?)?;
    let second = (b.broadcast_mul(cos)? + a.broadcast_mul(sin)?)?;
    let rest = x.narrow(2, rotary_dim, x.dim(2)? - rotary_dim)?;
    Ok(Candle::cat(&[first, second, rest], 2)?)
}

impl Pages {
    fn write(
        &mut self,
        heads: &Heads,
        size: usize,
        table: &[u32],
        from: usize,
        k: &Candle,
        v: &Candle,
    ) -> Result<()> {
        let width = heads.kv_heads * heads.head_dim;
        let (k, v) = (
            k.flatten_all()?.to_vec1::<f32>()?,
            v.flatten_all()?.to_vec1::<f32>()?,
        );
        for (i, (k, v)) in k.chunks(width).zip(v.chunks(width)).enumerate() {
            let p = from + i;
            let at = (table[p / size] as usize * size + p % size) * width;
            self.keys[heads.layer][at..at + width].copy_from_slice(k);
            self.values[heads.layer][at..at + width].copy_from_slice(v);
        }
        Ok(())
    }

    /// The first `len` tokens of a sequence, `[kv_heads, len, head_dim]` each.
    fn read(
        &self,
        heads: &Heads,
        size: usize,
        table: &[u32],
        len: usize,
        device: &Device,
    ) -> Result<[Candle; 2]> {
        let width = heads.kv_heads * heads.head_dim;
        let gather = |pages: &[f32]| -> Result<Candle> {
            let mut out = Vec::with_capacity(len * width);
            for p in 0..len {
                let at = (table[p / size] as usize * size + p % size) * width;
                out.extend_from_slice(&pages[at..at + width]);
            }
            let out = Candle::from_vec(out, (len, heads.kv_heads, heads.head_dim), device)?;
            Ok(out.transpose(0, 1)?.contiguous()?)
        };
        Ok([
            gather(&self.keys[heads.layer])?,
            gather(&self.values[heads.layer])?,
        ])
    }
}

/// 0 where a query may look, -inf elsewhere: `[queries, keys]`.
fn mask(heads: &Heads, position: usize, queries: usize, device: &Device) -> Result<Candle> {
    let keys = position + queries;
    let seen = |q: usize, k: usize| k <= q && heads.window.is_none_or(|w| k + w > q);
    let values: Vec<f32> = (0..queries)
        .flat_map(|q| {
            (0..keys).map(move |k| {
                if seen(position + q, k) {
                    0.0
                } else {
                    f32::NEG_INFINITY
                }
            })
        })
        .collect();
    Ok(Candle::from_vec(values, (1, queries, keys), device)?)
}

fn attend(heads: &Heads, q: &Candle, [k, v]: [Candle; 2], position: usize) -> Result<Candle> {
    let group = heads.heads / heads.kv_heads;
    let repeat = |x: Candle| -> Result<Candle> {
        let (h, t, d) = x.dims3()?;
        Ok(x.unsqueeze(1)?
            .expand((h, group, t, d))?
            .reshape((h * group, t, d))?
            .contiguous()?)
    };
    let queries = q.dim(0)?;
    let (k, v) = (repeat(k)?, repeat(v)?);
    let q = q.transpose(0, 1)?.contiguous()?;
    let scores = (q.matmul(&k.transpose(1, 2)?.contiguous()?)? * f64::from(heads.scale))?;
    let scores = scores.broadcast_add(&mask(heads, position, queries, q.device())?)?;
    let weights = scores
        .broadcast_sub(&scores.max_keepdim(D::Minus1)?)?
        .exp()?;
    let weights = weights.broadcast_div(&weights.sum_keepdim(D::Minus1)?)?;
    let out = weights.matmul(&v)?.transpose(0, 1)?.contiguous()?;
    Ok(out.reshape((queries, heads.heads * heads.head_dim))?)
}

fn one_sequence(
    device: &Device,
    layer: &Attention,
    [q, k, v]: &[Candle; 3],
    (slice, table): (&Slice, &[u32]),
    (pages, size): (&mut Pages, usize),
) -> Result<Candle> {
    let (heads, count) = (&layer.heads, slice.tokens.len());
    let part = |x: &Candle, n: usize| {
        x.narrow(0, slice.tokens.start, count)?
            .reshape((count, n, heads.head_dim))
    };
    let (mut q, mut k, v) = (
        part(q, heads.heads)?,
        part(k, heads.kv_heads)?,
        part(v, heads.kv_heads)?,
    );
    if let Some([qn, kn]) = &layer.qk_norm {
        (q, k) = (normalised(&q, qn)?, normalised(&k, kn)?);
    }
    let turn = angles(&layer.rope, slice.position..slice.position + count, device)?;
    (q, k) = (
        rotate(&q, &turn, heads.rotary_dim)?,
        rotate(&k, &turn, heads.rotary_dim)?,
    );
    pages.write(heads, size, table, slice.position, &k, &v)?;
    attend(
        heads,
        &q,
        pages.read(heads, size, table, slice.position + count, device)?,
        slice.position,
    )
}

pub fn attention(
    device: &Device,
    layer: &Attention,
    [q, k, v]: [Tensor; 3],
    step: &Step,
    kv: &mut Kv,
) -> Result<Tensor> {
    let qkv = [
        q.to_candle(device)?,
        k.to_candle(device)?,
        v.to_candle(device)?,
    ];
    let size = kv.block_size();
    let Some(pages) = kv.storage_mut::<Pages>() else {
        return Err(Error::Run(
            "this KV cache was made by another backend".into(),
        ));
    };
    let rows = step
        .slices
        .iter()
        .map(|s| {
            one_sequence(
                device,
                layer,
                &qkv,
                (s, &step.blocks[s.blocks.clone()]),
                (pages, size),
            )
        })
        .collect::<Result<Vec<_>>>()?;
    Tensor::from_candle(Candle::cat(&rows, 0)?.to_dtype(DType::F32)?)
}
