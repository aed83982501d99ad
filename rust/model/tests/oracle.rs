//! The CPU backend against the portable one on the golden checkpoints, and the invariance rule at the model's door:
//! a row's logits are the same bits however its sequence is cut into steps and whatever runs beside it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
use std::{
    fs,
    path::{Path, PathBuf},
    sync::Mutex,
};

#[path = "golden/mod.rs"]
mod data;

use candle_vllm_model::{
    Model, Slots, Step,
    arch::Runtime,
    backend::{Backend, KvType, Portable, cpu},
    load_on,
    weights::Checkpoint,
};

fn golden(name: &str) -> PathBuf {
    match name.strip_prefix("hf/") {
        Some(case) => data::hf(case),
        None if name == CLIPPED => clipped(0.5),
        None => data::root().join(name),
    }
}

/// A case of [`clipped`].
const CLIPPED: &str = "olmoe, clipped";

/// OLMoE with queries, keys and values held within `limit`.
fn clipped(limit: f64) -> PathBuf {
    // Tests run at once.
    static ONE: Mutex<()> = Mutex::new(());
    let _held = ONE.lock().unwrap();
    let from = data::hf("olmoe");
    let to = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("olmoe-clip-{limit}"));
    fs::create_dir_all(&to).unwrap();
    let config = to.join("config.json");
    if !config.exists() {
        let name = "model.safetensors";
        fs::copy(from.join(name), to.join(name)).unwrap();
        let own = fs::read(from.join("config.json")).unwrap();
        let mut own: serde_json::Value = serde_json::from_slice(&own).unwrap();
        own["clip_qkv"] = limit.into();
        fs::write(config, own.to_string()).unwrap();
    }
    to
}

/// Llamas, and a case of each way in which families differ from them.
const CASES: [&str; 40] = [
    "gguf/llama.gguf",
    "gguf/llama_tied_bias.gguf",
    "gguf/llama_linear_rope.gguf",
    "gguf/llama_yarn.gguf",
    "gguf/qwen2.gguf",
    "gguf/qwen3.gguf",
    "gguf/gemma2.gguf",
    "gguf/gemma3_composite.gguf",
    "gguf/gemma4.gguf",
    "hf/gemma3n",
    "hf/gemma4_e",
    "hf/gemma4_moe",
    "gguf/granite.gguf",
    "gguf/nemotron.gguf",
    "gguf/apertus.gguf",
    "gguf/ministral3.gguf",
    "hf/granite_swa",
    "hf/olmo3",
    "hf/gpt2",
    "hf/hunyuan_dense",
    "hf/stablelm_qk_norm",
    "hf/lfm2_moe",
    "gguf/qwen2_moe.gguf",
    "gguf/qwen3_moe.gguf",
    "gguf/mixtral.gguf",
    "hf/gpt_oss",
    "hf/dots1",
    "hf/phimoe",
    CLIPPED,
    "hf/llama4",
    "hf/deepseek_v2",
    "hf/deepseek_v3",
    "hf/deepseek_v32",
    "gguf/glm_moe_dsa.gguf",
    "hf/mimo_v2_flash",
    "gguf/glm4_moe_lite.gguf",
    "ggml/Q4_1.gguf",
    "ggml/Q8_0.gguf",
    "ggml/Q4_K.gguf",
    "ggml/Q6_K.gguf",
];

/// Those with experts.
const EXPERTS: [&str; 8] = [
    "deepseek", "moe", "mixtral", "gpt_oss", "dots1", "phimoe", "llama4", "mimo",
];

fn open(name: &str, backend: Box<dyn Backend>, kv_dtype: KvType) -> Box<dyn Model> {
    open_at(&golden(name), backend, kv_dtype)
}

fn open_at(path: &Path, backend: Box<dyn Backend>, kv_dtype: KvType) -> Box<dyn Model> {
    load_on(
        &Checkpoint::open(path).unwrap(),
        backend,
        &Runtime {
            kv_dtype,
            exact: kv_dtype == KvType::F32,
            context: None,
            isq: None,
        },
        &|_, _| (),
    )
    .unwrap()
}

/// The exact mode and every rounding of activations.
fn arithmetics() -> [cpu::Arithmetic; 4] {
    let rounded = |activations| cpu::Arithmetic {
        dtype: cpu::Dtype::Auto,
        activations,
    };
    [
        cpu::Dtype::F32.into(),
        rounded(cpu::Activations::Auto),
        rounded(cpu::Activations::Int8),
        rounded(cpu::Activations::Int16),
    ]
}

fn on_cpu(name: &str, arithmetic: cpu::Arithmetic, threads: usize) -> Box<dyn Model> {
    let kv = if arithmetic.dtype == cpu::Dtype::F32 {
        KvType::F32
    } else {
        KvType::Bf16
    };
    open(
        name,
        Box::new(cpu::Cpu::new(arithmetic, Some(threads)).unwrap()),
        kv,
    )
}

