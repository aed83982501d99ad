//! The types of a cache as the products in f32 read them: two rows of 16 lanes at a time.
//! Every `unsafe` here has the contract of [`Lanes`] and takes rows that exist.
use super::super::buffer::prefetch;
use super::super::kv::GROUP;
use super::super::lanes::Lanes;

/// A type of keys and values.
pub(in crate::cpu) trait Element {
    /// Bytes an element.
    const BYTES: usize;
    /// Whether reading it takes more than a load; values lie in strips of 16 dimensions then.
    const WIDENED: bool = true;
    /// Whether the queries and probabilities that meet it are rounded to bf16.
    const ROUNDED: bool = true;
    /// Whether keys and values have scales.
    const SCALED: bool = false;
    /// The rows of 16 elements at element `first`, and at `first + step`.
    unsafe fn rows<L: Lanes>(at: Ahead, first: usize, step: usize) -> (L, L);
}

/// Keys or values, and how far on what is read after them lies: it is asked for while they are read, for the machine
/// itself asks for nothing beyond a page of memory.
#[derive(Clone, Copy)]
pub(in crate::cpu) struct Ahead {
    pub at: *const u8,
    pub by: isize,
}

impl Ahead {
    /// What lies in the caches.
    pub fn none(at: *const u8) -> Self {
        Ahead { at, by: 0 }
    }

    #[inline(always)]
    pub fn add(self, bytes: usize) -> Self {
        let at = self.at.wrapping_add(bytes);
        Ahead { at, ..self }
    }

    /// Where element `i` lies; asks for what is read after it.
    #[inline(always)]
    fn place<T>(self, i: usize) -> *const T {
        let at = self.at.cast::<T>().wrapping_add(i);
        prefetch::<2>(at.cast::<u8>().wrapping_offset(self.by));
        at
    }
}

/// Of an F32 cache, or widened.
pub(in crate::cpu) struct F32;
/// Of an F16 cache.
pub(in crate::cpu) struct F16;
/// Of a Bf16 cache: pairs of rows, element by element.
pub(in crate::cpu) struct Bf16;
/// Of an Int8 cache.
pub(in crate::cpu) struct Int8;
/// Of an Fp8 cache.
pub(in crate::cpu) struct Fp8;

impl Element for F32 {
    const BYTES: usize = 4;
    const WIDENED: bool = false;
    const ROUNDED: bool = false;
    #[inline(always)]
    unsafe fn rows<L: Lanes>(at: Ahead, first: usize, step: usize) -> (L, L) {
        // SAFETY: the module's.
        unsafe { (L::load(at.place(first)), L::load(at.place(first + step))) }
    }
}

impl Element for F16 {
    const BYTES: usize = 2;
    const ROUNDED: bool = false;
    #[inline(always)]
    unsafe fn rows<L: Lanes>(at: Ahead, first: usize, step: usize) -> (L, L) {
        let from = at.place::<u16>(first);
        // SAFETY: the module's.
        unsafe { (L::load_f16(from), L::load_f16(from.add(step))) }
    }
}

impl Element for Bf16 {
    const BYTES: usize = 2;
    #[inline(always)]
    unsafe fn rows<L: Lanes>(at: Ahead, first: usize, step: usize) -> (L, L) {
        debug_assert!(step == GROUP && first.is_multiple_of(2 * GROUP));
        // SAFETY: the module's.
        unsafe { L::load_bf16_pairs(at.place(first)) }
    }
}

impl Element for Int8 {
    const BYTES: usize = 1;
    const SCALED: bool = true;
    #[inline(always)]
    unsafe fn rows<L: Lanes>(at: Ahead, first: usize, step: usize) -> (L, L) {
        let from = at.place::<u8>(first);
        // SAFETY: the module's.
        unsafe { (L::load_i8(from), L::load_i8(from.add(step))) }
    }
}

impl Element for Fp8 {
    const BYTES: usize = 1;
    const SCALED: bool = true;
    #[inline(always)]
    unsafe fn rows<L: Lanes>(at: Ahead, first: usize, step: usize) -> (L, L) {
        let from = at.place::<u8>(first);
        // SAFETY: the module's.
        unsafe { (L::load_e4m3(from), L::load_e4m3(from.add(step))) }
    }
}
