//! Reproducible numbers, and changes of bytes made with them.

/// SplitMix64.
pub struct Random(pub u64);

/// Numbers at which things break.
const EDGES: [u64; 12] = [
    0,
    1,
    7,
    0x7f,
    0xff,
    0x7fff,
    0xffff,
    0x7fff_ffff,
    0xffff_ffff,
    1 << 40,
    i64::MAX as u64,
    u64::MAX,
];

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Below `n`, which is not 0.
    pub fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    /// One of `of`.
    pub fn one<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())]
    }

    /// Any number, likely one of [`EDGES`] or near one.
    pub fn edge(&mut self) -> u64 {
        let edge = self.one(&EDGES);
        match self.below(4) {
            0 => self.next(),
            1 => edge.wrapping_add(self.next() % 65),
            _ => edge,
        }
    }

    pub fn bytes(&mut self, n: usize) -> Vec<u8> {
        (0..n).map(|_| self.next() as u8).collect()
    }

    /// Changes `bytes` in one to four ways, most often within their first `head`.
    pub fn change(&mut self, bytes: &mut Vec<u8>, head: usize) {
        for _ in 0..=self.below(4) {
            if bytes.is_empty() {
                return;
            }
            let range = if self.below(8) > 0 { head } else { bytes.len() };
            let at = self.below(range.clamp(1, bytes.len()));
            let size = self.one(&[1, 2, 4, 8]).min(bytes.len() - at);
            match self.below(7) {
                0 => bytes[at] ^= 1 << self.below(8),
                1 | 2 => {
                    let edge = self.edge().to_le_bytes();
                    bytes[at..at + size].copy_from_slice(&edge[..size]);
                }
                3 => bytes[at] = bytes[at].wrapping_add(self.one(&[1, 255, 16, 128])),
                4 => bytes.truncate(at),
                5 => drop(bytes.drain(at..at + size)),
                _ => {
                    let from = self.below(bytes.len());
                    let piece: Vec<u8> = bytes[from..].iter().take(32).copied().collect();
                    bytes.splice(at..at, piece);
                }
            }
        }
    }

    /// Puts another digit or sign into a text.
    pub fn misprint(&mut self, text: &mut [u8]) {
        if !text.is_empty() {
            let at = self.below(text.len());
            text[at] = self.one(b"0123456789-.,:{}[]\"eE \\x\xff");
        }
    }
}
