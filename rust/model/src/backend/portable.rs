//! The portable backend: every operation in plain candle ops, float32. Slow, simple, and the oracle of the others.
pub mod index;
pub mod latent;
pub mod short_conv;
pub mod streams;

use std::ops::Range;

use candle_core::{D, DType, Device, Tensor as Candle};
use candle_vllm_kernels::cpu::Activation;

use super::{Attend, Backend, KvGroup, KvShape, KvType, Linear, LogitRule, Norm, Normed, Packer};
use crate::{
    Error, Kv, Logits, Result, Slice, Step, Tensor,
    quant::{Dense, Described, Format, Measured, Role, Vector},
    rope::Rope,
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
    fn matrix(&self, _name: &str, _role: Role, weight: &Described<'_>) -> Result<Box<dyn Format>> {
        let shape = weight.shape();
        let dense = Dense::new(weight.values(), shape[0], shape[1], &Device::Cpu)?;
        Ok(Box::new(dense))
    }

    fn measure(&self, _name: &str, _role: Role, weight: &Described<'_>) -> Result<Measured> {
        let shape = weight.shape();
        let (n, k) = (shape[0], shape[1]);
        Ok(Measured::new([n, k], "f32", n * k * size_of::<f32>()))
    }
}

/// Keys and values as float32 `[block, offset, kv_head, width]`, one array a layer.
struct Pages {
    keys: Vec<Vec<f32>>,
    values: Vec<Vec<f32>>,
    /// What they are rounded to.
    dtype: KvType,
}

/// The pages of all groups.
struct Cache {
    groups: Vec<Pages>,
}

/// Values of a token in a layer: of the keys, of the values.
fn widths(group: &KvGroup) -> [usize; 2] {
    let value = if group.latent { 0 } else { group.value_dim };
    [group.kv_heads * group.key_dim, group.kv_heads * value]
}

pub fn block_bytes(shape: &KvShape, block_size: usize) -> usize {
    let of = |g: &KvGroup| g.layers * widths(g).iter().sum::<usize>();
    block_size * shape.groups.iter().map(of).sum::<usize>() * size_of::<f32>()
}

pub fn new_kv(shape: &KvShape, blocks: usize, block_size: usize) -> Kv {
    let pages = |group: &KvGroup| {
        let layers = |width: usize| vec![vec![0.0; blocks * block_size * width]; group.layers];
        let [keys, values] = widths(group).map(layers);
        Pages {
            keys,
            values,
            dtype: group.dtype,
        }
    };
    let groups = shape.groups.iter().map(pages).collect();
    Kv::new(blocks, block_size, Box::new(Cache { groups }))
}

fn cache_of(kv: &mut Kv) -> Result<&mut Cache> {
    kv.storage_mut::<Cache>()
        .ok_or_else(|| Error::Run("this KV cache was made by another backend".into()))
}

/// Writes rows of heads `width` wide to the places of the tokens from `from` on.
fn write(
    (pages, dtype): (&mut [f32], KvType),
    (size, table): (usize, &[u32]),
    from: usize,
    rows: &[f32],
    [heads, width]: [usize; 2],
) {
    let all = heads * width;
    for (i, row) in rows.chunks(all).enumerate() {
        let p = from + i;
        let at = (table[p / size] as usize * size + p % size) * all;
        let to = &mut pages[at..at + all];
        to.copy_from_slice(row);
        to.chunks_exact_mut(width)
            .for_each(|head| dtype.round(head));
    }
}

/// The first `len` tokens of a sequence, `[len, width]`.
fn read(pages: &[f32], (size, table): (usize, &[u32]), len: usize, width: usize) -> Vec<f32> {
    let row = |p: usize| (table[p / size] as usize * size + p % size) * width;
    (0..len)
        .flat_map(|p| pages[row(p)..row(p) + width].to_vec())
        .collect()
}

pub fn embed(table: &dyn Format, ids: &[u32], factor: f32) -> Result<Tensor> {
    let mut out = vec![0.0; ids.len() * table.shape()[1]];
    table.rows(ids, &mut out)?;
    out.iter_mut().for_each(|v| *v *= factor);
    Ok(Tensor::new(ids.len(), table.shape()[1], out))
}

