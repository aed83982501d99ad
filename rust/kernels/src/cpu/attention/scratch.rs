//! The working memory of a task, laid out: queries, scores, what is made of pages, results.
use super::super::kv::Page;
use super::softmax::State;
use super::tile::{PAGES, ROWS, SCORES};

/// A cache line, as unit of aligned memory.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct Line([u8; 64]);

/// Places in the working memory.
pub(super) struct Scratch {
    pub q: *mut u8,
    /// A segment's pages of picked keys.
    pub picked: *mut u8,
    /// A segment's values, where they lie in the keys.
    pub apart: *mut u8,
    /// A segment's pages as Bf16 pages, where the kernel takes such.
    pub wide: *mut u8,
    pub scores: *mut f32,
    pub tile_out: *mut f32,
    pub state: State,
}

impl Scratch {
    /// Lays out the memory for `rows` rows, of picked keys or not, and for pages of the layout `wide`; `memory` grows as
    /// needed.
    pub fn new(
        memory: &mut Vec<Line>,
        page: Page,
        wide: Option<Page>,
        (rows, picked): (usize, bool),
    ) -> Scratch {
        let rows = rows.next_multiple_of(ROWS);
        let sizes = [
            rows * page.key_dims * page.dtype.query_bytes(),
            if picked { PAGES * page.bytes() } else { 0 },
            page.latent.map_or(0, |_| PAGES * page.value_bytes()),
            wide.map_or(0, |page| PAGES * page.bytes()),
            ROWS * SCORES * 4,
            ROWS * page.value_dims * 4,
            rows * page.value_dims * 4,
            rows * 4,
            rows * 4,
        ]
        .map(|bytes| bytes.div_ceil(size_of::<Line>()));
        let lines = sizes.iter().sum();
        if memory.len() < lines {
            memory.resize(lines, Line([0; 64]));
        }
        let mut at = memory.as_mut_ptr();
        let [q, picked, apart, wide, scores, tile_out, out, max, sum] = sizes.map(|lines| {
            let start = at;
            // SAFETY: the vector holds the sum of all sizes.
            at = unsafe { at.add(lines) };
            start
        });
        Scratch {
            q: q.cast(),
            picked: picked.cast(),
            apart: apart.cast(),
            wide: wide.cast(),
            scores: scores.cast(),
            tile_out: tile_out.cast(),
            state: State {
                max: max.cast(),
                sum: sum.cast(),
                out: out.cast(),
                dims: page.value_dims,
            },
        }
    }
}
