//! A page: keys and values of one head and 32 tokens.
use super::super::buffer::LINE;
use super::codes::{self, inverse, scale_of};
use super::{GROUP, KvType, PAGE};

/// Layout of the keys and values of one head and 32 tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Page {
    /// Padded width of a key.
    pub key_dims: usize,
    /// Padded width of a value.
    pub value_dims: usize,
    pub dtype: KvType,
    /// The column of a key with which its value begins, where values are not kept apart.
    pub latent: Option<usize>,
}

impl Page {
    /// Bytes of a group of 16 keys.
    pub fn group_bytes(&self) -> usize {
        GROUP * self.key_dims * self.dtype.bytes()
    }

    fn scale_bytes(&self) -> usize {
        if self.dtype.is_scaled() { PAGE * 2 } else { 0 }
    }

    /// Bytes before the scales of the keys.
    pub fn key_scales(&self) -> usize {
        2 * self.group_bytes()
    }

    /// Bytes of all keys: where the values begin.
    pub fn key_bytes(&self) -> usize {
        self.key_scales() + self.scale_bytes()
    }

    /// Bytes of all values, where they are kept or laid out apart.
    pub fn value_bytes(&self) -> usize {
        PAGE * self.value_dims * self.dtype.bytes()
    }

    /// Bytes before the scales of the values.
    pub fn value_scales(&self) -> usize {
        match self.latent {
            Some(_) => self.key_scales(),
            None => self.key_bytes() + self.value_bytes(),
        }
    }

    /// Bytes of both.
    pub fn bytes(&self) -> usize {
        self.value_scales() + self.scale_bytes()
    }

    /// Writes the values that lie in the keys at `keys` as they would lie apart.
    ///
    /// # Safety
    /// `keys` are those of a latent page of this layout, `to` has room for [`Page::value_bytes`].
    pub unsafe fn values_of_keys(&self, keys: *const u8, to: *mut u8) {
        // SAFETY: the caller's.
        unsafe {
            match self.dtype.bytes() {
                4 => self.turn::<u32>(keys.cast(), to.cast()),
                2 => self.turn::<u16>(keys.cast(), to.cast()),
                _ => self.turn::<u8>(keys, to),
            }
        }
    }

    #[inline(always)]
    unsafe fn turn<T: Copy + Default>(&self, keys: *const T, to: *mut T) {
        let first = self.latent.unwrap_or(0);
        let dims = self.value_dims.min(self.key_dims - first);
        for group in 0..PAGE / GROUP {
            for d in 0..self.value_dims {
                // Padding beyond the keys is zero, as it is in values that are kept.
                for lane in 0..GROUP {
                    let key = group * GROUP * self.key_dims + self.key(lane, first + d);
                    let slot = group * GROUP + lane;
                    // SAFETY: both places lie in their pages.
                    unsafe {
                        let value = if d < dims {
                            keys.add(key).read()
                        } else {
                            T::default()
                        };
                        to.add(self.value(slot, d)).write(value);
                    }
                }
            }
        }
    }

    /// Elements before dimension `d` of the key in `lane`, counted from its group on.
    fn key(&self, lane: usize, d: usize) -> usize {
        match self.dtype {
            KvType::Bf16 => d / 2 * 2 * GROUP + 2 * lane + d % 2,
            _ => d * GROUP + lane,
        }
    }

    /// Elements before the value of dimension `d` of the token at `slot`, counted from the values on.
    fn value(&self, slot: usize, d: usize) -> usize {
        let strip = d / GROUP * PAGE * GROUP;
        match self.dtype {
            KvType::F32 => slot * self.value_dims + d,
            KvType::Bf16 => strip + slot / 2 * 32 + d % GROUP * 2 + slot % 2,
            KvType::F16 | KvType::Int8 | KvType::Fp8 => strip + slot * GROUP + d % GROUP,
        }
    }

    /// Writes the token at `slot` (0..32) of the page at `page`.
    ///
    /// # Safety
    /// `page` is a whole page of this layout that no one else reads or writes; `key` and `value` are no wider than it,
    /// and there is no `value` for a latent page.
    pub unsafe fn write(&self, page: *mut u8, slot: usize, key: &[f32], value: &[f32]) {
        debug_assert!(slot < PAGE && key.len() <= self.key_dims && value.len() <= self.value_dims);
        debug_assert!(self.latent.is_none() || value.is_empty());
        let lane = slot % GROUP;
        // SAFETY: all offsets lie in the page: slot < 32, and dims are below the padded widths.
        unsafe {
            let group = page.add(slot / GROUP * self.group_bytes());
            let values = page.add(self.key_bytes());
            match self.dtype {
                KvType::F32 => {
                    for (d, &k) in key.iter().enumerate() {
                        group.cast::<f32>().add(d * GROUP + lane).write(k);
                    }
                    let row = values.cast::<f32>().add(self.value(slot, 0));
                    row.copy_from_nonoverlapping(value.as_ptr(), value.len());
                }
                KvType::Bf16 => {
                    let narrow = |v: f32| half::bf16::from_f32(v).to_bits();
                    for (i, k) in key.chunks(2).enumerate() {
                        let pair = [narrow(k[0]), k.get(1).map_or(0, |&k| narrow(k))];
                        group.cast::<[u16; 2]>().add(i * GROUP + lane).write(pair);
                    }
                    self.strips::<u16, 2>(values.cast(), slot, value, narrow);
                }
                KvType::F16 => {
                    let narrow = |v: f32| half::f16::from_f32(v).to_bits();
                    lanes(group.cast(), lane, key, narrow);
                    self.strips::<u16, 1>(values.cast(), slot, value, narrow);
                }
                KvType::Int8 => self.coded(page, slot, key, value, codes::int8),
                KvType::Fp8 => self.coded(page, slot, key, value, codes::fp8),
            }
        }
    }

