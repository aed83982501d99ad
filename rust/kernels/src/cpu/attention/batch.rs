//! What attention needs to know of a step: its sequences, checked once, and how their work is cut, once for all layers.
use super::super::kv::{KvCache, Seq};
use super::plan::{self, Plan};
use super::{AttnParams, Picks, Window};
use std::mem::MaybeUninit;

/// The sequences of a step. Made once a step; every layer's attention is computed by it, over whichever cache has the same
/// blocks.
pub struct Batch<'a> {
    seqs: Vec<Seq<'a>>,
    /// Number and size of the blocks that were checked.
    blocks: (usize, usize),
    /// One more than the last row, and than the last position.
    rows: usize,
    positions: usize,
    plans: Vec<(Cut, Plan)>,
    partials: Vec<MaybeUninit<f32>>,
}

/// What a plan depends on beside the sequences.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Cut {
    heads: usize,
    kv_heads: usize,
    value_dim: usize,
    window: Option<Window>,
    /// Most keys of a row.
    picks: Option<usize>,
    threads: usize,
    fused: bool,
}

impl<'a> Batch<'a> {
    /// Sequences whose rows follow one another, with blocks of `cache`.
    ///
    /// # Panics
    /// When rows overlap, when blocks are not the cache's or too few, or when a sequence writes to a block that another
    /// one has.
    pub fn new(seqs: Vec<Seq<'a>>, cache: &KvCache) -> Self {
        let mut rows = 0;
        for seq in &seqs {
            let own = &seq.rows;
            assert!(
                rows <= own.start && own.start <= own.end,
                "rows {own:?} after {rows}"
            );
            rows = own.end;
        }
        cache.check(&seqs);
        let positions = seqs.iter().map(|s| s.position + s.rows.len()).max();
        Self {
            seqs,
            blocks: (cache.shape().blocks, cache.shape().block_size),
            rows,
            positions: positions.unwrap_or(0),
            plans: Vec::new(),
            partials: Vec::new(),
        }
    }

    /// The sequences.
    pub fn seqs(&self) -> &[Seq<'a>] {
        &self.seqs
    }

    /// One more than the last position.
    pub(super) fn positions(&self) -> usize {
        self.positions
    }

    /// Checks that `values` are rows of `width`, all of the sequences' among them.
    pub(super) fn check_rows(&self, values: usize, width: usize) {
        assert!(
            values.is_multiple_of(width),
            "{values} values in rows of {width}"
        );
        let last = self.rows;
        assert!(last <= values / width, "row {last} of {}", values / width);
    }

    /// Checks that this cache has the blocks that the sequences were checked with, and the layer.
    pub(super) fn check_cache(&self, cache: &KvCache, layer: usize) {
        let shape = cache.shape();
        let blocks = (shape.blocks, shape.block_size);
        assert!(self.blocks == blocks, "not the batch's blocks");
        let layers = shape.layers;
        assert!(layer < layers, "layer {layer} of {layers}");
    }

    /// Whether each sequence's new keys are written by the task that reads them.
    pub(super) fn is_fused(&self, params: &AttnParams<'_>) -> bool {
        let most = params.picks.map_or(usize::MAX, Picks::most);
        let few = |s: &Seq<'_>| {
            let rows = s.rows.len();
            rows * params.group() <= plan::UNIT_ROWS && s.position + rows <= most
        };
        self.seqs.iter().all(few)
    }

    /// The sequences, the plan for such layers and memory for its partial results.
    pub(super) fn plan(
        &mut self,
        params: &AttnParams<'_>,
        threads: usize,
        fused: bool,
    ) -> (&[Seq<'a>], &Plan, &mut [MaybeUninit<f32>]) {
        let cut = Cut {
            heads: params.heads,
            kv_heads: params.kv_heads,
            value_dim: params.value_dim,
            window: params.window,
            picks: params.picks.map(Picks::most),
            threads,
            fused,
        };
        let known = self.plans.iter().position(|(of, _)| *of == cut);
        let at = known.unwrap_or_else(|| {
            let plan = Plan::new(params, &self.seqs, threads, fused);
            self.plans.push((cut, plan));
            self.plans.len() - 1
        });
        let plan = &self.plans[at].1;
        let values = plan.partials * plan::LINE;
        if self.partials.len() < values {
            self.partials.resize_with(values, MaybeUninit::uninit);
        }
        (&self.seqs, plan, &mut self.partials[..values])
    }
}
