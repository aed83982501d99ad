#![allow(clippy::unwrap_used)]
use super::super::testing::{Random, cpus};
use super::*;

/// Lengths around vectors, four of them and stripes.
const LENGTHS: [usize; 12] = [1, 5, 16, 17, 63, 64, 65, 1000, 1024, 1025, 3000, 49_152];

/// Logits with ties, some of them masked.
fn row(random: &mut Random, len: usize, spread: f32) -> Vec<f32> {
    let mut row: Vec<f32> = (0..len)
        .map(|_| (random.unit() * spread * 64.0).round() / 64.0)
        .collect();
    for x in &mut row {
        if random.bits().is_multiple_of(50) {
            *x = f32::NEG_INFINITY;
        }
    }
    row[len / 2] = spread;
    row
}

fn weight(x: f32, max: f32, scale: f32) -> f64 {
    ((f64::from(x) - f64::from(max)) * f64::from(scale)).exp()
}

#[test]
fn the_first_of_the_largest_is_found_and_what_is_no_number() {
    let mut random = Random::new(1);
    for cpu in cpus() {
        let mut maxima = Vec::new();
        for len in LENGTHS {
            let mut values = row(&mut random, len, 4.0);
            let at = random.bits() as usize % len;
            values[at] = 9.0;
            let want = Peak {
                index: at,
                value: 9.0,
                nan: false,
            };
            assert_eq!(peak(cpu, &values, &mut maxima), want, "{cpu:?} {len}");
            values[len - 1] = 9.0;
            assert_eq!(peak(cpu, &values, &mut maxima), want);
            for bad in [0, len / 2, len - 1] {
                let mut values = values.clone();
                values[bad] = f32::NAN;
                assert!(peak(cpu, &values, &mut maxima).nan, "{cpu:?} {len} {bad}");
            }
        }
        let huge = [f32::MAX, f32::MAX, f32::NEG_INFINITY, 0.0].repeat(40);
        let found = peak(cpu, &huge, &mut maxima);
        assert_eq!((found.index, found.value, found.nan), (0, f32::MAX, false));
        let none = peak(cpu, &[f32::NEG_INFINITY; 20], &mut maxima);
        assert_eq!((none.value, none.nan), (f32::NEG_INFINITY, false));
        assert_eq!(peak(cpu, &[], &mut maxima).value, f32::NEG_INFINITY);
        assert_eq!(
            peak(cpu, &[f32::INFINITY, 1.0], &mut maxima).value,
            f32::INFINITY
        );
    }
}

#[test]
fn values_that_reach_a_threshold_are_counted() {
    let mut random = Random::new(5);
    for cpu in cpus() {
        for len in LENGTHS {
            let values = row(&mut random, len, 4.0);
            for threshold in [f32::NEG_INFINITY, -2.0, 0.0, 3.5, 4.5, f32::NAN] {
                let want = values.iter().filter(|&&x| x >= threshold).count();
                assert_eq!(count(cpu, &values, threshold), want, "{cpu:?} {len}");
            }
        }
    }
}

#[test]
fn weights_are_exponentials_and_masses_are_their_sums() {
    let mut random = Random::new(2);
    for cpu in cpus() {
        for (len, spread, scale, floor) in [
            (17, 3.0, 1.0, 0.0),
            (3000, 8.0, 0.7, 0.0),
            (3000, 8.0, 3.0, 0.01),
            (49_152, 20.0, 1.25, 0.0),
        ] {
            let values = row(&mut random, len, spread);
            let by = Softmax::new(spread, scale, floor);
            let (mut weights, mut sums) = (Vec::new(), Vec::new());
            let sum = weigh(cpu, &values, by, &mut weights);
            let total = masses(cpu, &values, by, 0.0, &mut sums);
            assert!((total / sum - 1.0).abs() < 1e-6, "{total} {sum}");
            assert_eq!((weights.len(), sums.len()), (len, len.div_ceil(STRIPE)));
            let mut exact = 0.0;
            for (&x, &w) in values.iter().zip(&weights) {
                let want = weight(x, spread, scale);
                if f64::from(w) < f64::from(floor) || x == f32::NEG_INFINITY {
                    assert_eq!(w, 0.0);
                } else if w == 0.0 {
                    assert!(want <= f64::from(floor.max(Softmax::LEAST)) * 1.00001);
                } else {
                    assert!((f64::from(w) / want - 1.0).abs() < 2e-5, "{x} {w} {want}");
                    exact += f64::from(w);
                }
            }
            assert!((total / exact - 1.0).abs() < 1e-6, "{total} {exact}");
            for (stripe, sum) in weights.chunks(STRIPE).zip(&sums) {
                let exact: f64 = stripe.iter().map(|&w| f64::from(w)).sum();
                assert!((sum - exact).abs() <= exact * 1e-6);
            }
        }
    }
}

