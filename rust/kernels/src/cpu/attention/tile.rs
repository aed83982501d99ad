//! One tile: up to 32 query rows of one key/value head against one segment of keys. What every variant works on.
use super::super::kv::{PAGE, Page};
use super::plan::SEGMENT;

/// Most rows of a tile.
pub(super) const ROWS: usize = 32;
/// Pages of a segment.
pub(super) const PAGES: usize = SEGMENT / PAGE;
/// f32 from one row of scores to the next: a segment, and a cache line so that rows do not share cache sets.
pub(super) const SCORES: usize = SEGMENT + 16;
/// bf16 from one row of probabilities to the next: they lie where the scores were.
pub(super) const PROBS: usize = 2 * SCORES;

/// Rules of one call, as the kernels need them.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rules {
    /// Factor on the products.
    pub scale: f32,
    pub softcap: Option<f32>,
}

/// Queries, keys and the places for what is computed. Rows that do not exist (up to the next 16) may hold anything.
#[derive(Clone, Copy)]
pub(super) struct Tile {
    /// Rows, 1 to [`ROWS`].
    pub rows: usize,
    /// Whether they are the first of their unit, for which pages come from memory; the others find them in the caches.
    pub first_rows: bool,
    /// Layout of the keys and values.
    pub page: Page,
    pub rules: Rules,
    /// `[rows][page.key_dims]`, f32 or bf16 ([`KvType::query_bytes`](super::super::kv::KvType)).
    pub q: *const u8,
    /// Keys of the segment's pages as `page` says; `first..last` are set.
    pub keys: [*const u8; PAGES],
    /// Their values.
    pub values: [*const u8; PAGES],
    /// Scales of their keys, and of their values, where the cache's type has them: bf16 `[32]`.
    pub scales: [[*const u16; 2]; PAGES],
    pub first: usize,
    pub last: usize,
    /// The page that is read after these.
    pub next: *const u8,
    /// Keys that each row sees, counted in the segment: from, to.
    pub see: [[u16; 2]; ROWS],
    /// f32 `[ROWS][SCORES]`: products, then probabilities over them: f32 in the same places, or [`Tile::probs`].
    pub scores: *mut f32,
    /// f32 `[ROWS][page.value_dims]`: sums of values weighted by probability.
    pub out: *mut f32,
    /// Largest score of each row times log2(e), minus infinity when it sees no key.
    pub max: [f32; ROWS],
    /// Sum of probabilities of each row.
    pub sum: [f32; ROWS],
}

impl Tile {
    /// bf16 `[ROWS][PROBS]`: probabilities of a Bf16 cache, each row in the first half of its scores. The store stays
    /// small enough for the nearest cache this way; storing tiles beyond it is slow.
    pub fn probs(&self) -> *mut u16 {
        self.scores.cast()
    }

    /// From the keys of `page`, or its values, to those that are read `n` pages later, in bytes: first come all keys, then
    /// all values, then the next page. 0 where no memory is read.
    pub fn ahead(&self, page: usize, values: bool, n: usize) -> isize {
        if !self.first_rows {
            return 0;
        }
        let count = self.last - self.first;
        let at = |i: usize| match i {
            i if i < count => self.keys[self.first + i],
            i if i < 2 * count => self.values[self.first + i - count],
            _ => self.next,
        };
        let own = page - self.first + if values { count } else { 0 };
        at(own + n).addr().wrapping_sub(at(own).addr()) as isize
    }

    /// Bytes from one query to the next.
    pub fn query_bytes(&self) -> usize {
        self.page.key_dims * self.page.dtype.query_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::kv::KvType;
    use super::*;

    #[test]
    fn ahead_lies_what_is_read_next() {
        let page = Page {
            key_dims: 32,
            value_dims: 64,
            dtype: KvType::Bf16,
            latent: None,
        };
        let at = |place: usize| std::ptr::without_provenance::<u8>(place << 20);
        let mut tile = Tile {
            rows: 2,
            first_rows: true,
            page,
            rules: Rules {
                scale: 1.0,
                softcap: None,
            },
            q: at(0),
            // In no order, as pages of a cache are.
            keys: std::array::from_fn(|i| at(100 - i)),
            values: std::array::from_fn(|i| at(100 - i).wrapping_add(page.key_bytes())),
            scales: [[std::ptr::null(); 2]; PAGES],
            first: 2,
            last: 5,
            next: at(7),
            see: [[0; 2]; ROWS],
            scores: std::ptr::null_mut(),
            out: std::ptr::null_mut(),
            max: [0.0; ROWS],
            sum: [0.0; ROWS],
        };
        let values = |i: usize| at(100 - i).wrapping_add(page.key_bytes());
        let order = [
            at(98),
            at(97),
            at(96),
            values(2),
            values(3),
            values(4),
            at(7),
            at(7),
        ];
        let asked = |tile: &Tile, i: usize, n: usize| {
            let by = tile.ahead(2 + i % 3, i >= 3, n);
            order[i].wrapping_offset(by)
        };
        for i in 0..6 {
            assert_eq!(asked(&tile, i, 1), order[i + 1]);
            assert_eq!(asked(&tile, i, 2), order[i + 2]);
        }
        tile.first_rows = false;
        assert_eq!(asked(&tile, 0, 1), order[0]);
    }
}
