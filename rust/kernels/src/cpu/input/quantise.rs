//! Blocks of 32 activations to integers: q = round(x * (PEAK / max)), scale = max / PEAK. A block whose largest magnitude is
//! below 2^-100 counts as zero; one with an infinity or NaN gets the scale NaN, so that it shows in every output.
use super::super::lanes::{Lanes, Plain};
#[cfg(target_arch = "x86_64")]
use super::super::lanes::{Ymm, Zmm};
#[cfg(target_arch = "aarch64")]
use super::LOW_BITS;
use super::{BLOCK, Rounded};

/// Blocks that are quantised together.
pub(super) const CHUNK: usize = 16;

/// Magnitudes below are zero: their reciprocal would not be finite.
const TINY: f32 = f32::from_bits(27 << 23);

/// Quantised blocks.
#[repr(C, align(64))]
#[derive(Default)]
pub(super) struct Chunk<T> {
    pub q: [[T; BLOCK]; CHUNK],
    /// Scales.
    pub d: [f32; CHUNK],
    /// Sums of the first and of the second 16 values.
    pub sums: [[i32; CHUNK]; 2],
}

/// Integers that vectors can quantise to.
pub(super) trait Integers: Rounded {
    /// Quantises the 32 values at each of 16 places.
    ///
    /// # Safety
    /// As of [`Lanes`]; each pointer must be valid for 32 values.
    unsafe fn quantise<L: Quantise>(from: &[*const f32; CHUNK], to: &mut Chunk<Self>);
    /// [`Lanes::round_to_i8`] or its like.
    ///
    /// # Safety
    /// As there.
    unsafe fn round<L: Lanes>(v: L, to: *mut Self) -> i32;
    /// Writes blocks as the products of the lanes' instruction set read them.
    ///
    /// # Safety
    /// As of [`Lanes`]; `to` must have room for them.
    unsafe fn put<L: Quantise>(blocks: &[[Self; BLOCK]], to: *mut Self);
}

// SAFETY (all blocks): passed on.
#[allow(clippy::undocumented_unsafe_blocks)]
impl Integers for i8 {
    #[inline(always)]
    unsafe fn quantise<L: Quantise>(from: &[*const f32; CHUNK], to: &mut Chunk<i8>) {
        unsafe { L::quantise(from, to) }
    }
    #[inline(always)]
    unsafe fn round<L: Lanes>(v: L, to: *mut i8) -> i32 {
        unsafe { v.round_to_i8(to) }
    }
    #[inline(always)]
    unsafe fn put<L: Quantise>(blocks: &[[i8; BLOCK]], to: *mut i8) {
        unsafe { copy(blocks, to) }
    }
}

// SAFETY (all blocks): passed on.
#[allow(clippy::undocumented_unsafe_blocks)]
impl Integers for i16 {
    #[inline(always)]
    unsafe fn quantise<L: Quantise>(from: &[*const f32; CHUNK], to: &mut Chunk<i16>) {
        unsafe { blocks::<L, i16>(from, to) }
    }
    #[inline(always)]
    unsafe fn round<L: Lanes>(v: L, to: *mut i16) -> i32 {
        unsafe { v.round_to_i16(to) }
    }
    #[inline(always)]
    unsafe fn put<L: Quantise>(blocks: &[[i16; BLOCK]], to: *mut i16) {
        unsafe { L::put_words(blocks, to) }
    }
}

#[inline(always)]
unsafe fn copy<T>(blocks: &[[T; BLOCK]], to: *mut T) {
    // SAFETY: there is room for the blocks.
    unsafe { std::ptr::copy_nonoverlapping(blocks.as_ptr().cast(), to, blocks.len() * BLOCK) };
}

/// Vectors that can quantise.
pub(super) trait Quantise: Lanes {
    /// Quantises the 32 values at each of 16 places to bytes.
    ///
    /// # Safety
    /// As of [`Lanes`]; each pointer must be valid for 32 values.
    #[inline(always)]
    unsafe fn quantise(from: &[*const f32; CHUNK], to: &mut Chunk<i8>) {
        // SAFETY: passed on.
        unsafe { blocks::<Self, i8>(from, to) };
    }
    /// See [`Integers::put`].
    ///
    /// # Safety
    /// As there.
    #[inline(always)]
    unsafe fn put_words(blocks: &[[i16; BLOCK]], to: *mut i16) {
        // SAFETY: passed on.
        unsafe { copy(blocks, to) };
    }
}

