//! Products of each head's part of a row with a matrix of that head: what latent attention does to its queries before, and
//! to its outputs after. Float32 arithmetic, one fused multiply-add per input in order, so that every number of rows,
//! thread and instruction set gives the same bits.
use super::attention::element::{Ahead, Bf16, Element, F32};
use super::lanes::{Lanes, Plain};
use super::threads::Rows;
use super::{Compute, Cpu, Isa};
use std::ops::Range;

/// Outputs a vector.
const LANES: usize = 16;
/// Vectors of outputs that are summed together.
const VECTORS: usize = 2;
/// Most rows that are summed together.
const MOST: usize = 4;
/// Rows and vectors of a task.
const TASK: (usize, usize) = (32, 8);

/// One matrix a head, `[n, k]` each: inputs outermost, 16 outputs side by side, bf16 in pairs of inputs.
#[derive(Debug)]
pub struct ByHead {
    heads: usize,
    n: usize,
    k: usize,
    data: Data,
}

#[derive(Debug)]
enum Data {
    F32(Vec<f32>),
    Bf16(Vec<u16>),
}

/// Where the heads' parts lie in rows: `width` values a row, the first head's at `first`, each next one `step` on.
#[derive(Debug, Clone, Copy)]
pub struct Parts {
    /// Values a row.
    pub width: usize,
    /// Before the part of head 0.
    pub first: usize,
    /// From head to head.
    pub step: usize,
}

impl Parts {
    fn of(self, row: usize, head: usize) -> usize {
        row * self.width + self.first + head * self.step
    }

    fn fit(self, heads: usize, own: usize) -> bool {
        own <= self.step && self.first + (heads - 1) * self.step + own <= self.width
    }
}

impl ByHead {
    /// Matrices of `heads` heads, `n` outputs of `k` inputs (an even number), whose values `at(head, output, input)`
    /// tells; kept in float32 where `exact`, in bf16 otherwise.
    ///
    /// # Panics
    /// When there is nothing, or `k` is odd.
    pub fn new(
        [heads, n, k]: [usize; 3],
        exact: bool,
        at: impl Fn(usize, usize, usize) -> f32,
    ) -> ByHead {
        assert!(
            heads > 0 && n > 0 && k > 0 && k.is_multiple_of(2),
            "{heads} of [{n}, {k}]"
        );
        let strips = n.div_ceil(LANES);
        let value = |i: usize, input: usize, lane: usize| {
            let (head, output) = (i / strips, i % strips * LANES + lane);
            if output < n {
                at(head, output, input)
            } else {
                0.0
            }
        };
        let count = heads * strips * k * LANES;
        let data = if exact {
            let of = |i: usize| value(i / LANES / k, i / LANES % k, i % LANES);
            Data::F32((0..count).map(of).collect())
        } else {
            let of = |i: usize| {
                let (pair, lane, odd) = (i / LANES / 2, i / 2 % LANES, i % 2);
                let v = value(pair / (k / 2), pair % (k / 2) * 2 + odd, lane);
                half::bf16::from_f32(v).to_bits()
            };
            Data::Bf16((0..count).map(of).collect())
        };
        ByHead { heads, n, k, data }
    }

    /// Heads, outputs of one, inputs of one.
    pub fn shape(&self) -> [usize; 3] {
        [self.heads, self.n, self.k]
    }

    /// Bytes kept.
    pub fn bytes(&self) -> usize {
        match &self.data {
            Data::F32(v) => v.len() * 4,
            Data::Bf16(v) => v.len() * 2,
        }
    }

    /// Bytes of 16 outputs' weights.
    fn strip(&self) -> usize {
        self.bytes() / (self.heads * self.n.div_ceil(LANES))
    }

    fn start(&self) -> *const u8 {
        match &self.data {
            Data::F32(v) => v.as_ptr().cast(),
            Data::Bf16(v) => v.as_ptr().cast(),
        }
    }
}

/// Writes the product of each head's part of the rows of `x` to its part of the rows of `out`.
///
/// # Panics
/// When parts do not lie in their rows, or `x` and `out` differ in rows.
pub fn by_head(
    cx: &Compute,
    w: &ByHead,
    (x, from): (&[f32], Parts),
    (out, to): (&mut [f32], Parts),
) {
    assert!(
        from.fit(w.heads, w.k) && to.fit(w.heads, w.n),
        "{from:?} {to:?}"
    );
    let rows = x.len() / from.width;
    assert!(
        x.len() == rows * from.width && out.len() == rows * to.width,
        "rows of x and out"
    );
    let (most_rows, most_strips) = TASK;
    let strips = w.n.div_ceil(LANES);
    let cuts = [
        w.heads,
        strips.div_ceil(most_strips),
        rows.div_ceil(most_rows),
    ];
    let out = Rows::new(out, 1);
    let run = of(cx.cpu, &w.data);
    cx.pool.for_each(cuts.iter().product(), &|task| {
        let (head, rest) = (task / (cuts[1] * cuts[2]), task % (cuts[1] * cuts[2]));
        let (cut, block) = (rest / cuts[2], rest % cuts[2]);
        let part = Part {
            w,
            x,
            from,
            out: &out,
            to,
            head,
            strips: cut * most_strips..strips.min((cut + 1) * most_strips),
            rows: block * most_rows..rows.min((block + 1) * most_rows),
        };
        // SAFETY: the machine has the instruction set of `of`; tasks write different outputs.
        unsafe { run(&part) }
    });
}

