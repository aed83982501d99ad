//! Scores to bf16 probabilities in few instructions: 2^y read off fixed-point numbers. For AVX-512 with BF16 and VBMI.
//! Every `unsafe` here has the contract of [`Lanes`](super::super::lanes::Lanes) and takes valid tiles.
//!
//! `y + 127`, counted in 1/128, has the bits of a bf16 whose exponent is the whole part and whose fraction is that of y
//! in place of 2^fraction - 1; a table takes the difference off. The relative error is below 0.8 %, 0.19 % on average,
//! where rounding alone makes 0.4 % and 0.14 %; the sum is taken over the very same probabilities.
use super::super::exp::Float;
use super::super::kv::{GROUP, PAGE};
use super::super::lanes::{Lanes, Zmm};
use super::softmax::{Pages, capped, largest, sees_all};
use super::tile::{PROBS, SCORES, Tile};
use std::arch::x86_64::*;

/// 1.5 * 2^16: adding it rounds to multiples of 1/128 and leaves their number in the low 16 bits.
const MAGIC: f32 = 98_304.0;
/// Steps of the fixed-point number in one.
const STEPS: f32 = 128.0;
/// [`MAGIC`] plus one step.
const LOWEST: f32 = MAGIC + 1.0 / STEPS;
/// Exponent of 1.
const BIAS: f32 = 127.0;

/// `128 (f - (2^f - 1))` for f in steps of 1/64, in the middle of the two multiples of 1/128 that each serves.
static CURVE: [u8; 64] = curve();

const fn curve() -> [u8; 64] {
    let mut table = [0; 64];
    let mut i = 0;
    while i < 64 {
        let f = (2.0 * i as f64 + 0.5) / 128.0;
        // 2^f by the series of e^(f ln 2), of which twelve terms are exact enough.
        let x = f * std::f64::consts::LN_2;
        let (mut term, mut power, mut n) = (1.0, 1.0, 1);
        while n < 13 {
            term *= x / n as f64;
            power += term;
            n += 1;
        }
        table[i] = (128.0 * (f - (power - 1.0)) + 0.5) as u8;
        i += 1;
    }
    table
}

/// As [`softmax`](super::softmax::softmax), into bf16 probabilities.
///
/// # Safety
/// See the module.
#[inline(always)]
pub(super) unsafe fn softmax(t: &mut Tile) {
    // SAFETY: `see` lies inside the pages `first..last` of a segment, rows have their own scores and probabilities.
    unsafe {
        let scale = capped::<Zmm>(t);
        if sees_all(t) {
            rows::<true>(t, scale);
        } else {
            rows::<false>(t, scale);
        }
    }
}

/// `WHOLE`: every row sees every key of the pages.
#[inline(always)]
unsafe fn rows<const WHOLE: bool>(t: &mut Tile, scale: f32) {
    // SAFETY: see `softmax`.
    unsafe {
        for row in 0..t.rows {
            // What probabilities are relative to need not be the largest score itself, but it must be a number of steps:
            // then the shift below is exact.
            let max = largest::<Zmm, WHOLE>(t, row) * scale;
            t.max[row] = (max * STEPS).round_ties_even() / STEPS;
        }
        for row in 0..t.rows {
            t.sum[row] = probabilities::<WHOLE>(t, row, scale);
        }
    }
}

/// Writes the probabilities of a row; their sum.
#[inline(always)]
unsafe fn probabilities<const WHOLE: bool>(t: &Tile, row: usize, scale: f32) -> f32 {
    let pages = if WHOLE {
        Pages::all(t)
    } else {
        Pages::of(t, row)
    };
    // SAFETY: see `softmax`. Probabilities of a page overwrite scores of pages up to it, which are done with.
    unsafe {
        let rule = [
            _mm512_set1_ps(scale),
            _mm512_set1_ps(MAGIC + BIAS - t.max[row]),
        ];
        let mut to = Row {
            sum: [_mm512_setzero_ps(); 2],
            least: _mm512_set1_epi16(-1),
        };
        for page in pages.before {
            _mm512_storeu_si512(place(t, row, page), _mm512_setzero_si512());
        }
        for page in pages.first {
            page_of::<true>(t, row, page, rule, &mut to);
        }
        for page in pages.whole {
            page_of::<false>(t, row, page, rule, &mut to);
        }
        for page in pages.last {
            page_of::<true>(t, row, page, rule, &mut to);
        }
        for page in pages.after {
            _mm512_storeu_si512(place(t, row, page), _mm512_setzero_si512());
        }
        if _mm512_testn_epi16_mask(to.least, to.least) != 0 {
            return f32::NAN;
        }
        Zmm(to.sum[0]).add(Zmm(to.sum[1])).sum()
    }
}

