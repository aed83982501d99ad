#![allow(clippy::unwrap_used)]
mod reference;
mod scenario;
mod sparse;

use super::super::kv::{KvShape, KvType};
use super::super::testing::cpus;
use super::super::{Cpu, Isa};
use super::*;
use scenario::{Rng, Scenario, Way};

fn assert_same(a: &[Vec<f32>], b: &[Vec<f32>], what: &str) {
    for (s, (a, b)) in a.iter().zip(b).enumerate() {
        assert_eq!(a.len(), b.len());
        for (i, (a, b)) in a.iter().zip(b).enumerate() {
            assert_eq!(
                a.to_bits(),
                b.to_bits(),
                "{what}: sequence {s}, value {i}: {a} {b}"
            );
        }
    }
}

/// Largest error relative to the largest value, and relative root of the mean square.
fn errors(got: &[Vec<f32>], want: &[Vec<f64>]) -> (f64, f64) {
    let (mut worst, mut square, mut power, mut largest) = (0f64, 0f64, 0f64, 0f64);
    for (g, w) in got.iter().flatten().zip(want.iter().flatten()) {
        let error = (f64::from(*g) - w).abs();
        assert!(error.is_finite(), "{g} {w}");
        worst = worst.max(error);
        largest = largest.max(w.abs());
        square += error * error;
        power += w * w;
    }
    (worst / largest, (square / power).sqrt())
}

fn check_accuracy(scenario: &Scenario) {
    let want = KvType::ALL.map(|dtype| scenario.reference(dtype));
    for cpu in cpus() {
        for (dtype, worst, mean) in [
            (KvType::F32, 3e-6, 1e-6),
            (KvType::F16, 1e-3, 1e-4),
            (KvType::Bf16, 3e-2, 8e-3),
            (KvType::Int8, 5e-2, 1e-2),
            (KvType::Fp8, 5e-2, 1e-2),
        ] {
            let got = scenario.play(cpu, dtype, Way::Whole, &mut Rng(1));
            let (a, b) = errors(&got, &want[dtype as usize]);
            assert!(
                a < worst && b < mean,
                "{} {dtype:?} {scenario:?}: {a:e} {b:e}",
                cpu.name()
            );
        }
    }
}

#[test]
fn results_are_near_the_formula() {
    for (heads, kv_heads, head_dim) in [
        (3, 1, 64),
        (4, 4, 16),
        (8, 2, 32),
        (4, 2, 80),
        (5, 1, 96),
        (4, 2, 128),
        (8, 1, 8),
        (2, 1, 256),
        (4, 2, 100),
        (3, 1, 20),
        (2, 1, 6),
    ] {
        check_accuracy(&Scenario::new(heads, kv_heads, head_dim, &[1, 37, 300]));
    }
}

#[test]
fn keys_and_values_may_differ_in_width_or_be_one() {
    for (key, value) in [(24, 16), (48, 80), (192, 128), (288, 256)] {
        check_accuracy(&Scenario {
            value_dim: value,
            ..Scenario::new(4, 2, key, &[3, 37, 300])
        });
    }
    for (heads, key, value) in [(4, 48, 32), (16, 80, 64), (3, 40, 32), (20, 576, 512)] {
        check_accuracy(&Scenario {
            value_dim: value,
            latent: true,
            rotary_dim: key - value,
            ..Scenario::new(heads, 1, key, &[3, 37, 290])
        });
    }
}

