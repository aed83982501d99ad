//! One parallel region of attention: what a task does, from packing the queries to the finished rows.
use super::super::kv::{KvCache, MAX_HEAD_DIM, PAGE, Page, Seq};
use super::super::threads::Rows;
use super::AttnParams;
use super::kernel::Kernel;
use super::plan::{LINE, Plan, SEGMENT, Split, Task, Unit, partial_lines};
use super::scratch::{Line, Scratch};
use super::softmax::State;
use super::tile::{PAGES, ROWS, Rules, Tile};
use super::write::{New, Prepare};
use std::cell::Cell;
use std::mem::MaybeUninit;
use std::ops::Range;
use std::sync::atomic::{AtomicU32, Ordering};

/// Queries `[rows, heads * head_dim]`, and the norm and rotation that they still need.
#[derive(Clone, Copy)]
pub(super) struct Queries<'a> {
    pub q: &'a [f32],
    pub prepare: Option<&'a Prepare<'a>>,
}

/// All that the tasks of a region share.
pub(super) struct Region<'a> {
    pub params: &'a AttnParams<'a>,
    pub queries: Queries<'a>,
    /// Keys and values to write first; a task writes those of its own sequence and head.
    pub new: Option<&'a New<'a>>,
    pub seqs: &'a [Seq<'a>],
    pub cache: &'a KvCache,
    pub layer: usize,
    pub kernel: &'static Kernel,
    pub plan: &'a Plan,
    /// Tasks that each split unit waits for.
    counters: Vec<AtomicU32>,
    /// Lines of partial results, see [`partial_lines`].
    partials: Rows<'a, MaybeUninit<f32>>,
    /// `[rows * heads, value_dim]`
    out: Rows<'a, f32>,
}

thread_local! {
    /// Working memory of this thread, kept from task to task.
    static SCRATCH: Cell<Vec<Line>> = const { Cell::new(Vec::new()) };
}

/// The queries of a unit, packed, and where its results gather.
pub(super) struct Current<'a> {
    pub unit: &'a Unit,
    /// The unit that is computed next, most probably.
    pub next: Option<&'a Unit>,
    pub seq: &'a Seq<'a>,
    pub rows: usize,
    /// Layout of the cache's pages.
    pub page: Page,
    /// Layout of the pages that are computed with, where they are made of the cache's first.
    pub wide: Option<Page>,
    pub scratch: Scratch,
}

