#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
use super::random::uniform;
use super::*;

fn sampler() -> Sampler {
    Sampler::new(Cpu::detect().unwrap())
}

/// Logits in [-spread, spread] with a few ties.
fn row(n: usize, spread: f32, seed: u64) -> Vec<f32> {
    (0..n as u64)
        .map(|i| (uniform(seed, i) as f32 * 2.0 - 1.0) * spread)
        .map(|x| (x * 50.0).round() / 50.0)
        .collect()
}

/// Exact probabilities, the slow and obvious way: everything sorted, in f64.
fn exact(logits: &[f32], params: &GenerationParams, answer: &[u32], prompt: &[u32]) -> Vec<f64> {
    let mut x: Vec<f64> = logits.iter().map(|&v| f64::from(v)).collect();
    for &(id, bias) in &params.logit_bias {
        x[id as usize] += f64::from(bias);
    }
    for (id, v) in x.iter_mut().enumerate() {
        let count = answer.iter().filter(|&&t| t as usize == id).count();
        if count > 0 || prompt.contains(&(id as u32)) {
            let r = f64::from(params.repetition_penalty);
            *v = if *v > 0.0 { *v / r } else { *v * r };
        }
        *v -= count as f64 * f64::from(params.frequency_penalty);
        *v -= if count > 0 {
            f64::from(params.presence_penalty)
        } else {
            0.0
        };
    }
    let max = x.iter().copied().fold(f64::MIN, f64::max);
    let mut p: Vec<f64> = x
        .iter()
        .map(|v| ((v - max) / f64::from(params.temperature)).exp())
        .collect();
    let mut order: Vec<usize> = (0..p.len()).collect();
    order.sort_by(|&a, &b| x[b].total_cmp(&x[a]).then(a.cmp(&b)));
    let keep = params.top_k.unwrap_or(p.len()).min(p.len());
    order.drain(keep..).for_each(|i| p[i] = 0.0);
    let total: f64 = p.iter().sum();
    let mut mass = 0.0;
    for &i in &order {
        let before = mass;
        mass += p[i];
        if params.top_p < 1.0 && before >= f64::from(params.top_p) * total {
            p[i] = 0.0;
        }
    }
    let best = p.iter().copied().fold(0.0, f64::max);
    p.iter_mut()
        .filter(|w| **w < f64::from(params.min_p) * best)
        .for_each(|w| *w = 0.0);
    let total: f64 = p.iter().sum();
    p.iter().map(|w| w / total).collect()
}

/// Draws `n` tokens at `n` positions and compares their frequencies with `p`. The limit is exceeded once in 10,000.
fn chi_square(
    name: &str,
    logits: &[f32],
    params: &GenerationParams,
    state: &SamplingState,
    p: &[f64],
    n: usize,
) {
    let mut sampler = sampler();
    let mut state = state.clone();
    let mut counts = vec![0f64; p.len()];
    for i in 0..n {
        state.generated = params.min_tokens + i;
        counts[sampler.sample(Row::of(logits), params, &state).unwrap() as usize] += 1.0;
    }
    let (mut chi, mut freedom, mut rare, mut rare_expected) = (0.0, -1.0, 0.0, 0.0);
    for (i, (&count, &p)) in counts.iter().zip(p).enumerate() {
        assert!(
            p > 0.0 || count == 0.0,
            "{name}: token {i} has probability 0 and was drawn {count} times"
        );
        let expected = p * n as f64;
        if expected < 5.0 {
            rare += count;
            rare_expected += expected;
        } else {
            chi += (count - expected).powi(2) / expected;
            freedom += 1.0;
        }
    }
    if rare_expected >= 5.0 {
        chi += f64::powi(rare - rare_expected, 2) / rare_expected;
        freedom += 1.0;
    } else {
        assert!(
            rare <= rare_expected + 12.0,
            "{name}: {rare} rare tokens, {rare_expected} expected"
        );
    }
    // Wilson and Hilferty's approximation of the quantile; 3.719 is the normal one at 1 - 1e-4.
    let limit = |k: f64| k * (1.0 - 2.0 / (9.0 * k) + 3.719 * (2.0 / (9.0 * k)).sqrt()).powi(3);
    assert!(
        freedom < 1.0 || chi < limit(freedom),
        "{name}: chi-square {chi:.1} with {freedom} degrees of freedom"
    );
}

