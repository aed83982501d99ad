//! How attention is cut into tasks for the threads. Only who computes what is decided here, never an order of sums.
use super::super::kv::Seq;
use super::{AttnParams, Picks, Window};
use std::ops::Range;

/// Keys a segment.
pub(super) const SEGMENT: usize = 256;
/// Most rows (queries times heads of a group) of a unit: how often keys and values are read from beyond the caches.
pub(super) const UNIT_ROWS: usize = 128;
/// Tasks a thread should have at least, so that all end at about the same time.
const TASKS: usize = 4;

/// Query rows of one sequence and one key/value head that are computed together.
#[derive(Debug, Clone)]
pub(super) struct Unit {
    pub seq: usize,
    pub head: usize,
    /// Queries, counted in the sequence's rows.
    pub queries: Range<usize>,
    /// Segments that any of them sees.
    pub segments: Range<usize>,
    /// Whether it is one query over the keys that it has picked; segments are those of its picks then.
    pub picked: bool,
    /// Set when several tasks compute it.
    pub split: Option<Split>,
}

/// A unit whose segments are computed by several tasks.
#[derive(Debug, Clone, Copy)]
pub(super) struct Split {
    /// First line of its partial results.
    pub offset: usize,
    /// Its counter of unfinished tasks.
    pub counter: usize,
}

/// Some segments of a unit.
#[derive(Debug, Clone)]
pub(super) struct Task {
    pub unit: usize,
    pub segments: Range<usize>,
}

/// Units and tasks of one call.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub units: Vec<Unit>,
    pub tasks: Vec<Task>,
    /// Tasks of each split unit.
    pub counters: Vec<u32>,
    /// Lines of partial results of all split units.
    pub partials: usize,
}

/// Positions that the query at `position` sees.
pub(super) fn visible(window: Option<Window>, position: usize) -> Range<usize> {
    window.map_or(0, |w| w.first(position))..position + 1
}

impl Plan {
    /// `fused`: the task with a sequence's newest segments writes its keys, so those stay in one task.
    pub fn new(params: &AttnParams<'_>, seqs: &[Seq<'_>], threads: usize, fused: bool) -> Plan {
        let mut plan = Plan::default();
        let rows: usize = seqs.iter().map(|s| s.rows.len()).sum::<usize>() * params.heads;
        let enough = rows
            .div_ceil(threads * TASKS)
            .next_multiple_of(32)
            .min(UNIT_ROWS);
        let unit_rows = if fused { UNIT_ROWS } else { enough };
        let queries = (unit_rows / params.group()).max(1);
        for (seq, s) in seqs.iter().enumerate() {
            let most = params.picks.map_or(usize::MAX, Picks::most);
            let seeing_all = most.saturating_sub(s.position).min(s.rows.len());
            // In order: a thread then has the rows that it also multiplies (`matmul`'s parts).
            for block in 0..seeing_all.div_ceil(queries) {
                let queries = block * queries..seeing_all.min((block + 1) * queries);
                let first = visible(params.window, s.position + queries.start).start;
                let segments = first / SEGMENT..(s.position + queries.end).div_ceil(SEGMENT);
                plan.push(params, seq, queries, segments, false);
            }
            for row in seeing_all..s.rows.len() {
                plan.push(params, seq, row..row + 1, 0..most.div_ceil(SEGMENT), true);
            }
        }
        plan.split(params, seqs, threads);
        plan
    }

    /// Adds these queries' units.
    fn push(
        &mut self,
        params: &AttnParams<'_>,
        seq: usize,
        queries: Range<usize>,
        segments: Range<usize>,
        picked: bool,
    ) {
        let unit = |head| Unit {
            seq,
            head,
            queries: queries.clone(),
            segments: segments.clone(),
            picked,
            split: None,
        };
        self.units.extend((0..params.kv_heads).map(unit));
    }

    /// Cuts units of many segments where whole units would leave threads without work.
    fn split(&mut self, params: &AttnParams<'_>, seqs: &[Seq<'_>], threads: usize) {
        let tiles = |u: &Unit| (u.queries.len() * params.group()).div_ceil(16);
        let cost = |u: &Unit| u.segments.len() * tiles(u);
        let total: usize = self.units.iter().map(cost).sum();
        let share = (total / (threads * TASKS)).max(1);
        for (index, unit) in self.units.iter_mut().enumerate() {
            let newest = match unit.picked {
                // Their keys were written before.
                true => unit.segments.end - 1,
                false => (seqs[unit.seq].position / SEGMENT).max(unit.segments.start),
            };
            if threads == 1 || cost(unit) <= share || newest == unit.segments.start {
                self.tasks.push(Task {
                    unit: index,
                    segments: unit.segments.clone(),
                });
                continue;
            }
            let piece = (share / tiles(unit)).max(1);
            let before = self.tasks.len();
            // Segments with new tokens stay together: see `fused`.
            self.tasks.push(Task {
                unit: index,
                segments: newest..unit.segments.end,
            });
            for start in (unit.segments.start..newest).step_by(piece) {
                let segments = start..newest.min(start + piece);
                self.tasks.push(Task {
                    unit: index,
                    segments,
                });
            }
            unit.split = Some(Split {
                offset: self.partials,
                counter: self.counters.len(),
            });
            self.counters.push((self.tasks.len() - before) as u32);
            let rows = unit.queries.len() * params.group();
            let lines = partial_lines(rows, params.value_dim.next_multiple_of(LINE));
            self.partials += unit.segments.len() * lines;
        }
    }
}

/// f32 of a line of partial results.
pub(super) const LINE: usize = 16;

/// Lines of `rows` rows' results for one segment: their maxima and their sums, each padded to whole lines, and the
/// values, `dims` wide.
pub(super) fn partial_lines(rows: usize, dims: usize) -> usize {
    2 * rows.div_ceil(LINE) + rows * (dims / LINE)
}