impl<'a> Region<'a> {
    /// `partials` holds [`Plan::partials`] lines, `out` `[rows, heads * value_dim]`.
    #[allow(clippy::too_many_arguments)]
    pub fn new(
        params: &'a AttnParams<'a>,
        queries: Queries<'a>,
        new: Option<&'a New<'a>>,
        seqs: &'a [Seq<'a>],
        cache: &'a KvCache,
        layer: usize,
        kernel: &'static Kernel,
        plan: &'a Plan,
        partials: &'a mut [MaybeUninit<f32>],
        out: &'a mut [f32],
    ) -> Self {
        let counters = plan.counters.iter().map(|&n| AtomicU32::new(n)).collect();
        let partials = Rows::new(partials, LINE);
        let out = Rows::new(out, params.value_dim);
        Region {
            params,
            queries,
            new,
            seqs,
            cache,
            layer,
            kernel,
            plan,
            counters,
            partials,
            out,
        }
    }

    /// Does task `index` of the plan.
    ///
    /// # Safety
    /// Each task runs once; the kernel's instruction set exists.
    pub unsafe fn run(&self, index: usize) {
        let task = &self.plan.tasks[index];
        let unit = &self.plan.units[task.unit];
        let next = self.plan.units.get(task.unit + 1);
        let seq = &self.seqs[unit.seq];
        if let Some(new) = self.new {
            if task.segments.end == unit.segments.end {
                // SAFETY: of this sequence and head this is the only task that touches segments with new tokens.
                unsafe { new.write(seq, unit.queries.clone(), unit.head) };
            }
            if let Some(next) = next {
                new.prefetch(&self.seqs[next.seq], next.head);
            }
        }
        let mut memory = SCRATCH.take();
        let rows = unit.queries.len() * self.params.group();
        let page = self.cache.page();
        let wide = self.wide(page, rows);
        let scratch = Scratch::new(&mut memory, page, wide, (rows, unit.picked));
        let current = Current {
            unit,
            next,
            seq,
            rows,
            page,
            wide,
            scratch,
        };
        // SAFETY: as the caller's.
        unsafe {
            self.pack(&current);
            match unit.split {
                None => {
                    self.begin(&current);
                    self.walk(&current, task.segments.clone(), None);
                    self.finish(&current);
                }
                Some(split) => self.part(&current, task, split),
            }
        }
        SCRATCH.set(memory);
    }

    /// Query head of row `row` of a unit, and its row in q and out.
    fn place(&self, current: &Current<'_>, row: usize) -> (usize, usize) {
        let group = self.params.group();
        let query = current.seq.rows.start + current.unit.queries.start + row / group;
        (current.unit.head * group + row % group, query)
    }

    pub fn position(&self, current: &Current<'_>, row: usize) -> usize {
        current.seq.position + current.unit.queries.start + row / self.params.group()
    }

    /// Brings the queries into the cache's type, padded.
    unsafe fn pack(&self, current: &Current<'_>) {
        let (dim, width) = (
            self.params.head_dim,
            self.params.heads * self.params.head_dim,
        );
        let key_dims = current.page.key_dims;
        let mut own = [0f32; MAX_HEAD_DIM];
        for row in 0..current.rows {
            let (head, query) = self.place(current, row);
            let q = &self.queries.q[query * width + head * dim..][..dim];
            own[..dim].copy_from_slice(q);
            if let Some(prepare) = self.queries.prepare {
                // SAFETY: the kernel's instruction set exists.
                unsafe {
                    (self.kernel.head)(prepare, &mut own[..dim], self.position(current, row), true);
                }
            }
            // SAFETY: the scratch holds `rows` padded queries; `own` holds the widest.
            unsafe {
                if current.page.dtype.query_bytes() == size_of::<f32>() {
                    let to = current.scratch.q.cast::<f32>().add(row * key_dims);
                    to.copy_from_nonoverlapping(own.as_ptr(), key_dims);
                } else {
                    let to = current.scratch.q.cast::<u16>().add(row * key_dims);
                    (self.kernel.narrow)(own.as_ptr(), to, key_dims);
                }
            }
        }
    }

    /// Empties the merged results.
    unsafe fn begin(&self, current: &Current<'_>) {
        let State { max, sum, .. } = current.scratch.state;
        for row in 0..current.rows.next_multiple_of(ROWS) {
            // SAFETY: the scratch holds as many rows.
            unsafe {
                max.add(row).write(f32::NEG_INFINITY);
                sum.add(row).write(0.0);
            }
        }
    }

    /// Computes `segments` in order: merges them, or keeps each result apart for [`Region::part`].
    unsafe fn walk(&self, current: &Current<'_>, segments: Range<usize>, split: Option<Split>) {
        let mut tile = self.blank(current);
        let few = self.kernel.widen.as_ref().and_then(|w| w.few);
        let compute = match few {
            Some((_, few)) if current.wide.is_none() => few,
            _ => self.kernel.segment,
        };
        // SAFETY: the scratch holds all rows; `fill` takes pages that exist.
        unsafe {
            (self.kernel.begin)();
            for segment in segments {
                self.lay_out(current, segment);
                for first in (0..current.rows).step_by(ROWS) {
                    if self.fill(&mut tile, current, segment, first) {
                        compute(&mut tile);
                    }
                    self.put(current, &mut tile, segment, first, split);
                }
            }
            (self.kernel.end)();
        }
    }

    /// A tile without rows.
    fn blank(&self, current: &Current<'_>) -> Tile {
        Tile {
            rows: 0,
            first_rows: true,
            page: current.wide.unwrap_or(current.page),
            rules: Rules {
                scale: self.params.scale,
                softcap: self.params.softcap,
            },
            q: current.scratch.q,
            keys: [std::ptr::null(); PAGES],
            values: [std::ptr::null(); PAGES],
            scales: [[std::ptr::null(); 2]; PAGES],
            first: 0,
            last: 0,
            next: std::ptr::null(),
            see: [[0; 2]; ROWS],
            scores: current.scratch.scores,
            out: current.scratch.tile_out,
            max: [f32::NEG_INFINITY; ROWS],
            sum: [0.0; ROWS],
        }
    }

    /// Sets `tile` to the rows from `first` on and `segment`; whether any of them sees a key there.
    unsafe fn fill(
        &self,
        tile: &mut Tile,
        current: &Current<'_>,
        segment: usize,
        first: usize,
    ) -> bool {
        let pages = self.see(
            tile,
            current,
            segment,
            first..current.rows.min(first + ROWS),
        );
        (tile.first, tile.last) = (pages.start, pages.end);
        tile.rows = ROWS.min(current.rows - first);
        // What has been laid out is near.
        let near = current.wide.is_some() || current.page.latent.is_some();
        tile.first_rows = first == 0 && !near;
        if pages.is_empty() {
            (tile.max, tile.sum) = ([f32::NEG_INFINITY; ROWS], [0.0; ROWS]);
            return false;
        }
        for page in pages {
            let at = self.page(current, segment * PAGES + page);
            [tile.keys[page], tile.values[page]] = self.operands(current, page, at);
            if current.page.dtype.is_scaled() {
                let scales = [current.page.key_scales(), current.page.value_scales()];
                tile.scales[page] = scales.map(|offset| at.wrapping_add(offset).cast());
            }
        }
        tile.next = self.after(current, segment);
        // SAFETY: the scratch holds all rows.
        tile.q = unsafe { current.scratch.q.add(first * tile.query_bytes()) };
        true
    }

    /// Merges a finished tile, or keeps it apart.
    unsafe fn put(
        &self,
        current: &Current<'_>,
        tile: &mut Tile,
        segment: usize,
        first: usize,
        split: Option<Split>,
    ) {
        // SAFETY: as the caller's.
        unsafe {
            match split {
                None => self.merge(current, tile, first),
                Some(split) => {
                    let to = self.partial(current, split, segment).from(first);
                    self.keep(to, tile);
                }
            }
        }
    }

    /// The pages of `segment` that `rows` see; the keys that each sees, for the first of them, in the tile.
    fn see(
        &self,
        tile: &mut Tile,
        current: &Current<'_>,
        segment: usize,
        rows: Range<usize>,
    ) -> Range<usize> {
        let base = segment * SEGMENT;
        let inside = |p: usize| p.clamp(base, base + SEGMENT) - base;
        let (mut first, mut last) = (SEGMENT, 0);
        // Rows of a query lie together; counted along, a division a row costs more than all else here.
        let group = self.params.group();
        let mut position = self.position(current, rows.start);
        let mut left = group - rows.start % group;
        let mut row = 0;
        while row < rows.len() {
            let keys = self.seen(current.unit, position);
            let (from, to) = (inside(keys.start), inside(keys.end));
            let end = rows.len().min(row + left);
            tile.see[row..end].fill([from as u16, to as u16]);
            if from < to {
                (first, last) = (first.min(from), last.max(to));
            }
            (row, left, position) = (end, group, position + 1);
        }
        if first < last {
            first / PAGE..last.div_ceil(PAGE)
        } else {
            0..0
        }
    }

    unsafe fn merge(&self, current: &Current<'_>, tile: &mut Tile, first: usize) {
        let new = State {
            max: tile.max.as_mut_ptr(),
            sum: tile.sum.as_mut_ptr(),
            out: tile.out,
            dims: current.page.value_dims,
        };
        // SAFETY: the tile has computed its rows, the first of which is `first`.
        unsafe { (self.kernel.merge)(current.scratch.state.from(first), new, tile.rows) };
    }

    /// Normalises and writes the rows.
    unsafe fn finish(&self, current: &Current<'_>) {
        for row in 0..current.rows {
            let (head, query) = self.place(current, row);
            let sink = self.params.sinks.map(|s| s[head]);
            // SAFETY: rows of different units differ, and a unit is finished once.
            unsafe {
                let out = self.out.row(query * self.params.heads + head);
                let state = current.scratch.state.from(row);
                (self.kernel.finish)(state, sink, out.len(), out.as_mut_ptr());
            }
        }
    }

    /// Where the partial results of a segment of a split unit lie.
    unsafe fn partial(&self, current: &Current<'_>, split: Split, segment: usize) -> State {
        let (rows, dims) = (current.rows.next_multiple_of(LINE), current.page.value_dims);
        let lines = partial_lines(current.rows, dims);
        let first = split.offset + (segment - current.unit.segments.start) * lines;
        // SAFETY: the plan has counted these lines for this unit and segment; the caller is their only user.
        unsafe {
            let start = self
                .partials
                .rows(first..first + lines)
                .as_mut_ptr()
                .cast::<f32>();
            State {
                max: start,
                sum: start.add(rows),
                out: start.add(2 * rows),
                dims,
            }
        }
    }

    /// Writes a tile's results of one segment to the partials.
    unsafe fn keep(&self, to: State, tile: &Tile) {
        // SAFETY: `to` begins at the tile's first row; a segment of a unit is computed by one task.
        unsafe {
            to.max
                .copy_from_nonoverlapping(tile.max.as_ptr(), tile.rows);
            to.sum
                .copy_from_nonoverlapping(tile.sum.as_ptr(), tile.rows);
            to.out
                .copy_from_nonoverlapping(tile.out, tile.rows * to.dims);
        }
    }

    /// A task of a split unit: keeps its segments apart; the last to end merges all of them in order.
    unsafe fn part(&self, current: &Current<'_>, task: &Task, split: Split) {
        // SAFETY: as the caller's; after the last task has counted down, no one writes the partials of this unit.
        unsafe {
            self.walk(current, task.segments.clone(), Some(split));
            if self.counters[split.counter].fetch_sub(1, Ordering::AcqRel) != 1 {
                return;
            }
            self.begin(current);
            for segment in current.unit.segments.clone() {
                let new = self.partial(current, split, segment);
                (self.kernel.merge)(current.scratch.state, new, current.rows);
            }
            self.finish(current);
        }
    }
}
