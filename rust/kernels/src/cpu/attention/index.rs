//! The index of sparse attention (DeepSeek V3.2's): narrow keys of their own, by which each row picks those that it attends
//! to. The score of a key is the sum over the heads of `weight * max(0, q . k)`.
//!
//! Float32 arithmetic, one fused multiply-add per dimension and then per head, in order, so that every number of rows,
//! chunk, thread and instruction set gives the same bits, and so the same picks.
use super::super::exp::Float;
use super::super::kv::{GROUP, KvCache, KvType, PAGE, Seq};
use super::super::lanes::Plain;
use super::super::rope::Rope;
use super::super::threads::Rows;
use super::super::{Compute, Cpu, Isa};
use super::element::{Ahead, Bf16, Element, F16, F32};
use super::kernel::Kernel;
use super::write::{self, New, Prepare};
use super::{AttnParams, Batch, Picks, picks};
use std::ops::Range;

/// Heads that are summed together.
const HEADS: usize = 8;
/// Rows of a task: how often a key is used while it is near.
const ROWS: usize = 8;
/// Pages of a task.
const PAGES: usize = 16;
/// Scores that are kept at a time, unless one row alone has more.
const SCORES: usize = 4 << 20;

/// Shape of an index.
#[derive(Debug, Clone, Copy)]
pub struct IndexParams {
    /// Heads of a query; all share the key.
    pub heads: usize,
    /// Width of a head and of a key, an even number.
    pub dim: usize,
    /// Most keys that a row picks.
    pub most: usize,
}

/// A row that sees more keys than it may pick.
struct Row<'a> {
    seq: &'a Seq<'a>,
    /// Among the rows of the step.
    row: usize,
    /// Keys that it sees.
    keys: usize,
}

/// Rotates queries and keys, writes the keys into the cache and picks: of each row the `most` keys of the largest scores,
/// of equal ones the lower positions. `q`: `[rows, heads * dim]`, `k`: `[rows, dim]`, `weights`: `[rows, heads]`; what
/// multiplies all scores alike changes no pick and may be left out.
///
/// # Panics
/// When shapes, positions or blocks do not fit each other or the cache, which is latent and of a type without scales.
pub fn index(
    cx: &Compute,
    rope: &Rope,
    params: IndexParams,
    (q, k, weights): (&mut [f32], &mut [f32], &[f32]),
    batch: &Batch<'_>,
    cache: &mut KvCache,
    layer: usize,
) -> Picks {
    let IndexParams { heads, dim, most } = params;
    assert!(heads > 0 && most > 0 && dim.is_multiple_of(2), "{params:?}");
    assert!(
        !cache.page().dtype.is_scaled(),
        "keys of an index have no scales"
    );
    let shape = AttnParams {
        heads,
        kv_heads: 1,
        head_dim: dim,
        value_dim: dim,
        scale: 1.0,
        window: None,
        softcap: None,
        sinks: None,
        temperature: None,
        picks: None,
    };
    let prepare = Prepare::new(rope, None, &shape, batch);
    let kernel = Kernel::of(cx.cpu, cache.page().dtype);
    write::rotate(cx, &prepare, (kernel, k, 1), batch, false);
    New::checked(cx.cpu, None, (k, &[]), &shape, batch, cache, layer).write_all(cx, batch.seqs());
    let rows = k.len() / dim;
    assert!(
        q.len() == rows * heads * dim && weights.len() == rows * heads,
        "q and weights: [{rows}, {heads} * {dim} and {heads}]"
    );
    let choosing = choosing(batch, most);
    if choosing.is_empty() {
        return Picks::all(most);
    }
    write::rotate(cx, &prepare, (kernel, q, heads), batch, true);
    let scoring = Scoring {
        params,
        q,
        weights,
        cache,
        offset: cache.offset(layer, 0),
        page: of(cx.cpu, cache.page().dtype),
    };
    let mut picks = Picks::lists(most, rows);
    let mut scores = Vec::new();
    let mut rest = &choosing[..];
    while !rest.is_empty() {
        let (now, later) = rest.split_at(fitting(rest));
        scoring.run(cx, now, &mut scores);
        select(cx, now, &mut scores, &mut picks);
        rest = later;
    }
    picks
}

