//! Numbers in a byte, as keys and values are kept in it, and the scales that they need: plain Rust, so that every machine
//! keeps the same.

/// The largest number of e4m3.
pub(crate) const FP8_MAX: f32 = 448.0;

/// 1.5 * 2^23: added to a number of at most 2^22, it rounds to the nearest integer (ties to even) and leaves that in the
/// low bits.
const ROUND: f32 = 12_582_912.0;
/// From e4m3's exponent of 2^0 to float32's, as a factor.
pub(crate) const FP8_SHIFT: f32 = f32::from_bits((127 + 120) << 23);

/// The scale with which the largest of `row` is at most `most`: a bf16, rounded up. 0 where all are next to nothing, a
/// NaN where one is no finite number.
pub(crate) fn scale_of(row: &[f32], most: f32) -> f32 {
    let largest = |most: u32, v: &f32| most.max(v.to_bits() & 0x7fff_ffff);
    let largest = f32::from_bits(row.iter().fold(0, largest));
    if !largest.is_finite() {
        return f32::NAN;
    }
    let scale = largest / most;
    if scale < f32::MIN_POSITIVE {
        return 0.0;
    }
    f32::from_bits((scale.to_bits() + 0xffff) & 0xffff_0000)
}

/// What numbers are multiplied by to become codes under `scale`.
pub(crate) fn inverse(scale: f32) -> f32 {
    if scale == 0.0 { 0.0 } else { 1.0 / scale }
}

/// The nearest integer of a number from -127 to 127; any for a NaN.
#[inline(always)]
pub(crate) fn int8(v: f32) -> u8 {
    (v + ROUND).to_bits() as u8
}

/// The number of a code of [`int8`].
#[inline(always)]
pub(crate) const fn int8_value(code: u8) -> f32 {
    code as i8 as f32
}

/// The nearest e4m3 (ties to even) of a number from -448 to 448.
#[inline(always)]
pub(crate) fn fp8(v: f32) -> u8 {
    let sign = (v.to_bits() >> 24) as u8 & 0x80;
    let size = v.to_bits() & 0x7fff_ffff;
    // Below 2^-6 steps are 2^-9; above, three bits of the fraction stay.
    let code = if size < 0x3c80_0000 {
        (f32::from_bits(size) * 512.0 + ROUND).to_bits() & 0xf
    } else {
        let nearest = (size + 0x7_ffff + (size >> 20 & 1)) >> 20;
        (nearest - (120 << 3)).min(0x7e)
    };
    sign | code as u8
}

/// The number of an e4m3; its codes for NaN, which nobody writes, are 480.
#[inline(always)]
pub(crate) const fn fp8_value(code: u8) -> f32 {
    let size = f32::from_bits(((code & 0x7f) as u32) << 20) * FP8_SHIFT;
    f32::from_bits(size.to_bits() | ((code & 0x80) as u32) << 24)
}
