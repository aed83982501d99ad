//! What attention needs to know of a step: its sequences, checked once, and how their work is cut, once for all layers.
use super::super::kv::{KvCache, KvShape, Seq};
use super::AttnParams;
use super::plan::{self, Plan};
use std::mem::MaybeUninit;

/// The sequences of a step. Made once a step; every layer's attention is computed by it.
pub struct Batch<'a> {
    seqs: Vec<Seq<'a>>,
    /// The cache whose blocks were checked.
    cache: KvShape,
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
    head_dim: usize,
    window: Option<usize>,
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
            cache: *cache.shape(),
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

    /// Checks that this is the cache that the sequences were checked with, and has the layer.
    pub(super) fn check_cache(&self, cache: &KvCache, layer: usize) {
        assert!(self.cache == *cache.shape(), "not the batch's cache");
        let layers = self.cache.layers;
        assert!(layer < layers, "layer {layer} of {layers}");
    }

    /// Whether each sequence's new keys are written by the task that reads them.
    pub(super) fn is_fused(&self, params: &AttnParams<'_>) -> bool {
        let few = |s: &Seq<'_>| s.rows.len() * params.group() <= plan::UNIT_ROWS;
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
            head_dim: params.head_dim,
            window: params.window,
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