#[test]
fn windows_caps_sinks_norms_and_partial_rotation_are_applied() {
    let base = || Scenario::new(4, 2, 32, &[5, 600]);
    check_accuracy(&Scenario {
        window: Some(Window::Chunk(48)),
        ..base()
    });
    for window in [1, 7, 256, 300] {
        check_accuracy(&Scenario {
            window: Some(Window::Sliding(window)),
            ..base()
        });
    }
    check_accuracy(&Scenario {
        softcap: Some(2.0),
        ..base()
    });
    check_accuracy(&Scenario {
        sinks: vec![1.0, -3.0, 5.0, 30.0],
        ..base()
    });
    check_accuracy(&Scenario {
        norm: true,
        ..base()
    });
    check_accuracy(&Scenario {
        norm: true,
        after_rope: true,
        ..base()
    });
    check_accuracy(&Scenario {
        temperature: Some(Temperature {
            beta: 0.1,
            original: 32,
            ahead: 1,
        }),
        ..base()
    });
    check_accuracy(&Scenario {
        rotary_dim: 16,
        interleaved: true,
        ..base()
    });
    check_accuracy(&Scenario {
        rotary_dim: 0,
        scale: 1.5,
        ..base()
    });
}

#[test]
fn f32_and_widened_bf16_have_the_same_bits_on_all_cpus() {
    let scenario = Scenario {
        norm: true,
        softcap: Some(20.0),
        ..Scenario::new(3, 1, 40, &[70, 290])
    };
    for dtype in KvType::ALL {
        let want = scenario.play(Cpu::available()[0], dtype, Way::Whole, &mut Rng(2));
        for cpu in cpus() {
            if dtype.query_bytes() == 4 || !cpu.bf16() {
                let got = scenario.play(cpu, dtype, Way::Whole, &mut Rng(2));
                assert_same(&want, &got, cpu.name());
            }
        }
    }
}

/// Random shapes, lengths, chunks, batches, blocks and threads against each sequence alone and whole.
#[test]
fn bits_depend_on_the_own_tokens_only() {
    let mut rng = Rng(7);
    for round in 0..24 {
        let head_dim = [16, 20, 32, 64, 80, 96, 100, 128][rng.below(8)];
        let (kv_heads, group) = (1 + rng.below(3), 1 + rng.below(8));
        let lengths: Vec<usize> = (0..1 + rng.below(4))
            .map(|_| {
                let most = [40, 560][rng.below(2)];
                1 + rng.below(most)
            })
            .collect();
        let latent = rng.below(4) == 0;
        let value_dim = match rng.below(3) {
            _ if latent => head_dim / 4 * 3,
            0 => [16, 40, 144][rng.below(3)],
            _ => head_dim,
        };
        let scenario = Scenario {
            value_dim,
            latent,
            rotary_dim: if latent {
                (head_dim - value_dim) / 2 * 2
            } else {
                head_dim
            },
            window: match rng.below(4) {
                0 => Some(Window::Sliding(1 + rng.below(300))),
                1 => Some(Window::Chunk(1 + rng.below(300))),
                _ => None,
            },
            block_size: 32 * (1 + rng.below(3)),
            sinks: if rng.below(3) == 0 {
                vec![0.5; kv_heads * group]
            } else {
                vec![]
            },
            norm: rng.below(2) == 0,
            ..Scenario::new(kv_heads * group, kv_heads, head_dim, &lengths)
        };
        for cpu in cpus() {
            if cpu.isa() == Isa::Scalar && round % 4 != 0 {
                continue;
            }
            for dtype in KvType::ALL {
                let want = scenario.play(cpu, dtype, Way::Whole, &mut Rng(round));
                for way in [Way::Mixed, Way::MixedFused, Way::MixedShared] {
                    let got = scenario.play(cpu, dtype, way, &mut rng);
                    assert_same(
                        &want,
                        &got,
                        &format!("{} {dtype:?} {way:?} {scenario:?}", cpu.name()),
                    );
                }
            }
        }
    }
}

#[test]
fn long_decodes_split_over_threads_have_the_bits_of_one_thread() {
    let scenario = Scenario::new(4, 2, 64, &[1500, 300]);
    for cpu in cpus() {
        if cpu.isa() == Isa::Scalar {
            continue;
        }
        for dtype in KvType::ALL {
            let want = scenario.play(cpu, dtype, Way::Whole, &mut Rng(3));
            for threads in [1, 2, 3, 5] {
                let got = scenario.play(cpu, dtype, Way::LastOneByOne(threads), &mut Rng(4));
                assert_same(
                    &want,
                    &got,
                    &format!("{} {dtype:?} {threads} threads", cpu.name()),
                );
            }
        }
    }
}