/// What one task computes.
struct Part<'a> {
    w: &'a ByHead,
    x: &'a [f32],
    from: Parts,
    out: &'a Rows<'a, f32>,
    to: Parts,
    head: usize,
    strips: Range<usize>,
    rows: Range<usize>,
}

#[inline(always)]
unsafe fn part<L: Lanes, E: Element>(p: &Part<'_>) {
    let mut strip = p.strips.start;
    while strip < p.strips.end {
        let wide = strip + VECTORS <= p.strips.end;
        let mut row = p.rows.start;
        while row < p.rows.end {
            // SAFETY: the caller's; rows and strips are the part's.
            unsafe {
                row += match (p.rows.end - row >= MOST, wide) {
                    (true, true) => block::<L, E, MOST, VECTORS>(p, row, strip),
                    (true, false) => block::<L, E, MOST, 1>(p, row, strip),
                    (false, true) => block::<L, E, 1, VECTORS>(p, row, strip),
                    (false, false) => block::<L, E, 1, 1>(p, row, strip),
                };
            }
        }
        strip += if wide { VECTORS } else { 1 };
    }
}

/// `N` rows, `V` vectors of outputs; returns `N`.
#[inline(always)]
unsafe fn block<L: Lanes, E: Element, const N: usize, const V: usize>(
    p: &Part<'_>,
    row: usize,
    strip: usize,
) -> usize {
    let (w, bytes) = (p.w, p.w.strip());
    let first = p.head * w.n.div_ceil(LANES) + strip;
    // SAFETY: strips and rows exist, `by_head` has seen that parts lie in their rows.
    unsafe {
        let mut sums = [[L::splat(0.0); V]; N];
        for pair in 0..w.k / 2 {
            for v in 0..V {
                let at = Ahead::none(w.start().add((first + v) * bytes));
                let (a, b) = E::rows::<L>(at, 2 * pair * LANES, LANES);
                for (r, sums) in sums.iter_mut().enumerate() {
                    let x = p.x.as_ptr().add(p.from.of(row + r, p.head) + 2 * pair);
                    let sum = a.fma(L::splat(*x), sums[v]);
                    sums[v] = b.fma(L::splat(*x.add(1)), sum);
                }
            }
        }
        for (r, sums) in sums.iter().enumerate() {
            for (v, sum) in sums.iter().enumerate() {
                let output = (strip + v) * LANES;
                let n = LANES.min(w.n - output);
                let start = p.to.of(row + r, p.head) + output;
                let mut values = [0f32; LANES];
                sum.store(values.as_mut_ptr());
                p.out.rows(start..start + n).copy_from_slice(&values[..n]);
            }
        }
    }
    N
}

/// Functions that enable an instruction set and inline the generic body.
macro_rules! variant {
    ($name:ident, $lanes:ty $(, $features:literal)?) => {
        $(#[target_feature(enable = $features)])?
        unsafe fn $name<E: Element>(p: &Part<'_>) {
            // SAFETY: the caller answers for the instruction set and the part.
            unsafe { part::<$lanes, E>(p) }
        }
    };
}

variant!(plain, Plain);
#[cfg(target_arch = "aarch64")]
variant!(neon, super::lanes::Neon);
#[cfg(target_arch = "x86_64")]
variant!(avx2, super::lanes::Ymm, "avx2,fma,f16c");
#[cfg(target_arch = "x86_64")]
variant!(
    avx512,
    super::lanes::Zmm,
    "avx512f,avx512bw,avx512vl,avx512dq"
);

type Run = unsafe fn(&Part<'_>);

fn of(cpu: Cpu, data: &Data) -> Run {
    match data {
        Data::F32(_) => on::<F32>(cpu),
        Data::Bf16(_) => on::<Bf16>(cpu),
    }
}

fn on<E: Element>(cpu: Cpu) -> Run {
    match cpu.isa() {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => avx2::<E>,
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 | Isa::Amx => avx512::<E>,
        #[cfg(target_arch = "aarch64")]
        Isa::Neon => neon::<E>,
        _ => plain::<E>,
    }
}

#[cfg(test)]
mod tests;
