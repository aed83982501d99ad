#![allow(clippy::unwrap_used)]
use super::super::buffer::LINE;
use super::*;

fn shape(dtype: KvType) -> KvShape {
    KvShape {
        layers: 2,
        blocks: 3,
        block_size: 64,
        kv_heads: 2,
        key_dim: 40,
        value_dim: 40,
        latent: false,
        dtype,
    }
}

#[test]
fn pages_tile_the_memory() {
    for dtype in KvType::ALL {
        let s = shape(dtype);
        let cache = KvCache::new(s).unwrap();
        let mut seen = Vec::new();
        for layer in 0..2 {
            for head in 0..2 {
                for page in 0..6 {
                    let at = cache.at(&[2, 0, 1], page, cache.offset(layer, head));
                    seen.push(at as usize - cache.memory.as_ptr() as usize);
                }
            }
        }
        seen.sort_unstable();
        let bytes = s.page().bytes();
        assert!(seen.iter().enumerate().all(|(i, &at)| at == i * bytes));
        assert_eq!(24 * bytes, 3 * s.block_bytes());
        assert_eq!(cache.memory.len(), 3 * s.block_bytes());
        assert_eq!(cache.memory.as_ptr() as usize % 64, 0);
        assert_eq!(bytes % 64, 0);
    }
}

#[test]
fn a_cache_of_bytes_takes_half_of_bf16() {
    let bytes = |dtype, head_dim| {
        let shape = KvShape {
            key_dim: head_dim,
            value_dim: head_dim,
            ..shape(dtype)
        };
        shape.block_bytes() as f64
    };
    let latent = KvShape {
        value_dim: 32,
        latent: true,
        ..shape(KvType::Bf16)
    };
    assert_eq!(latent.block_bytes(), 2 * 2 * 64 * 2 * 64);
    for (width, most) in [(64, 0.517), (128, 0.508), (256, 0.504)] {
        for dtype in [KvType::Int8, KvType::Fp8] {
            assert!(bytes(dtype, width) <= most * bytes(KvType::Bf16, width));
        }
        assert_eq!(bytes(KvType::F16, width), bytes(KvType::Bf16, width));
    }
}

/// The number that a page holds, with its scale.
fn held(page: Page, bytes: &[u8], key: bool, slot: usize, d: usize) -> f32 {
    let (element, start, scale) = if key {
        let group = slot / GROUP * GROUP * page.key_dims;
        (group + d * GROUP + slot % GROUP, 0, page.key_scales())
    } else {
        let strip = d / GROUP * PAGE * GROUP;
        (
            strip + slot * GROUP + d % GROUP,
            page.key_bytes(),
            page.value_scales(),
        )
    };
    let word = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
    if page.dtype == KvType::F16 {
        return half::f16::from_bits(word(start + 2 * element)).to_f32();
    }
    let value = match page.dtype {
        KvType::Int8 => codes::int8_value,
        _ => codes::fp8_value,
    };
    value(bytes[start + element]) * f32::from_bits(u32::from(word(scale + 2 * slot)) << 16)
}

#[test]
fn what_is_kept_is_what_rounding_says() {
    let row = |salt: usize, size: f32| -> Vec<f32> {
        let wave = |d: usize| ((d * 7 + salt * 13) as f32).sin() * size;
        (0..40).map(wave).collect()
    };
    for dtype in [KvType::F16, KvType::Int8, KvType::Fp8] {
        let page = shape(dtype).page();
        let mut bytes = vec![0u8; page.bytes()];
        for slot in 0..32 {
            let size = 10f32.powi(slot as i32 % 7 - 3);
            let (mut key, mut value) = (row(slot, size), row(slot + 50, size));
            // SAFETY: the vector is one page.
            unsafe { page.write(bytes.as_mut_ptr(), slot, &key, &value) };
            dtype.round(&mut key);
            dtype.round(&mut value);
            for d in 0..40 {
                assert_eq!(held(page, &bytes, true, slot, d), key[d], "{dtype:?}");
                assert_eq!(held(page, &bytes, false, slot, d), value[d], "{dtype:?}");
            }
        }
    }
}

#[test]
fn rounding_is_to_the_nearest_of_a_type() {
    for code in 0..=255u8 {
        if code != 0x80 {
            assert_eq!(codes::int8(codes::int8_value(code)), code);
        }
        if code & 0x7f != 0x7f {
            assert_eq!(codes::fp8(codes::fp8_value(code)), code);
        }
    }
    // Halfway to the next, and a little beyond; ties go to even codes.
    for code in (0..0x7e).step_by(2) {
        let [low, high] = [code, code + 1].map(codes::fp8_value);
        let middle = (low + high) / 2.0;
        assert_eq!(codes::fp8(middle), code);
        assert_eq!(codes::fp8(-middle * 1.0001), (code + 1) | 0x80);
    }
    assert_eq!([0.49, 0.5, 1.5, -2.6].map(codes::int8), [0, 0, 2, 253]);
    for size in [1e-30, 1.0, 1e30] {
        let row: Vec<f32> = (-20..20).map(|i| i as f32 * size).collect();
        for (dtype, most) in [(KvType::Int8, 1.0 / 250.0), (KvType::Fp8, 1.0 / 16.0)] {
            let mut kept = row.clone();
            dtype.round(&mut kept);
            for (got, want) in kept.iter().zip(&row) {
                assert!((got - want).abs() <= most * 20.0 * size, "{got} {want}");
            }
        }
    }
}

