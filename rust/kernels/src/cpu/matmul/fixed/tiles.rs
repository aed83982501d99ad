//! Many rows in fixed point on the tile unit: a panel becomes two bytes a weight in the order that tiles want, and four
//! products of bytes are added over the whole of K without leaving the unit. Same bits as the oracle.
use super::super::super::buffer::Buffer;
use super::super::super::input::FixedTile;
use super::super::super::lanes::Lanes;
#[cfg(target_arch = "x86_64")]
use super::super::super::lanes::Zmm;
use super::super::super::pack::layout::LANES;
use super::super::super::tile::{ROWS, Tiles};
use super::super::Work;
use super::super::sink::Sink;
use std::cell::RefCell;
use std::mem::MaybeUninit;

/// Bytes of a tile.
const TILE_BYTES: usize = 1024;
/// Bytes of 64 weights of 16 output rows: high bytes, then low bytes.
const CHUNK_BYTES: usize = 2 * TILE_BYTES;
/// Chunks from which two tiles of activations share the loads of weights: below, more loads from near cost more than
/// fewer from afar save.
const PAIRS_FROM: usize = 16;

thread_local! {
    /// The weights of a task's panels `[panel][chunk][high, low][16][16][4]`; one for each thread, kept from call to call.
    static PANEL: RefCell<Buffer> = RefCell::new(Buffer::default());
}

