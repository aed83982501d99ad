//! Values that lie in bf16 keys, laid out as values by AVX-512: what [`Page::values_of_keys`] does element by element
//! takes two fifths of the time when few rows meet them.
use super::super::kv::{GROUP, KvType, PAGE, Page};
use std::arch::x86_64::*;

/// Pairs of dimensions of a strip, and pairs of tokens of a group.
const PAIRS: usize = GROUP / 2;
/// Bytes of a pair of dimensions of a group's tokens, and of a pair of tokens' strip.
const BYTES: usize = 2 * GROUP * 2;
/// Where the bytes of two tokens' pairs of dimensions go, so that two dimensions' pairs of tokens come of them.
static ORDER: [u8; 16] = [0, 1, 4, 5, 2, 3, 6, 7, 8, 9, 12, 13, 10, 11, 14, 15];

/// As [`Page::values_of_keys`].
///
/// # Safety
/// As that; the machine has AVX-512 F and BW.
#[inline(always)]
pub(super) unsafe fn values_of_keys(page: &Page, keys: *const u8, to: *mut u8) {
    let first = page.latent.unwrap_or(0);
    let whole = first.is_multiple_of(2) && first + page.value_dims <= page.key_dims;
    // SAFETY: the caller's; `whole` strips lie in the keys.
    unsafe {
        if page.dtype != KvType::Bf16 || !whole {
            return page.values_of_keys(keys, to);
        }
        for group in 0..PAGE / GROUP {
            let keys = keys.add(group * page.group_bytes() + first / 2 * BYTES);
            let to = to.add(group * PAIRS * BYTES);
            for strip in 0..page.value_dims / GROUP {
                let from = keys.add(strip * PAIRS * BYTES);
                turn(from, to.add(strip * PAGE / 2 * BYTES));
            }
        }
    }
}

/// Turns 16 dimensions of 16 tokens, in pairs of dimensions, to pairs of tokens.
#[inline(always)]
unsafe fn turn(from: *const u8, to: *mut u8) {
    // SAFETY: both are eight vectors.
    unsafe {
        // The 64 bits of two dimensions and two tokens stay together from here on.
        let order = _mm512_broadcast_i32x4(_mm_loadu_si128(ORDER.as_ptr().cast()));
        let mut a = [_mm512_setzero_si512(); PAIRS];
        for (i, a) in a.iter_mut().enumerate() {
            let pair = _mm512_loadu_si512(from.add(i * BYTES).cast());
            *a = _mm512_shuffle_epi8(pair, order);
        }
        for odd in 0..2 {
            let mut b = [_mm512_setzero_si512(); 4];
            for (i, b) in b.iter_mut().enumerate() {
                *b = if odd == 0 {
                    _mm512_unpacklo_epi64(a[2 * i], a[2 * i + 1])
                } else {
                    _mm512_unpackhi_epi64(a[2 * i], a[2 * i + 1])
                };
            }
            let even_lanes = [
                _mm512_shuffle_i64x2::<0x88>(b[0], b[1]),
                _mm512_shuffle_i64x2::<0x88>(b[2], b[3]),
            ];
            let odd_lanes = [
                _mm512_shuffle_i64x2::<0xdd>(b[0], b[1]),
                _mm512_shuffle_i64x2::<0xdd>(b[2], b[3]),
            ];
            let turned = [
                _mm512_shuffle_i64x2::<0x88>(even_lanes[0], even_lanes[1]),
                _mm512_shuffle_i64x2::<0x88>(odd_lanes[0], odd_lanes[1]),
                _mm512_shuffle_i64x2::<0xdd>(even_lanes[0], even_lanes[1]),
                _mm512_shuffle_i64x2::<0xdd>(odd_lanes[0], odd_lanes[1]),
            ];
            for (i, turned) in turned.into_iter().enumerate() {
                _mm512_storeu_si512(to.add((2 * i + odd) * BYTES).cast(), turned);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::{Cpu, Isa};
    use super::*;

    #[target_feature(enable = "avx512f,avx512bw")]
    unsafe fn fast(page: &Page, keys: *const u8, to: *mut u8) {
        // SAFETY: the caller's.
        unsafe { values_of_keys(page, keys, to) }
    }

    #[test]
    fn values_lie_as_element_by_element() {
        if !Cpu::available().iter().any(|c| c.isa() >= Isa::Avx512) {
            return;
        }
        let bf16 = KvType::Bf16;
        for (key_dims, value_dims, first, dtype) in [
            (576, 512, 64, bf16),
            (64, 32, 8, bf16),
            (64, 64, 0, bf16),
            // Not in pairs; padded beyond the keys; of another type.
            (64, 32, 7, bf16),
            (64, 48, 24, bf16),
            (64, 32, 8, KvType::Int8),
        ] {
            let page = Page {
                key_dims,
                value_dims,
                dtype,
                latent: Some(first),
            };
            let noise = |i: usize| (i * 31 + i / 256 * 7) as u8;
            let keys: Vec<u8> = (0..page.bytes()).map(noise).collect();
            let mut want = vec![1; page.value_bytes()];
            let mut got = vec![2; page.value_bytes()];
            // SAFETY: a page, and room for its values; the machine has AVX-512.
            unsafe {
                page.values_of_keys(keys.as_ptr(), want.as_mut_ptr());
                fast(&page, keys.as_ptr(), got.as_mut_ptr());
            }
            assert!(want == got, "{page:?}");
        }
    }
}