fn cases() -> Vec<(&'static str, GenerationParams)> {
    let case = |name: &'static str, change: fn(&mut GenerationParams)| {
        let mut params = GenerationParams {
            seed: Some(11),
            ..Default::default()
        };
        change(&mut params);
        (name, params)
    };
    vec![
        case("plain", |_| {}),
        case("cold", |p| p.temperature = 0.3),
        case("hot", |p| p.temperature = 5.0),
        case("top_k 1", |p| p.top_k = Some(1)),
        case("top_k 7", |p| p.top_k = Some(7)),
        case("top_k of all", |p| p.top_k = Some(1 << 20)),
        case("top_p", |p| p.top_p = 0.7),
        case("top_p, hot", |p| (p.top_p, p.temperature) = (0.95, 3.0)),
        case("top_p tiny", |p| p.top_p = 1e-6),
        case("top_p close to one", |p| p.top_p = 0.9999),
        case("min_p", |p| p.min_p = 0.2),
        case("min_p 1", |p| p.min_p = 1.0),
        case("top_k and top_p", |p| (p.top_k, p.top_p) = (Some(10), 0.6)),
        case("top_p and min_p", |p| {
            (p.top_p, p.min_p, p.temperature) = (0.8, 0.05, 0.8)
        }),
        case("all", |p| {
            (p.top_k, p.top_p, p.min_p, p.temperature) = (Some(12), 0.9, 0.1, 1.7);
        }),
        case("bias", |p| p.logit_bias = vec![(3, 4.0), (5, -100.0)]),
        case("penalties", |p| {
            (
                p.repetition_penalty,
                p.frequency_penalty,
                p.presence_penalty,
            ) = (1.4, 0.7, -0.4);
            p.top_p = 0.9;
        }),
    ]
}

#[test]
fn frequencies_are_those_of_the_exact_probabilities() {
    let (prompt, answer) = ([1u32, 2, 3, 3], [4u32, 4, 4, 2, 5]);
    for (n, spread, draws) in [(20, 2.0, 20_000), (150, 3.0, 20_000), (3000, 6.0, 2_000)] {
        let logits = row(n, spread, n as u64);
        for (name, params) in cases() {
            let mut state = SamplingState::new(&params, &prompt, &[], 0);
            answer.iter().for_each(|&t| state.accept(t));
            let p = exact(&logits, &params, &answer, &prompt);
            chi_square(
                &format!("{name}, {n} tokens"),
                &logits,
                &params,
                &state,
                &p,
                draws,
            );
        }
    }
}

#[test]
fn many_seeds_at_the_first_position_are_as_random_as_one_seed_at_many() {
    let logits = row(30, 2.0, 5);
    let params = GenerationParams::default();
    let p = exact(&logits, &params, &[], &[]);
    let mut counts = vec![0f64; 30];
    let n = 40_000;
    for seed in 0..n {
        let state = SamplingState::new(
            &GenerationParams {
                seed: Some(seed),
                ..params.clone()
            },
            &[],
            &[],
            0,
        );
        counts[sampler().sample(Row::of(&logits), &params, &state).unwrap() as usize] += 1.0;
    }
    let chi: f64 = counts
        .iter()
        .zip(&p)
        .map(|(c, p)| (c - p * n as f64).powi(2) / (p * n as f64))
        .sum();
    // 29 degrees of freedom: 64.9 is exceeded once in 10,000.
    assert!(chi < 64.9, "{chi}");
}

fn greedy() -> GenerationParams {
    GenerationParams {
        temperature: 0.0,
        ..Default::default()
    }
}

#[test]
fn penalties_and_bias_act_from_the_first_token_on() {
    let logits = [1.0f32, 0.9, -0.5, 0.0];
    let pick = |params: &GenerationParams, prompt: &[u32]| {
        let state = SamplingState::new(params, prompt, &[], 0);
        sampler().sample(Row::of(&logits), params, &state).unwrap()
    };
    assert_eq!(pick(&greedy(), &[0]), 0);
    assert_eq!(
        pick(
            &GenerationParams {
                repetition_penalty: 1.2,
                ..greedy()
            },
            &[0]
        ),
        1
    );
    assert_eq!(
        pick(
            &GenerationParams {
                repetition_penalty: 1.2,
                ..greedy()
            },
            &[3]
        ),
        0
    );
    assert_eq!(
        pick(
            &GenerationParams {
                logit_bias: vec![(2, 2.0)],
                ..greedy()
            },
            &[0]
        ),
        2
    );
    // Frequency and presence count the answer, and there is none yet.
    assert_eq!(
        pick(
            &GenerationParams {
                frequency_penalty: 2.0,
                presence_penalty: 2.0,
                ..greedy()
            },
            &[0]
        ),
        0
    );
}

