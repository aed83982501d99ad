//! Reads packed panels with AVX2, in halves of 8 output rows: weights to bytes, scales to f32.
//! Functions are `inline(always)` and free of closures, so that they are compiled for their caller's instruction set;
//! pointers must point to a group of the format. That is the contract behind every `unsafe` here.
use super::super::super::pack::layout::Scheme;
use super::super::formats::{Format, blocks};
use super::super::unpacked::Unpacked;
use std::arch::x86_64::*;
use std::marker::PhantomData;

pub(super) use super::super::avx512::panel::{FAR, prefetch};

/// A block of 32 weights of 16 output rows; `h` is the half of 8 of them.
pub(super) trait Block {
    /// Weights plus offset, k = 4z .. 4z+3 of each lane.
    unsafe fn word(&self, z: usize, h: usize) -> __m256i;
    /// The scale.
    unsafe fn d(&self, h: usize) -> __m256;
    /// The minimum of sub-block `part`, its sign changed.
    unsafe fn m(&self, h: usize, part: usize) -> __m256;
    /// The sub-scales of both sub-blocks.
    unsafe fn sub(&self, h: usize) -> [__m256; 2];
}

/// A block of an unpacked panel.
pub(super) struct Ready {
    weights: *const u8,
    scales: *const f32,
}

impl Ready {
    #[inline(always)]
    pub fn new(unpacked: &mut Unpacked, b: usize) -> Self {
        Ready {
            weights: unpacked.weights(b),
            scales: unpacked.scales(b, 0),
        }
    }

    #[inline(always)]
    unsafe fn scale(&self, i: usize, h: usize) -> __m256 {
        // SAFETY: five vectors of 16 scales.
        unsafe { _mm256_load_ps(self.scales.add(16 * i + 8 * h)) }
    }
}

// SAFETY (all blocks): see the module.
#[allow(clippy::undocumented_unsafe_blocks)]
impl Block for Ready {
    #[inline(always)]
    unsafe fn word(&self, z: usize, h: usize) -> __m256i {
        unsafe { _mm256_load_si256(self.weights.add(64 * z + 32 * h).cast()) }
    }
    #[inline(always)]
    unsafe fn d(&self, h: usize) -> __m256 {
        unsafe { self.scale(0, h) }
    }
    #[inline(always)]
    unsafe fn m(&self, h: usize, part: usize) -> __m256 {
        unsafe { self.scale(1 + part, h) }
    }
    #[inline(always)]
    unsafe fn sub(&self, h: usize) -> [__m256; 2] {
        unsafe { [self.scale(3, h), self.scale(4, h)] }
    }
}

/// Block `b` of a packed group.
pub(super) struct Packed<F> {
    group: *const u8,
    b: usize,
    format: PhantomData<F>,
}

// SAFETY (all blocks): see the module.
#[allow(clippy::undocumented_unsafe_blocks)]
impl<F: Format> Packed<F> {
    #[inline(always)]
    pub fn new(group: *const u8, b: usize) -> Self {
        Packed {
            group,
            b,
            format: PhantomData,
        }
    }

    #[inline(always)]
    unsafe fn vector(&self, at: usize) -> __m256i {
        unsafe { _mm256_load_si256(self.group.add(at).cast()) }
    }

    /// 8 halves as f32.
    #[inline(always)]
    unsafe fn halves(&self, at: usize) -> __m256 {
        unsafe { _mm256_cvtph_ps(_mm_load_si128(self.group.add(at).cast())) }
    }

    /// The sub-scales of both sub-blocks.
    #[inline(always)]
    pub unsafe fn sub_integers(&self, h: usize) -> [__m256i; 2] {
        unsafe {
            let (first, second) = (self.bytes(h, 0), self.bytes(h, 1));
            if matches!(F::L.scheme, Scheme::PairMin) {
                let mask = _mm_set1_epi8(15);
                [
                    _mm256_cvtepu8_epi32(_mm_and_si128(first, mask)),
                    _mm256_cvtepu8_epi32(_mm_and_si128(second, mask)),
                ]
            } else {
                [_mm256_cvtepi8_epi32(first), _mm256_cvtepi8_epi32(second)]
            }
        }
    }

    /// Sub-scales of half `h`: bytes of the first or second kind.
    #[inline(always)]
    unsafe fn bytes(&self, h: usize, kind: usize) -> __m128i {
        unsafe { _mm_loadl_epi64(self.group.add(64 + 32 * self.b + 16 * kind + 8 * h).cast()) }
    }
}

#[inline(always)]
unsafe fn wide(bytes: __m128i) -> __m256 {
    // SAFETY: registers only.
    unsafe { _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(bytes)) }
}