#[test]
fn scales_of_nothing_and_of_what_is_no_number() {
    for dtype in [KvType::Int8, KvType::Fp8] {
        let rounded = |mut row: Vec<f32>| {
            dtype.round(&mut row);
            row
        };
        assert_eq!(rounded(vec![0.0, -0.0]), [0.0, 0.0]);
        assert_eq!(rounded(vec![1e-40; 3]), [0.0; 3]);
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let row = rounded(vec![1.0, bad]);
            assert!(row.iter().all(|v| v.is_nan()), "{row:?}");
        }
    }
}

#[test]
fn tokens_land_in_the_documented_places() {
    let s = shape(KvType::Bf16);
    let page = s.page();
    assert_eq!((page.key_dims, page.value_dims), (64, 48));
    let mut bytes = vec![0u16; page.bytes() / 2];
    for slot in 0..32 {
        let key: Vec<f32> = (0..40).map(|d| (slot * 4 + d) as f32).collect();
        let value: Vec<f32> = (0..40).map(|d| -((slot * 4 + d) as f32)).collect();
        // SAFETY: the vector is one page.
        unsafe { page.write(bytes.as_mut_ptr().cast(), slot, &key, &value) };
    }
    let wide = |i: usize| f32::from_bits(u32::from(bytes[i]) << 16);
    for slot in 0..32 {
        for d in 0..40 {
            let want = half::bf16::from_f32((slot * 4 + d) as f32).to_f32();
            assert_eq!(
                wide(slot / 16 * 16 * 64 + d / 2 * 32 + slot % 16 * 2 + d % 2),
                want
            );
            let values = 32 * 64;
            assert_eq!(
                wide(values + d / 16 * 512 + slot / 2 * 32 + d % 16 * 2 + slot % 2),
                -want
            );
        }
    }
    // SAFETY: the vector is one page.
    unsafe { page.clear(bytes.as_mut_ptr().cast()) };
    assert!(bytes[32 * 64..].iter().all(|&b| b == 0) && bytes[32] != 0);
}

#[test]
fn a_token_touches_the_lines_it_names() {
    for dtype in KvType::ALL {
        let page = KvShape {
            key_dim: 64,
            value_dim: 64,
            ..shape(dtype)
        }
        .page();
        for slot in [0, 1, 15, 16, 30, 31] {
            let mut bytes = vec![0u8; page.bytes()];
            // SAFETY: the vector is one page.
            unsafe { page.write(bytes.as_mut_ptr(), slot, &[1.5; 64], &[2.5; 64]) };
            let touched: Vec<usize> = (0..page.bytes())
                .step_by(LINE)
                .filter(|&line| bytes[line..line + LINE].iter().any(|&b| b != 0))
                .collect();
            let mut named: Vec<usize> = page.lines(slot).collect();
            named.sort_unstable();
            assert_eq!(named, touched);
        }
    }
}

#[test]
fn impossible_shapes_are_named() {
    let bad = |f: fn(&mut KvShape)| {
        let mut s = shape(KvType::F32);
        f(&mut s);
        KvCache::new(s).unwrap_err().to_string()
    };
    assert!(bad(|s| s.block_size = 48).contains("block_size 48"));
    assert!(bad(|s| s.key_dim = 0).contains("keys of 0"));
    assert!(bad(|s| s.value_dim = 0).contains("values of 0"));
    assert!(bad(|s| s.value_dim = 1025).contains("values of 1025"));
    assert!(bad(|s| (s.latent, s.value_dim) = (true, 41)).contains("no part of keys of 40"));
    assert!(bad(|s| s.blocks = usize::MAX / 2).contains("address space"));
    assert!(bad(|s| s.layers = 0).contains("layers"));
    assert!(bad(|s| s.blocks = 1 << 45).contains("no memory"));
}

#[cfg(target_os = "linux")]
#[test]
fn untouched_memory_costs_nothing() {
    let resident = || {
        let text = std::fs::read_to_string("/proc/self/statm").unwrap();
        text.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
    };
    let before = resident();
    let cache = KvCache::new(KvShape {
        blocks: 20_000,
        ..shape(KvType::F32)
    })
    .unwrap();
    assert!(cache.memory.len() > 1 << 30);
    assert!(resident() < before + (64 << 20));
}

fn refused(seqs: &[Seq<'_>]) -> String {
    let cache = KvCache::new(shape(KvType::F32)).unwrap();
    let check = std::panic::AssertUnwindSafe(|| cache.check(seqs));
    match std::panic::catch_unwind(check) {
        Ok(()) => String::new(),
        Err(panic) => panic.downcast_ref::<String>().cloned().unwrap(),
    }
}

#[test]
fn a_block_that_is_written_belongs_to_one_sequence() {
    let seq = |position, rows, blocks| Seq {
        rows,
        position,
        blocks,
    };
    // A shared prefix, then blocks of their own.
    assert_eq!(
        refused(&[seq(64, 0..9, &[0, 1]), seq(70, 9..12, &[0, 2])]),
        ""
    );
    assert!(refused(&[seq(60, 0..9, &[0, 1]), seq(64, 9..12, &[0, 2])]).contains("read while"));
    assert!(refused(&[seq(0, 0..9, &[1]), seq(0, 9..12, &[1])]).contains("written twice"));
    assert!(refused(&[seq(0, 0..100, &[1, 1])]).contains("written twice"));
    assert!(refused(&[seq(64, 0..1, &[1, 1])]).contains("read while"));
    assert!(refused(&[seq(0, 0..1, &[3])]).contains("block 3 of 3"));
    assert!(refused(&[seq(64, 0..1, &[7, 1])]).contains("block 7 of 3"));
    assert!(refused(&[seq(60, 0..5, &[0])]).contains("65 tokens in 1 blocks"));
}