#[test]
fn frequency_counts_and_presence_does_not() {
    let logits = [2.0f32, 1.0];
    let pick = |params: GenerationParams, times: usize| {
        let mut state = SamplingState::new(&params, &[], &[], 0);
        (0..times).for_each(|_| state.accept(0));
        sampler().sample(Row::of(&logits), &params, &state).unwrap()
    };
    let frequency = || GenerationParams {
        frequency_penalty: 0.4,
        ..greedy()
    };
    let presence = || GenerationParams {
        presence_penalty: 0.4,
        ..greedy()
    };
    assert_eq!((pick(frequency(), 2), pick(frequency(), 3)), (0, 1));
    assert_eq!((pick(presence(), 2), pick(presence(), 9)), (0, 0));
    assert_eq!(
        pick(
            GenerationParams {
                presence_penalty: 1.1,
                ..greedy()
            },
            1
        ),
        1
    );
}

#[test]
fn end_ids_are_masked_until_min_tokens() {
    let logits = [5.0f32, 4.0, 3.0];
    let params = GenerationParams {
        min_tokens: 2,
        stop_token_ids: vec![1],
        ..greedy()
    };
    let mut state = SamplingState::new(&params, &[], &[0], 0);
    let pick = |state: &SamplingState| sampler().sample(Row::of(&logits), &params, state).unwrap();
    assert_eq!(pick(&state), 2);
    state.accept(2);
    assert_eq!(pick(&state), 2);
    state.accept(2);
    assert_eq!(pick(&state), 0);
    let free = GenerationParams {
        ignore_eos: true,
        ..params.clone()
    };
    let state = SamplingState::new(&free, &[], &[0], 0);
    assert_eq!(
        sampler().sample(Row::of(&logits), &free, &state).unwrap(),
        0,
        "eos is an ordinary token then"
    );
}

#[test]
fn greedy_takes_the_first_maximum_and_so_does_a_vanishing_temperature() {
    let logits = [0.0f32, 7.0, 7.0, 1.0];
    for temperature in [0.0, 1e-7] {
        let params = GenerationParams {
            temperature,
            ..Default::default()
        };
        let state = SamplingState::new(&params, &[], &[], 3);
        assert_eq!(
            sampler().sample(Row::of(&logits), &params, &state).unwrap(),
            1
        );
    }
    let params = GenerationParams {
        temperature: 2e-5,
        ..Default::default()
    };
    let state = SamplingState::new(&params, &[], &[], 3);
    assert_eq!(
        sampler()
            .sample(Row::of(&[0.0, 7.0, 6.9, 1.0]), &params, &state)
            .unwrap(),
        1
    );
}

#[test]
fn a_row_depends_on_no_row_before_it() {
    let mut shared = sampler();
    for i in 0..200u64 {
        let logits = row([20, 150, 3000][i as usize % 3], 4.0, i);
        let (_, params) = cases().swap_remove(i as usize % cases().len());
        let state = SamplingState::new(&params, &[1, 2], &[], 0);
        let fresh = sampler().sample(Row::of(&logits), &params, &state).unwrap();
        assert_eq!(
            shared.sample(Row::of(&logits), &params, &state).unwrap(),
            fresh
        );
        let fresh = sampler().logprobs(&logits, 3, 5).unwrap();
        assert_eq!(shared.logprobs(&logits, 3, 5).unwrap(), fresh);
    }
}

#[test]
fn known_maxima_change_nothing() {
    for i in 0..120u64 {
        let logits = row([20, 1500, 30_000][i as usize % 3], 9.0, i);
        let (name, params) = cases().swap_remove(i as usize % cases().len());
        let state = SamplingState::new(&params, &[1, 2], &[], i);
        let mut maxima = vec![0.0; logits::maxima_len(logits.len())];
        logits::maxima(Cpu::detect().unwrap(), &logits, &mut maxima);
        let [known, found] = [Some(&maxima[..]), None].map(|maxima| {
            let drawn = sampler().sample(
                Row {
                    maxima,
                    ..Row::of(&logits)
                },
                &params,
                &state,
            );
            drawn.unwrap()
        });
        assert_eq!(known, found, "{name}");
    }
    let nan = [1.0, f32::NAN, 2.0];
    let mut maxima = [0.0; logits::GROUPS];
    logits::maxima(Cpu::detect().unwrap(), &nan, &mut maxima);
    let params = greedy();
    let state = SamplingState::new(&params, &[], &[], 0);
    let known = Row {
        maxima: Some(&maxima),
        ..Row::of(&nan)
    };
    let drawn = sampler().sample(known, &params, &state);
    assert!(drawn.is_err());
}