/// What is gathered of a row.
struct Row {
    /// Sums of probabilities, of even and of odd pages.
    sum: [__m512; 2],
    /// Least numbers of steps; 0 only where a score was not a number.
    least: __m512i,
}

/// Where the probabilities of a page go.
#[inline(always)]
unsafe fn place(t: &Tile, row: usize, page: usize) -> *mut __m512i {
    // SAFETY: see `softmax`.
    unsafe { t.probs().add(row * PROBS + page * PAGE).cast() }
}

/// Writes the probabilities of a page and gathers them. `MASK`: the row does not see all of its keys.
#[inline(always)]
unsafe fn page_of<const MASK: bool>(
    t: &Tile,
    row: usize,
    page: usize,
    [scale, shift]: [__m512; 2],
    to: &mut Row,
) {
    // SAFETY: see `softmax`.
    unsafe {
        let scores = t.scores.add(row * SCORES + page * PAGE);
        let a = steps(scores, scale, shift);
        let b = steps(scores.add(GROUP), scale, shift);
        let n = _mm512_permutex2var_epi16(a, low_words(), b);
        // The index is the low 6 bits of a byte; the upper byte of each word stays 0.
        let curve = _mm512_loadu_si512(CURVE.as_ptr().cast());
        let less =
            _mm512_maskz_permutexvar_epi8(0x5555_5555_5555_5555, _mm512_srli_epi16::<1>(n), curve);
        let mut p = _mm512_sub_epi16(n, less);
        if MASK {
            let [from, end] = t.see[row].map(|see| usize::from(see).saturating_sub(page * PAGE));
            let below = |n: usize| ((1u64 << n.min(PAGE)) - 1) as u32;
            let seen = below(end) & !below(from);
            p = _mm512_maskz_mov_epi16(seen, p);
            to.least = _mm512_mask_min_epu16(to.least, seen, to.least, n);
        } else {
            to.least = _mm512_min_epu16(to.least, n);
        }
        let ones = std::mem::transmute::<__m512i, __m512bh>(_mm512_set1_epi16(0x3f80));
        let each = std::mem::transmute::<__m512i, __m512bh>(p);
        to.sum[page % 2] = _mm512_dpbf16_ps(to.sum[page % 2], each, ones);
        _mm512_storeu_si512(place(t, row, page), p);
    }
}

/// 16 scores as numbers of steps in the low words; what is too small for a normal bf16 becomes 1, which products take
/// for 0. What is not a number becomes 0: the low word of what products make of it.
#[inline(always)]
unsafe fn steps(scores: *const f32, scale: __m512, shift: __m512) -> __m512i {
    // SAFETY: see `softmax`.
    unsafe {
        let y = _mm512_fmadd_ps(_mm512_loadu_ps(scores), scale, shift);
        _mm512_castps_si512(_mm512_max_ps(_mm512_set1_ps(LOWEST), y))
    }
}

/// Picks the low words of two vectors of 32-bit lanes.
#[inline(always)]
unsafe fn low_words() -> __m512i {
    const WORDS: [u16; 32] = {
        let mut words = [0; 32];
        let mut i = 0;
        while i < 32 {
            words[i] = 2 * i as u16;
            i += 1;
        }
        words
    };
    // SAFETY: 32 words.
    unsafe { _mm512_loadu_si512(WORDS.as_ptr().cast()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What `page_of` does to one number.
    fn power(y: f32) -> f64 {
        let n = (((y + MAGIC + BIAS).max(LOWEST)).to_bits() & 0xffff) as u16;
        let p = n - u16::from(CURVE[usize::from(n >> 1 & 63)]);
        f64::from(f32::from_bits(u32::from(p) << 16))
    }

    #[test]
    fn powers_of_two_are_close_and_whole_ones_exact() {
        let (mut worst, mut bias, mut mean) = (0f64, 0.0, 0.0);
        let n = 200_000;
        for i in 0..n {
            let y = -20.0 * i as f32 / n as f32;
            let error = power(y) / f64::from(y).exp2() - 1.0;
            worst = worst.max(error.abs());
            bias += error / f64::from(n);
            mean += error.abs() / f64::from(n);
        }
        assert!(worst < 8e-3 && mean < 2e-3, "{worst} {mean}");
        assert!(bias.abs() < 3e-4, "{bias}");
        for n in 0..126 {
            assert_eq!(power(-(n as f32)), f64::from(-n).exp2());
        }
        let least = power(-500.0);
        assert!(least > 0.0 && least < f64::from(f32::MIN_POSITIVE));
    }
}