/// Turns packed panels into tiles.
pub(super) trait Unpack {
    /// Weights 64 `chunk` .. 64 `chunk` + 63 of panel `p`, `CHUNK_BYTES`, a multiple of 64 bytes from 0.
    unsafe fn chunk(&self, work: &Work<'_>, p: usize, chunk: usize, to: *mut u8);
}

/// Vectors that can put sums of byte products together.
pub(super) trait Join: Lanes {
    /// 2^16 a + 2^8 b + d, rounded as the oracle does it; b is the sum of `MIDDLES` (1 or 2). Each has 16 integers, 256
    /// apart from `from` on, in this order.
    ///
    /// # Safety
    /// As of [`Lanes`].
    unsafe fn join<const MIDDLES: usize>(from: *const i32) -> Self;
}

#[cfg(target_arch = "x86_64")]
impl Join for Zmm {
    #[inline(always)]
    unsafe fn join<const MIDDLES: usize>(from: *const i32) -> Self {
        use std::arch::x86_64::*;
        // SAFETY: inlined into a function with AVX-512; the integers are there.
        unsafe {
            let at = |i: usize| from.wrapping_add(256 * i).cast::<__m512i>();
            let (a, d) = (at(0).read(), at(MIDDLES + 1).read());
            // Carries go up: d and then the middle keep 8 bits each.
            let mut middle = at(1).read();
            if MIDDLES == 2 {
                middle = _mm512_add_epi32(middle, at(2).read());
            }
            let middle = _mm512_add_epi32(middle, _mm512_srai_epi32::<8>(d));
            let high = _mm512_add_epi32(a, _mm512_srai_epi32::<8>(middle));
            let byte = _mm512_set1_epi32(255);
            let low = _mm512_ternarylogic_epi32::<0xf8>(
                _mm512_slli_epi32::<8>(_mm512_and_si512(middle, byte)),
                d,
                byte,
            );
            let unit = _mm512_set1_ps(65536.0);
            Zmm(_mm512_fmadd_ps(
                _mm512_cvtepi32_ps(high),
                unit,
                _mm512_cvtepi32_ps(low),
            ))
        }
    }
}

/// Calls `f` with this thread's panels, made large enough for `chunks` chunks.
pub(super) fn with_panel(chunks: usize, f: impl FnOnce(*mut u8)) {
    PANEL.with_borrow_mut(|panel| {
        panel.reserve(chunks * CHUNK_BYTES);
        f(panel.as_mut_ptr());
    });
}

/// # Safety
/// As [`super::super::run`], where the machine has what `T`, `L` and `U` need; `panel` is from [`with_panel`].
#[inline(always)]
pub(super) unsafe fn panels<T: Tiles, L: Join, U: Unpack>(
    unpack: &U,
    panel: *mut u8,
    work: &Work<'_>,
    sink: &Sink<'_>,
) {
    let (chunks, input) = (work.input.chunks(), work.input);
    let whole = chunks * CHUNK_BYTES;
    // SAFETY: panels and tiles exist; the buffer has room for every chunk.
    unsafe {
        let mut tiles = T::begin();
        let first = input.fixed_tile(0);
        for (i, p) in work.panels.clone().enumerate() {
            // A single tile meets no panel twice: one place for all of them stays near.
            let panel = panel.add(if input.tiles() > 1 { i * whole } else { 0 });
            // The unit multiplies what was unpacked while vectors unpack what comes next.
            start(&mut tiles, &first, p, sink);
            for chunk in 0..chunks {
                unpack.chunk(work, p, chunk, panel.add(chunk * CHUNK_BYTES));
                if chunk > 0 {
                    multiply(&mut tiles, &first, panel, chunk - 1);
                }
            }
            multiply(&mut tiles, &first, panel, chunks - 1);
            finish::<T, L>(&tiles, work, &first, p, sink);
        }
        // A tile of activations stays near while all panels meet it; so do two, of which each takes half the weights' loads.
        let mut t = 1;
        while t < input.tiles() {
            let tile = input.fixed_tile(t);
            let next =
                (chunks >= PAIRS_FROM && t + 1 < input.tiles()).then(|| input.fixed_tile(t + 1));
            for (i, p) in work.panels.clone().enumerate() {
                let panel = panel.add(i * whole);
                match &next {
                    Some(next) => pair::<T, L>(&mut tiles, work, [&tile, next], panel, p, sink),
                    None => {
                        start(&mut tiles, &tile, p, sink);
                        for chunk in 0..chunks {
                            multiply(&mut tiles, &tile, panel, chunk);
                        }
                        finish::<T, L>(&tiles, work, &tile, p, sink);
                    }
                }
            }
            t += 1 + usize::from(next.is_some());
        }
    }
}

/// Two tiles of activations against a panel. Tile registers: 0 to 2 and 3 to 5 high x high, both middle products, low x
/// low of each; 6 activations, 7 weights, of which each is loaded once.
#[inline(always)]
unsafe fn pair<T: Tiles, L: Join>(
    tiles: &mut T,
    work: &Work<'_>,
    [first, second]: [&FixedTile; 2],
    panel: *const u8,
    p: usize,
    sink: &Sink<'_>,
) {
    sink.prefetch(p, first.row, first.rows + second.rows);
    // SAFETY: as of `multiply` and `finish`.
    unsafe {
        tiles.zero::<0>();
        tiles.zero::<1>();
        tiles.zero::<2>();
        tiles.zero::<3>();
        tiles.zero::<4>();
        tiles.zero::<5>();
        for chunk in 0..work.input.chunks() {
            let a = first.part(0, 2 * chunk, 0).cast::<u8>();
            let b = second.part(0, 2 * chunk, 0).cast::<u8>();
            let (a_low, b_low) = (a.add(first.rows * 64), b.add(second.rows * 64));
            let w = panel.add(chunk * CHUNK_BYTES);
            tiles.load::<7>(w, 64);
            tiles.load::<6>(a, 64);
            tiles.dot_i8::<0, 6, 7>();
            tiles.load::<6>(a_low, 64);
            tiles.dot_i8::<1, 6, 7>();
            tiles.load::<6>(b, 64);
            tiles.dot_i8::<3, 6, 7>();
            tiles.load::<6>(b_low, 64);
            tiles.dot_i8::<4, 6, 7>();
            tiles.load::<7>(w.add(TILE_BYTES), 64);
            tiles.dot_i8_u8::<5, 6, 7>();
            tiles.load::<6>(b, 64);
            tiles.dot_i8_u8::<4, 6, 7>();
            tiles.load::<6>(a, 64);
            tiles.dot_i8_u8::<1, 6, 7>();
            tiles.load::<6>(a_low, 64);
            tiles.dot_i8_u8::<2, 6, 7>();
        }
        let mut sums = MaybeUninit::<Sums>::uninit();
        let at = sums.as_mut_ptr().cast::<i32>();
        tiles.store::<0>(at.cast(), 64);
        tiles.store::<1>(at.add(256).cast(), 64);
        tiles.store::<2>(at.add(512).cast(), 64);
        hand_over::<L, 1>(at, work, first, p, sink);
        tiles.store::<3>(at.cast(), 64);
        tiles.store::<4>(at.add(256).cast(), 64);
        tiles.store::<5>(at.add(512).cast(), 64);
        hand_over::<L, 1>(at, work, second, p, sink);
    }
}

/// Tile registers: 0 high x high, 1 high x low, 2 low x high, 3 low x low (activations x weights); 4 and 5 activations,
/// 6 and 7 weights.
#[inline(always)]
unsafe fn start<T: Tiles>(tiles: &mut T, tile: &FixedTile, p: usize, sink: &Sink<'_>) {
    sink.prefetch(p, tile.row, tile.rows);
    // SAFETY: registers only.
    unsafe {
        tiles.zero::<0>();
        tiles.zero::<1>();
        tiles.zero::<2>();
        tiles.zero::<3>();
    }
}

#[inline(always)]
unsafe fn multiply<T: Tiles>(tiles: &mut T, tile: &FixedTile, panel: *const u8, chunk: usize) {
    // SAFETY: the chunk lies within tile and panel; the input's buffer reaches 16 rows beyond its last.
    unsafe {
        let a = tile.part(0, 2 * chunk, 0).cast::<u8>();
        let w = panel.add(chunk * CHUNK_BYTES);
        tiles.load::<6>(w, 64);
        tiles.load::<4>(a, 64);
        tiles.dot_i8::<0, 4, 6>();
        tiles.load::<7>(w.add(TILE_BYTES), 64);
        tiles.dot_i8_u8::<1, 4, 7>();
        tiles.load::<5>(a.add(tile.rows * 64), 64);
        tiles.dot_i8::<2, 5, 6>();
        tiles.dot_i8_u8::<3, 5, 7>();
    }
}

/// Places for the sums of a tile.
#[repr(C, align(64))]
struct Sums([[i32; LANES]; 4 * ROWS]);

/// Puts the four sums together and hands the tile's rows to the sink.
#[inline(always)]
unsafe fn finish<T: Tiles, L: Join>(
    tiles: &T,
    work: &Work<'_>,
    tile: &FixedTile,
    p: usize,
    sink: &Sink<'_>,
) {
    let mut sums = MaybeUninit::<Sums>::uninit();
    // SAFETY: the four stores write all of `sums`.
    unsafe {
        let at = sums.as_mut_ptr().cast::<i32>();
        tiles.store::<0>(at.cast(), 64);
        tiles.store::<1>(at.add(256).cast(), 64);
        tiles.store::<2>(at.add(512).cast(), 64);
        tiles.store::<3>(at.add(768).cast(), 64);
        hand_over::<L, 2>(at, work, tile, p, sink);
    }
}

/// Joins the sums at `at`, see [`Join::join`], and hands the tile's rows to the sink.
#[inline(always)]
unsafe fn hand_over<L: Join, const MIDDLES: usize>(
    at: *const i32,
    work: &Work<'_>,
    tile: &FixedTile,
    p: usize,
    sink: &Sink<'_>,
) {
    let (d, _) = work.matrix.panel_scales(p);
    // SAFETY: the tile has `rows` scales and sums.
    unsafe {
        let d = L::load(d.as_ptr());
        if sink.plain(p) {
            for r in 0..tile.rows {
                let scale = L::splat(*tile.scales.add(r));
                let v = L::join::<MIDDLES>(at.add(r * LANES)).mul(scale).mul(d);
                sink.put(p, tile.row + r, v);
            }
            return;
        }
        let mut out = [[0f32; LANES]; ROWS];
        for (r, out) in out.iter_mut().enumerate().take(tile.rows) {
            let scale = L::splat(*tile.scales.add(r));
            let v = L::join::<MIDDLES>(at.add(r * LANES)).mul(scale).mul(d);
            v.store(out.as_mut_ptr());
        }
        sink.store(p, tile.row, &out[..tile.rows]);
    }
}

#[cfg(target_arch = "x86_64")]
pub(in super::super) use x86::amx;

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::super::super::super::lanes::Zmm;
    use super::super::super::super::pack::layout::Scheme;
    use super::super::super::super::tile::Amx;
    use super::super::super::avx512::panel::{NEAR, Scales, header, prefetch, scales, weights};
    use super::super::super::formats::Format;
    use super::{Sink, Unpack, Work};
    use std::arch::x86_64::*;
    use std::marker::PhantomData;