#[test]
fn few_are_those_that_pass() {
    let mut random = Random::new(3);
    for cpu in cpus() {
        let (mut maxima, mut few) = (Vec::new(), Few::default());
        for len in LENGTHS {
            let values = row(&mut random, len, 4.0);
            peak(cpu, &values, &mut maxima);
            for threshold in [f32::NEG_INFINITY, -2.0, 3.5, 4.0, 4.5] {
                collect(cpu, &values, &maxima, threshold, &mut few);
                let want: Vec<(u32, f32)> = (0..)
                    .zip(values.iter().copied())
                    .filter(|e| e.1 >= threshold)
                    .collect();
                let got: Vec<(u32, f32)> = few
                    .ids
                    .iter()
                    .copied()
                    .zip(few.values.iter().copied())
                    .collect();
                assert_eq!(got, want, "{cpu:?} {len} {threshold}");
            }
        }
    }
}

#[test]
fn masses_tell_what_is_at_least_a_weight() {
    let mut random = Random::new(4);
    for cpu in cpus() {
        for len in LENGTHS {
            let values = row(&mut random, len, 4.0);
            let by = Softmax::new(4.0, 1.0, 0.0);
            let (mut weights, mut each) = (Vec::new(), vec![7.0]);
            let all = weigh(cpu, &values, by, &mut weights);
            for least in [0.0, 1e-3, 0.1, weights[len / 2], 2.0] {
                each.truncate(1);
                let total = masses(cpu, &values, by, least, &mut each);
                assert!((total - all).abs() <= 1e-6 * all);
                assert_eq!((each.len(), each[0]), (1 + len.div_ceil(STRIPE), 7.0));
                for (stripe, got) in weights.chunks(STRIPE).zip(&each[1..]) {
                    let passing = stripe.iter().filter(|&&w| w >= least);
                    let want: f64 = passing.map(|&w| f64::from(w)).sum();
                    assert!((got - want).abs() <= 1e-6 * want, "{cpu:?} {len} {least}");
                }
            }
        }
    }
}

#[test]
fn every_instruction_set_gives_the_bits_of_the_scalar_one() {
    let mut random = Random::new(5);
    for len in LENGTHS {
        let values = row(&mut random, len, 12.0);
        let all = |cpu: Cpu| {
            let (mut maxima, mut each, mut weights) = (Vec::new(), Vec::new(), Vec::new());
            peak(cpu, &values, &mut maxima);
            let by = Softmax::new(12.0, 0.8, 1e-9);
            let total = masses(cpu, &values, by, 1e-4, &mut each);
            each.extend([total, weigh(cpu, &values, by, &mut weights)]);
            let mut bits: Vec<u64> = each.iter().map(|x| x.to_bits()).collect();
            bits.extend(
                maxima
                    .iter()
                    .chain(&weights)
                    .map(|x| u64::from(x.to_bits())),
            );
            bits
        };
        let want = all(cpus()[0]);
        for cpu in cpus() {
            assert_eq!(all(cpu), want, "{cpu:?} {len}");
        }
    }
}

#[test]
fn logits_are_finished_alike_everywhere() {
    let values: Vec<f32> = (0..1500).map(|i| (i as f32 * 0.77).sin() * 60.0).collect();
    for (scale, softcap) in [(0.25, None), (1.0, Some(30.0)), (0.5, Some(4.0))] {
        let by = Finish { scale, softcap };
        let mut first = None;
        for cpu in cpus() {
            let mut got = values.clone();
            by.apply(cpu, &mut got);
            for (x, got) in values.iter().zip(&got) {
                let x = f64::from(*x) * f64::from(scale);
                let cap = softcap.map(f64::from);
                let want = cap.map_or(x, |cap| cap * (x / cap).tanh());
                assert!((f64::from(*got) - want).abs() < 1e-5 * want.abs().max(1.0));
            }
            let bits: Vec<u32> = got.iter().map(|v| v.to_bits()).collect();
            assert_eq!(*first.get_or_insert_with(|| bits.clone()), bits);
        }
    }
}
