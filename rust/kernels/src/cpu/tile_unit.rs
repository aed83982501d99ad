//! Matrix tiles: eight registers of 16 rows of 64 bytes, loaded, multiplied and stored. AMX by `asm!` (its intrinsics
//! are not stable), and an emulation with the same bits, so that the code around them is tested on every machine.
//! Knows no layout and no kernel.
#![allow(clippy::missing_safety_doc)]

/// Rows of a tile.
pub(crate) const ROWS: usize = 16;
/// Bytes of a row.
#[cfg(test)]
pub(crate) const ROW_BYTES: usize = 64;

/// Eight tile registers, numbered by the const parameters. In products C is 16x16 values of 32 bits, A has 16 rows of
/// K, B has K in steps of 4 bytes by 16 columns: row i holds, for each column, the 4 bytes that belong to step i.
///
/// Pointers must be valid for 16 rows of 64 bytes, `stride` bytes apart.
pub(crate) trait Tiles {
    /// Configures the registers of this thread; they are given back when the value is dropped.
    unsafe fn begin() -> Self;
    /// T = 0
    unsafe fn zero<const T: usize>(&mut self);
    /// T = memory
    unsafe fn load<const T: usize>(&mut self, from: *const u8, stride: usize);
    /// memory = T
    unsafe fn store<const T: usize>(&self, to: *mut u8, stride: usize);
    /// C += A (bf16) x B (bf16), sums in f32: even and odd steps of K are added up apart, fused, then to each other,
    /// then to C; subnormal numbers count as 0.
    unsafe fn dot_bf16<const C: usize, const A: usize, const B: usize>(&mut self);
    /// C += A (i8) x B (i8), in i32.
    unsafe fn dot_i8<const C: usize, const A: usize, const B: usize>(&mut self);
    /// C += A (i8) x B (u8), in i32.
    unsafe fn dot_i8_u8<const C: usize, const A: usize, const B: usize>(&mut self);
}

#[cfg(target_arch = "x86_64")]
pub(crate) use amx::Amx;

#[cfg(target_arch = "x86_64")]
// SAFETY (all blocks): the machine has AMX and the system allows it, as `begin` demands; pointers are the caller's.
#[allow(clippy::undocumented_unsafe_blocks)]
mod amx {
    use super::Tiles;
    use std::arch::asm;

    /// Palette 1, all eight tiles of 16 rows of 64 bytes.
    #[repr(C, align(64))]
    struct Config {
        palette: u8,
        start_row: u8,
        reserved: [u8; 14],
        row_bytes: [u16; 16],
        rows: [u8; 16],
    }

    static CONFIG: Config = Config {
        palette: 1,
        start_row: 0,
        reserved: [0; 14],
        row_bytes: [64, 64, 64, 64, 64, 64, 64, 64, 0, 0, 0, 0, 0, 0, 0, 0],
        rows: [16, 16, 16, 16, 16, 16, 16, 16, 0, 0, 0, 0, 0, 0, 0, 0],
    };

    /// One instruction that changes tile registers or their configuration, with operands and options.
    macro_rules! tile {
        ($text:literal, [$($name:ident = $number:expr),*], [$($address:ident = $from:expr),*], $option:ident) => { unsafe {
            asm!($text, $($name = const $number,)* $($address = in(reg) $from,)*
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(nostack, preserves_flags, $option))
        } };
    }

    /// The registers of this thread, which hold values from one `asm!` block to the next.
    ///
    /// To the compiler a block leaves them undefined, and the System V ABI lets every function change them and their
    /// configuration. They keep their values nevertheless: `rustc` gives them to no value and emits tile instructions in
    /// no function, as none enables AMX; the blocks are volatile (not `pure`), so their order is as written; nothing that
    /// stands between `begin` and the drop is foreign code but memory functions of the C library, none of which uses
    /// tiles; and the kernel saves them where it interrupts a thread.
    pub(crate) struct Amx(std::marker::PhantomData<*const ()>);