#[test]
fn a_not_a_number_stays_one() {
    for cpu in cpus() {
        for dtype in KvType::ALL {
            for place in 0..3 {
                let mut scenario = Scenario::new(2, 1, 32, &[40]);
                scenario.poison = Some(place);
                let got = scenario.play(cpu, dtype, Way::Whole, &mut Rng(5));
                let rows: Vec<bool> = got[0]
                    .chunks(64)
                    .map(|row| row.iter().any(|v| v.is_nan()))
                    .collect();
                assert!(rows[20], "{} {dtype:?} {place}", cpu.name());
                // Rows of other tokens, before it, stay whole in decode; a later one sees a bad key or value.
                assert_eq!(rows[39], place != 0, "{} {dtype:?} {place}", cpu.name());
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[test]
fn emulated_tiles_give_the_bits_of_the_machine() {
    use super::super::tile_unit::{Amx, Emulated};
    if !Cpu::available().iter().any(|c| c.isa() == Isa::Amx) {
        return;
    }
    for (rows, dims) in [(1, 32), (7, 64), (16, 96), (17, 80), (32, 128)] {
        let a = scenario::tile_products::<Emulated>(rows, dims);
        let b = scenario::tile_products::<Amx>(rows, dims);
        assert!(a == b, "{rows} rows of {dims}");
    }
}

#[test]
fn mismatched_arguments_are_named() {
    let shape = KvShape {
        layers: 1,
        blocks: 2,
        block_size: 32,
        kv_heads: 1,
        key_dim: 8,
        value_dim: 8,
        latent: false,
        dtype: KvType::F32,
    };
    let cache = KvCache::new(shape).unwrap();
    let cx = Compute::with_cpu(Cpu::available()[0], 1).unwrap();
    let params = AttnParams {
        heads: 2,
        kv_heads: 1,
        head_dim: 8,
        value_dim: 8,
        scale: 1.0,
        window: None,
        softcap: None,
        sinks: None,
        temperature: None,
        picks: None,
    };
    let message = |params: AttnParams<'_>, seq: Seq<'_>, layer: usize, q: usize| {
        let call = || {
            let mut out = vec![0.0; 16];
            attention(&cx, &params, &vec![0.0; q], &[seq], &cache, layer, &mut out);
        };
        let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(call)).unwrap_err();
        let text = caught.downcast_ref::<String>().cloned();
        text.unwrap_or_else(|| caught.downcast_ref::<&str>().unwrap().to_string())
    };
    let seq = |rows: std::ops::Range<usize>, position, blocks| Seq {
        rows,
        position,
        blocks,
    };
    assert!(message(params, seq(0..1, 0, &[5]), 0, 16).contains("block 5 of 2"));
    assert!(message(params, seq(0..1, 32, &[0]), 0, 16).contains("33 tokens in 1 blocks"));
    assert!(message(params, seq(0..2, 0, &[0]), 0, 16).contains("row 2 of 1"));
    assert!(message(params, seq(0..1, 0, &[0]), 3, 16).contains("layer 3 of 1"));
    assert!(message(params, seq(0..1, 0, &[0]), 0, 8).contains("8 values in rows of 16"));
    assert!(message(params, seq(0..1, 0, &[0]), 0, 32).contains("q and out"));
    assert!(
        message(AttnParams { heads: 0, ..params }, seq(0..1, 0, &[0]), 0, 16).contains("heads")
    );
    assert!(
        message(
            AttnParams {
                scale: 0.0,
                ..params
            },
            seq(0..1, 0, &[0]),
            0,
            16
        )
        .contains("scale")
    );
}