fn prompt(len: usize, salt: u32) -> Vec<u32> {
    (0..len as u32)
        .map(|i| (i * 37 + i * i * 11 + salt * 101) % 300 + 4)
        .collect()
}

/// Logits of every position of `tokens`, computed in steps of `chunk` tokens on the given physical blocks.
fn logits(model: &mut dyn Model, tokens: &[u32], chunk: usize, blocks: &[u32]) -> Vec<f32> {
    let mut kv = model.new_kv(16, 4).unwrap();
    let (mut step, mut out) = (Step::default(), Vec::new());
    for (i, part) in tokens.chunks(chunk).enumerate() {
        step.clear();
        let slots = Slots {
            read: (i > 0).then_some(1),
            write: 1,
        };
        step.push(part, &[], i * chunk, blocks, part.len()).state = Some(slots);
        out.extend_from_slice(model.forward(&step, &mut kv).unwrap().data());
    }
    out
}

fn spread(values: &[f32]) -> f32 {
    let n = values.len() as f32;
    let mean = values.iter().sum::<f32>() / n;
    (values.iter().map(|v| (v - mean).powi(2)).sum::<f32>() / n).sqrt()
}

fn worst(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter()
        .zip(b)
        .map(|(a, b)| (a - b).abs())
        .fold(0.0, f32::max)
}

/// Root mean square distance over the `held` of 75 positions where it is smallest.
fn nearest(want: &[f32], got: &[f32], held: usize) -> f32 {
    let width = want.len() / 75;
    let square = |(a, b): (&f32, &f32)| (a - b).powi(2);
    let row = |(a, b): (&[f32], &[f32])| a.iter().zip(b).map(square).sum::<f32>();
    let mut rows: Vec<f32> = want.chunks(width).zip(got.chunks(width)).map(row).collect();
    rows.sort_by(f32::total_cmp);
    (rows[..held].iter().sum::<f32>() / (held * width) as f32).sqrt()
}

#[test]
fn exact_mode_agrees_with_the_portable_backend() {
    for case in CASES {
        let tokens = prompt(75, 1);
        let want = logits(
            open(case, Box::new(Portable), KvType::F32).as_mut(),
            &tokens,
            75,
            &[0, 1, 2],
        );
        let got = logits(
            on_cpu(case, cpu::Dtype::F32.into(), 2).as_mut(),
            &tokens,
            75,
            &[3, 1, 7],
        );
        let (gap, unit) = (worst(&want, &got), spread(&want));
        assert!(gap < 2e-4 * unit, "{case}: {gap} of {unit}");
    }
}

#[test]
fn queries_keys_and_values_are_clipped_as_transformers_does() {
    let of = |folder: &Path| {
        let cpu = Box::new(cpu::Cpu::new(cpu::Dtype::F32.into(), Some(2)).unwrap());
        let mut model = open_at(folder, cpu, KvType::F32);
        logits(model.as_mut(), &prompt(20, 5), 20, &[1, 0])
    };
    let plain = of(&data::hf("olmoe"));
    assert!(of(&clipped(1e9)) == plain);
    // By numpy in float64, from the definition: norms, then the clamp, then the rotation. The same program gives the
    // golden reference's logits where nothing is clamped.
    for (got, want) in [
        (plain, [-0.6028, 0.9229, 0.4306, -2.4361, -0.2160, -0.0298]),
        (
            of(&clipped(0.5)),
            [-1.0995, 0.9092, -0.6342, -2.7022, -0.2644, 0.7452],
        ),
    ] {
        let last = &got[got.len() - got.len() / 20..];
        let gap = worst(&last[..want.len()], &want);
        assert!(gap < 1e-4, "{gap}: {:?}", &last[..want.len()]);
    }
}

#[test]
fn rounded_activations_stay_near_the_portable_backend() {
    for (case, arithmetic) in CASES.iter().flat_map(|c| arithmetics().map(|a| (c, a))) {
        let tokens = prompt(75, 2);
        let want = logits(
            open(case, Box::new(Portable), KvType::F32).as_mut(),
            &tokens,
            75,
            &[0, 1, 2],
        );
        let got = logits(
            on_cpu(case, arithmetic, 2).as_mut(),
            &tokens,
            75,
            &[0, 1, 2],
        );
        // Where a router's choice is close, rounding means another expert: half of the positions are held to it.
        let held = if EXPERTS.iter().any(|e| case.contains(e)) {
            37
        } else {
            75
        };
        let rms = nearest(&want, &got, held);
        assert!(
            rms < 0.05 * spread(&want),
            "{case} {arithmetic:?}: {rms} of {}",
            spread(&want)
        );
    }
}

