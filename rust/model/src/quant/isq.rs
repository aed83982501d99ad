//! Quantising while loading: a matrix that its checkpoint keeps wider than was asked for is encoded row by row as it is
//! packed, so that neither its values nor its blocks ever stand whole beside what they become.
//! The one place that decides which matrix becomes what; files that are written so (`weights/gguf/write`) ask here too.
use std::{
    borrow::Cow,
    sync::atomic::{AtomicBool, Ordering},
};

use candle_vllm_kernels::cpu::{
    Rows,
    ggml::{self, GgmlType, MADE},
};

use super::{Coded, Described, Role, described::row_bytes};
use crate::weights::passed;

/// Gives back the pages of a part of a mapped file.
pub type Release<'a> = &'a (dyn Fn(&[u8]) + Sync);

/// The type called `name`: `q4_k`, or `q4k` as the earlier candle-vllm has it; capitals do not matter.
pub fn named(name: &str) -> Option<GgmlType> {
    let plain = |name: &str| name.to_lowercase().replace('_', "");
    // q4_0 is not q40 to anyone, but no two types differ by that alone.
    MADE.into_iter().find(|ty| plain(ty.name()) == plain(name))
}

/// The names of all types, for messages.
pub fn names() -> String {
    MADE.map(|ty| ty.name().to_lowercase()).join(", ")
}

/// Where a matrix stands in its model.
#[derive(Debug, Clone, Copy)]
pub struct Spot {
    /// What it is for.
    pub role: Role,
    /// Of a layer: its number, and how many there are.
    pub layer: Option<[usize; 2]>,
}

impl Spot {
    /// Whether errors cost most here for what a wider type takes: in the first and the last eighth of the layers, and in
    /// queries, keys and values, whose matrices are small. SmolLM2's perplexity with Q4_0: +19 % without the rule, +7 %
    /// with the ends alone, +5 % so.
    fn is_delicate(self) -> bool {
        let Some([at, all]) = self.layer else {
            return false;
        };
        let eighth = all / 8;
        let end = at < eighth || at + eighth >= all;
        end || matches!(self.role, Role::Query | Role::Key | Role::Value)
    }
}

/// As which type a matrix of `columns` is kept where its checkpoint has it as `stored` and `asked` is asked for; `None`: as
/// it is. Types of up to 4 bits are mixed, as llama.cpp mixes them: delicate matrices have a wider one. The matrix into the
/// logits has 6 bits at least; routers and positions stay. Rows that do not fill blocks of 256 take the next type with
/// blocks of 32, those that do not fill these stay.
pub fn target(asked: GgmlType, spot: Spot, stored: GgmlType, columns: usize) -> Option<GgmlType> {
    use GgmlType as T;
    let wanted = match (spot.role, asked) {
        (Role::Router | Role::Positions, _) => return None,
        (_, T::Q8_0) => T::Q8_0,
        (Role::Head, _) => T::Q6_K,
        (_, T::Q4_0 | T::Q4_1) if spot.is_delicate() => T::Q5_1,
        (_, T::Q2_K) if spot.is_delicate() => T::Q4_K,
        (_, T::Q3_K) if spot.is_delicate() => T::Q5_K,
        (_, T::Q4_K) if spot.is_delicate() => T::Q6_K,
        _ => asked,
    };
    let fitting = match wanted {
        _ if columns.is_multiple_of(wanted.block_len()) => wanted,
        T::Q2_K | T::Q3_K => T::Q4_0,
        T::Q4_K => T::Q5_0,
        T::Q5_K => T::Q5_1,
        _ => T::Q8_0,
    };
    let bytes = |ty| row_bytes(ty, 256);
    let fits = columns.is_multiple_of(fitting.block_len());
    (fits && bytes(stored) > bytes(fitting)).then_some(fitting)
}

/// What a loader quantises by.
pub struct Isq {
    asked: GgmlType,
    /// Whether it was said that some rows fill no blocks of the type.
    said: AtomicBool,
}

