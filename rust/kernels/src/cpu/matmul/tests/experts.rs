//! Experts against one product at a time, bit for bit, however rows are put together.
use super::*;
use crate::cpu::activation::Clamped;
use crate::cpu::matmul::experts::{Bench, Expert, Part, Weigh, experts};
use crate::cpu::routing::{ByExpert, Choice, Routes};

const K: usize = 256;
const N: usize = 40;

/// An expert's matrices and biases.
struct Own {
    gate: Option<Matrix>,
    up: Matrix,
    down: Matrix,
    biases: Option<[Vec<f32>; 3]>,
}

fn own(random: &mut Random, storage: Storage, ty: GgmlType, width: usize, gated: bool) -> Own {
    let biases = gated.then(|| [width, width, N].map(|n| random.values(n)));
    Own {
        gate: gated.then(|| packed(random, storage, ty, width, K)),
        up: packed(random, storage, ty, width, K),
        down: packed(random, storage, ty, N, width),
        biases,
    }
}

fn call(
    cx: &Compute,
    bench: &mut Bench,
    all: &[Own],
    x: &[f32],
    by: &ByExpert,
    act: Activation,
    weigh: Weigh,
) -> Vec<f32> {
    let list: Vec<Expert<'_>> = by
        .touched
        .iter()
        .map(|(e, range)| {
            let own = &all[*e];
            let bias = |i: usize| own.biases.as_ref().map(|b| &b[i][..]);
            let part = |matrix, i| Part {
                matrix,
                bias: bias(i),
            };
            Expert {
                gate: own.gate.as_ref().map(|g| part(g, 0)),
                up: part(&own.up, 1),
                down: part(&own.down, 2),
                rows: &by.rows[range.clone()],
                weights: &by.weights[range.clone()],
            }
        })
        .collect();
    let rows = x.len() / K;
    let mut out = vec![f32::NAN; rows * N];
    experts(cx, bench, x, rows, &list, act, weigh, &mut out);
    out
}

/// One row by the doors for single products.
fn alone(
    cx: &Compute,
    all: &[Own],
    x: &[f32],
    choices: &[Choice],
    act: Activation,
    weigh: Weigh,
) -> Vec<f32> {
    let mut choices = choices.to_vec();
    choices.sort_by_key(|c| c.expert);
    let mut out = vec![0f32; N];
    for choice in choices {
        let own = &all[choice.expert as usize];
        let bias = |i: usize| own.biases.as_ref().map(|b| &b[i][..]);
        let (given, weight) = match weigh {
            Weigh::Output => (x.to_vec(), choice.weight),
            Weigh::Input => (x.iter().map(|v| v * choice.weight).collect(), 1.0),
        };
        let mut input = Input::new();
        let mut hidden = vec![0f32; own.up.n()];
        match &own.gate {
            Some(gate) => {
                input.fill(cx, &given, 1, K, None, &[gate, &own.up]);
                gate_up(
                    cx,
                    &input,
                    gate,
                    &own.up,
                    (bias(0), bias(1)),
                    act,
                    &mut hidden,
                );
            }
            None => {
                input.fill(cx, &given, 1, K, None, &[&own.up]);
                let job = Job {
                    matrix: &own.up,
                    bias: bias(1),
                    out: &mut hidden,
                    then: Then::Activate(act),
                };
                matmul(cx, &input, &mut [job]);
            }
        }
        input.fill(cx, &hidden, 1, hidden.len(), None, &[&own.down]);
        let mut back = vec![0f32; N];
        let job = Job {
            matrix: &own.down,
            bias: bias(2),
            out: &mut back,
            then: Then::Set,
        };
        matmul(cx, &input, &mut [job]);
        for (o, v) in out.iter_mut().zip(back) {
            *o = weight.mul_add(v, *o);
        }
    }
    out
}

/// Distinct experts a row, the last one for all.
fn routes(random: &mut Random, rows: usize, experts: usize) -> Routes {
    let mut chosen = Vec::new();
    for _ in 0..rows {
        let first = random.bits() as usize % (experts - 1);
        let second = (first + 1 + random.bits() as usize % (experts - 2)) % (experts - 1);
        for expert in [first, second, experts - 1] {
            let weight = random.unit();
            chosen.push(Choice {
                expert: expert as u32,
                weight,
            });
        }
    }
    Routes { used: 3, chosen }
}