fn candle_vector(v: &Vector, device: &Device) -> Result<Candle> {
    Ok(Candle::from_slice(v.values()?, v.len(), device)?)
}

/// Normalises the last dimension.
fn normalised(x: &Candle, norm: &Norm) -> Result<Candle> {
    let x = if norm.centred {
        x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?
    } else {
        x.clone()
    };
    let scale = (x.sqr()?.mean_keepdim(D::Minus1)? + f64::from(norm.eps))?.sqrt()?;
    Ok(x.broadcast_div(&scale)?)
}

pub fn normalise(device: &Device, x: &Tensor, group: usize, norm: &Norm) -> Result<Tensor> {
    let [rows, width] = x.shape();
    let groups = x.to_candle(device)?.reshape((rows, width / group, group))?;
    let y = normalised(&groups, norm)?;
    // Weights are one group's, for all of them, or the whole row's.
    let own = |v: &Vector| -> Result<Candle> {
        Ok(candle_vector(v, device)?.reshape((1, v.len() / group, group))?)
    };
    let mut y = y.broadcast_mul(&own(&norm.weight)?)?;
    if let Some(bias) = &norm.bias {
        y = y.broadcast_add(&own(bias)?)?;
    }
    Tensor::from_candle(y.reshape((rows, width))?)
}

fn biased(y: Tensor, bias: Option<&Vector>, device: &Device) -> Result<Tensor> {
    match bias {
        None => Ok(y),
        Some(b) => {
            let b = candle_vector(b, device)?;
            Tensor::from_candle(y.to_candle(device)?.broadcast_add(&b)?)
        }
    }
}

pub fn linear(device: &Device, x: &Tensor, w: &Linear) -> Result<Tensor> {
    biased(w.format.matmul(x, device)?, w.bias.as_ref(), device)
}

pub fn head(
    device: &Device,
    x: &Tensor,
    (head, bias): (&dyn Format, Option<&Vector>),
    rule: LogitRule,
) -> Result<Logits> {
    let y = biased(head.matmul(x, device)?, bias, device)?.to_candle(device)?;
    let y = match rule.cap.map(f64::from) {
        None => (y * f64::from(rule.factor))?,
        Some(cap) => ((y * (f64::from(rule.factor) / cap))?.tanh()? * cap)?,
    };
    Ok(Tensor::from_candle(y)?.into_host()?.into())
}

pub fn add(device: &Device, x: &Tensor, y: &Tensor, factor: f32) -> Result<Tensor> {
    let y = (y.to_candle(device)? * f64::from(factor))?;
    Tensor::from_candle((x.to_candle(device)? + y)?)
}

pub fn scale(device: &Device, x: &Tensor, factor: f32) -> Result<Tensor> {
    Tensor::from_candle((x.to_candle(device)? * f64::from(factor))?)
}

/// `act(y)` times as many columns of `by`, from `first` on.
pub fn gated(
    device: &Device,
    y: &Tensor,
    activation: Activation,
    (by, first): (&Tensor, usize),
) -> Result<Tensor> {
    let by = by.to_candle(device)?.narrow(1, first, y.shape()[1])?;
    Tensor::from_candle((activated(&y.to_candle(device)?, activation)? * by)?)
}

/// `act(gate) * up`, or `act(up)` without a gate.
pub fn activate(
    device: &Device,
    gate: Option<Tensor>,
    up: Tensor,
    activation: Activation,
) -> Result<Tensor> {
    let up = up.to_candle(device)?;
    let Some(gate) = gate else {
        return Tensor::from_candle(activated(&up, activation)?);
    };
    let up = match activation {
        Activation::Clamped(c) => (up.clamp(-c.limit, c.limit)? + 1.0)?,
        _ => up,
    };
    Tensor::from_candle((activated(&gate.to_candle(device)?, activation)? * up)?)
}