impl Isq {
    /// Quantises to `asked`.
    pub fn to(asked: GgmlType) -> Self {
        Self {
            asked,
            said: AtomicBool::new(false),
        }
    }

    /// The matrix that is packed for `role` in place of the checkpoint's.
    pub fn apply<'a>(&self, spot: Spot, of: Described<'a>, release: Release<'a>) -> Described<'a> {
        let (stored, shape) = (of.packed_from(), of.shape());
        let &[n, k] = &shape[..] else {
            return of;
        };
        let Some(ty) = target(self.asked, spot, stored, k) else {
            return of;
        };
        let fills = k.is_multiple_of(self.asked.block_len());
        if !fills && !self.said.swap(true, Ordering::Relaxed) {
            let (asked, instead) = (self.asked.name(), ty.name());
            tracing::warn!("rows of {k} weights fill no blocks of {asked}: {instead} in its place");
        }
        Described::Made(Box::new(Quantised {
            shape: [n, k],
            of,
            ty,
            release,
        }))
    }
}

/// Another's rows as blocks of a type.
struct Quantised<'a> {
    shape: [usize; 2],
    of: Described<'a>,
    ty: GgmlType,
    release: Release<'a>,
}

impl Quantised<'_> {
    /// Gives back what has been read of a mapped file.
    fn passed(&self, row: usize) {
        let Described::Stored(stored) = &self.of else {
            return;
        };
        let Cow::Borrowed(data) = &stored.data else {
            return;
        };
        passed(
            data,
            row,
            row_bytes(stored.dtype, self.shape[1]),
            self.release,
        );
    }
}

impl Rows for Quantised<'_> {
    fn blocks(&self, row: usize, out: &mut [u8]) {
        let mut values = vec![0.0; self.shape[1]];
        self.of.row(row, &mut values);
        ggml::quantize(self.ty, &values, out);
        self.passed(row);
    }

    fn values(&self, row: usize, out: &mut [f32]) {
        let mut blocks = vec![0; row_bytes(self.ty, self.shape[1])];
        self.blocks(row, &mut blocks);
        ggml::dequantize(self.ty, &blocks, out);
    }
}

