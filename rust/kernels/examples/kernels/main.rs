//! Measures the machine's limits (dot products, tile products, read stream) and every matrix kernel against them.
//! usage: kernels [limits] [isa=NAME] [vnni=off] [mode=fast|fine|bytes|words|fixed] [threads=N] [types=q4_1,q8_0,...] [rows=1,2,4,...] [shapes=smollm2,qwen3]
#![allow(clippy::print_stdout)]
mod limits;

use candle_vllm_kernels::cpu::ggml::GgmlType;
use candle_vllm_kernels::cpu::{Compute, Cpu, Input, Job, Matrix, Mode, available_threads, matmul};

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

struct Options {
    threads: usize,
    isa: Option<String>,
    types: Vec<String>,
    rows: Vec<usize>,
    shapes: String,
    limits: bool,
    vnni: bool,
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
        vnni: true,
        mode: Mode::Fast,
    };
    for arg in std::env::args().skip(1) {
        let (key, value) = arg.split_once('=').unwrap_or((&arg, ""));
        match key {
            "limits" => o.limits = true,
            "mode" => {
                o.mode = match value {
                    "fine" => Mode::Fine,
                    "bytes" => Mode::Bytes,
                    "words" => Mode::Words,
                    "fixed" => Mode::Fixed,
                    _ => Mode::Fast,
                }
            }
            "vnni" => o.vnni = value != "off",
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
    // AVX-VNNI only: AVX-512 has its own.
    cpu.avx_vnni &= o.vnni;
    let cx = Compute::with_cpu(cpu, o.threads)?;
    println!("{cpu:?} with {} threads", o.threads);
    if o.limits {
        limits::print(&cx);
        return Ok(());
    }
    for (name, shapes) in [("smollm2", SMOLLM2), ("qwen3", QWEN3)] {
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

/// Times all matrices of as many layers as make 100 MB, one layer after the other as a model would.
fn model(
    cx: &Compute,
    name: &str,
    shapes: Shapes,
    ty: GgmlType,
    options: &Options,
) -> Result<(), Box<dyn std::error::Error>> {
    let layer_weights: usize = shapes.iter().map(|(n, k)| n * k).sum();
    let layer_bytes = layer_weights / ty.block_len() * ty.block_bytes();
    let layers = (100_000_000 / layer_bytes).max(1);
    let mut matrices = Vec::new();
    for _ in 0..layers {
        for &(n, k) in shapes {
            let wide = k.is_multiple_of(ty.block_len());
            let k = if wide { k } else { k.next_multiple_of(256) };
            matrices.push(Matrix::pack(
                cx.cpu,
                options.mode,
                ty,
                n,
                k,
                &weights(ty, n, k),
            )?);
        }
    }
    let bytes: usize = matrices.iter().map(Matrix::bytes).sum();
    let products: usize = matrices.iter().map(|m| m.n() * m.k()).sum();
    let most = matrices.iter().map(Matrix::k).max().unwrap_or(0);
    let widest = matrices.iter().map(Matrix::n).max().unwrap_or(0);
    let mut inputs: Vec<Input> = matrices
        .iter()
        .take(shapes.len())
        .map(|_| Input::new())
        .collect();
    for &rows in &options.rows {
        let x: Vec<f32> = (0..rows * most)
            .map(|i| ((i * 37 % 201) as f32 - 100.0) / 50.0)
            .collect();
        let mut out = vec![0f32; rows * widest];
        for (input, m) in inputs.iter_mut().zip(&matrices) {
            input.fill(cx, &x[..rows * m.k()], rows, m.k(), None, &[m]);
        }
        let mut best = [f64::MAX; 2];
        // The best call on each matrix alone, from cache: what the kernel itself can do on a busy machine.
        let mut hot = 0.0;
        for (i, matrix) in matrices.iter().enumerate().take(shapes.len()) {
            let out = &mut out[..rows * matrix.n()];
            let mut least = f64::MAX;
            for _ in 0..100 {
                let start = now(cx);
                matmul(
                    cx,
                    &inputs[i],
                    &mut [Job {
                        matrix,
                        bias: None,
                        out: &mut *out,
                        add: false,
                    }],
                );
                least = least.min(now(cx) - start);
            }
            hot += least;
        }
        for _ in 0..(40_000_000_000 / (products * rows)).clamp(2, 8) {
            let start = now(cx);
            for (i, matrix) in matrices.iter().enumerate() {
                let out = &mut out[..rows * matrix.n()];
                matmul(
                    cx,
                    &inputs[i % shapes.len()],
                    &mut [Job {
                        matrix,
                        bias: None,
                        out,
                        add: false,
                    }],
                );
            }
            best[0] = best[0].min(now(cx) - start);
            let start = now(cx);
            for (i, m) in matrices.iter().enumerate() {
                inputs[i % shapes.len()].fill(cx, &x[..rows * m.k()], rows, m.k(), None, &[m]);
            }
            best[1] = best[1].min(now(cx) - start);
        }
        println!(
            "{name:8} {:5} rows {rows:4}: {:7.1} GOPS {:6.1} GB/s {:8.1} us a matrix, {:6.1} us to quantise; hot {:7.1} GOPS",
            ty.name().to_lowercase(),
            2.0 * (products * rows) as f64 / best[0] / 1e9,
            bytes as f64 / best[0] / 1e9,
            best[0] / matrices.len() as f64 * 1e6,
            best[1] / matrices.len() as f64 * 1e6,
            2.0 * (layer_weights * rows) as f64 / hot / 1e9,
        );
    }
    Ok(())
}
