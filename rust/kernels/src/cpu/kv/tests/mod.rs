#![allow(clippy::unwrap_used)]
use super::*;

fn shape(dtype: KvType) -> KvShape {
    KvShape {
        layers: 2,
        blocks: 3,
        block_size: 64,
        kv_heads: 2,
        head_dim: 40,
        dtype,
    }
}

#[test]
fn pages_tile_the_memory() {
    for dtype in [KvType::F32, KvType::Bf16] {
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
    for dtype in [KvType::F32, KvType::Bf16] {
        let page = KvShape {
            head_dim: 64,
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
            assert_eq!(page.lines(slot).collect::<Vec<_>>(), touched);
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
    assert!(bad(|s| s.head_dim = 0).contains("head_dim 0"));
    assert!(bad(|s| s.head_dim = 257).contains("head_dim 257"));
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
