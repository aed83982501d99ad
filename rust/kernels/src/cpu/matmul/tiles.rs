//! Products of tiles: AMX-INT8 where the machine has it, and the same in plain Rust, on which the loops and remainders
//! of `amx` are tested everywhere. Knows no weight format.
use super::super::input::TILE;
use super::super::pack::layout::{BLOCK, LANES};

/// i32 products of a tile: 16 rows of activations by 16 output rows.
pub(super) type Dots = [[i32; LANES]; TILE];

/// Multiplies tiles of `height` x `width` i8 activations (rows 32 bytes apart) with `width / 4` x 16 x 4 i8 weights.
pub(super) trait Tiles {
    /// For tiles of 16 rows and a last one of `rest` rows (1 ..= 16), `width` 16 or 32.
    unsafe fn new(rest: usize, width: usize) -> Self;
    /// Writes the products of one tile, the last one where `rest`, to `to`.
    unsafe fn dot(&self, rest: bool, a: *const i8, w: *const u8, to: *mut Dots);
}

/// The processor's tile unit.
#[cfg(target_arch = "x86_64")]
pub(super) struct Amx;

/// What `ldtilecfg` reads: palette 1, then bytes a row and rows of each tile register.
#[repr(C, align(64))]
#[cfg(target_arch = "x86_64")]
pub(super) struct Config {
    palette: u8,
    start: u8,
    reserved: [u8; 14],
    bytes: [u16; 16],
    rows: [u8; 16],
}

#[cfg(target_arch = "x86_64")]
impl Config {
    /// Shapes of tmm0 to tmm7: (rows, bytes a row).
    pub fn new(shapes: [(usize, usize); 8]) -> Config {
        let mut config = Config {
            palette: 1,
            start: 0,
            reserved: [0; 14],
            bytes: [0; 16],
            rows: [0; 16],
        };
        for (i, (rows, bytes)) in shapes.into_iter().enumerate() {
            config.rows[i] = rows as u8;
            config.bytes[i] = bytes as u16;
        }
        config
    }

    /// Makes this the calling thread's configuration.
    ///
    /// # Safety
    /// The machine has AMX and the operating system allows it.
    pub unsafe fn load(&self) {
        // SAFETY: reads the 64 bytes of `self`; the tile registers belong to nobody else.
        unsafe {
            std::arch::asm!("ldtilecfg [{}]", in(reg) self, options(nostack, readonly),
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _);
        }
    }
}

/// Gives the tile registers back, so that switching threads stays cheap.
///
/// # Safety
/// The machine has AMX.
#[cfg(target_arch = "x86_64")]
pub(super) unsafe fn release() {
    // SAFETY: no tile register is in use between kernels.
    unsafe {
        std::arch::asm!("tilerelease", options(nostack, nomem),
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _);
    }
}

#[cfg(target_arch = "x86_64")]
impl Tiles for Amx {
    #[inline(always)]
    unsafe fn new(rest: usize, width: usize) -> Self {
        let (full, last) = ((TILE, 64), (rest, 64));
        let (a, b, tail) = ((TILE, width), (width / 4, 64), (rest, width));
        // SAFETY: the caller has checked for AMX.
        unsafe { Config::new([full, a, b, full, last, tail, b, last]).load() };
        Amx
    }

    #[inline(always)]
    unsafe fn dot(&self, rest: bool, a: *const i8, w: *const u8, to: *mut Dots) {
        macro_rules! product {
            ($c:tt, $a:tt, $b:tt) => {
                std::arch::asm!(
                    concat!("tilezero ", $c),
                    concat!("tileloadd ", $a, ", [{a} + {by32}]"),
                    concat!("tileloadd ", $b, ", [{w} + {by64}]"),
                    concat!("tdpbssd ", $c, ", ", $a, ", ", $b),
                    concat!("tilestored [{to} + {by64}], ", $c),
                    a = in(reg) a,
                    w = in(reg) w,
                    to = in(reg) to,
                    by32 = in(reg) BLOCK,
                    by64 = in(reg) 64usize,
                    out($c) _, out($a) _, out($b) _,
                    options(nostack)
                )
            };
        }
        // SAFETY: `new` configured the registers; the tiles lie where the caller says.
        unsafe {
            if rest {
                product!("tmm4", "tmm5", "tmm6")
            } else {
                product!("tmm0", "tmm1", "tmm2")
            }
        }
    }
}

/// Plain Rust.
#[cfg(test)]
pub(super) struct Emulated {
    rest: usize,
    width: usize,
}

#[cfg(test)]
impl Tiles for Emulated {
    unsafe fn new(rest: usize, width: usize) -> Self {
        Emulated { rest, width }
    }

    unsafe fn dot(&self, rest: bool, a: *const i8, w: *const u8, to: *mut Dots) {
        let height = if rest { self.rest } else { TILE };
        for r in 0..height {
            for lane in 0..LANES {
                let mut sum = 0;
                for k in 0..self.width {
                    // SAFETY: the tiles lie where the caller says.
                    let (a, w) = unsafe {
                        (
                            *a.add(r * BLOCK + k),
                            *w.add(k / 4 * 64 + lane * 4 + k % 4) as i8,
                        )
                    };
                    sum += i32::from(a) * i32::from(w);
                }
                // SAFETY: `to` is a whole tile.
                unsafe { (*to)[r][lane] = sum };
            }
        }
    }
}
