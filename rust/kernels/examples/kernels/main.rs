//! Measures the machine's limits (dot products, tile products, read stream) and every matrix kernel against them.
//! usage: kernels [limits] [isa=NAME] [narrow] [mode=fast|exact|int8|int16] [threads=N] [types=q4_1,q8_0,...] [rows=1,2,4,...] [shapes=smollm2,qwen3,llama]
#![allow(clippy::print_stdout)]
mod limits;

use candle_vllm_kernels::cpu::ggml::GgmlType;
use candle_vllm_kernels::cpu::{
    Compute, Cpu, Input, Job, Matrix, Mode, Then, available_threads, matmul,
};

/// Seconds: of this process's processors with one thread, so that a busy machine matters less, else of the wall.
fn now(cx: &Compute) -> f64 {
    let clock = if cx.pool.threads() == 1 {
        libc::CLOCK_PROCESS_CPUTIME_ID
    } else {
        libc::CLOCK_MONOTONIC
    };
    let mut t = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `t` is a timespec.
    unsafe { libc::clock_gettime(clock, &mut t) };
    t.tv_sec as f64 + t.tv_nsec as f64 * 1e-9
}

/// Output rows and columns of the matrices of a layer.
type Shapes = &'static [(usize, usize)];
const SMOLLM2: Shapes = &[(960, 576), (576, 576), (3072, 576), (576, 1536)];
const QWEN3: Shapes = &[(4096, 1024), (1024, 2048), (6144, 1024), (1024, 3072)];
const LLAMA: Shapes = &[(3072, 2048), (2048, 2048), (16384, 2048), (2048, 8192)];

struct Options {
    threads: usize,
    isa: Option<String>,
    types: Vec<String>,
    rows: Vec<usize>,
    shapes: String,
    limits: bool,
    /// Without the level's optional instructions.
    narrow: bool,
    mode: Mode,
}

fn options() -> Options {
    let mut o = Options {
        threads: available_threads(),
        isa: None,
        types: ["q4_1", "q4_0", "q4_k", "q6_k", "q8_0", "bf16"]
            .map(str::to_string)
            .to_vec(),
        rows: vec![1, 2, 4, 8, 16, 64, 512],
        shapes: "smollm2,qwen3".into(),
        limits: false,
        narrow: false,
        mode: Mode::Fast,
    };
    for arg in std::env::args().skip(1) {
        let (key, value) = arg.split_once('=').unwrap_or((&arg, ""));
        match key {
            "limits" => o.limits = true,
            "mode" => {
                o.mode = match value {
                    "exact" => Mode::Exact,
                    "int8" => Mode::Int8,
                    "int16" => Mode::Int16,
                    _ => Mode::Fast,
                }
            }
            "narrow" => o.narrow = true,
            "isa" => o.isa = Some(value.to_string()),
            "threads" => o.threads = value.parse().unwrap_or(1),
            "types" => o.types = value.split(',').map(str::to_string).collect(),
            "rows" => o.rows = value.split(',').filter_map(|v| v.parse().ok()).collect(),
            "shapes" => o.shapes = value.to_string(),
            other => println!("unknown option {other}"),
        }
    }
    o
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let o = options();
    let start = std::time::Instant::now();
    let levels = Cpu::available();
    println!(
        "{} levels found and checked in {:.0} us",
        levels.len(),
        start.elapsed().as_secs_f64() * 1e6
    );
    let mut cpu = levels
        .iter()
        .find(|c| o.isa.as_deref() == Some(c.name()))
        .or(levels.last())
        .copied()
        .ok_or("no instruction set")?;
    if o.narrow {
        cpu = cpu.narrower().last().copied().unwrap_or(cpu);
    }
    let cx = Compute::with_cpu(cpu, o.threads)?;
    println!("{cpu:?} with {} threads", o.threads);
    if o.limits {
        limits::print(&cx);
        return Ok(());
    }
    for (name, shapes) in [("smollm2", SMOLLM2), ("qwen3", QWEN3), ("llama", LLAMA)] {
        if !o.shapes.contains(name) {
            continue;
        }
        for ty in GgmlType::all().filter(|t| o.types.contains(&t.name().to_lowercase())) {
            model(&cx, name, shapes, ty, &o)?;
        }
    }
    Ok(())
}

/// Bytes of an `[n, k]` matrix with scales of about 0.01 and any other bits.
fn weights(ty: GgmlType, n: usize, k: usize) -> Vec<u8> {
    let mut state = 1u64;
    let mut data = vec![0u8; n * k / ty.block_len() * ty.block_bytes()];
    for chunk in data.chunks_mut(4) {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        // Read as halves of f16, bf16 or f32: magnitudes between 1e-3 and 2, so that no sum is infinite or subnormal.
        let bits = ((state >> 32) as u32 & 0x87ff_87ff | 0x3800_3800).to_le_bytes();
        chunk.copy_from_slice(&bits[..chunk.len()]);
    }
    data
}