impl Quantise for Plain {}
#[cfg(target_arch = "aarch64")]
impl Quantise for super::super::lanes::Neon {
    /// High bytes before low ones; both have the sign of the word, and magnitudes below 128.
    #[inline(always)]
    unsafe fn put_words(blocks: &[[i16; BLOCK]], to: *mut i16) {
        for (i, block) in blocks.iter().enumerate() {
            for (j, &q) in block.iter().enumerate() {
                // SAFETY: there is room for the blocks.
                unsafe {
                    let at = to.add(i * BLOCK).cast::<i8>().add(j);
                    at.write((q / (1 << LOW_BITS)) as i8);
                    at.add(BLOCK).write((q % (1 << LOW_BITS)) as i8);
                }
            }
        }
    }
}
#[cfg(target_arch = "x86_64")]
impl Quantise for Ymm {}

#[inline(always)]
unsafe fn blocks<L: Lanes, T: Integers>(from: &[*const f32; CHUNK], to: &mut Chunk<T>) {
    for (i, &x) in from.iter().enumerate() {
        // SAFETY: passed on.
        unsafe { block::<L, T>(x, to, i) };
    }
}

#[inline(always)]
unsafe fn block<L: Lanes, T: Integers>(x: *const f32, to: &mut Chunk<T>, i: usize) {
    let q = to.q[i].as_mut_ptr();
    // SAFETY: 32 values and 32 integers, as the caller promised.
    unsafe {
        let (a, b) = (L::load(x), L::load(x.add(16)));
        let largest = f32::from_bits(a.largest_bits(b));
        if (TINY..f32::INFINITY).contains(&largest) {
            let inverse = L::splat(T::PEAK / largest);
            to.sums[0][i] = T::round(a.mul(inverse), q);
            to.sums[1][i] = T::round(b.mul(inverse), q.add(16));
            to.d[i] = largest / T::PEAK;
        } else {
            to.q[i] = [T::default(); BLOCK];
            to.sums[0][i] = 0;
            to.sums[1][i] = 0;
            to.d[i] = if largest < TINY { 0.0 } else { f32::NAN };
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod avx512 {
    use super::{CHUNK, Chunk, Quantise, TINY, Zmm};
    use std::arch::x86_64::*;

    // SAFETY (all blocks): inlined into a function with AVX-512 and VNNI; pointers are valid, as the trait demands.
    #[allow(clippy::undocumented_unsafe_blocks)]
    impl Quantise for Zmm {
        /// All 16 blocks side by side: maxima and sums are found by transposing, divisions are two for all.
        #[inline(always)]
        unsafe fn quantise(from: &[*const f32; CHUNK], to: &mut Chunk<i8>) {
            unsafe {
                let largest = maxima(from);
                let value = _mm512_castsi512_ps(largest);
                let zero = _mm512_cmp_ps_mask::<_CMP_LT_OQ>(value, _mm512_set1_ps(TINY));
                let infinite = _mm512_set1_epi32(0x7f80_0000);
                let odd = _mm512_cmpge_epi32_mask(largest, infinite);
                let most = _mm512_set1_ps(127.0);
                let inverse = _mm512_maskz_div_ps(!(zero | odd), most, value);
                let d = _mm512_maskz_div_ps(!zero, value, most);
                let d = _mm512_mask_mov_ps(d, odd, _mm512_set1_ps(f32::NAN));
                _mm512_store_ps(to.d.as_mut_ptr(), d);
                let mut inverses = [0f32; CHUNK];
                _mm512_storeu_ps(inverses.as_mut_ptr(), inverse);
                let mut parts = [_mm512_setzero_si512(); 8];
                let mut i = 0;
                while i < 8 {
                    let finite = !odd >> (2 * i) & 0b11;
                    let bytes = pair(from, &inverses, 2 * i, finite);
                    _mm512_store_si512(to.q[2 * i].as_mut_ptr().cast(), bytes);
                    let ones = _mm512_set1_epi8(1);
                    parts[i] = _mm512_dpbusd_epi32(_mm512_setzero_si512(), ones, bytes);
                    i += 1;
                }
                let low = quarters([parts[0], parts[1], parts[2], parts[3]]);
                let high = quarters([parts[4], parts[5], parts[6], parts[7]]);
                // Lane group 2 (i % 2) + half holds blocks i = 2e + ..., e = 0..4 of `low`, then of `high`.
                let first =
                    _mm512_setr_epi32(0, 8, 1, 9, 2, 10, 3, 11, 16, 24, 17, 25, 18, 26, 19, 27);
                let second = _mm512_add_epi32(first, _mm512_set1_epi32(4));
                let first = _mm512_permutex2var_epi32(low, first, high);
                let second = _mm512_permutex2var_epi32(low, second, high);
                _mm512_store_si512(to.sums[0].as_mut_ptr().cast(), first);
                _mm512_store_si512(to.sums[1].as_mut_ptr().cast(), second);
            }
        }
    }

    /// Blocks i and i + 1 as 64 bytes; a block whose bit in `finite` is 0 becomes zero.
    #[inline(always)]
    #[allow(clippy::undocumented_unsafe_blocks)]
    unsafe fn pair(
        from: &[*const f32; CHUNK],
        inverses: &[f32; CHUNK],
        i: usize,
        finite: u16,
    ) -> __m512i {
        unsafe {
            let mut words = [_mm512_setzero_si512(); 2];
            let mut j = 0;
            while j < 2 {
                let inverse = _mm512_set1_ps(inverses[i + j]);
                let a = _mm512_mul_ps(_mm512_loadu_ps(from[i + j]), inverse);
                let b = _mm512_mul_ps(_mm512_loadu_ps(from[i + j].add(16)), inverse);
                // The default rounding mode is to nearest, ties to even.
                let keep = 0u32.wrapping_sub(u32::from(finite >> j & 1));
                words[j] =
                    _mm512_maskz_packs_epi32(keep, _mm512_cvtps_epi32(a), _mm512_cvtps_epi32(b));
                j += 1;
            }
            let bytes = _mm512_packs_epi16(words[0], words[1]);
            // Dword 4 l + c holds a (c = 0), b (1) of the first block, then of the second, at lane group l.
            let order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
            _mm512_permutexvar_epi32(order, bytes)
        }
    }

    /// Largest magnitude of each block, as bits.
    #[inline(always)]
    #[allow(clippy::undocumented_unsafe_blocks)]
    unsafe fn maxima(from: &[*const f32; CHUNK]) -> __m512i {
        unsafe {
            let mask = _mm512_set1_epi32(0x7fff_ffff);
            let mut groups = [_mm512_setzero_si512(); 4];
            let mut g = 0;
            while g < 4 {
                let mut m = [_mm512_setzero_si512(); 4];
                let mut i = 0;
                while i < 4 {
                    let at = from[4 * g + i];
                    let a = _mm512_and_si512(_mm512_loadu_si512(at.cast()), mask);
                    let b = _mm512_and_si512(_mm512_loadu_si512(at.add(16).cast()), mask);
                    m[i] = _mm512_max_epi32(a, b);
                    i += 1;
                }
                let (p, q) = (interleave(m[0], m[1]), interleave(m[2], m[3]));
                let p = _mm512_max_epi32(p.0, p.1);
                let q = _mm512_max_epi32(q.0, q.1);
                groups[g] =
                    _mm512_max_epi32(_mm512_unpacklo_epi64(p, q), _mm512_unpackhi_epi64(p, q));
                g += 1;
            }
            let p = lanes_max(groups[0], groups[1]);
            lanes_max(p, lanes_max(groups[2], groups[3]))
        }
    }

    /// Sums of each vector's groups of four dwords: element e of lane group l is that of vector e.
    #[inline(always)]
    #[allow(clippy::undocumented_unsafe_blocks)]
    unsafe fn quarters(v: [__m512i; 4]) -> __m512i {
        unsafe {
            let (p, q) = (interleave(v[0], v[1]), interleave(v[2], v[3]));
            let (p, q) = (_mm512_add_epi32(p.0, p.1), _mm512_add_epi32(q.0, q.1));
            _mm512_add_epi32(_mm512_unpacklo_epi64(p, q), _mm512_unpackhi_epi64(p, q))
        }
    }

    #[inline(always)]
    #[allow(clippy::undocumented_unsafe_blocks)]
    unsafe fn interleave(a: __m512i, b: __m512i) -> (__m512i, __m512i) {
        unsafe { (_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b)) }
    }

    /// Maxima of neighbouring lane groups: those of `a`, then those of `b`.
    #[inline(always)]
    #[allow(clippy::undocumented_unsafe_blocks)]
    unsafe fn lanes_max(a: __m512i, b: __m512i) -> __m512i {
        unsafe {
            let even = _mm512_shuffle_i32x4::<0x88>(a, b);
            _mm512_max_epi32(even, _mm512_shuffle_i32x4::<0xdd>(a, b))
        }
    }
}
