//! The quantised types as compile-time constants, so that kernels are generated for each of them.
use super::super::pack::layout::Layout;

/// A quantised type.
pub(super) trait Format {
    /// How its panels lie.
    const L: Layout;
}

/// The blocks of a packed panel, in order: the group that holds each, its place in the group and in the panel.
#[inline(always)]
pub(super) fn blocks<F: Format>(
    panel: *const u8,
    blocks: usize,
) -> impl Iterator<Item = (*const u8, usize, usize)> {
    (0..blocks).map(move |at| {
        let group = panel.wrapping_add(at / F::L.blocks * F::L.bytes());
        (group, at % F::L.blocks, at)
    })
}

macro_rules! formats {
    ($($name:ident),*) => {
        $(
            #[doc = concat!("`GgmlType::", stringify!($name), "`")]
            #[allow(non_camel_case_types)]
            pub(super) struct $name;

            impl Format for $name {
                const L: Layout = match Layout::of($crate::cpu::ggml::GgmlType::$name) {
                    Some(layout) => layout,
                    None => unreachable!(),
                };
            }
        )*
    };
}
formats!(
    Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2_K, Q3_K, Q4_K, Q5_K, Q6_K, IQ4_NL, IQ4_XS, MXFP4
);

/// Evaluates `$body` with `$F` standing for the format of `$ty`; does nothing for one without a layout.
macro_rules! with_format {
    ($ty:expr, $F:ident => $body:expr) => {{
        use $crate::cpu::ggml::GgmlType as T;
        use $crate::cpu::matmul::formats;
        match $ty {
            T::Q4_0 => {
                type $F = formats::Q4_0;
                $body
            }
            T::Q4_1 => {
                type $F = formats::Q4_1;
                $body
            }
            T::Q5_0 => {
                type $F = formats::Q5_0;
                $body
            }
            T::Q5_1 => {
                type $F = formats::Q5_1;
                $body
            }
            T::Q8_0 => {
                type $F = formats::Q8_0;
                $body
            }
            T::Q2_K => {
                type $F = formats::Q2_K;
                $body
            }
            T::Q3_K => {
                type $F = formats::Q3_K;
                $body
            }
            T::Q4_K => {
                type $F = formats::Q4_K;
                $body
            }
            T::Q5_K => {
                type $F = formats::Q5_K;
                $body
            }
            T::Q6_K => {
                type $F = formats::Q6_K;
                $body
            }
            T::IQ4_NL => {
                type $F = formats::IQ4_NL;
                $body
            }
            T::IQ4_XS => {
                type $F = formats::IQ4_XS;
                $body
            }
            T::MXFP4 => {
                type $F = formats::MXFP4;
                $body
            }
            _ => {}
        }
    }};
}
pub(super) use with_format;