#[test]
fn every_instruction_set_draws_the_same_tokens() {
    for i in 0..120u64 {
        let logits = row([20, 1500, 30_000][i as usize % 3], 9.0, i);
        let (name, params) = cases().swap_remove(i as usize % cases().len());
        let state = SamplingState::new(&params, &[1, 2], &[], 0);
        let mut drawn: Vec<_> = Cpu::available()
            .into_iter()
            .map(|cpu| {
                let mut sampler = Sampler::new(cpu);
                let token = sampler.sample(Row::of(&logits), &params, &state).unwrap();
                (token, sampler.logprobs(&logits, token, 5).unwrap())
            })
            .collect();
        drawn.dedup();
        assert_eq!(drawn.len(), 1, "{name}: {drawn:?}");
    }
}

#[test]
fn a_target_at_the_end_gives_a_token_that_can_be() {
    assert_eq!(reach(&[1.0, 2.0, 0.0], 3.0), (1, f64::INFINITY));
    assert_eq!(reach(&[1.0, 2.0], 1.5), (1, 0.5));
    assert_eq!(pick(&[0.5, 0.0, 0.25, 0.0], f64::INFINITY), 2);
    assert_eq!(pick(&[0.0, 0.5], 0.0), 1);
    assert_eq!(pick(&[0.5, 0.0, 0.25], 0.5), 2);
}

#[test]
fn seeds_decide() {
    let logits = row(1000, 1.0, 1);
    let draw = |seed: Option<u64>, fallback: u64, position: usize| {
        let params = GenerationParams {
            seed,
            ..Default::default()
        };
        let mut state = SamplingState::new(&params, &[], &[], fallback);
        state.generated = position;
        sampler().sample(Row::of(&logits), &params, &state).unwrap()
    };
    assert_eq!(draw(Some(5), 1, 0), draw(Some(5), 2, 0));
    let different = |f: &dyn Fn(u64) -> u32| {
        (0..20)
            .map(f)
            .collect::<std::collections::HashSet<_>>()
            .len()
            > 15
    };
    assert!(different(&|i| draw(Some(i), 0, 0)));
    assert!(different(&|i| draw(None, i, 0)));
    assert!(different(&|i| draw(Some(1), 0, i as usize)));
}

#[test]
fn logprobs_are_the_log_softmax_of_the_raw_row() {
    for n in [1, 20, 150, 5000] {
        let logits = row(n, 10.0, n as u64);
        let max = f64::from(logits.iter().copied().fold(f32::MIN, f32::max));
        let norm = logits
            .iter()
            .map(|&x| (f64::from(x) - max).exp())
            .sum::<f64>()
            .ln()
            + max;
        let exact: Vec<f64> = logits.iter().map(|&x| f64::from(x) - norm).collect();
        let mut order: Vec<u32> = (0..n as u32).collect();
        order.sort_by(|&a, &b| {
            logits[b as usize]
                .partial_cmp(&logits[a as usize])
                .unwrap()
                .then(a.cmp(&b))
        });
        for k in [0, 1, 5, 20, -1] {
            let chosen = n as u32 / 2;
            let got = sampler().logprobs(&logits, chosen, k).unwrap();
            assert_eq!(got.token_id, chosen);
            assert!((f64::from(got.logprob) - exact[chosen as usize]).abs() < 2e-6);
            let expected = if k < 0 { n } else { n.min(k as usize) };
            let ids: Vec<u32> = got.top.iter().map(|t| t.0).collect();
            let mut order = order[..expected].to_vec();
            if expected > SORTED {
                order.sort_unstable();
            }
            assert!(ids == order, "{n} tokens, {k} best");
            assert!(
                got.top
                    .iter()
                    .all(|&(id, p)| (f64::from(p) - exact[id as usize]).abs() < 2e-6)
            );
        }
    }
}

#[test]
fn bad_rows_are_errors() {
    let params = GenerationParams::default();
    let state = SamplingState::new(&params, &[], &[], 0);
    for bad in [f32::NAN, f32::INFINITY] {
        let mut logits = row(100, 1.0, 1);
        logits[50] = bad;
        assert!(sampler().sample(Row::of(&logits), &params, &state).is_err());
        assert!(sampler().logprobs(&logits, 0, 1).is_err());
    }
    assert!(
        sampler()
            .sample(Row::of(&[f32::NEG_INFINITY; 9]), &params, &state)
            .is_err()
    );
}
