//! exp, 2^y and tanh with the same bits on every instruction set: polynomials in fused multiply-adds.
//! One generic body serves 16 lanes of any instruction set; the scalar `exp` is its twin.
mod lanes;
#[cfg(target_arch = "aarch64")]
mod neon;

pub(crate) use lanes::Float;

/// log2(e)
pub(crate) const LOG2_E: f32 = std::f32::consts::LOG2_E;
/// ln(2) in two parts; the first has few enough bits that a whole number times it is exact (Cody and Waite).
const LN2_HIGH: f32 = 0.693_359_4;
const LN2_LOW: f32 = -2.121_944_4e-4;
/// 1.5 * 2^23: adding it rounds to a whole number, ties to even, and leaves that number in the low bits.
const MAGIC: f32 = 12_582_912.0;
/// Below, the result is 0; above, it is infinite.
const LOWEST: f32 = -104.0;
const HIGHEST: f32 = 89.0;
/// e^r = 1 + r + r^2 * poly(r) for |r| <= ln(2) / 2 (coefficients of Cephes `expf`), highest power first.
const EXP: [f32; 6] = [
    1.987_569_1e-4,
    1.398_199_9e-3,
    8.333_452e-3,
    4.166_579_6e-2,
    1.666_666_5e-1,
    5e-1,
];
/// 2^r = poly(r) for |r| <= 1/2 (minimax, relative error 2e-9 before rounding), highest power first.
const EXP2: [f32; 7] = [
    1.535_336_2e-4,
    1.339_887_5e-3,
    9.618_437e-3,
    5.550_332_4e-2,
    2.402_264_8e-1,
    6.931_472e-1,
    1.0,
];
/// As [`EXP2`] with a relative error of 8e-5: a twentieth of that of the rounding to bf16 that follows.
const EXP2_FAST: [f32; 4] = [5.517_166e-2, 2.426_111_3e-1, 6.932_61e-1, 9.999_280_6e-1];

/// e^x within 1 unit in the last place; 0 below -104, infinite above 89, NaN for NaN.
pub fn exp(x: f32) -> f32 {
    let x = least(HIGHEST, most(LOWEST, x));
    let n = x.mul_add(LOG2_E, MAGIC) - MAGIC;
    let r = n.mul_add(-LN2_LOW, n.mul_add(-LN2_HIGH, x));
    let p = EXP
        .into_iter()
        .reduce(|p, c| p.mul_add(r, c))
        .unwrap_or(0.0);
    scale(p.mul_add(r * r, r) + 1.0, n)
}

/// `a > b ? a : b`: passes a NaN in `b` on.
fn most(a: f32, b: f32) -> f32 {
    if a > b { a } else { b }
}

/// `a < b ? a : b`: passes a NaN in `b` on.
fn least(a: f32, b: f32) -> f32 {
    if a < b { a } else { b }
}

/// `p * 2^n` for whole n in -151..=129, rounded once: the first half of the power is exact.
fn scale(p: f32, n: f32) -> f32 {
    let n = n as i32;
    let half = n >> 1;
    let power = |k: i32| f32::from_bits(((k + 127) << 23) as u32);
    p * power(half) * power(n - half)
}

/// [`exp`] on 16 lanes.
///
/// # Safety
/// The lanes' instruction set must be enabled where this is inlined.
#[inline(always)]
pub(crate) unsafe fn exp_lanes<L: Float>(x: L) -> L {
    // SAFETY: as the caller's.
    unsafe {
        let x = L::splat(HIGHEST).min(L::splat(LOWEST).max(x));
        let n = x
            .fma(L::splat(LOG2_E), L::splat(MAGIC))
            .add(L::splat(-MAGIC));
        let r = n.fma(L::splat(-LN2_HIGH), x);
        let r = n.fma(L::splat(-LN2_LOW), r);
        let p = polynomial(&EXP, r);
        p.fma(r.mul(r), r).add(L::splat(1.0)).times_power(n)
    }
}

/// 2^y on 16 lanes for y <= 127; 2^-125 for all y below -125; NaN for NaN. `FAST`: relative error 8e-5 instead of 1e-7.
///
/// # Safety
/// As [`exp_lanes`].
#[inline(always)]
pub(crate) unsafe fn exp2_lanes<L: Float, const FAST: bool>(y: L) -> L {
    // SAFETY: as the caller's.
    unsafe {
        let y = L::splat(-125.0).max(y);
        let t = y.add(L::splat(MAGIC));
        let r = y.add(t.add(L::splat(-MAGIC)).negate());
        let p = if FAST {
            polynomial(&EXP2_FAST, r)
        } else {
            polynomial(&EXP2, r)
        };
        p.add_exponent(t)
    }
}

/// tanh(x) on 16 lanes with an absolute error of 2e-7.
///
/// # Safety
/// As [`exp_lanes`].
#[inline(always)]
pub(crate) unsafe fn tanh_lanes<L: Float>(x: L) -> L {
    // SAFETY: as the caller's.
    unsafe {
        let one = L::splat(1.0);
        L::splat(-2.0).div(exp_lanes(x.add(x)).add(one)).add(one)
    }
}

#[inline(always)]
unsafe fn polynomial<L: Float, const N: usize>(coefficients: &[f32; N], r: L) -> L {
    // SAFETY: as the caller's.
    unsafe {
        let mut p = L::splat(coefficients[0]);
        for &c in &coefficients[1..] {
            p = p.fma(r, L::splat(c));
        }
        p
    }
}

#[cfg(test)]
mod tests;
