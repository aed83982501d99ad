//! The pages that a unit computes with: the cache's own, or laid out near: the keys that a row has picked gathered, values
//! apart from the keys that hold them, codes as bf16.
use super::super::buffer::prefetch;
use super::super::kv::{KvType, PAGE, Page};
use super::plan::{SEGMENT, Unit, visible};
use super::scratch::Line;
use super::tile::PAGES;
use super::unit::{Current, Region};
use std::ops::Range;

impl Region<'_> {
    /// The layout that a unit's pages are widened to, if they are.
    pub(super) fn wide(&self, page: Page, rows: usize) -> Option<Page> {
        let widen = self.kernel.widen.as_ref()?;
        let few = widen.few.is_some_and(|(most, _)| rows <= most);
        (!few).then_some(Page {
            dtype: KvType::Bf16,
            latent: None,
            ..page
        })
    }

    /// The keys that the query at `position` of a unit sees, counted in the sequence or in its picks.
    pub(super) fn seen(&self, unit: &Unit, position: usize) -> Range<usize> {
        match self.params.picks {
            Some(picks) if unit.picked => 0..picks.most(),
            _ => visible(self.params.window, position),
        }
    }

    /// Lays out the pages of `segment` that any row sees as they are computed with, where that is not how the cache has
    /// them.
    ///
    /// # Safety
    /// The scratch is the unit's, the kernel's instruction set exists.
    pub(super) unsafe fn lay_out(&self, current: &Current<'_>, segment: usize) {
        let (page, scratch) = (current.page, &current.scratch);
        if page.latent.is_none() && current.wide.is_none() {
            return;
        }
        let base = segment * SEGMENT;
        let [first, last] = [0, current.rows - 1].map(|row| {
            let position = self.position(current, row);
            self.seen(current.unit, position)
        });
        let (from, to) = (first.start.max(base), last.end.min(base + SEGMENT));
        if current.unit.picked {
            // SAFETY: the caller's.
            unsafe { self.gather(current, from..to) };
        }
        for index in from / PAGE..to.div_ceil(PAGE).max(from / PAGE) {
            let keys = self.page(current, index);
            let next = match (index + 1) * PAGE < to {
                true => self.page(current, index + 1),
                false => self.after(current, segment),
            };
            let own = index - base / PAGE;
            // SAFETY: the page exists, the scratch holds a segment's.
            unsafe {
                let Some((wide, widen)) = current.wide.zip(self.kernel.widen.as_ref()) else {
                    let lines = (0..page.bytes()).step_by(size_of::<Line>());
                    lines.for_each(|line| prefetch::<2>(next.wrapping_add(line)));
                    let to = scratch.apart.add(own * page.value_bytes());
                    (self.kernel.turn)(&page, keys, to);
                    continue;
                };
                let to = scratch.wide.add(own * wide.bytes());
                (widen.codes)(keys, PAGE * page.key_dims, next, to);
                let values = to.add(wide.key_bytes());
                if page.latent.is_some() {
                    let dtype = wide.dtype;
                    (self.kernel.turn)(&Page { dtype, ..page }, to, values);
                    continue;
                }
                let [from, next] = [keys, next].map(|at| at.wrapping_add(page.key_bytes()));
                (widen.codes)(from, PAGE * page.value_dims, next, values);
            }
        }
    }

    /// Copies the picked keys `picks` (at most a segment's, counted in the row's picks) to the scratch, page by page.
    unsafe fn gather(&self, current: &Current<'_>, picks: Range<usize>) {
        let (page, unit) = (current.page, current.unit);
        let row = current.seq.rows.start + unit.queries.start;
        let Some(all) = self.params.picks.map(|p| p.of(row)) else {
            return;
        };
        for first in picks.clone().step_by(PAGE) {
            let to = self.page(current, first / PAGE).cast_mut();
            let last = picks.end.min(first + PAGE);
            // SAFETY: the scratch holds a segment's pages, which are this task's; picks are positions that the query
            // sees, and the sequence has pages for those.
            unsafe {
                if last < first + PAGE {
                    page.clear(to);
                }
                for (slot, &position) in all[first..last].iter().enumerate() {
                    let position = position as usize;
                    let from = self.cached(unit, position / PAGE);
                    page.copy_key(from, position % PAGE, to, slot);
                }
            }
        }
    }

    /// Where the keys and the values of a page of a segment lie, which begins at `at`.
    pub(super) fn operands(
        &self,
        current: &Current<'_>,
        page: usize,
        at: *const u8,
    ) -> [*const u8; 2] {
        let (own, scratch) = (current.page, &current.scratch);
        if let Some(wide) = current.wide {
            let at = scratch.wide.wrapping_add(page * wide.bytes());
            return [at, at.wrapping_add(wide.key_bytes())].map(<*mut u8>::cast_const);
        }
        let values = match own.latent {
            Some(_) => scratch
                .apart
                .wrapping_add(page * own.value_bytes())
                .cast_const(),
            None => at.wrapping_add(own.key_bytes()),
        };
        [at, values]
    }

    /// Page `index` that a unit sees: of its sequence, or of its picks.
    pub(super) fn page(&self, current: &Current<'_>, index: usize) -> *const u8 {
        if current.unit.picked {
            let bytes = index % PAGES * current.page.bytes();
            return current.scratch.picked.wrapping_add(bytes).cast_const();
        }
        self.cached(current.unit, index)
    }

    /// Page `index` of a unit's sequence and head.
    fn cached(&self, unit: &Unit, index: usize) -> *const u8 {
        let offset = self.cache.offset(self.layer, unit.head);
        self.cache.at(self.seqs[unit.seq].blocks, index, offset)
    }

    /// The page that is read after `segment`, most probably.
    pub(super) fn after(&self, current: &Current<'_>, segment: usize) -> *const u8 {
        match current.next {
            _ if segment + 1 < current.unit.segments.end => {
                self.page(current, (segment + 1) * PAGES)
            }
            Some(next) => self.cached(next, next.segments.start * PAGES),
            None => self.page(current, segment * PAGES),
        }
    }
}
