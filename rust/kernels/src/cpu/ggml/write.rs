//! A block's one form back into the bytes that files have: the inverse of [`Raw::read`] for every type that can be made.
use super::{GgmlType, Raw};

impl Raw {
    /// Writes one block of `ty` (`block.len() == ty.block_bytes()`), all of it; does nothing for a type that nobody makes.
    pub fn write(&self, ty: GgmlType, block: &mut [u8]) {
        use GgmlType as T;
        let [d, m] = [self.d, self.m].map(u16::to_le_bytes);
        match ty {
            T::Q4_0 => {
                block[..2].copy_from_slice(&d);
                self.put_nibbles(&mut block[2..]);
            }
            T::Q4_1 => {
                block[..2].copy_from_slice(&d);
                block[2..4].copy_from_slice(&m);
                self.put_nibbles(&mut block[4..]);
            }
            T::Q5_0 => {
                block[..2].copy_from_slice(&d);
                block[2..6].copy_from_slice(&self.fifth_bits());
                self.put_nibbles(&mut block[6..]);
            }
            T::Q5_1 => {
                block[..2].copy_from_slice(&d);
                block[2..4].copy_from_slice(&m);
                block[4..8].copy_from_slice(&self.fifth_bits());
                self.put_nibbles(&mut block[8..]);
            }
            T::Q8_0 => {
                block[..2].copy_from_slice(&d);
                for (out, q) in block[2..].iter_mut().zip(&self.q) {
                    *out = q ^ 0x80;
                }
            }
            T::Q2_K => self.put_q2(block, d, m),
            T::Q3_K => self.put_q3(block, d),
            T::Q4_K | T::Q5_K => self.put_q45(ty, block, d, m),
            T::Q6_K => self.put_q6(block, d),
            _ => {}
        }
    }

    fn put_nibbles(&self, qs: &mut [u8]) {
        for (j, out) in qs.iter_mut().enumerate() {
            *out = self.q[j] & 15 | self.q[j + 16] << 4;
        }
    }

    fn fifth_bits(&self) -> [u8; 4] {
        let bit = |word: u32, j: usize| word | u32::from(self.q[j] >> 4 & 1) << j;
        (0..32).fold(0, bit).to_le_bytes()
    }

    /// The low two bits of all weights; see [`Raw::read`]'s way of reading them.
    fn put_pairs(&self, qs: &mut [u8]) {
        qs.fill(0);
        for (i, q) in self.q.iter().enumerate() {
            qs[i / 128 * 32 + i % 32] |= (q & 3) << (i % 128 / 32 * 2);
        }
    }

    fn put_q2(&self, block: &mut [u8], d: [u8; 2], m: [u8; 2]) {
        for j in 0..16 {
            block[j] = self.sub[j] & 15 | self.min[j] << 4;
        }
        self.put_pairs(&mut block[16..80]);
        block[80..82].copy_from_slice(&d);
        block[82..84].copy_from_slice(&m);
    }

    fn put_q3(&self, block: &mut [u8], d: [u8; 2]) {
        block.fill(0);
        for (i, q) in self.q.iter().enumerate() {
            block[i % 32] |= (q >> 2 & 1) << (i / 32);
        }
        self.put_pairs(&mut block[32..96]);
        for j in 0..16 {
            let scale = self.sub[j].wrapping_add(32) & 63;
            block[96 + j % 8] |= (scale & 15) << (j / 8 * 4);
            block[104 + j % 4] |= (scale >> 4) << (j / 4 * 2);
        }
        block[108..].copy_from_slice(&d);
    }

    fn put_q45(&self, ty: GgmlType, block: &mut [u8], d: [u8; 2], m: [u8; 2]) {
        block.fill(0);
        block[..2].copy_from_slice(&d);
        block[2..4].copy_from_slice(&m);
        for j in 0..4 {
            block[4 + j] = self.sub[j] & 63 | self.sub[j + 4] >> 4 << 6;
            block[8 + j] = self.min[j] & 63 | self.min[j + 4] >> 4 << 6;
            block[12 + j] = self.sub[j + 4] & 15 | self.min[j + 4] << 4;
        }
        let fifth = ty == GgmlType::Q5_K;
        let low = if fifth { 48 } else { 16 };
        for (i, q) in self.q.iter().enumerate() {
            block[low + i / 64 * 32 + i % 32] |= (q & 15) << (i % 64 / 32 * 4);
            if fifth {
                block[16 + i % 32] |= (q >> 4 & 1) << (i / 32);
            }
        }
    }

    fn put_q6(&self, block: &mut [u8], d: [u8; 2]) {
        block[..192].fill(0);
        for (i, q) in self.q.iter().enumerate() {
            let (half, quarter, l) = (i / 128, i % 128 / 32, i % 32);
            block[half * 64 + quarter % 2 * 32 + l] |= (q & 15) << (quarter / 2 * 4);
            block[128 + half * 32 + l] |= (q >> 4 & 3) << (quarter * 2);
        }
        block[192..208].copy_from_slice(&self.sub);
        block[208..].copy_from_slice(&d);
    }
}

#[cfg(test)]
mod tests {
    use super::super::quantise::MADE;
    use super::*;
    use crate::cpu::testing::{Random, random_weights};

    #[test]
    fn a_block_is_written_as_it_was_read() {
        let mut random = Random::new(11);
        for ty in MADE {
            let data = random_weights(&mut random, ty, 8, 256);
            let mut raw = Raw::new();
            for block in data.chunks_exact(ty.block_bytes()) {
                raw.read(ty, block);
                let mut again = vec![0xa5; block.len()];
                raw.write(ty, &mut again);
                assert_eq!(again, block, "{}", ty.name());
            }
        }
    }
}