impl Coded for Quantised<'_> {
    fn shape(&self) -> [usize; 2] {
        self.shape
    }
    fn packs_as(&self) -> GgmlType {
        self.ty
    }
    fn stored_as(&self) -> GgmlType {
        self.of.kind()
    }
    fn file_bytes(&self) -> usize {
        self.of.file_bytes()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::Mutex;

    use super::*;
    use crate::weights::Stored;

    #[test]
    fn types_have_the_names_of_both_programs() {
        assert_eq!(named("q4_k"), Some(GgmlType::Q4_K));
        assert_eq!(named("Q4K"), Some(GgmlType::Q4_K));
        assert_eq!(named("q8_0"), Some(GgmlType::Q8_0));
        assert_eq!(
            (named("q4_k_m"), named("iq4_nl"), named("")),
            (None, None, None)
        );
        assert!(names().starts_with("q4_0, ") && names().contains("q6_k"));
    }

    #[test]
    fn role_width_and_columns_decide() {
        use GgmlType as T;
        let of = |asked, role, stored, k| target(asked, Spot { role, layer: None }, stored, k);
        assert_eq!(of(T::Q4_K, Role::Up, T::BF16, 512), Some(T::Q4_K));
        assert_eq!(of(T::Q4_K, Role::Up, T::BF16, 576), Some(T::Q5_0));
        assert_eq!(of(T::Q2_K, Role::Up, T::F32, 32), Some(T::Q4_0));
        assert_eq!(of(T::Q4_K, Role::Up, T::BF16, 100), None);
        assert_eq!(of(T::Q4_0, Role::Head, T::BF16, 512), Some(T::Q6_K));
        assert_eq!(of(T::Q4_0, Role::Head, T::BF16, 576), Some(T::Q8_0));
        assert_eq!(of(T::Q8_0, Role::Head, T::BF16, 512), Some(T::Q8_0));
        assert_eq!(of(T::Q4_0, Role::Embedding, T::F16, 64), Some(T::Q4_0));
        assert_eq!(of(T::Q4_0, Role::Router, T::F32, 64), None);
        assert_eq!(of(T::Q4_0, Role::Positions, T::F32, 64), None);
        // Only what is wider.
        assert_eq!(of(T::Q4_0, Role::Up, T::Q8_0, 64), Some(T::Q4_0));
        assert_eq!(of(T::Q4_K, Role::Up, T::Q4_0, 256), None);
        assert_eq!(of(T::Q8_0, Role::Up, T::Q4_K, 256), None);
    }

    #[test]
    fn delicate_matrices_have_more_bits() {
        use GgmlType as T;
        let of = |asked, role, at| {
            let layer = Some([at, 30]);
            target(asked, Spot { role, layer }, T::BF16, 512).unwrap()
        };
        let finer = |role| -> Vec<usize> {
            let is = |at: &usize| of(T::Q4_0, role, *at) == T::Q5_1;
            (0..30).filter(is).collect()
        };
        assert_eq!(finer(Role::Down), [0, 1, 2, 27, 28, 29]);
        for role in [Role::Query, Role::Key, Role::Value] {
            assert_eq!(finer(role), (0..30).collect::<Vec<_>>());
        }
        let ends = [T::Q4_1, T::Q2_K, T::Q3_K, T::Q4_K].map(|asked| of(asked, Role::Key, 0));
        assert_eq!(ends, [T::Q5_1, T::Q4_K, T::Q5_K, T::Q6_K]);
        for asked in [T::Q5_0, T::Q5_1, T::Q8_0, T::Q5_K, T::Q6_K] {
            assert_eq!(of(asked, Role::Down, 0), asked);
        }
        let small = Spot {
            role: Role::Up,
            layer: Some([0, 4]),
        };
        assert_eq!(target(T::Q4_0, small, T::BF16, 512), Some(T::Q4_0));
    }

    #[test]
    fn rows_are_encoded_and_their_pages_given_back() {
        let (n, k) = (700, 1024);
        let values: Vec<f32> = (0..n * k).map(|i| ((i * 37 % 1001) as f32).sin()).collect();
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        let stored = Stored {
            dtype: GgmlType::F32,
            shape: vec![n, k],
            data: Cow::Borrowed(&bytes),
        };
        let given = Mutex::new(0);
        let release = |part: &[u8]| *given.lock().unwrap() += part.len();
        let isq = Isq::to(GgmlType::Q5_1);
        let spot = Spot {
            role: Role::Gate,
            layer: Some([10, 32]),
        };
        let made = isq.apply(spot, Described::Stored(stored), &release);
        assert_eq!((made.kind(), made.file_bytes()), (GgmlType::F32, n * k * 4));
        let Described::Made(made) = made else {
            unreachable!("a wide matrix is made narrower")
        };
        assert_eq!((made.packs_as(), made.shape()), (GgmlType::Q5_1, [n, k]));
        let (mut blocks, mut own) = (vec![0; k / 32 * 24], vec![0; k / 32 * 24]);
        for row in 0..n {
            made.blocks(row, &mut blocks);
            ggml::quantize(GgmlType::Q5_1, &values[row * k..][..k], &mut own);
            assert_eq!(blocks, own, "row {row}");
        }
        assert_eq!(*given.lock().unwrap(), n * k * 4 / (1 << 20) * (1 << 20));
        let (mut got, mut want) = (vec![0.0; k], vec![0.0; k]);
        made.values(3, &mut got);
        made.blocks(3, &mut blocks);
        ggml::dequantize(GgmlType::Q5_1, &blocks, &mut want);
        assert_eq!(got, want);
    }
}