fn activated(x: &Candle, activation: Activation) -> Result<Candle> {
    Ok(match activation {
        Activation::Silu => x.silu()?,
        Activation::Gelu => x.gelu_erf()?,
        Activation::GeluTanh => x.gelu()?,
        Activation::Relu => x.relu()?,
        Activation::Relu2 => x.relu()?.sqr()?,
        Activation::Tanh => x.tanh()?,
        Activation::Clamped(c) => {
            let x = x.minimum(f64::from(c.limit))?;
            let rise = ((&x * -f64::from(c.alpha))?.exp()? + 1.0)?;
            (x / rise)?
        }
        Activation::Xielu(a) => {
            let above = (x.relu()?.sqr()? * f64::from(a.positive))?;
            let low = x.minimum(f64::from(a.eps))?.exp()?;
            let below = ((low - 1.0)? - x)?.affine(f64::from(a.negative), 0.0)?;
            let curved = x.gt(0.0)?.where_cond(&above, &below)?;
            (curved + (x * f64::from(a.beta))?)?
        }
    })
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

/// Rotates pairs of x `[tokens, heads, head_dim]`: (i, i + half) of the first dimensions, or neighbours.
fn rotate(x: &Candle, (cos, sin): &(Candle, Candle), interleaved: bool) -> Result<Candle> {
    let half = cos.dim(2)?;
    let turned = x.narrow(2, 0, 2 * half)?;
    let (a, b) = if interleaved {
        let (t, h, _) = x.dims3()?;
        let pairs = turned.reshape((t, h, half, 2))?;
        (
            pairs.narrow(3, 0, 1)?.squeeze(3)?,
            pairs.narrow(3, 1, 1)?.squeeze(3)?,
        )
    } else {
        (x.narrow(2, 0, half)?, x.narrow(2, half, half)?)
    };
    let first = (a.broadcast_mul(cos)? - b.broadcast_mul(sin)?)?;
    let second = (b.broadcast_mul(cos)? + a.broadcast_mul(sin)?)?;
    let turned = if interleaved {
        Candle::stack(&[first, second], 3)?.reshape(turned.shape())?
    } else {
        Candle::cat(&[first, second], 2)?
    };
    let rest = x.narrow(2, 2 * half, x.dim(2)? - 2 * half)?;
    Ok(Candle::cat(&[turned, rest], 2)?)
}

/// 0 where a query may look, -inf elsewhere: `[queries, keys]`.
fn mask(heads: &Attend, position: usize, queries: usize, device: &Device) -> Result<Candle> {
    let keys = position + queries;
    let seen = |q: usize, k: usize| k <= q && heads.window.is_none_or(|w| k >= w.first(q));
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

fn attended(heads: &Attend, q: &Candle, kv: [Candle; 2], position: usize) -> Result<Candle> {
    let mask = mask(heads, position, q.dim(0)?, q.device())?;
    attended_by(heads, q, kv, &mask)
}

fn attended_by(heads: &Attend, q: &Candle, [k, v]: [Candle; 2], mask: &Candle) -> Result<Candle> {
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
    let mut scores = (q.matmul(&k.transpose(1, 2)?.contiguous()?)? * f64::from(heads.scale))?;
    if let Some(cap) = heads.softcap.map(f64::from) {
        scores = ((scores / cap)?.tanh()? * cap)?;
    }
    let scores = scores.broadcast_add(mask)?;
    let mut most = scores.max_keepdim(D::Minus1)?;
    let sinks = match &heads.sinks {
        Some(sinks) => Some(candle_vector(sinks, q.device())?.reshape((heads.heads, 1, 1))?),
        None => None,
    };
    if let Some(sinks) = &sinks {
        most = most.broadcast_maximum(sinks)?;
    }
    let weights = scores.broadcast_sub(&most)?.exp()?;
    let mut sum = weights.sum_keepdim(D::Minus1)?;
    if let Some(sinks) = &sinks {
        sum = (sum + sinks.broadcast_sub(&most)?.exp()?)?;
    }
    let weights = weights.broadcast_div(&sum)?;
    let out = weights.matmul(&v)?.transpose(0, 1)?.contiguous()?;
    Ok(out.reshape((queries, heads.heads * heads.value_dim))?)
}

/// Queries or keys of one sequence `[tokens, heads, head_dim]`, normalised per head and rotated as `a` says.
fn turned(a: &Attend, x: Candle, norm: Option<&Norm>, turn: &(Candle, Candle)) -> Result<Candle> {
    let norm_at = |x: Candle, of: Normed| -> Result<Candle> {
        match (norm, a.qk_norm.as_ref()) {
            (Some(norm), Some(rule)) if rule.of == of => {
                let (t, h, d) = x.dims3()?;
                let x = Tensor::from_candle(x.reshape((t, h * d))?)?;
                let x = normalise(&Device::Cpu, &x, d, norm)?;
                Ok(x.to_candle(&Device::Cpu)?.reshape((t, h, d))?)
            }
            _ => Ok(x),
        }
    };
    let x = norm_at(x, Normed::Head)?;
    let x = rotate(&x, turn, a.rope.interleaved)?;
    norm_at(x, Normed::RotatedHead)
}

fn one_sequence(
    device: &Device,
    a: &Attend,
    (q, kv): &(Candle, Option<[Candle; 2]>),
    (slice, table): (&Slice, &[u32]),
    (cache, size): (&mut Cache, usize),
) -> Result<Candle> {
    let count = slice.tokens.len();
    let part = |x: &Candle, n: usize, width: usize| {
        x.narrow(0, slice.tokens.start, count)?
            .reshape((count, n, width))
    };
    let q = part(q, a.heads, a.head_dim)?;
    let turn = angles(&a.rope, slice.position..slice.position + count, device)?;
    let norms = a.qk_norm.as_ref();
    let mut q = turned(a, q, norms.map(|n| &n.q), &turn)?;
    if let Some(temperature) = &a.temperature {
        let factors: Vec<f32> = (0..count)
            .map(|i| temperature.at(slice.position + i))
            .collect();
        q = q.broadcast_mul(&Candle::from_vec(factors, (count, 1, 1), device)?)?;
    }
    let (place, len) = (a.place, slice.position + count);
    let pages = &mut cache.groups[place.group];
    let dtype = pages.dtype;
    let kept = |pages: &mut [f32], x: Option<&Candle>, width: usize| -> Result<Candle> {
        let own = (size, table);
        let heads = [a.kv_heads, width];
        if let Some(x) = x {
            let rows = x.flatten_all()?.to_vec1::<f32>()?;
            write((pages, dtype), own, slice.position, &rows, heads);
        }
        let past = read(pages, own, len, a.kv_heads * width);
        let past = Candle::from_vec(past, (len, a.kv_heads, width), device)?;
        Ok(past.transpose(0, 1)?.contiguous()?)
    };
    let (mut k, mut v) = (None, None);
    if let Some([keys, values]) = kv {
        let keys = part(keys, a.kv_heads, a.head_dim)?;
        k = Some(turned(a, keys, norms.and_then(|n| n.k.as_ref()), &turn)?);
        v = Some(part(values, a.kv_heads, a.value_dim)?);
    }
    let k = kept(&mut pages.keys[place.layer], k.as_ref(), a.head_dim)?;
    let v = kept(&mut pages.values[place.layer], v.as_ref(), a.value_dim)?;
    attended(a, &q, [k, v], slice.position)
}

pub fn attend(
    device: &Device,
    a: &Attend,
    (mut q, mut kv_new): (Tensor, Option<[Tensor; 2]>),
    step: &Step,
    kv: &mut Kv,
) -> Result<Tensor> {
    if let Some(norms) = a.qk_norm.as_ref().filter(|n| n.of == Normed::Row) {
        q = normalise(device, &q, q.shape()[1], &norms.q)?;
        if let (Some([k, _]), Some(norm)) = (&mut kv_new, &norms.k) {
            *k = normalise(device, k, k.shape()[1], norm)?;
        }
    }
    let held = |x: Tensor| -> Result<Candle> {
        let x = x.to_candle(device)?;
        Ok(match a.clip {
            Some(clip) => x.clamp(-clip, clip)?,
            None => x,
        })
    };
    let new = match kv_new {
        Some([k, v]) => Some([held(k)?, held(v)?]),
        None => None,
    };
    let qkv = (held(q)?, new);
    let size = kv.block_size();
    let cache = cache_of(kv)?;
    let rows = step
        .slices
        .iter()
        .map(|s| {
            let table = &step.blocks[s.blocks.clone()];
            one_sequence(device, a, &qkv, (s, table), (cache, size))
        })
        .collect::<Result<Vec<_>>>()?;
    Tensor::from_candle(Candle::cat(&rows, 0)?.to_dtype(DType::F32)?)
}
