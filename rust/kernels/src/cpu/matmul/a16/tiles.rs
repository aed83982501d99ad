//! Many rows in fixed point on the tile unit: a panel becomes two bytes a weight in the order that tiles want, and four
//! products of bytes are added over the whole of K without leaving the unit. Same bits as the oracle.
mod sums;
#[cfg(target_arch = "x86_64")]
mod unpack;

use super::super::super::buffer::Buffer;
use super::super::super::input::A16Tile;
use super::super::super::tile_unit::Tiles;
use super::super::Work;
use super::super::sink::Sink;
use std::cell::RefCell;
use std::ops::Range;
pub(super) use sums::{Join, Waiting};
#[cfg(target_arch = "x86_64")]
pub(in super::super) use unpack::amx;

/// Bytes of a tile.
const TILE_BYTES: usize = 1024;
/// Bytes of 64 weights of 16 output rows: high bytes, then low bytes.
const CHUNK_BYTES: usize = 2 * TILE_BYTES;
/// Chunks from which two tiles of activations share the loads of weights: below, more loads from near cost more than
/// fewer from afar save.
const PAIRS_FROM: usize = 16;
/// Bytes of activations that stay near while every panel meets all of them.
const NEAR_BYTES: usize = 1 << 20;
/// Rows that are handed over beside the products of a chunk.
const ROWS_A_CHUNK: usize = 4;

thread_local! {
    /// Unpacked weights `[chunk][high, low][16][16][4]`; one for each thread, kept from call to call.
    static CHUNKS: RefCell<Buffer> = RefCell::new(Buffer::default());
}

/// Turns packed panels into tiles.
pub(super) trait Unpack {
    /// Weights 64 `chunk` .. 64 `chunk` + 63 of panel `p`, `CHUNK_BYTES`, a multiple of 64 bytes from 0.
    unsafe fn chunk(&self, work: &Work<'_>, p: usize, chunk: usize, to: *mut u8);
}

/// Unpacked chunks, one after the other, the first after the last.
#[derive(Clone, Copy)]
pub(super) struct Ring {
    at: *mut u8,
    chunks: usize,
}

impl Ring {
    /// Calls `f` with this thread's ring, large enough for `work`: what a group of panels unpacks to and a chunk more,
    /// which a single tile of activations, that meets no chunk twice, reads soon after.
    pub(super) fn with(work: &Work<'_>, f: impl FnOnce(Ring)) {
        let chunks = match work.tiles.len() {
            0 | 1 => 3,
            _ => group(work) * work.input.chunks() + 1,
        };
        CHUNKS.with_borrow_mut(|buffer| {
            buffer.reserve(chunks * CHUNK_BYTES);
            f(Ring {
                at: buffer.as_mut_ptr(),
                chunks,
            });
        });
    }

    fn place(self, i: usize) -> *mut u8 {
        self.at.wrapping_add(i * CHUNK_BYTES)
    }

