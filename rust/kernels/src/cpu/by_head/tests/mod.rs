#![allow(clippy::unwrap_used)]
use super::super::testing::cpus;
use super::*;

fn value(i: usize) -> f32 {
    ((i * 7919 % 613) as f32 - 306.0) / 64.0
}

/// Random shapes on every level: near the formula, the same bits for all levels, threads and numbers of rows.
#[test]
fn each_head_meets_its_own_matrix() {
    for (heads, n, k, exact) in [
        (3, 40, 6, true),
        (4, 16, 32, false),
        (2, 150, 10, true),
        (1, 7, 2, false),
    ] {
        let weight = |h: usize, n: usize, k: usize| value(h * 1009 + n * 31 + k);
        let w = ByHead::new([heads, n, k], exact, weight);
        assert_eq!(w.shape(), [heads, n, k]);
        let (from, to) = (
            Parts {
                width: heads * (k + 3) + 5,
                first: 2,
                step: k + 3,
            },
            Parts {
                width: heads * (n + 1) + 1,
                first: 1,
                step: n + 1,
            },
        );
        let rows = 37;
        let x: Vec<f32> = (0..rows * from.width).map(|i| value(i * 3 + 1)).collect();
        let mut first: Option<Vec<f32>> = None;
        for cpu in cpus() {
            for threads in [1, 3] {
                let cx = Compute::with_cpu(cpu, threads).unwrap();
                let mut out = vec![0.5; rows * to.width];
                by_head(&cx, &w, (&x, from), (&mut out, to));
                let mut alone = vec![0.5; to.width];
                by_head(
                    &cx,
                    &w,
                    (&x[5 * from.width..6 * from.width], from),
                    (&mut alone, to),
                );
                assert_eq!(alone, out[5 * to.width..6 * to.width], "{}", cpu.name());
                let first = first.get_or_insert_with(|| out.clone());
                assert_eq!(*first, out, "{}", cpu.name());
            }
        }
        let out = first.unwrap();
        for row in 0..rows {
            assert_eq!(out[row * to.width], 0.5, "what is no head's part stays");
            for (head, n) in (0..heads).flat_map(|h| (0..n).map(move |n| (h, n))) {
                let of = |k: usize| f64::from(x[from.of(row, head) + k]);
                let weight = |k: usize| match exact {
                    true => f64::from(weight(head, n, k)),
                    false => half::bf16::from_f32(weight(head, n, k)).to_f64(),
                };
                let want: f64 = (0..k).map(|k| of(k) * weight(k)).sum();
                let got = f64::from(out[to.of(row, head) + n]);
                assert!((got - want).abs() < 1e-3, "{got} {want}");
            }
        }
    }
}

#[test]
#[should_panic(expected = "rows of x and out")]
fn outputs_for_other_rows_are_refused() {
    let cx = Compute::with_cpu(Cpu::available()[0], 1).unwrap();
    let w = ByHead::new([1, 2, 2], true, |_, _, _| 1.0);
    let parts = Parts {
        width: 2,
        first: 0,
        step: 2,
    };
    by_head(&cx, &w, (&[1.0; 4], parts), (&mut [0.0; 2], parts));
}
