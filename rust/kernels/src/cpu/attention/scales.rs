//! The scales of keys and values in a byte: products with codes become scores, probabilities become what the codes of
//! values are weighted by. Every `unsafe` here has the contract of [`Lanes`] and takes valid tiles.
use super::super::exp::Float;
use super::super::kv::{GROUP, PAGE};
use super::super::lanes::Lanes;
use super::tile::{PROBS, SCORES, Tile};

/// bf16 scales of a page, widened.
#[inline(always)]
unsafe fn widened(from: *const u16) -> [f32; PAGE] {
    // SAFETY: a page has as many.
    let bits = unsafe { from.cast::<[u16; PAGE]>().read() };
    bits.map(|b| f32::from_bits(u32::from(b) << 16))
}

/// Multiplies what lies in the place of the scores.
#[inline(always)]
unsafe fn apply<L: Lanes>(t: &Tile, which: usize) {
    for page in t.first..t.last {
        // SAFETY: the pages exist; rows have their own scores.
        unsafe {
            let scales = widened(t.scales[page][which]);
            let (a, b) = (L::load(scales.as_ptr()), L::load(scales[GROUP..].as_ptr()));
            for row in 0..t.rows {
                let at = t.scores.add(row * SCORES + page * PAGE);
                L::load(at).mul(a).store(at);
                L::load(at.add(GROUP)).mul(b).store(at.add(GROUP));
            }
        }
    }
}

/// Multiplies the scores by the scales of their keys.
///
/// # Safety
/// See the module.
#[inline(always)]
pub(super) unsafe fn keys<L: Lanes>(t: &Tile) {
    // SAFETY: the caller's.
    unsafe { apply::<L>(t, 0) }
}

/// Multiplies f32 probabilities by the scales of their values.
///
/// # Safety
/// See the module.
#[inline(always)]
pub(super) unsafe fn values<L: Lanes>(t: &Tile) {
    // SAFETY: the caller's.
    unsafe { apply::<L>(t, 1) }
}

/// As [`values`], bf16 probabilities, rounded once more.
///
/// # Safety
/// See the module.
#[inline(always)]
#[cfg(target_arch = "x86_64")]
pub(super) unsafe fn rounded_values<L: Float>(t: &Tile) {
    for page in t.first..t.last {
        // SAFETY: the pages exist; rows have their own probabilities.
        unsafe {
            let scales = widened(t.scales[page][1]);
            let (a, b) = (L::load(scales.as_ptr()), L::load(scales[GROUP..].as_ptr()));
            for row in 0..t.rows {
                let at = t.probs().add(row * PROBS + page * PAGE);
                let p = widened(at);
                L::load(p.as_ptr()).mul(a).store_bf16(at);
                L::load(p[GROUP..].as_ptr())
                    .mul(b)
                    .store_bf16(at.add(GROUP));
            }
        }
    }
}
