#![allow(clippy::unwrap_used)]
use super::super::lanes::{Lanes, Plain};
use super::*;
use crate::cpu::{Cpu, Isa};

/// Every 4,001st float and the edges.
fn inputs() -> Vec<f32> {
    let edges = [
        0.0, -0.0, 1.0, -1.0, 0.625, -0.625, 88.7, 88.72, 88.73, 89.0, 90.0, -87.3, -87.4, -103.9,
        -104.1,
    ];
    let special = [
        f32::INFINITY,
        f32::NEG_INFINITY,
        f32::NAN,
        f32::MIN_POSITIVE,
        f32::MAX,
        f32::MIN,
        -126.0,
        -126.5,
    ];
    let mut v: Vec<f32> = edges.into_iter().chain(special).collect();
    v.extend((0..=u32::MAX).step_by(400_009).map(f32::from_bits));
    v.extend((-1300..=1300).map(|i| i as f32 * 0.1));
    v.resize(v.len().next_multiple_of(16), 0.5);
    v
}

#[inline(always)]
unsafe fn all<L: Float>(x: &[f32]) -> Vec<[f32; 16]> {
    let mut out = Vec::new();
    let mut push = |v: L| {
        let mut a = [0.0; 16];
        // SAFETY: 16 values.
        unsafe { v.store(a.as_mut_ptr()) };
        out.push(a);
    };
    for x in x.chunks_exact(16) {
        // SAFETY: 16 values; the caller has the instruction set.
        unsafe {
            let x = L::load(x.as_ptr());
            push(exp_lanes(x));
            push(tanh_lanes(x));
            push(x.negate().min(L::splat(2.0)));
            push(exp2_lanes::<L, true>(L::splat(126.0).min(x)));
            push(exp2_lanes::<L, false>(L::splat(126.0).min(x)));
            push(x.keep(3, 12, 7.0));
            push(L::splat(x.largest()));
            let mut b = [0u16; 16];
            x.store_bf16(b.as_mut_ptr());
            out_bf16(&mut push, b);
        }
    }
    out
}

#[inline(always)]
fn out_bf16<L: Float>(push: &mut impl FnMut(L), b: [u16; 16]) {
    let wide = b.map(|b| f32::from_bits(u32::from(b) << 16));
    // SAFETY: 16 values.
    push(unsafe { L::load(wide.as_ptr()) });
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
fn avx2(x: &[f32]) -> Vec<[f32; 16]> {
    // SAFETY: the instruction set is enabled here.
    unsafe { all::<super::super::lanes::Ymm>(x) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
fn avx512(x: &[f32]) -> Vec<[f32; 16]> {
    // SAFETY: the instruction set is enabled here.
    unsafe { all::<super::super::lanes::Zmm>(x) }
}

#[test]
fn every_instruction_set_gives_the_same_bits() {
    let x = inputs();
    // SAFETY: plain lanes run everywhere.
    let plain = unsafe { all::<Plain>(&x) };
    for (i, x) in x.chunks_exact(16).enumerate() {
        for (j, &x) in x.iter().enumerate() {
            assert_eq!(exp(x).to_bits(), plain[8 * i][j].to_bits(), "exp {x}");
        }
    }
    for cpu in Cpu::available() {
        #[cfg(target_arch = "x86_64")]
        let other = match cpu.isa() {
            // SAFETY: the machine has it.
            Isa::Avx2 => unsafe { avx2(&x) },
            // SAFETY: the machine has it.
            Isa::Avx512 => unsafe { avx512(&x) },
            _ => continue,
        };
        #[cfg(not(target_arch = "x86_64"))]
        let other = match cpu.isa() {
            // SAFETY: every aarch64 processor has it.
            #[cfg(target_arch = "aarch64")]
            Isa::Neon => unsafe { all::<super::super::lanes::Neon>(&x) },
            Isa::Scalar => plain.clone(),
            _ => continue,
        };
        for (i, (a, b)) in plain.iter().zip(&other).enumerate() {
            let x = &x[i / 8 * 16..][..16];
            // Where a lane is NaN the largest lane is not defined.
            if i % 8 == 6 && x.iter().any(|v| v.is_nan()) {
                continue;
            }
            for j in 0..16 {
                let same = a[j].to_bits() == b[j].to_bits() || a[j].is_nan() && b[j].is_nan();
                assert!(
                    same,
                    "{} output {} of {}: {} {}",
                    cpu.name(),
                    i % 8,
                    x[j],
                    a[j],
                    b[j]
                );
            }
        }
    }
}

#[test]
fn functions_are_near_the_truth() {
    for x in inputs() {
        let wide = f64::from(x);
        let near = |got: f32, want: f64, relative: f64| {
            let error = (f64::from(got) - want).abs();
            assert!(
                error <= relative * want.abs() + 1e-44 || f64::from(got) == want,
                "{x}: {got} not {want}"
            );
        };
        if x.is_nan() {
            assert!(exp(x).is_nan());
            continue;
        }
        let want = if x > 88.722_83 {
            f64::INFINITY
        } else {
            wide.exp()
        };
        near(exp(x), want, 1.3e-7);
        let mut v = [0.0; 16];
        // SAFETY: plain lanes run everywhere.
        unsafe { tanh_lanes(Plain::splat(x)).store(v.as_mut_ptr()) };
        assert!(
            (f64::from(v[0]) - wide.tanh()).abs() < 2e-7,
            "tanh {x}: {}",
            v[0]
        );
        if (-125.0..=126.0).contains(&x) {
            let mut v = [0.0; 16];
            // SAFETY: plain lanes run everywhere.
            unsafe {
                exp2_lanes::<_, false>(Plain::splat(x)).store(v.as_mut_ptr());
                near(v[0], wide.exp2(), 1.5e-7);
                exp2_lanes::<_, true>(Plain::splat(x)).store(v.as_mut_ptr());
            }
            near(v[0], wide.exp2(), 8e-5);
        }
    }
    assert_eq!(exp(0.0), 1.0);
    assert_eq!(exp(f32::NEG_INFINITY), 0.0);
    assert_eq!(exp(f32::INFINITY), f32::INFINITY);
}