/// The rows that see more than `most` keys.
fn choosing<'a>(batch: &'a Batch<'_>, most: usize) -> Vec<Row<'a>> {
    let of = |seq: &'a Seq<'_>| {
        let row = move |i: usize| Row {
            seq,
            row: seq.rows.start + i,
            keys: seq.position + i + 1,
        };
        (0..seq.rows.len()).map(row).filter(|r| r.keys > most)
    };
    batch.seqs().iter().flat_map(of).collect()
}

/// How many of the first rows are scored at a time.
fn fitting(rows: &[Row<'_>]) -> usize {
    let mut kept = 0;
    let fits = |row: &&Row<'_>| {
        kept += row.keys.next_multiple_of(PAGE);
        kept <= SCORES
    };
    rows.iter().take_while(fits).count().max(1)
}

/// Where the scores of each row begin, in pages; and of all of them the end.
fn starts(rows: &[Row<'_>]) -> Vec<usize> {
    let mut starts = vec![0];
    for row in rows {
        starts.push(starts[starts.len() - 1] + row.keys.div_ceil(PAGE));
    }
    starts
}

/// Picks of scored rows.
fn select(cx: &Compute, rows: &[Row<'_>], scores: &mut [f32], picks: &mut Picks) {
    let (starts, most) = (starts(rows), picks.most());
    let lists = Rows::new(picks.lists_mut(), most);
    let scores = &*scores;
    cx.pool.for_each(rows.len(), &|i| {
        let first = starts[i] * PAGE;
        // SAFETY: each row is one task's.
        let to = unsafe { lists.row(rows[i].row) };
        picks::choose(&scores[first..first + rows[i].keys], to);
    });
}

/// What scores are made of.
struct Scoring<'a> {
    params: IndexParams,
    q: &'a [f32],
    weights: &'a [f32],
    cache: &'a KvCache,
    /// Of the layer.
    offset: usize,
    page: ScorePage,
}

/// Some pages of some rows of a sequence.
struct Task {
    rows: Range<usize>,
    pages: Range<usize>,
}

impl Scoring<'_> {
    /// Scores of `rows`, each row's from where [`starts`] says on.
    fn run(&self, cx: &Compute, rows: &[Row<'_>], scores: &mut Vec<f32>) {
        let starts = starts(rows);
        let pages = starts[rows.len()];
        if scores.len() < pages * PAGE {
            scores.resize(pages * PAGE, 0.0);
        }
        let (tasks, scores) = (tasks(rows), Rows::new(scores, PAGE));
        cx.pool.for_each(tasks.len(), &|i| {
            let Task { rows: own, pages } = &tasks[i];
            for page in pages.clone() {
                for i in own.clone() {
                    let Row { seq, row, keys } = rows[i];
                    if page * PAGE < keys {
                        let keys = self.cache.at(seq.blocks, page, self.offset);
                        // SAFETY: a page of a row is one task's.
                        let to = unsafe { scores.row(starts[i] + page) };
                        self.score(row, keys, to);
                    }
                }
            }
        });
    }

    /// Scores of a row for the keys of a page.
    fn score(&self, row: usize, keys: *const u8, to: &mut [f32]) {
        let IndexParams { heads, dim, .. } = self.params;
        let one = One {
            q: &self.q[row * heads * dim..][..heads * dim],
            weights: &self.weights[row * heads..][..heads],
            dim,
            keys,
            group: self.cache.page().group_bytes(),
        };
        // SAFETY: the machine has the instruction set of `of`; the page exists, `to` has a place for each of its keys.
        unsafe { (self.page)(&one, to.as_mut_ptr()) };
    }
}

fn tasks(rows: &[Row<'_>]) -> Vec<Task> {
    let mut tasks = Vec::new();
    let mut first = 0;
    for together in rows.chunk_by(|a, b| std::ptr::eq(a.seq, b.seq)) {
        for block in together.chunks(ROWS) {
            let last = first + block.len();
            let pages = block[block.len() - 1].keys.div_ceil(PAGE);
            tasks.extend((0..pages).step_by(PAGES).map(|from| Task {
                rows: first..last,
                pages: from..pages.min(from + PAGES),
            }));
            first = last;
        }
    }
    tasks
}

/// A row's query, and a page of keys.
struct One<'a> {
    /// `[heads, dim]`
    q: &'a [f32],
    /// `[heads]`
    weights: &'a [f32],
    dim: usize,
    keys: *const u8,
    /// Bytes of 16 keys.
    group: usize,
}

type ScorePage = unsafe fn(&One<'_>, *mut f32);

#[inline(always)]
unsafe fn page<L: Float, E: Element>(one: &One<'_>, to: *mut f32) {
    // SAFETY: the caller's; the page has two groups of keys.
    unsafe {
        let first = Ahead::none(one.keys);
        let keys = [first, first.add(one.group)];
        let mut sums = [L::splat(0.0); 2];
        let heads = one.weights.len();
        let mut head = 0;
        while head < heads {
            head += match heads - head {
                HEADS.. => several::<L, E, HEADS>(one, keys, head, &mut sums),
                4.. => several::<L, E, 4>(one, keys, head, &mut sums),
                _ => several::<L, E, 1>(one, keys, head, &mut sums),
            };
        }
        sums[0].store(to);
        sums[1].store(to.add(GROUP));
    }
}

/// Adds what `N` heads from `head` on give; returns `N`.
#[inline(always)]
unsafe fn several<L: Float, E: Element, const N: usize>(
    one: &One<'_>,
    keys: [Ahead; 2],
    head: usize,
    sums: &mut [L; 2],
) -> usize {
    let q = one.q.as_ptr().wrapping_add(head * one.dim);
    for (keys, sum) in keys.into_iter().zip(sums) {
        // SAFETY: the heads and the group exist.
        unsafe {
            let mut products = [L::splat(0.0); N];
            for pair in 0..one.dim / 2 {
                let (a, b) = E::rows::<L>(keys, 2 * pair * GROUP, GROUP);
                for (h, product) in products.iter_mut().enumerate() {
                    let q = q.add(h * one.dim + 2 * pair);
                    let first = a.fma(L::splat(*q), *product);
                    *product = b.fma(L::splat(*q.add(1)), first);
                }
            }
            for (h, product) in products.into_iter().enumerate() {
                let above = L::splat(0.0).max(product);
                *sum = above.fma(L::splat(one.weights[head + h]), *sum);
            }
        }
    }
    N
}

/// Functions that enable an instruction set and inline the generic body.
macro_rules! variant {
    ($name:ident, $lanes:ty $(, $features:literal)?) => {
        $(#[target_feature(enable = $features)])?
        unsafe fn $name<E: Element>(one: &One<'_>, to: *mut f32) {
            // SAFETY: the caller answers for the instruction set and the page.
            unsafe { page::<$lanes, E>(one, to) }
        }
    };
}

variant!(plain, Plain);
#[cfg(target_arch = "aarch64")]
variant!(neon, super::super::lanes::Neon);
#[cfg(target_arch = "x86_64")]
variant!(avx2, super::super::lanes::Ymm, "avx2,fma,f16c");
#[cfg(target_arch = "x86_64")]
variant!(
    avx512,
    super::super::lanes::Zmm,
    "avx512f,avx512bw,avx512vl,avx512dq"
);

fn of(cpu: Cpu, dtype: KvType) -> ScorePage {
    match dtype {
        KvType::F32 => on::<F32>(cpu),
        KvType::F16 => on::<F16>(cpu),
        // `index` takes no others.
        _ => on::<Bf16>(cpu),
    }
}

fn on<E: Element>(cpu: Cpu) -> ScorePage {
    match cpu.isa() {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => avx2::<E>,
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 | Isa::Amx => avx512::<E>,
        #[cfg(target_arch = "aarch64")]
        Isa::Neon => neon::<E>,
        _ => plain::<E>,
    }
}
