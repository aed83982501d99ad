//! A little of every kind of work on a level, against the scalar level: whether the level may be used.
//! Goes through the same doors as a model. Knows no instruction set.
mod attention;
mod index;
mod logits;
mod products;

use super::{Compute, Cpu, Pool};
use products::Product;

/// Root mean square of the differences, as a share of that of the results, that another arithmetic may have.
const SHARE: f64 = 0.05;

/// The work, and a thread to do it on.
pub(super) struct SelfCheck {
    cx: Compute,
    products: Vec<Product>,
    /// What the scalar level makes of attention and of an index, where these take longest: known after the first level.
    attended: Option<attention::All>,
    picked: Option<index::All>,
}

impl SelfCheck {
    /// None where there is no memory for a pool.
    pub fn new() -> Option<SelfCheck> {
        let (cpu, pool) = (Cpu::SCALAR, Pool::new(1).ok()?);
        Some(SelfCheck {
            cx: Compute { cpu, pool },
            products: products::all(&mut Noise(1)),
            attended: None,
            picked: None,
        })
    }

    /// Whether products, attention, the picks of an index and the passes over logits on `cpu` are those of the scalar
    /// level.
    pub fn passes(&mut self, cpu: Cpu) -> bool {
        products::pass(self, cpu)
            && attention::pass(self, cpu)
            && index::pass(self, cpu)
            && logits::pass(cpu)
    }

    /// What `f` gives on a level.
    fn on<T>(&mut self, cpu: Cpu, f: impl Fn(&Compute) -> T) -> T {
        self.cx.cpu = cpu;
        f(&self.cx)
    }
}

/// Whether results are the same bits, or (not `same`) close.
fn agree(got: &[f32], want: &[f32], same: bool) -> bool {
    if same {
        return got
            .iter()
            .map(|v| v.to_bits())
            .eq(want.iter().map(|v| v.to_bits()));
    }
    let square = |v: f64| v * v;
    let off: f64 = got
        .iter()
        .zip(want)
        .map(|(g, w)| square(f64::from(g - w)))
        .sum();
    let size: f64 = want.iter().map(|w| square(f64::from(*w))).sum();
    // A NaN compares as false.
    off <= square(SHARE) * size
}

/// Reproducible numbers.
struct Noise(u32);

impl Noise {
    fn next(&mut self) -> u32 {
        self.0 = self.0.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        self.0 >> 8
    }
    /// Between -1 and 1.
    fn unit(&mut self) -> f32 {
        self.next() as f32 / (1 << 23) as f32 - 1.0
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn every_level_here_passes() {
        let mut check = SelfCheck::new().unwrap();
        for cpu in super::super::testing::cpus() {
            assert!(products::pass(&mut check, cpu), "{} products", cpu.name());
            assert!(attention::pass(&mut check, cpu), "{} attention", cpu.name());
            assert!(index::pass(&mut check, cpu), "{} index", cpu.name());
            assert!(logits::pass(cpu), "{} logits", cpu.name());
        }
    }

    #[test]
    fn a_level_that_differs_from_what_is_known_does_not_pass() {
        let mut check = SelfCheck::new().unwrap();
        let cpu = Cpu::SCALAR;
        assert!(attention::pass(&mut check, cpu) && index::pass(&mut check, cpu));
        let value = &mut check.attended.as_mut().unwrap()[0].as_mut().unwrap()[7];
        *value = f32::from_bits(value.to_bits() + 1);
        assert!(!attention::pass(&mut check, cpu));
        let [prompt, last] = check.picked.as_mut().unwrap()[0].as_mut().unwrap();
        std::mem::swap(prompt, last);
        assert!(!index::pass(&mut check, cpu));
    }

    #[test]
    fn what_differs_does_not_agree() {
        let want: Vec<f32> = (1..100).map(|i| i as f32).collect();
        assert!(agree(&want, &want, true) && agree(&want, &want, false));
        let mut got = want.clone();
        got[50] = f32::from_bits(got[50].to_bits() + 1);
        assert!(!agree(&got, &want, true) && agree(&got, &want, false));
        got[50] = f32::NAN;
        assert!(!agree(&got, &want, true) && !agree(&got, &want, false));
        let off: Vec<f32> = want.iter().map(|v| v * 1.06).collect();
        assert!(!agree(&off, &want, false));
        assert!(!agree(&vec![0.0; want.len()], &want, false));
    }
}
