//! A small product of every kind on a level, against the scalar reference: whether the level may be used.
//! Goes through the same doors as a model. Knows no instruction set.
use super::ggml::GgmlType;
use super::pack::Storage;
use super::{Compute, Cpu, Input, Job, Matrix, Mode, Pool, matmul};

/// Output rows of the products.
const N: usize = 16;
/// Rows of activations: few rows and many take different ways, AMX begins at 17.
const ROWS: [usize; 2] = [1, 17];
/// Types, modes and columns: each way to form scales, both widths of activations, and dense weights of two bytes.
const PRODUCTS: [(GgmlType, Mode, usize); 7] = [
    (GgmlType::Q4_1, Mode::Fast, 64),
    (GgmlType::Q8_0, Mode::Fast, 64),
    (GgmlType::Q4_K, Mode::Fast, 256),
    (GgmlType::Q6_K, Mode::Fast, 256),
    (GgmlType::Q4_1, Mode::Int16, 64),
    (GgmlType::Q6_K, Mode::Int16, 256),
    (GgmlType::BF16, Mode::Fast, 64),
];
/// Root mean square of the differences, as a share of that of the results, that another arithmetic may have.
const SHARE: f64 = 0.05;

/// The products to compare.
pub(super) struct SelfCheck {
    cx: Compute,
    products: Vec<Product>,
}

struct Product {
    ty: GgmlType,
    mode: Mode,
    k: usize,
    /// `[N, k]`, as in a file.
    weights: Vec<u8>,
    /// `[most rows, k]`
    x: Vec<f32>,
}

impl Product {
    /// `x w^T` of the first `rows` rows with the weights kept as `storage` says.
    fn on(&self, cx: &Compute, storage: Storage, rows: usize) -> Option<Vec<f32>> {
        let matrix = Matrix::pack_as(storage, self.ty, N, self.k, &self.weights).ok()?;
        let x = &self.x[..rows * self.k];
        let mut input = Input::new();
        input.fill(cx, x, rows, self.k, None, &[&matrix]);
        let mut out = vec![0f32; rows * N];
        let job = Job {
            matrix: &matrix,
            bias: None,
            out: &mut out,
            add: false,
        };
        matmul(cx, &input, &mut [job]);
        Some(out)
    }
}

impl SelfCheck {
    /// None where there is no memory for a pool.
    pub fn new() -> Option<SelfCheck> {
        let (cpu, pool) = (Cpu::SCALAR, Pool::new(1).ok()?);
        let mut random = Numbers(1);
        let product = |(ty, mode, k)| Product {
            ty,
            mode,
            k,
            weights: random.weights(ty, k),
            x: (0..ROWS[1] * k).map(|_| random.unit()).collect(),
        };
        Some(SelfCheck {
            cx: Compute { cpu, pool },
            products: PRODUCTS.map(product).into(),
        })
    }

    /// Whether products on `cpu` are those of the scalar level: the same bits, or close where the level has an
    /// arithmetic of its own.
    pub fn passes(&mut self, cpu: Cpu) -> bool {
        let products = std::mem::take(&mut self.products);
        let all = products.iter().all(|p| self.product_passes(cpu, p));
        self.products = products;
        all
    }

    fn product_passes(&mut self, cpu: Cpu, p: &Product) -> bool {
        let own = p.ty == GgmlType::BF16 && super::matmul::bf16_dot(cpu);
        let storage = Storage::of(cpu, p.mode, p.ty, p.k);
        self.cx.cpu = Cpu::SCALAR;
        let want = p.on(&self.cx, storage, ROWS[1]);
        self.cx.cpu = cpu;
        ROWS.into_iter()
            .all(|rows| match (p.on(&self.cx, storage, rows), &want) {
                (Some(got), Some(want)) => agree(&got, &want[..rows * N], !own),
                _ => false,
            })
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
struct Numbers(u32);

impl Numbers {
    fn next(&mut self) -> u32 {
        self.0 = self.0.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        self.0 >> 8
    }
    /// Between -1 and 1.
    fn unit(&mut self) -> f32 {
        self.next() as f32 / (1 << 23) as f32 - 1.0
    }
    /// A file's bytes of `[N, k]` weights.
    fn weights(&mut self, ty: GgmlType, k: usize) -> Vec<u8> {
        let mut data = Vec::new();
        for _ in 0..N * k / ty.block_len() {
            match ty {
                GgmlType::BF16 => data.extend(half::bf16::from_f32(self.unit()).to_le_bytes()),
                _ => data.extend(self.block(ty)),
            }
        }
        data
    }
    /// A block of a quantised type: any weights, scales of about 0.01.
    fn block(&mut self, ty: GgmlType) -> Vec<u8> {
        let mut block: Vec<u8> = (0..ty.block_bytes()).map(|_| self.next() as u8).collect();
        let scales: &[usize] = match ty {
            GgmlType::Q4_1 | GgmlType::Q4_K => &[0, 2],
            GgmlType::Q6_K => &[208],
            _ => &[0],
        };
        for &at in scales {
            let scale = half::f16::from_f32(0.01 + 0.005 * self.unit());
            block[at..at + 2].copy_from_slice(&scale.to_le_bytes());
        }
        block
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
            assert!(check.passes(cpu), "{}", cpu.name());
        }
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

    #[test]
    fn wrong_weights_are_noticed() {
        let mut random = Numbers(7);
        let pool = Pool::new(1).unwrap();
        let cx = Compute {
            cpu: Cpu::SCALAR,
            pool,
        };
        for (ty, _, k) in PRODUCTS {
            let data = random.weights(ty, k);
            let x: Vec<f32> = (0..k).map(|_| random.unit()).collect();
            let mut other = data.clone();
            let last = other.len() - 3;
            other[last] ^= 1;
            let storage = Storage::of(cx.cpu, Mode::Fast, ty, k);
            let of = |weights: Vec<u8>| {
                let (mode, x) = (Mode::Fast, x.clone());
                Product {
                    ty,
                    mode,
                    k,
                    weights,
                    x,
                }
                .on(&cx, storage, 1)
                .unwrap()
            };
            assert!(of(data) != of(other), "{}", ty.name());
        }
    }
}