/// As many layers as make 100 MB, and an input for each matrix of a layer.
struct Layers {
    /// Matrices of a layer.
    each: usize,
    matrices: Vec<Matrix>,
    inputs: Vec<Input>,
    /// As wide as the widest input, as tall as the most rows.
    x: Vec<f32>,
    /// The same of the outputs.
    out: Vec<f32>,
}

impl Layers {
    fn new(
        cx: &Compute,
        shapes: Shapes,
        ty: GgmlType,
        options: &Options,
    ) -> Result<Layers, Box<dyn std::error::Error>> {
        let weights_of = |(n, k): &(usize, usize)| n * k / ty.block_len() * ty.block_bytes();
        let layers = (100_000_000 / shapes.iter().map(weights_of).sum::<usize>()).max(1);
        let mut matrices = Vec::new();
        for &(n, k) in shapes.iter().cycle().take(layers * shapes.len()) {
            let k = k.next_multiple_of(ty.block_len());
            let data = weights(ty, n, k);
            matrices.push(Matrix::pack(cx.cpu, options.mode, ty, n, k, &data)?);
        }
        let most = |of: fn(&Matrix) -> usize| matrices.iter().map(of).max().unwrap_or(0);
        let rows = options.rows.iter().max().copied().unwrap_or(0);
        let x = (0..rows * most(Matrix::k)).map(|i| ((i * 37 % 201) as f32 - 100.0) / 50.0);
        Ok(Layers {
            each: shapes.len(),
            inputs: shapes.iter().map(|_| Input::new()).collect(),
            x: x.collect(),
            out: vec![0.0; rows * most(Matrix::n)],
            matrices,
        })
    }

    /// Products of `rows` rows and the first `matrices`, in operations.
    fn operations(&self, rows: usize, matrices: usize) -> f64 {
        let products = self.matrices[..matrices].iter().map(|m| m.n() * m.k());
        2.0 * (products.sum::<usize>() * rows) as f64
    }

    /// Seconds to put `rows` rows into the form that matrix `i` needs.
    fn fill(&mut self, cx: &Compute, rows: usize, i: usize) -> f64 {
        let (m, input) = (&self.matrices[i], &mut self.inputs[i % self.each]);
        let start = now(cx);
        input.fill(cx, &self.x[..rows * m.k()], rows, m.k(), None, &[m]);
        now(cx) - start
    }

    /// Seconds to multiply `rows` rows, which the input holds, by matrix `i`.
    fn multiply(&mut self, cx: &Compute, rows: usize, i: usize) -> f64 {
        let matrix = &self.matrices[i];
        let job = Job {
            matrix,
            bias: None,
            out: &mut self.out[..rows * matrix.n()],
            then: Then::Set,
        };
        let start = now(cx);
        matmul(cx, &self.inputs[i % self.each], &mut [job]);
        now(cx) - start
    }
}

/// Times all matrices, one layer after the other as a model would; and each of one layer alone, from cache: what the
/// kernel itself can do on a busy machine.
fn model(
    cx: &Compute,
    name: &str,
    shapes: Shapes,
    ty: GgmlType,
    options: &Options,
) -> Result<(), Box<dyn std::error::Error>> {
    let mut layers = Layers::new(cx, shapes, ty, options)?;
    let count = layers.matrices.len();
    let bytes: usize = layers.matrices.iter().map(Matrix::bytes).sum();
    for &rows in &options.rows {
        let operations = layers.operations(rows, count);
        for i in 0..layers.each {
            layers.fill(cx, rows, i);
        }
        let mut hot = 0.0;
        for i in 0..layers.each {
            let times = (0..100).map(|_| layers.multiply(cx, rows, i));
            hot += times.fold(f64::MAX, f64::min);
        }
        let [mut multiply, mut fill] = [f64::MAX; 2];
        for _ in 0..((80e9 / operations) as usize).clamp(2, 8) {
            multiply = multiply.min((0..count).map(|i| layers.multiply(cx, rows, i)).sum());
            fill = fill.min((0..count).map(|i| layers.fill(cx, rows, i)).sum());
        }
        println!(
            "{name:8} {:5} rows {rows:4}: {:7.1} GOPS {:6.1} GB/s {:8.1} us a matrix, {:6.1} us to quantise; hot {:7.1} GOPS",
            ty.name().to_lowercase(),
            operations / multiply / 1e9,
            bytes as f64 / multiply / 1e9,
            multiply / count as f64 * 1e6,
            fill / count as f64 * 1e6,
            layers.operations(rows, layers.each) / hot / 1e9,
        );
    }
    Ok(())
}
