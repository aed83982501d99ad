//! What happens to a finished tile of 16 rows by 16 outputs: bias, sum, activation, and its place in the output.
//! Knows nothing of how the tile was computed.
#![allow(clippy::needless_range_loop)] // several arrays run side by side
use super::super::Isa;
use super::super::activation::Activation;
use super::super::lanes::Lanes;
use super::super::pack::layout::LANES;
use super::super::tile_unit::ROWS;
use std::ops::Range;

/// Where tiles of one product go.
pub(super) struct Sink<'a> {
    /// `[rows, n]`
    pub out: *mut f32,
    pub n: usize,
    /// `[n]`
    pub bias: Option<&'a [f32]>,
    pub role: Role,
    pub isa: Isa,
}

// SAFETY: each task writes the columns of its own panels and its own buffer.
unsafe impl Sync for Sink<'_> {}

/// What is done with a value.
#[derive(Clone, Copy)]
pub(super) enum Role {
    /// out = v
    Set,
    /// out += v
    Add,
    /// out = act(v)
    Activate(Activation),
    /// Kept in `[panel - first][rows][16]` for the product that follows.
    Keep {
        to: *mut f32,
        first: usize,
        rows: usize,
    },
    /// out = act(kept) * v
    Gate {
        from: *const f32,
        first: usize,
        rows: usize,
        act: Activation,
    },
    /// out\[to\[r\]\] += weights\[r\] * v: what an expert adds to the rows that chose it.
    Scatter { to: *const u32, weights: *const f32 },
}

impl Role {
    /// Whether it is worth no loop of its own beside every kernel.
    #[inline(always)]
    fn is_rare(self) -> bool {
        matches!(
            self,
            Role::Activate(_)
                | Role::Scatter { .. }
                | Role::Gate {
                    act: Activation::Xielu(_) | Activation::Clamped(_),
                    ..
                }
        )
    }
}

/// Where finished rows come from, one after the other, in registers.
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]
pub(super) trait Source<L> {
    /// The 16 outputs of input row `r`.
    ///
    /// # Safety
    /// As of [`Lanes`]; the source has the row.
    unsafe fn row(&self, r: usize) -> L;
}

