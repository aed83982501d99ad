//! Activation functions, with the same bits on every instruction set: plain operations that the compiler turns into
//! vectors where the caller's instruction set has them.

use super::Isa;

/// The function between the gate and the up product.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Activation {
    /// x * sigmoid(x)
    Silu,
    /// x * (1 + erf(x / sqrt 2)) / 2; erf by formula 7.1.26 of Abramowitz and Stegun (error below 2e-7)
    Gelu,
    /// The tanh form of Gelu: x * sigmoid(2 * sqrt(2 / pi) * (x + 0.044715 x^3))
    GeluTanh,
    /// max(x, 0)
    Relu,
    /// max(x, 0)^2
    Relu2,
    /// tanh(x)
    Tanh,
    /// See [`Xielu`].
    Xielu(Xielu),
    /// See [`Clamped`].
    Clamped(Clamped),
}

/// gpt-oss's gate: `g sigmoid(alpha g)` with g at most `limit`, beside `u + 1` with u within -limit ..= limit.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Clamped {
    /// Steepness.
    pub alpha: f32,
    /// Largest magnitude.
    pub limit: f32,
}

impl Clamped {
    #[inline(always)]
    fn of(&self, x: f32) -> f32 {
        let x = if x > self.limit { self.limit } else { x };
        x / (1.0 + exp(-self.alpha * x))
    }
}

/// xIELU (arXiv 2411.13010): above 0 `positive x^2 + beta x`, else `negative (e^min(x, eps) - 1 - x) + beta x`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Xielu {
    /// Curvature above 0.
    pub positive: f32,
    /// Curvature below 0.
    pub negative: f32,
    /// Slope at 0.
    pub beta: f32,
    /// Just below 0.
    pub eps: f32,
}

impl Xielu {
    #[inline(always)]
    fn of(&self, x: f32) -> f32 {
        let low = if x < self.eps { x } else { self.eps };
        let curved = if x > 0.0 {
            self.positive * x * x
        } else {
            self.negative * (exp(low) - 1.0 - x)
        };
        self.beta * x + curved
    }
}

impl Activation {
    /// The function of each lane.
    #[inline(always)]
    pub(crate) fn of<const N: usize>(self, x: [f32; N]) -> [f32; N] {
        // Loops, not `map`: a closure would not be compiled for the caller's instruction set.
        let mut y = x;
        match self {
            Activation::Silu => {
                for v in &mut y {
                    *v = silu(*v);
                }
            }
            Activation::Gelu => {
                for v in &mut y {
                    *v = gelu(*v);
                }
            }
            Activation::GeluTanh => {
                for v in &mut y {
                    *v = gelu_tanh(*v);
                }
            }
            Activation::Relu => {
                for v in &mut y {
                    *v = if *v < 0.0 { 0.0 } else { *v };
                }
            }
            Activation::Relu2
            | Activation::Tanh
            | Activation::Xielu(_)
            | Activation::Clamped(_) => self.rare(&mut y),
        }
        y
    }

    /// What stands beside the gate, made ready to be multiplied.
    #[inline(always)]
    pub(crate) fn beside(self, up: &mut [f32]) {
        if let Activation::Clamped(clamped) = self {
            for v in up {
                let low = if *v < -clamped.limit {
                    -clamped.limit
                } else {
                    *v
                };
                *v = if low > clamped.limit {
                    clamped.limit
                } else {
                    low
                } + 1.0;
            }
        }
    }

    /// Those of few families, out of the way of the others.
    #[cold]
    #[inline(never)]
    fn rare(self, values: &mut [f32]) {
        self.alone(values);
    }

    /// [`Activation::rare`] in place.
    #[inline(always)]
    fn alone(self, values: &mut [f32]) {
        match self {
            Activation::Relu2 => {
                for v in values {
                    *v = if *v < 0.0 { 0.0 } else { *v * *v };
                }
            }
            Activation::Tanh => {
                for v in values {
                    *v = tanh(*v);
                }
            }
            Activation::Xielu(xielu) => {
                for v in values {
                    *v = xielu.of(*v);
                }
            }
            Activation::Clamped(clamped) => {
                for v in values {
                    *v = clamped.of(*v);
                }
            }
            _ => {}
        }
    }