    impl Amx {
        /// The registers as `begin` has left them, for a value that was forgotten.
        ///
        /// # Safety
        /// `begin` was called on this thread, and its value not dropped.
        pub(crate) unsafe fn resume() -> Self {
            Amx(std::marker::PhantomData)
        }
    }

    impl Tiles for Amx {
        #[inline(always)]
        unsafe fn begin() -> Self {
            tile!("ldtilecfg [{from}]", [], [from = &CONFIG], readonly);
            Amx(std::marker::PhantomData)
        }
        #[inline(always)]
        unsafe fn zero<const T: usize>(&mut self) {
            tile!("tilezero tmm{t}", [t = T], [], nomem);
        }
        #[inline(always)]
        unsafe fn load<const T: usize>(&mut self, from: *const u8, stride: usize) {
            tile!(
                "tileloadd tmm{t}, [{p} + {s}*1]",
                [t = T],
                [p = from, s = stride],
                readonly
            );
        }
        #[inline(always)]
        unsafe fn store<const T: usize>(&self, to: *mut u8, stride: usize) {
            unsafe {
                asm!("tilestored [{p} + {s}*1], tmm{t}", t = const T, p = in(reg) to, s = in(reg) stride,
                    options(nostack, preserves_flags));
            }
        }
        #[inline(always)]
        unsafe fn dot_bf16<const C: usize, const A: usize, const B: usize>(&mut self) {
            tile!(
                "tdpbf16ps tmm{c}, tmm{a}, tmm{b}",
                [c = C, a = A, b = B],
                [],
                nomem
            );
        }
        #[inline(always)]
        unsafe fn dot_i8_u8<const C: usize, const A: usize, const B: usize>(&mut self) {
            tile!(
                "tdpbsud tmm{c}, tmm{a}, tmm{b}",
                [c = C, a = A, b = B],
                [],
                nomem
            );
        }
        #[inline(always)]
        unsafe fn dot_i8<const C: usize, const A: usize, const B: usize>(&mut self) {
            tile!(
                "tdpbssd tmm{c}, tmm{a}, tmm{b}",
                [c = C, a = A, b = B],
                [],
                nomem
            );
        }
    }

    impl Drop for Amx {
        #[inline(always)]
        fn drop(&mut self) {
            tile!("tilerelease", [], [], nomem);
        }
    }
}

/// The same in plain Rust.
#[cfg(test)]
pub(crate) struct Emulated([[u8; ROWS * ROW_BYTES]; 8]);

#[cfg(test)]
impl Emulated {
    fn word(&self, tile: usize, row: usize, column: usize) -> [u8; 4] {
        let at = row * ROW_BYTES + column * 4;
        std::array::from_fn(|i| self.0[tile][at + i])
    }

    fn integers<const C: usize>(&mut self, a: usize, b: usize, wide: impl Fn(u8) -> i32) {
        self.each::<C>(|t, row, column, old| {
            let mut sum = i32::from_le_bytes(old);
            for k in 0..16 {
                let (a, b) = (t.word(a, row, k), t.word(b, k, column));
                for i in 0..4 {
                    sum = sum.wrapping_add(i32::from(a[i] as i8) * wide(b[i]));
                }
            }
            sum.to_le_bytes()
        });
    }

    fn each<const C: usize>(&mut self, f: impl Fn(&Self, usize, usize, [u8; 4]) -> [u8; 4]) {
        for row in 0..ROWS {
            for column in 0..16 {
                let new = f(self, row, column, self.word(C, row, column));
                let at = row * ROW_BYTES + column * 4;
                self.0[C][at..at + 4].copy_from_slice(&new);
            }
        }
    }
}