impl Sink<'_> {
    /// Says that `height` rows of panel `p` from `row` on will come: their places are fetched for writing, so that the
    /// stores do not hold up those behind them.
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]
    #[inline(always)]
    pub fn prefetch(&self, p: usize, row: usize, height: usize) {
        #[cfg(target_arch = "x86_64")]
        {
            if matches!(self.role, Role::Keep { .. } | Role::Scatter { .. }) {
                return;
            }
            for r in row..row + height {
                let at = self.out.wrapping_add(r * self.n + p * LANES);
                // SAFETY: a prefetch of any address is harmless; a processor without PREFETCHW takes it as no operation.
                unsafe {
                    std::arch::asm!("prefetchw [{0}]", "prefetchw [{0} + 60]", in(reg) at,
                        options(nostack, preserves_flags));
                }
            }
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = (p, row, height);
    }

    /// Takes rows `rows` of panel `p` from `source`, which says what they are.
    ///
    /// # Safety
    /// As [`Sink::store`], of [`Lanes`] and of the source.
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]
    #[inline(always)]
    pub unsafe fn take<L: Lanes>(&self, p: usize, rows: Range<usize>, source: &impl Source<L>) {
        let place = |r: usize| self.out.wrapping_add(r * self.n + p * LANES);
        // A copy, so that what is rare leaves no trace in the loops below.
        let role = self.role;
        // SAFETY: rows and panel lie within the buffers, as the caller promised.
        unsafe {
            if self.bias.is_some() || (p + 1) * LANES > self.n || role.is_rare() {
                for first in rows.clone().step_by(ROWS) {
                    let mut out = [[0f32; LANES]; ROWS];
                    let height = ROWS.min(rows.end - first);
                    for (i, out) in out.iter_mut().enumerate().take(height) {
                        source.row(first + i).store(out.as_mut_ptr());
                    }
                    self.store(p, first, &out[..height]);
                }
                return;
            }
            match role {
                Role::Activate(_) | Role::Scatter { .. } => {}
                Role::Set => {
                    for r in rows {
                        source.row(r).store(place(r));
                    }
                }
                Role::Add => {
                    for r in rows {
                        let at = place(r);
                        source.row(r).fma(L::splat(1.0), L::load(at)).store(at);
                    }
                }
                Role::Keep {
                    to,
                    first,
                    rows: all,
                } => {
                    for r in rows {
                        let at = to.add(((p - first) * all + r) * LANES);
                        source.row(r).store(at);
                    }
                }
                Role::Gate {
                    from,
                    first,
                    rows: all,
                    act,
                } => {
                    for r in rows {
                        let kept = from.add(((p - first) * all + r) * LANES);
                        let gate = act.of(kept.cast::<[f32; LANES]>().read_unaligned());
                        let gate = L::load(gate.as_ptr());
                        source.row(r).mul(gate).store(place(r));
                    }
                }
            }
        }
    }

    /// Takes rows of panel `p`: input rows from `row` on.
    ///
    /// # Safety
    /// Rows and panel lie within the output and the buffer of the role; no other thread writes there; the machine
    /// runs `isa`.
    #[inline]
    pub unsafe fn store(&self, p: usize, row: usize, tile: &[[f32; LANES]]) {
        // SAFETY: passed on.
        unsafe {
            if let Role::Activate(act) = self.role {
                return self.activated(p, row, tile, act);
            }
            match self.isa {
                #[cfg(target_arch = "x86_64")]
                Isa::Avx512 | Isa::Amx => self.avx512(p, row, tile),
                #[cfg(target_arch = "x86_64")]
                Isa::Avx2 => self.avx2(p, row, tile),
                _ => self.body(p, row, tile),
            }
        }
    }

    /// As [`Sink::store`] with an activation, kept apart so that it weighs on no other role.
    #[cold]
    #[inline(never)]
    unsafe fn activated(&self, p: usize, row: usize, tile: &[[f32; LANES]], act: Activation) {
        let plain = Sink {
            role: Role::Set,
            bias: None,
            ..*self
        };
        let first = p * LANES;
        let columns = LANES.min(self.n - first);
        for (i, values) in tile.iter().enumerate() {
            let mut v = [*values];
            if let Some(b) = self.bias {
                for (v, b) in v[0].iter_mut().zip(&b[first..first + columns]) {
                    *v += b;
                }
            }
            act.apply(self.isa, &mut v);
            // SAFETY: passed on.
            unsafe { plain.store(p, row + i, &v) };
        }
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,fma")]
    unsafe fn avx512(&self, p: usize, row: usize, tile: &[[f32; LANES]]) {
        // SAFETY: passed on.
        unsafe { self.body(p, row, tile) }
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma")]
    unsafe fn avx2(&self, p: usize, row: usize, tile: &[[f32; LANES]]) {
        // SAFETY: passed on.
        unsafe { self.body(p, row, tile) }
    }

    #[inline(always)]
    unsafe fn body(&self, p: usize, row: usize, tile: &[[f32; LANES]]) {
        let first = p * LANES;
        let columns = LANES.min(self.n - first);
        let mut bias = [0f32; LANES];
        if let Some(b) = self.bias {
            bias[..columns].copy_from_slice(&b[first..first + columns]);
        }
        for (i, values) in tile.iter().enumerate() {
            let mut v = *values;
            if self.bias.is_some() {
                for l in 0..LANES {
                    v[l] += bias[l];
                }
            }
            let mut r = row + i;
            // SAFETY: row and panel lie within the buffers, as the caller promised.
            unsafe {
                match self.role {
                    Role::Set => {}
                    // Done by `store`, before it comes here.
                    Role::Activate(_) => {}
                    Role::Add => {
                        let mut old = [0f32; LANES];
                        let at = self.out.add(r * self.n + first);
                        if columns == LANES {
                            old = at.cast::<[f32; LANES]>().read_unaligned();
                        } else {
                            std::ptr::copy_nonoverlapping(at, old.as_mut_ptr(), columns);
                        }
                        for l in 0..LANES {
                            v[l] += old[l];
                        }
                    }
                    Role::Keep { to, first, rows } => {
                        let at = to.add(((p - first) * rows + r) * LANES);
                        at.cast::<[f32; LANES]>().write_unaligned(v);
                        continue;
                    }
                    Role::Gate {
                        from,
                        first,
                        rows,
                        act,
                    } => {
                        let at = from.add(((p - first) * rows + r) * LANES);
                        let gate = act.of(at.cast::<[f32; LANES]>().read_unaligned());
                        act.beside(&mut v);
                        for l in 0..LANES {
                            v[l] *= gate[l];
                        }
                    }
                    Role::Scatter { to, weights } => {
                        let weight = *weights.add(r);
                        r = *to.add(r) as usize;
                        let mut old = [0f32; LANES];
                        let at = self.out.add(r * self.n + first);
                        std::ptr::copy_nonoverlapping(at, old.as_mut_ptr(), columns);
                        for l in 0..LANES {
                            v[l] = weight.mul_add(v[l], old[l]);
                        }
                    }
                }
                let at = self.out.add(r * self.n + first);
                if columns == LANES {
                    at.cast::<[f32; LANES]>().write_unaligned(v);
                } else {
                    std::ptr::copy_nonoverlapping(v.as_ptr(), at, columns);
                }
            }
        }
    }
}
