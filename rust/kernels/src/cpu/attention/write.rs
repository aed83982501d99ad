//! What comes before attention: per-head norm and rotation of queries and keys, and the writes into the cache.
use super::super::buffer::prefetch;
use super::super::kv::{KvCache, PAGE, Seq, Writer};
use super::super::rope::{Rope, Table};
use super::super::threads::Rows;
use super::super::{Compute, Cpu};
use super::kernel::Kernel;
use super::{AttnParams, Batch, QkNorm, Temperature};
use std::ops::Range;

/// Values under which the work stays on the calling thread.
const SERIAL: usize = 16 * 1024;
/// Rows that a task rotates.
const CHUNK: usize = 32;

/// Norm and rotation of one call.
pub(super) struct Prepare<'a> {
    table: Table<'a>,
    norm: Option<QkNorm<'a>>,
    temperature: Option<Temperature>,
    head_dim: usize,
}

impl<'a> Prepare<'a> {
    pub fn new(
        rope: &'a Rope,
        norm: Option<QkNorm<'a>>,
        params: &AttnParams<'_>,
        batch: &Batch<'_>,
    ) -> Self {
        let head_dim = params.head_dim;
        assert!(
            rope.rotary_dim() <= head_dim,
            "rotary_dim {} of {head_dim}",
            rope.rotary_dim()
        );
        if let Some(norm) = norm {
            assert!(
                norm.q.len() == head_dim && norm.k.len() == head_dim,
                "qk norm weights: [{head_dim}]"
            );
        }
        Prepare {
            table: rope.table(batch.positions()),
            norm,
            temperature: params.temperature,
            head_dim,
        }
    }

    /// Normalises and rotates one head of a query (or key) in place.
    #[inline(always)]
    pub fn head(&self, x: &mut [f32], position: usize, query: bool) {
        let norm = |after: bool| self.norm.filter(|n| n.after_rope == after);
        if let Some(n) = norm(false) {
            normalise(x, if query { n.q } else { n.k }, n.eps);
        }
        self.table.at(position).apply(x);
        if let Some(n) = norm(true) {
            normalise(x, if query { n.q } else { n.k }, n.eps);
        }
        if let Some(temperature) = self.temperature.filter(|_| query) {
            let factor = temperature.at(position);
            x.iter_mut().for_each(|v| *v *= factor);
        }
    }
}

/// RMS norm in place; sums in 16 lanes of plain Rust, so that every machine gives the same bits.
#[inline(always)]
fn normalise(x: &mut [f32], weight: &[f32], eps: f32) {
    let mut lanes = [0f32; 16];
    for chunk in x.chunks(16) {
        for (lane, v) in lanes.iter_mut().zip(chunk) {
            *lane += v * v;
        }
    }
    for half in [8, 4, 2, 1] {
        for i in 0..half {
            lanes[i] += lanes[i + half];
        }
    }
    let factor = 1.0 / (lanes[0] / x.len() as f32 + eps).sqrt();
    for (v, w) in x.iter_mut().zip(weight) {
        *v = *v * factor * w;
    }
}

/// Runs `f` for each of `tasks`, on all threads when there is enough to do.
fn each<T: Sync>(cx: &Compute, values: usize, tasks: &[T], f: &(dyn Fn(&T) + Sync)) {
    if values < SERIAL {
        tasks.iter().for_each(f);
    } else {
        cx.pool.for_each(tasks.len(), &|i| f(&tasks[i]));
    }
}

/// Normalises and rotates all heads of `x` (`[rows, heads * head_dim]`) in place.
pub(super) fn rotate(
    cx: &Compute,
    prepare: &Prepare<'_>,
    (kernel, x, heads): (&Kernel, &mut [f32], usize),
    batch: &Batch<'_>,
    query: bool,
) {
    let width = heads * prepare.head_dim;
    let values = x.len();
    batch.check_rows(values, width);
    let tasks: Vec<(&Seq<'_>, Range<usize>)> = batch
        .seqs()
        .iter()
        .flat_map(|s| {
            let chunk = move |i: usize| (s, i..s.rows.len().min(i + CHUNK));
            (0..s.rows.len()).step_by(CHUNK).map(chunk)
        })
        .collect();
    let x = Rows::new(x, width);
    each(cx, values, &tasks, &|(seq, rows)| {
        for row in rows.clone() {
            // SAFETY: `check_rows` has seen that rows exist and belong to one sequence; a task has its own.
            let heads = unsafe { x.row(seq.rows.start + row) };
            for head in heads.chunks_exact_mut(prepare.head_dim) {
                // SAFETY: the caller's kernel is one of this machine's.
                unsafe { (kernel.head)(prepare, head, seq.position + row, query) };
            }
        }
    });
}

/// New keys and values on their way into the cache.
pub(super) struct New<'a> {
    kernel: &'static Kernel,
    /// Norm and rotation of the keys, unless they had it.
    prepare: Option<&'a Prepare<'a>>,
    k: &'a [f32],
    v: &'a [f32],
    kv_heads: usize,
    /// Widths of a key, and of a value that is given.
    dims: [usize; 2],
    layer: usize,
    writer: Writer<'a>,
}