    /// The function of each lane of rows, by the instructions of `isa`.
    pub(crate) fn apply(self, isa: Isa, rows: &mut [[f32; 16]]) {
        // SAFETY: an `Isa` in a kernel's hands is one of this machine's.
        unsafe {
            match isa {
                #[cfg(target_arch = "x86_64")]
                Isa::Avx512 | Isa::Amx => self.avx512(rows),
                #[cfg(target_arch = "x86_64")]
                Isa::Avx2 => self.avx2(rows),
                _ => self.each(rows),
            }
        }
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,fma")]
    unsafe fn avx512(self, rows: &mut [[f32; 16]]) {
        self.each(rows);
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma")]
    unsafe fn avx2(self, rows: &mut [[f32; 16]]) {
        self.each(rows);
    }

    #[inline(always)]
    fn each(self, rows: &mut [[f32; 16]]) {
        for row in rows {
            match self {
                Activation::Relu2 | Activation::Tanh | Activation::Xielu(_) => self.alone(row),
                _ => *row = self.of(*row),
            }
        }
    }
}

#[inline(always)]
fn silu(x: f32) -> f32 {
    x / (1.0 + exp(-x))
}

#[inline(always)]
fn gelu_tanh(x: f32) -> f32 {
    const TWICE_ROOT: f32 = 1.595_769;
    let inner = TWICE_ROOT * (0.044_715 * x * x * x + x);
    x / (1.0 + exp(-inner))
}

#[inline(always)]
fn gelu(x: f32) -> f32 {
    let z = x.abs() * std::f32::consts::FRAC_1_SQRT_2;
    let t = 1.0 / 0.327_591_1f32.mul_add(z, 1.0);
    let p = 1.061_405_4f32.mul_add(t, -1.453_152);
    let p = p.mul_add(t, 1.421_413_8);
    let p = p.mul_add(t, -0.284_496_74);
    let p = p.mul_add(t, 0.254_829_6) * t;
    let erf = (1.0 - p * exp(-z * z)).copysign(x);
    0.5 * x * (1.0 + erf)
}

/// tanh(x), within 3e-7.
#[inline(always)]
pub(crate) fn tanh(x: f32) -> f32 {
    let t = exp(-2.0 * x.abs());
    ((1.0 - t) / (1.0 + t)).copysign(x)
}

/// e^x: 2^n times a polynomial of degree 6 on |r| <= ln 2 / 2 (error below 2 units in the last place); x is held
/// within -87.3 ..= 88.3.
#[inline(always)]
fn exp(x: f32) -> f32 {
    /// 1.5 * 2^23: adding it leaves the rounded integer in the low bits.
    const ROUND: f32 = 12_582_912.0;
    let x = if x > 88.3 { 88.3 } else { x };
    let x = if x < -87.3 { -87.3 } else { x };
    let shifted = x.mul_add(std::f32::consts::LOG2_E, ROUND);
    let n = shifted - ROUND;
    let r = n.mul_add(-0.693_145_75, x);
    let r = n.mul_add(-1.428_606_8e-6, r);
    let p = (1.0 / 720.0f32).mul_add(r, 1.0 / 120.0);
    let p = p.mul_add(r, 1.0 / 24.0);
    let p = p.mul_add(r, 1.0 / 6.0);
    let p = p.mul_add(r, 0.5);
    let p = p.mul_add(r, 1.0);
    let p = p.mul_add(r, 1.0);
    f32::from_bits(p.to_bits().wrapping_add(shifted.to_bits() << 23))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(act: Activation, want: impl Fn(f64) -> f64) {
        for i in -4000..4000 {
            let x = i as f32 * 0.01;
            let (got, want) = (f64::from(act.of([x])[0]), want(f64::from(x)));
            assert!(
                (got - want).abs() <= 1e-6 * (1.0 + want.abs()),
                "{act:?}({x}) = {got}, not {want}"
            );
        }
        assert!(act.of([f32::NAN])[0].is_nan() || matches!(act, Activation::Relu));
    }

    #[test]
    fn functions_follow_their_definitions() {
        check(Activation::Silu, |x| x / (1.0 + (-x).exp()));
        check(Activation::Relu, |x| x.max(0.0));
        check(Activation::Relu2, |x| x.max(0.0).powi(2));
        check(Activation::Tanh, f64::tanh);
        let (positive, negative, beta, eps) = (0.9, 1.3, 0.5, -1e-6);
        let xielu = Xielu {
            positive: 0.9,
            negative: 1.3,
            beta: 0.5,
            eps: -1e-6,
        };
        check(Activation::Xielu(xielu), |x| {
            let low = negative * (x.min(eps).exp() - 1.0 - x);
            beta * x + if x > 0.0 { positive * x * x } else { low }
        });
        check(Activation::GeluTanh, |x| {
            let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x.powi(3));
            0.5 * x * (1.0 + inner.tanh())
        });
        check(Activation::Gelu, |x| {
            // erf by its series or, far out, by its limit.
            let z = x / std::f64::consts::SQRT_2;
            let erf = if z.abs() > 4.0 {
                z.signum()
            } else {
                let (mut term, mut sum) = (z, z);
                for n in 1..80 {
                    term *= -z * z / f64::from(n);
                    sum += term / f64::from(2 * n + 1);
                }
                sum * 2.0 / std::f64::consts::PI.sqrt()
            };
            0.5 * x * (1.0 + erf)
        });
    }

    #[test]
    fn tanh_is_close_everywhere() {
        for i in -3000..3000 {
            let x = i as f32 * 0.01;
            let (got, want) = (f64::from(tanh(x)), f64::from(x).tanh());
            assert!((got - want).abs() < 3e-7, "tanh({x}) = {got}, not {want}");
        }
    }

    #[test]
    fn exp_is_close_everywhere() {
        for i in -8700..8800 {
            let x = i as f32 * 0.01;
            let want = f64::from(x).exp();
            let got = f64::from(exp(x));
            assert!(
                (got - want).abs() <= 2.5e-7 * want,
                "exp({x}) = {got}, not {want}"
            );
        }
    }
}