#[cfg(test)]
// SAFETY (all blocks): the caller's pointers are valid, as the trait demands.
#[allow(clippy::undocumented_unsafe_blocks)]
impl Tiles for Emulated {
    unsafe fn begin() -> Self {
        Emulated([[0; ROWS * ROW_BYTES]; 8])
    }
    unsafe fn zero<const T: usize>(&mut self) {
        self.0[T].fill(0);
    }
    unsafe fn load<const T: usize>(&mut self, from: *const u8, stride: usize) {
        for (row, to) in self.0[T].chunks_exact_mut(ROW_BYTES).enumerate() {
            unsafe {
                to.as_mut_ptr()
                    .copy_from_nonoverlapping(from.add(row * stride), ROW_BYTES)
            };
        }
    }
    unsafe fn store<const T: usize>(&self, to: *mut u8, stride: usize) {
        for (row, from) in self.0[T].chunks_exact(ROW_BYTES).enumerate() {
            unsafe {
                to.add(row * stride)
                    .copy_from_nonoverlapping(from.as_ptr(), ROW_BYTES)
            };
        }
    }
    unsafe fn dot_bf16<const C: usize, const A: usize, const B: usize>(&mut self) {
        let flush = |v: f32| if v.is_subnormal() { 0.0 * v } else { v };
        let wide = |b: [u8; 4], i: usize| {
            flush(f32::from_bits(
                u32::from(u16::from_le_bytes([b[2 * i], b[2 * i + 1]])) << 16,
            ))
        };
        self.each::<C>(|t, row, column, old| {
            let mut sums = [0f32; 2];
            for k in 0..16 {
                let (a, b) = (t.word(A, row, k), t.word(B, k, column));
                for (i, sum) in sums.iter_mut().enumerate() {
                    *sum = flush(wide(a, i).mul_add(wide(b, i), *sum));
                }
            }
            flush(flush(f32::from_le_bytes(old)) + flush(sums[0] + sums[1])).to_le_bytes()
        });
    }
    unsafe fn dot_i8<const C: usize, const A: usize, const B: usize>(&mut self) {
        self.integers::<C>(A, B, |b| i32::from(b as i8));
    }
    unsafe fn dot_i8_u8<const C: usize, const A: usize, const B: usize>(&mut self) {
        self.integers::<C>(A, B, i32::from);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::{Cpu, Isa};

    /// Runs one product of each kind over pseudo-random bytes; bf16 operands are made of small numbers.
    unsafe fn products<T: Tiles>(seed: u32) -> Vec<[u8; 1024]> {
        let mut state = seed;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            state >> 8
        };
        let mut bf16 = || -> [u8; 1024] {
            let mut bytes = [0; 1024];
            for pair in bytes.chunks_exact_mut(2) {
                let v = (next() % 20_001) as f32 / 10_000.0 - 1.0;
                pair.copy_from_slice(&half::bf16::from_f32(v).to_le_bytes());
            }
            bytes
        };
        let (a, b) = (bf16(), bf16());
        let mut c = [0u8; 1024];
        let mut out = Vec::new();
        // SAFETY: arrays of 16 rows of 64 bytes.
        unsafe {
            let mut t = T::begin();
            t.zero::<2>();
            t.load::<0>(a.as_ptr(), 64);
            t.load::<7>(b.as_ptr(), 64);
            for _ in 0..3 {
                t.dot_bf16::<2, 0, 7>();
            }
            t.store::<2>(c.as_mut_ptr(), 64);
            out.push(c);
            t.dot_i8::<2, 0, 7>();
            t.store::<2>(c.as_mut_ptr(), 64);
            out.push(c);
            t.dot_i8_u8::<2, 0, 7>();
            t.store::<2>(c.as_mut_ptr(), 64);
            out.push(c);
        }
        out
    }

    #[test]
    fn the_emulation_has_the_bits_of_the_machine() {
        if !Cpu::available().iter().any(|c| c.isa() == Isa::Amx) {
            return;
        }
        #[cfg(target_arch = "x86_64")]
        for seed in 0..50 {
            // SAFETY: the machine has AMX.
            unsafe {
                assert!(
                    products::<Amx>(seed) == products::<Emulated>(seed),
                    "seed {seed}"
                )
            };
        }
    }

    #[test]
    fn the_emulation_multiplies() {
        // SAFETY: plain Rust.
        let out = unsafe { products::<Emulated>(1) };
        assert!(out[0].iter().any(|&b| b != 0) && out[0] != out[1] && out[1] != out[2]);
    }
}
