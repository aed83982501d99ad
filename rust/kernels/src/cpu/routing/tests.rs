//! Routing against the rules' definitions, written out with sorted lists and float64.
#![allow(clippy::unwrap_used)]
use super::*;
use crate::cpu::Cpu;
use crate::cpu::testing::Random;

fn rule(used: usize, scores: Scores) -> Routing {
    Routing {
        used,
        scores,
        groups: None,
        normalise: false,
        factor: 1.0,
    }
}

fn routed(rule: &Routing, logits: &[f32], experts: usize, bias: Option<&[f32]>) -> Vec<Choice> {
    let cx = Compute::with_cpu(Cpu::detect().unwrap(), 2).unwrap();
    let mut to = vec![Choice::default(); logits.len() / experts * rule.used];
    route(&cx, rule, logits, experts, bias, &mut to, rule.used);
    to
}

/// Experts by falling value.
fn sorted(values: &[f64]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&a, &b| values[b].total_cmp(&values[a]));
    order
}

fn softmax64(logits: &[f64]) -> Vec<f64> {
    let sum: f64 = logits.iter().map(|l| l.exp()).sum();
    logits.iter().map(|l| l.exp() / sum).collect()
}

fn near(got: &[Choice], want: &[(usize, f64)], what: &str) {
    assert_eq!(got.len(), want.len());
    for (g, (expert, weight)) in got.iter().zip(want) {
        assert_eq!(g.expert as usize, *expert, "{what}");
        assert!(
            (f64::from(g.weight) - weight).abs() < 1e-5,
            "{what}: {g:?} {weight}"
        );
    }
}

#[test]
fn every_rule_chooses_as_it_is_written() {
    let mut random = Random::new(3);
    for round in 0..200 {
        let (experts, used) = (8, 1 + round % 4);
        let logits: Vec<f32> = random.values(experts).iter().map(|v| v * 4.0).collect();
        let bias = random.values(experts);
        let wide: Vec<f64> = logits.iter().map(|&l| f64::from(l)).collect();
        let sigmoid: Vec<f64> = wide.iter().map(|l| 1.0 / (1.0 + (-l).exp())).collect();
        let plain = &sorted(&wide)[..used];

        let all = softmax64(&wide);
        let want: Vec<_> = plain.iter().map(|&e| (e, all[e])).collect();
        near(
            &routed(&rule(used, Scores::Softmax), &logits, 8, None),
            &want,
            "softmax",
        );

        let chosen = softmax64(&plain.iter().map(|&e| wide[e]).collect::<Vec<_>>());
        let want: Vec<_> = plain.iter().copied().zip(chosen).collect();
        near(
            &routed(&rule(used, Scores::ChosenSoftmax), &logits, 8, None),
            &want,
            "chosen",
        );

        let want: Vec<_> = plain.iter().map(|&e| (e, sigmoid[e])).collect();
        near(
            &routed(&rule(used, Scores::ChosenSigmoid), &logits, 8, None),
            &want,
            "sigmoid",
        );

        // Biased choice, normalised weights without the bias, a factor.
        let biased: Vec<f64> = sigmoid
            .iter()
            .zip(&bias)
            .map(|(s, b)| s + f64::from(*b))
            .collect();
        let order = &sorted(&biased)[..used];
        let sum: f64 = order.iter().map(|&e| sigmoid[e]).sum();
        let want: Vec<_> = order.iter().map(|&e| (e, 2.5 * sigmoid[e] / sum)).collect();
        let normalised = Routing {
            normalise: true,
            factor: 2.5,
            ..rule(used, Scores::Sigmoid)
        };
        near(
            &routed(&normalised, &logits, 8, Some(&bias)),
            &want,
            "biased",
        );
    }
}

#[test]
fn only_the_best_groups_are_chosen_from() {
    // Groups of 4: the first has the best expert, the second the best two together.
    let logits = [5.0, -9.0, -9.0, -9.0, 4.0, 3.0, 0.0, 0.0];
    let of = |by_two| {
        let groups = Some(Groups {
            count: 2,
            used: 1,
            by_two,
        });
        let rule = Routing {
            groups,
            ..rule(2, Scores::ChosenSigmoid)
        };
        let chosen = routed(&rule, &logits, 8, None);
        chosen.iter().map(|c| c.expert).collect::<Vec<_>>()
    };
    assert_eq!(of(false), [0, 1]);
    assert_eq!(of(true), [4, 5]);
}

#[test]
fn sparse_mixer_weighs_each_expert_among_those_left() {
    let logits: [f32; 4] = [2.0, 1.99, -3.0, 1.0];
    let got = routed(&rule(2, Scores::SparseMixer(0.01)), &logits, 4, None);
    // 1.99 is within 2 % of 2, nothing is of 1.99 once 2 is gone.
    let first = 1.0 / (1.0 + f64::from(-0.01f32).exp());
    near(&got, &[(0, first), (1, 1.0)], "sparse mixer");
    let wide = routed(&rule(2, Scores::SparseMixer(1.0)), &logits, 4, None);
    let wide: Vec<f32> = wide.iter().map(|c| c.weight).collect();
    let left = 1.99f32.exp() + 1f32.exp() + (-3f32).exp();
    let e = |x: f32| x.exp();
    assert!((wide[0] - e(2.0) / (e(2.0) + left)).abs() < 1e-5);
    assert!((wide[1] - e(1.99) / left).abs() < 1e-5);
}

#[test]
fn equal_scores_take_the_first_and_rows_stand_alone() {
    let logits = [1.0, 1.0, 1.0, 0.0, 2.0, 1.0, 2.0, 0.0];
    let got = routed(&rule(2, Scores::Softmax), &logits, 4, None);
    let experts: Vec<u32> = got.iter().map(|c| c.expert).collect();
    assert_eq!(experts, [0, 1, 0, 2]);
    assert_eq!(
        routed(&rule(2, Scores::Softmax), &logits[4..], 4, None),
        got[2..]
    );
}

#[test]
fn routes_turned_round_hold_the_same_pairs() {
    let mut random = Random::new(4);
    let routes = Routes {
        used: 3,
        chosen: (0..60)
            .map(|i| Choice {
                expert: (random.bits() % 4) * 3 + i % 3,
                weight: random.unit(),
            })
            .collect(),
    };
    let by = routes.by_expert(14);
    let mut pairs = Vec::new();
    let mut next = 0;
    for (expert, range) in by.touched {
        assert!(!range.is_empty() && range.start == next);
        next = range.end;
        assert!(by.rows[range.clone()].is_sorted());
        for i in range {
            pairs.push((by.rows[i], expert as u32, by.weights[i].to_bits()));
        }
    }
    let mut want: Vec<_> = routes
        .chosen
        .iter()
        .enumerate()
        .map(|(i, c)| (i as u32 / 3, c.expert, c.weight.to_bits()))
        .collect();
    want.sort_unstable();
    pairs.sort_unstable();
    assert_eq!(pairs, want);
}