/// `v` shifted right by `n` bits, left where `n` is negative, of which only the bits of `mask` in each byte stay.
#[inline(always)]
unsafe fn bits(v: __m256i, n: i32, mask: i8) -> __m256i {
    // SAFETY: registers only.
    unsafe {
        let v = if n < 0 {
            _mm256_sll_epi16(v, _mm_cvtsi32_si128(-n))
        } else {
            _mm256_srl_epi16(v, _mm_cvtsi32_si128(n))
        };
        _mm256_and_si256(v, _mm256_set1_epi8(mask))
    }
}

// SAFETY (all blocks): see the module.
#[allow(clippy::undocumented_unsafe_blocks)]
impl<F: Format> Block for Packed<F> {
    #[inline(always)]
    unsafe fn word(&self, z: usize, h: usize) -> __m256i {
        unsafe {
            let (low, high) = (F::L.low_at(self.b) + 32 * h, F::L.high_at(self.b) + 32 * h);
            let w = match F::L.low {
                8 => self.vector(low + 64 * z),
                4 => bits(self.vector(low + 64 * (z / 2)), (z % 2 * 4) as i32, 15),
                _ => bits(self.vector(low + 64 * (z / 4)), (z % 4 * 2) as i32, 3),
            };
            if let Some(table) = F::L.table {
                let table = _mm_loadu_si128(table.as_ptr().cast());
                return _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(table), w);
            }
            let up = F::L.low as i32;
            let high = match F::L.high {
                0 => return w,
                1 => bits(self.vector(high), z as i32 - up, 1 << up),
                _ => bits(
                    self.vector(high + 64 * (z / 4)),
                    (z % 4 * 2) as i32 - up,
                    3 << up,
                ),
            };
            _mm256_or_si256(w, high)
        }
    }
    #[inline(always)]
    unsafe fn d(&self, h: usize) -> __m256 {
        unsafe {
            match F::L.scheme {
                Scheme::Scale | Scheme::ScaleMin => self.halves(32 * self.b + 16 * h),
                Scheme::Pair | Scheme::PairMin => self.halves(16 * h),
                Scheme::SubMin => _mm256_mul_ps(self.halves(16 * h), wide(self.bytes(h, 0))),
            }
        }
    }
    #[inline(always)]
    unsafe fn m(&self, h: usize, part: usize) -> __m256 {
        unsafe {
            let bytes = match F::L.scheme {
                Scheme::SubMin => self.bytes(h, 1),
                Scheme::PairMin => {
                    let both = _mm_srli_epi16::<4>(self.bytes(h, part));
                    _mm_and_si128(both, _mm_set1_epi8(15))
                }
                _ => return self.halves(64 + 32 * self.b + 16 * h),
            };
            let minus = _mm256_sub_ps(_mm256_setzero_ps(), self.halves(32 + 16 * h));
            _mm256_mul_ps(minus, wide(bytes))
        }
    }
    #[inline(always)]
    unsafe fn sub(&self, h: usize) -> [__m256; 2] {
        unsafe {
            let [first, second] = self.sub_integers(h);
            [_mm256_cvtepi32_ps(first), _mm256_cvtepi32_ps(second)]
        }
    }
}

/// Unpacks a panel: weights to bytes, scales to f32. The panel holds as many blocks as `to`.
#[inline(always)]
pub(super) unsafe fn unpack<F: Format>(panel: *const u8, to: &mut Unpacked) {
    // SAFETY: passed on.
    unsafe {
        for (group, b, at) in blocks::<F>(panel, to.blocks()) {
            prefetch::<F, FAR>(group, b);
            unpack_block(&Packed::<F>::new(group, b), to, at);
        }
    }
}

#[inline(always)]
unsafe fn unpack_block<F: Format>(from: &Packed<F>, to: &mut Unpacked, b: usize) {
    // SAFETY: passed on.
    unsafe {
        let weights = to.weights::<u8>(b).cast::<__m256i>();
        let scales = to.scales(b, 0).cast::<__m256>();
        for h in 0..2 {
            for z in 0..8 {
                weights.add(2 * z + h).write(from.word(z, h));
            }
            scales.add(h).write(from.d(h));
            if F::L.minima() {
                scales.add(2 + h).write(from.m(h, 0));
            }
            if matches!(F::L.scheme, Scheme::PairMin) {
                scales.add(4 + h).write(from.m(h, 1));
            }
            if matches!(F::L.scheme, Scheme::Pair | Scheme::PairMin) {
                let sub = from.sub(h);
                scales.add(6 + h).write(sub[0]);
                scales.add(8 + h).write(sub[1]);
            }
        }
    }
}