    /// # Safety
    /// As [`super::panels`], on a machine with AMX-INT8 and AVX-512.
    pub(in super::super::super) unsafe fn amx<F: Format>(work: &Work<'_>, sink: &Sink<'_>) {
        super::with_panel(work.panels.len() * work.input.chunks(), |panel| {
            // SAFETY: passed on.
            unsafe { inside::<F>(panel, work, sink) }
        });
    }

    /// A closure would not have the instruction set.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
    unsafe fn inside<F: Format>(panel: *mut u8, work: &Work<'_>, sink: &Sink<'_>) {
        // SAFETY: passed on; the instruction set is enabled here.
        unsafe { super::panels::<Amx, Zmm, _>(&Vectors::<F>(PhantomData), panel, work, sink) }
    }

    /// AVX-512.
    struct Vectors<F>(PhantomData<F>);

    impl<F: Format> Unpack for Vectors<F> {
        #[inline(always)]
        unsafe fn chunk(&self, work: &Work<'_>, p: usize, chunk: usize, to: *mut u8) {
            let (_, inverse) = work.matrix.panel_scales(p);
            let first = 2 * chunk;
            // SAFETY: groups are whole, so both blocks of the chunk lie within one.
            unsafe {
                let inverse = _mm512_loadu_ps(inverse.as_ptr());
                let group = work
                    .matrix
                    .panel(p)
                    .as_ptr()
                    .add(first / F::L.blocks * F::L.bytes());
                let head = header::<F>(group);
                let mut i = 0;
                while i < 2 {
                    let b = first % F::L.blocks + i;
                    prefetch::<F, NEAR>(group, b);
                    let s = scales::<F>(group, head, b);
                    let w = weights::<F>(group, b);
                    block::<F>(&w, &s, inverse, to.add(i * 512).cast());
                    i += 1;
                }
            }
        }
    }