    fn after(self, i: usize, steps: usize) -> usize {
        let i = i + steps;
        if i >= self.chunks { i - self.chunks } else { i }
    }
}

/// Panels that are unpacked before activations beyond the first tile meet them. Where all activations stay near, a
/// panel meets them while it is still nearer; otherwise a tile of activations meets many panels.
fn group(work: &Work<'_>) -> usize {
    let chunks = work.input.chunks();
    let near = chunks < PAIRS_FROM && work.tiles.len() * chunks * CHUNK_BYTES <= NEAR_BYTES;
    if near { 1 } else { work.panels.len().max(1) }
}

/// # Safety
/// As [`super::super::run`], where the machine has what `T`, `L` and `U` need; `ring` is from [`Ring::with`].
#[inline(always)]
pub(super) unsafe fn panels<T: Tiles, L: Join, U: Unpack>(
    unpack: &U,
    ring: Ring,
    work: &Work<'_>,
    sink: &Sink<'_>,
) {
    let Range { start, end } = work.panels;
    let (chunks, step) = (work.input.chunks(), group(work));
    let mut waiting = Waiting::new(work, sink);
    let first = work.input.a16_tile(work.tiles.start);
    // SAFETY: panels and tiles exist; the ring has room for what a group unpacks to.
    unsafe {
        let mut tiles = T::begin();
        let mut at = 0;
        unpack.chunk(work, start, 0, ring.place(at));
        for group in (start..end).step_by(step) {
            let group = group..(group + step).min(end);
            let base = at;
            for p in group.clone() {
                sink.prefetch(p, first.row, first.rows);
                zero(&mut tiles);
                for chunk in 0..chunks {
                    // The unit multiplies a chunk while vectors unpack the next.
                    let next = ring.after(at, 1);
                    let (q, c) = if chunk + 1 < chunks {
                        (p, chunk + 1)
                    } else {
                        (p + 1, 0)
                    };
                    if q < end {
                        unpack.chunk(work, q, c, ring.place(next));
                    }
                    multiply(&mut tiles, &first, ring.place(at), chunk);
                    at = next;
                }
                waiting.take(&tiles, p, &first);
                waiting.hand_over::<L>(first.rows);
            }
            beyond_first::<T, L>(&mut tiles, &mut waiting, work, sink, group, (ring, base));
            waiting.finish::<L>();
        }
    }
}

/// All tiles of activations but the first against a group of panels, whose chunks begin at place `base` of the ring.
#[inline(always)]
unsafe fn beyond_first<T: Tiles, L: Join>(
    tiles: &mut T,
    waiting: &mut Waiting<'_>,
    work: &Work<'_>,
    sink: &Sink<'_>,
    group: Range<usize>,
    (ring, base): (Ring, usize),
) {
    let input = work.input;
    let chunks = input.chunks();
    let mut t = work.tiles.start + 1;
    while t < work.tiles.end {
        let tile = input.a16_tile(t);
        let next = (chunks >= PAIRS_FROM && t + 1 < work.tiles.end).then(|| input.a16_tile(t + 1));
        for (i, p) in group.clone().enumerate() {
            let mut at = ring.after(base, i * chunks);
            let rows = tile.rows + next.as_ref().map_or(0, |next| next.rows);
            // SAFETY: the chunks of the group's panels lie there.
            unsafe {
                zero(tiles);
                for chunk in 0..chunks {
                    match &next {
                        Some(next) => multiply_both(tiles, [&tile, next], ring.place(at), chunk),
                        None => multiply(tiles, &tile, ring.place(at), chunk),
                    }
                    let from = (chunk * ROWS_A_CHUNK).min(rows);
                    sink.prefetch(p, tile.row + from, ROWS_A_CHUNK.min(rows - from));
                    waiting.hand_over::<L>(ROWS_A_CHUNK);
                    at = ring.after(at, 1);
                }
                waiting.finish::<L>();
                waiting.take(tiles, p, &tile);
                if let Some(next) = &next {
                    waiting.take_second(tiles, next);
                }
            }
        }
        t += 1 + usize::from(next.is_some());
    }
}

/// Tile registers: 0 to 2 high x high, both middle products, low x low (activations x weights); 3 to 5 those of a second
/// tile of activations, 6 and 7 operands. A single tile's operands take 4 to 7.
#[inline(always)]
unsafe fn zero<T: Tiles>(tiles: &mut T) {
    // SAFETY: registers only.
    unsafe {
        tiles.zero::<0>();
        tiles.zero::<1>();
        tiles.zero::<2>();
        tiles.zero::<3>();
        tiles.zero::<4>();
        tiles.zero::<5>();
    }
}

#[inline(always)]
unsafe fn multiply<T: Tiles>(tiles: &mut T, tile: &A16Tile, w: *const u8, chunk: usize) {
    // SAFETY: the chunk lies within the tile; the input's buffer reaches 16 rows beyond its last.
    unsafe {
        let a = tile.part(0, 2 * chunk, 0).cast::<u8>();
        tiles.load::<6>(w, 64);
        tiles.load::<4>(a, 64);
        tiles.dot_i8::<0, 4, 6>();
        tiles.load::<7>(w.add(TILE_BYTES), 64);
        tiles.dot_i8_u8::<1, 4, 7>();
        tiles.load::<5>(a.add(tile.rows * 64), 64);
        tiles.dot_i8_u8::<2, 5, 7>();
        tiles.dot_i8::<1, 5, 6>();
    }
}

/// Two tiles of activations: each weight is loaded once.
#[inline(always)]
unsafe fn multiply_both<T: Tiles>(
    tiles: &mut T,
    [first, second]: [&A16Tile; 2],
    w: *const u8,
    chunk: usize,
) {
    // SAFETY: as of `multiply`.
    unsafe {
        let a = first.part(0, 2 * chunk, 0).cast::<u8>();
        let b = second.part(0, 2 * chunk, 0).cast::<u8>();
        let (a_low, b_low) = (a.add(first.rows * 64), b.add(second.rows * 64));
        tiles.load::<7>(w, 64);
        tiles.load::<6>(b, 64);
        tiles.dot_i8::<3, 6, 7>();
        tiles.load::<6>(b_low, 64);
        tiles.dot_i8::<4, 6, 7>();
        tiles.load::<6>(a, 64);
        tiles.dot_i8::<0, 6, 7>();
        tiles.load::<6>(a_low, 64);
        tiles.dot_i8::<1, 6, 7>();
        tiles.load::<7>(w.add(TILE_BYTES), 64);
        tiles.dot_i8_u8::<2, 6, 7>();
        tiles.load::<6>(b_low, 64);
        tiles.dot_i8_u8::<5, 6, 7>();
        tiles.load::<6>(b, 64);
        tiles.dot_i8_u8::<4, 6, 7>();
        tiles.load::<6>(a, 64);
        tiles.dot_i8_u8::<1, 6, 7>();
    }
}