#[test]
fn bits_do_not_depend_on_chunks_threads_or_block_placement() {
    for (case, arithmetic) in CASES.iter().flat_map(|c| arithmetics().map(|a| (c, a))) {
        let tokens = prompt(75, 3);
        let whole = logits(
            on_cpu(case, arithmetic, 1).as_mut(),
            &tokens,
            75,
            &[0, 1, 2],
        );
        let mut two = on_cpu(case, arithmetic, 2);
        for chunk in [1, 16, 33] {
            let parts = logits(two.as_mut(), &tokens, chunk, &[9, 2, 5]);
            assert!(
                whole
                    .iter()
                    .zip(&parts)
                    .all(|(a, b)| a.to_bits() == b.to_bits()),
                "{case} {arithmetic:?} by {chunk}"
            );
        }
    }
}

/// Every type of the cache, with float32 arithmetic beside it.
fn on_cache(case: &str, kv: KvType, threads: usize) -> Box<dyn Model> {
    let cpu = cpu::Cpu::new(cpu::Dtype::F32.into(), Some(threads)).unwrap();
    open(case, Box::new(cpu), kv)
}

#[test]
fn every_cache_keeps_what_its_type_says() {
    for case in ["hf/qwen3"] {
        for (dtype, near) in [
            (KvType::F16, 1e-3),
            (KvType::Bf16, 0.02),
            // Where products are of bf16, some codes fall to the neighbour.
            (KvType::Int8, 0.05),
            (KvType::Fp8, 0.2),
        ] {
            let tokens = prompt(75, 1);
            let of = |mut model: Box<dyn Model>| logits(model.as_mut(), &tokens, 75, &[0, 1, 2]);
            let (want, got) = (
                of(open(case, Box::new(Portable), dtype)),
                of(on_cache(case, dtype, 2)),
            );
            let exact = of(open(case, Box::new(Portable), KvType::F32));
            let (off, moved) = (worst(&got, &want), worst(&want, &exact));
            let scale = spread(&exact);
            assert!(off <= near * scale, "{case} {dtype:?}: {}", off / scale);
            assert!(moved > 0.0, "{case} {dtype:?}: nothing was rounded");
        }
    }
}

#[test]
fn bits_of_every_cache_do_not_depend_on_chunks_blocks_and_threads() {
    for (case, dtype) in ["hf/qwen3", "hf/granite_swa"]
        .into_iter()
        .flat_map(|case| KvType::ALL.map(|dtype| (case, dtype)))
    {
        let tokens = prompt(90, 3);
        let whole = logits(on_cache(case, dtype, 2).as_mut(), &tokens, 90, &[0, 1, 2]);
        for (chunk, blocks, threads) in [(1, [7, 3, 5], 1), (17, [5, 0, 9], 2), (40, [2, 1, 0], 3)]
        {
            let other = logits(
                on_cache(case, dtype, threads).as_mut(),
                &tokens,
                chunk,
                &blocks,
            );
            let same = whole
                .iter()
                .map(|v| v.to_bits())
                .eq(other.iter().map(|v| v.to_bits()));
            assert!(same, "{case} {dtype:?} in chunks of {chunk}");
        }
    }
}

#[test]
fn an_index_is_part_of_what_a_block_takes() {
    // Of a token a key of 48 in each layer, and one of 24 in each of the three with an index; widths are padded.
    for (case, layers) in [("hf/deepseek_v32", 3), ("hf/glm_moe_dsa", 4)] {
        for (kv, own, index) in [
            (KvType::F32, 4 * 48, 4 * 24),
            (KvType::Bf16, 2 * 64, 2 * 32),
            (KvType::Int8, 64 + 2, 2 * 32),
        ] {
            let spec = on_cache(case, kv, 1).spec().kv_block_bytes;
            assert_eq!(spec, 32 * (layers * own + 3 * index), "{case} {kv:?}");
        }
    }
}

#[test]
fn bits_do_not_depend_on_the_batch() {
    for (case, arithmetic) in CASES.iter().flat_map(|c| arithmetics().map(|a| (c, a))) {
        let mut model = on_cpu(case, arithmetic, 2);
        let prompts: Vec<Vec<u32>> = (0..21)
            .map(|i| prompt(1 + (i * 13) % 60, i as u32))
            .collect();
        let alone: Vec<Vec<f32>> = prompts
            .iter()
            .map(|p| logits(model.as_mut(), p, p.len(), &[0, 1])[..].to_vec())
            .collect();
        let (mut kv, mut step) = (model.new_kv(64, 21).unwrap(), Step::default());
        for (i, p) in prompts.iter().enumerate() {
            let (i, read) = (i as u32, None);
            let part = step.push(p, &[], 0, &[2 * i, 2 * i + 1], p.len());
            part.state = Some(Slots { read, write: i });
        }
        let together = model.forward(&step, &mut kv).unwrap();
        let alone: Vec<f32> = alone.concat();
        assert!(
            alone
                .iter()
                .zip(together.data())
                .all(|(a, b)| a.to_bits() == b.to_bits()),
            "{case} {arithmetic:?}"
        );
        assert_eq!(alone.len(), together.data().len());
    }
}