    /// [`Page::write`] of a scaled type, whose codes are `code`.
    #[inline(always)]
    unsafe fn coded(
        &self,
        page: *mut u8,
        slot: usize,
        key: &[f32],
        value: &[f32],
        code: impl Fn(f32) -> u8,
    ) {
        let most = self.dtype.largest_code().unwrap_or(1.0);
        let (k, v) = (scale_of(key, most), scale_of(value, most));
        let (by_k, by_v) = (inverse(k), inverse(v));
        // SAFETY: as in `write`.
        unsafe {
            let group = page.add(slot / GROUP * self.group_bytes());
            lanes(group, slot % GROUP, key, |x| code(x * by_k));
            let values = page.add(self.key_bytes());
            self.strips::<u8, 1>(values, slot, value, |x| code(x * by_v));
            // Of a latent page both are the same place.
            for (at, scale) in [(self.value_scales(), v), (self.key_scales(), k)] {
                let bits = (scale.to_bits() >> 16) as u16;
                page.add(at).cast::<u16>().add(slot).write(bits);
            }
        }
    }

    /// Writes a token's value to where [`Page::value`] says: strips of 16, `STEP` elements from one to the next.
    #[inline(always)]
    unsafe fn strips<T, const STEP: usize>(
        &self,
        values: *mut T,
        slot: usize,
        value: &[f32],
        of: impl Fn(f32) -> T,
    ) {
        for (strip, own) in value.chunks(GROUP).enumerate() {
            let first = self.value(slot, strip * GROUP);
            for (d, &v) in own.iter().enumerate() {
                // SAFETY: as in `write`.
                unsafe { values.add(first + d * STEP).write(of(v)) };
            }
        }
    }

    /// Copies the key in `slot` of the latent page at `from`, with its scale, to slot `own` of the one at `to`.
    ///
    /// # Safety
    /// Both are whole pages of this layout, of which `to` is no one else's.
    pub unsafe fn copy_key(&self, from: *const u8, slot: usize, to: *mut u8, own: usize) {
        debug_assert!(slot < PAGE && own < PAGE && self.latent.is_some());
        // SAFETY: the caller's.
        unsafe {
            match self.dtype {
                KvType::F32 => self.copy_lane::<u32>(from, slot, to, own, self.key_dims),
                // In pairs.
                KvType::Bf16 => self.copy_lane::<u32>(from, slot, to, own, self.key_dims / 2),
                KvType::F16 => self.copy_lane::<u16>(from, slot, to, own, self.key_dims),
                KvType::Int8 | KvType::Fp8 => {
                    self.copy_lane::<u8>(from, slot, to, own, self.key_dims);
                    let at = self.key_scales();
                    let scale = from.add(at).cast::<u16>().add(slot).read();
                    to.add(at).cast::<u16>().add(own).write(scale);
                }
            }
        }
    }

    /// [`Page::copy_key`] of `count` elements of a lane.
    #[inline(always)]
    unsafe fn copy_lane<T: Copy>(
        &self,
        from: *const u8,
        slot: usize,
        to: *mut u8,
        own: usize,
        count: usize,
    ) {
        let place = |slot: usize| (slot / GROUP * self.group_bytes(), slot % GROUP);
        let ((group, lane), (own_group, own_lane)) = (place(slot), place(own));
        // SAFETY: as in `copy_key`.
        unsafe {
            let from = from.add(group).cast::<T>().add(lane);
            let to = to.add(own_group).cast::<T>().add(own_lane);
            for i in 0..count {
                to.add(i * GROUP).write(from.add(i * GROUP).read());
            }
        }
    }

    /// Where in the page the cache lines lie that [`Page::write`] writes for `slot`, in bytes.
    pub fn lines(self, slot: usize) -> impl Iterator<Item = usize> {
        let bytes = self.dtype.bytes();
        let (step, values) = match self.dtype {
            _ if self.latent.is_some() => (LINE, 0),
            KvType::F32 => (LINE, self.value_dims * bytes / LINE),
            _ => (PAGE * GROUP * bytes, self.value_dims / GROUP),
        };
        let key = slot / GROUP * self.group_bytes();
        let value = self.key_bytes() + self.value(slot, 0) * bytes / LINE * LINE;
        let keys = (0..self.group_bytes() / LINE).map(move |i| key + i * LINE);
        let scales = [self.key_scales(), self.value_scales()];
        let scales = scales.into_iter().filter(move |_| self.dtype.is_scaled());
        keys.chain((0..values).map(move |i| value + i * step))
            .chain(scales)
    }

    /// Zeroes the values of a page before its first token is written: a probability of 0 times what an earlier owner
    /// left (a NaN, say) must be 0. Keys that are no values need no zeroing, scores of absent keys are never looked at.
    ///
    /// # Safety
    /// As [`Page::write`].
    pub unsafe fn clear(&self, page: *mut u8) {
        let keys = match self.latent {
            Some(_) => 0,
            None => self.key_bytes(),
        };
        // SAFETY: the values and their scales lie behind the keys, or in them.
        unsafe { page.add(keys).write_bytes(0, self.bytes() - keys) };
    }
}

/// Writes a token's key to its lane of a group.
#[inline(always)]
unsafe fn lanes<T>(group: *mut T, lane: usize, key: &[f32], of: impl Fn(f32) -> T) {
    for (d, &k) in key.iter().enumerate() {
        // SAFETY: as in `Page::write`.
        unsafe { group.add(d * GROUP + lane).write(of(k)) };
    }
}