    /// a | (b & c)
    const OR_AND: i32 = 0xf8;

    /// High bytes of mul * q + add to `to`, low bytes a tile further on.
    #[inline(always)]
    unsafe fn block<F: Format>(w: &[__m512i; 8], s: &Scales, inverse: __m512, to: *mut __m512i) {
        // SAFETY: 512 bytes in each of the two tiles.
        unsafe {
            let low = _mm512_set1_epi16(0x00ff);
            let high = _mm512_set1_epi16(0xff00_u16 as i16);
            let mut f = factors::<F>(s, 0, inverse);
            let mut z = 0;
            while z < 8 {
                if z == 4 && matches!(F::L.scheme, Scheme::Pair | Scheme::PairMin) {
                    f = factors::<F>(s, 1, inverse);
                }
                let even = _mm512_mullo_epi16(_mm512_and_si512(w[z], low), f[0]);
                let odd = _mm512_mullo_epi16(_mm512_srli_epi16::<8>(w[z]), f[0]);
                let (even, odd) = (_mm512_add_epi16(even, f[1]), _mm512_add_epi16(odd, f[1]));
                let highs =
                    _mm512_ternarylogic_epi32::<OR_AND>(_mm512_srli_epi16::<8>(even), odd, high);
                let lows =
                    _mm512_ternarylogic_epi32::<OR_AND>(_mm512_slli_epi16::<8>(odd), even, low);
                _mm512_store_si512(to.add(z), highs);
                _mm512_store_si512(to.add(16 + z), lows);
                z += 1;
            }
        }
    }

    /// mul and add of a half in both words of each lane.
    #[inline(always)]
    unsafe fn factors<F: Format>(s: &Scales, half: usize, inverse: __m512) -> [__m512i; 2] {
        // SAFETY: registers only; the default rounding mode is to nearest, ties to even.
        unsafe {
            let paired = matches!(F::L.scheme, Scheme::Pair | Scheme::PairMin);
            let d = if paired {
                _mm512_mul_ps(s.d, s.sub[half])
            } else {
                s.d
            };
            let mul = twice(_mm512_cvtps_epi32(_mm512_mul_ps(d, inverse)));
            let add = match F::L.scheme {
                Scheme::Scale | Scheme::Pair => {
                    _mm512_mullo_epi16(mul, _mm512_set1_epi16(-F::L.offset as i16))
                }
                _ => twice(_mm512_cvtps_epi32(_mm512_mul_ps(s.m[half], inverse))),
            };
            [mul, add]
        }
    }

    /// The low word of each lane in both of its words.
    #[inline(always)]
    unsafe fn twice(v: __m512i) -> __m512i {
        // SAFETY: registers only.
        unsafe {
            let low = _mm512_set1_epi32(0xffff);
            _mm512_ternarylogic_epi32::<OR_AND>(_mm512_slli_epi32::<16>(v), v, low)
        }
    }
}