impl<'a> New<'a> {
    /// Checks shapes and sequences.
    pub fn checked(
        cpu: Cpu,
        prepare: Option<&'a Prepare<'a>>,
        (k, v): (&'a [f32], &'a [f32]),
        params: &AttnParams<'_>,
        batch: &Batch<'_>,
        cache: &'a mut KvCache,
        layer: usize,
    ) -> Self {
        let width = params.kv_heads * params.head_dim;
        params.check(cache);
        batch.check_rows(k.len(), width);
        batch.check_cache(cache, layer);
        let kv_heads = params.kv_heads;
        let value = if cache.shape().latent {
            0
        } else {
            params.value_dim
        };
        let own = kv_heads * value;
        let rows = k.len() / width;
        assert_eq!(rows * own, v.len(), "k and v: [rows, {width} and {own}]");
        New {
            kernel: Kernel::of(cpu, cache.page().dtype),
            prepare,
            k,
            v,
            kv_heads,
            dims: [params.head_dim, value],
            layer,
            writer: cache.shared(),
        }
    }

    /// The cache that is written.
    pub fn cache(&self) -> &KvCache {
        self.writer.cache()
    }

    /// Writes rows `rows` (counted in the sequence) of one head.
    ///
    /// # Safety
    /// No other thread reads or writes these pages of this head.
    pub unsafe fn write(&self, seq: &Seq<'_>, rows: Range<usize>, head: usize) {
        let page = self.cache().page();
        let offset = self.cache().offset(self.layer, head);
        let mut own = [0f32; super::super::kv::MAX_HEAD_DIM];
        for row in rows {
            let position = seq.position + row;
            let place = (seq.rows.start + row) * self.kv_heads + head;
            let [width, value] = self.dims;
            let mut key = &self.k[place * width..][..width];
            let value = &self.v[place * value..][..value];
            if let Some(prepare) = self.prepare {
                let own = &mut own[..width];
                own.copy_from_slice(key);
                // SAFETY: the kernel is one of this machine's.
                unsafe { (self.kernel.head)(prepare, own, position, false) };
                key = own;
            }
            // SAFETY: `checked` has seen that the blocks exist; the caller answers for other threads.
            unsafe {
                let at = self.writer.at(seq.blocks, position / PAGE, offset);
                if position.is_multiple_of(PAGE) {
                    page.clear(at);
                }
                page.write(at, position % PAGE, key, value);
            }
        }
    }

    /// Asks for the memory of the first of a sequence's rows, which is written soon.
    pub fn prefetch(&self, seq: &Seq<'_>, head: usize) {
        let offset = self.cache().offset(self.layer, head);
        let at = self.cache().at(seq.blocks, seq.position / PAGE, offset);
        let lines = self.cache().page().lines(seq.position % PAGE);
        lines.for_each(|line| prefetch::<2>(at.wrapping_add(line)));
    }

    /// Writes all rows of all sequences.
    pub fn write_all(&self, cx: &Compute, seqs: &[Seq<'_>]) {
        // Whole pages, so that the first token of one is written before the others.
        let tasks: Vec<(&Seq<'_>, Range<usize>)> = seqs
            .iter()
            .filter(|s| !s.rows.is_empty())
            .flat_map(|s| {
                let (start, end) = (s.position, s.position + s.rows.len());
                (start / PAGE..end.div_ceil(PAGE)).map(move |page| {
                    let from = (page * PAGE).max(start);
                    (s, from - start..((page + 1) * PAGE).min(end) - start)
                })
            })
            .collect();
        each(cx, self.k.len(), &tasks, &|(seq, rows)| {
            for head in 0..self.kv_heads {
                // SAFETY: a page of a sequence has one task, and sequences write blocks of their own.
                unsafe { self.write(seq, rows.clone(), head) };
            }
        });
    }
}