#[test]
fn rows_have_the_bits_of_single_products() {
    let mut random = Random::new(9);
    let clamped = Activation::Clamped(Clamped {
        alpha: 1.702,
        limit: 0.4,
    });
    let acts = [
        (true, Activation::Silu, Weigh::Output),
        (true, clamped, Weigh::Output),
        (false, Activation::Relu2, Weigh::Output),
        (true, Activation::Silu, Weigh::Input),
    ];
    let kinds: Vec<_> = arithmetics()
        .filter(|(ty, _)| ty.block_len() <= 256)
        .collect();
    for (round, (ty, storage)) in kinds.into_iter().enumerate() {
        let (gated, act, weigh) = acts[round % acts.len()];
        let all: Vec<Own> = (0..6)
            .map(|e| {
                own(
                    &mut random,
                    storage,
                    ty,
                    if e == 5 { 512 } else { 256 },
                    gated,
                )
            })
            .collect();
        for cpu in cpus() {
            let cx = Compute::with_cpu(cpu, 2).unwrap();
            let mut bench = Bench::default();
            for rows in [1, 3, 41] {
                let x = random.values(rows * K);
                let routes = routes(&mut random, rows, all.len());
                let got = call(&cx, &mut bench, &all, &x, &routes.by_expert(6), act, weigh);
                for r in 0..rows {
                    let want = alone(
                        &cx,
                        &all,
                        &x[r * K..][..K],
                        &routes.chosen[3 * r..][..3],
                        act,
                        weigh,
                    );
                    assert!(
                        bits(&got[r * N..][..N]) == bits(&want),
                        "{} {storage:?} {} row {r} of {rows}",
                        ty.name(),
                        cpu.name()
                    );
                }
            }
        }
    }
}

#[test]
fn experts_without_rows_are_not_read() {
    let mut random = Random::new(10);
    let cx = Compute::with_cpu(cpus()[0], 2).unwrap();
    let all: Vec<Own> = (0..4)
        .map(|_| own(&mut random, Storage::F32, GgmlType::F32, 32, true))
        .collect();
    let routes = Routes {
        used: 1,
        chosen: vec![
            Choice {
                expert: 2,
                weight: 1.0
            };
            2
        ],
    };
    let by = routes.by_expert(4);
    assert_eq!(by.touched, [(2, 0..2)]);
    let x = random.values(2 * K);
    let both = call(
        &cx,
        &mut Bench::default(),
        &all,
        &x,
        &by,
        Activation::Silu,
        Weigh::Output,
    );
    let want = alone(
        &cx,
        &all,
        &x[..K],
        &routes.chosen[..1],
        Activation::Silu,
        Weigh::Output,
    );
    assert_eq!(bits(&both[..N]), bits(&want));
}

/// The bytes that a token's experts take in the file, and those that kernels read for it.
#[test]
fn a_token_reads_little_more_than_its_experts() {
    let mut random = Random::new(11);
    let (experts, used, width) = (8, 2, 512);
    for ty in [GgmlType::Q4_0, GgmlType::Q4_K, GgmlType::Q8_0] {
        for cpu in cpus() {
            let storage = Storage::of(cpu, Mode::Fast, ty, K);
            let all: Vec<Own> = (0..experts)
                .map(|_| own(&mut random, storage, ty, width, true))
                .collect();
            let parts = || {
                all.iter()
                    .flat_map(|e| [e.gate.as_ref(), Some(&e.up), Some(&e.down)])
                    .flatten()
            };
            // Loading looks at panels too.
            parts().for_each(|m| m.read.store(0, std::sync::atomic::Ordering::Relaxed));
            let cx = Compute::with_cpu(cpu, 2).unwrap();
            let chosen = [5, 2]
                .map(|expert| Choice {
                    expert,
                    weight: 0.5,
                })
                .to_vec();
            let by = Routes { used, chosen }.by_expert(experts);
            let x = random.values(K);
            call(
                &cx,
                &mut Bench::default(),
                &all,
                &x,
                &by,
                Activation::Silu,
                Weigh::Output,
            );
            let read = |m: &Matrix| m.read.load(std::sync::atomic::Ordering::Relaxed);
            let total: usize = parts().map(read).sum();
            let weights = used * (2 * width * K + N * width);
            let active = weights / ty.block_len() * ty.block_bytes();
            assert!(
                total >= active * 9 / 10 && total * 10 <= active * 13,
                "{} {}: {total} bytes for {active}",
                ty.name(),
                cpu.name()
            );
            let untouched = all.iter().enumerate().filter(|(i, _)| ![2, 5].contains(i));
            assert!(
                untouched
                    .map(|(_, e)| read(&e.up) + read(&e.down))
                    .sum::<usize>()
                    == 0
            );
        }
    }
}
