//! Dequantisation against values that the `gguf` Python package computed (testdata/make_ggml_blocks.py).
#![allow(clippy::unwrap_used)]
use super::*;

/// Type, blocks and values of every record.
fn golden() -> Vec<(GgmlType, Vec<u8>, Vec<f32>)> {
    let mut data: &[u8] = include_bytes!("../../../../testdata/ggml_blocks.bin");
    let mut records = Vec::new();
    let take = |data: &mut &[u8], n: usize| -> Vec<u8> {
        let (head, tail) = data.split_at(n);
        *data = tail;
        head.to_vec()
    };
    let number = |data: &mut &[u8]| word(&take(data, 4), 0);
    while !data.is_empty() {
        let ty = GgmlType::from_code(number(&mut data)).unwrap();
        let bytes = number(&mut data) as usize;
        let blocks = take(&mut data, bytes);
        let values = number(&mut data) as usize;
        let values = take(&mut data, values * 4);
        let values = values
            .chunks(4)
            .map(|b| f32::from_bits(word(b, 0)))
            .collect();
        records.push((ty, blocks, values));
    }
    records
}

#[test]
fn quantised_blocks_give_the_values_of_the_reference() {
    let records = golden();
    assert_eq!(
        records.len(),
        GgmlType::all().filter(|t| t.is_quantised()).count()
    );
    for (ty, blocks, want) in records {
        let mut got = vec![f32::NAN; want.len()];
        dequantize(ty, &blocks, &mut got);
        assert_eq!(got, want, "{}", ty.name());
    }
}

#[test]
fn dense_values_are_read_as_they_are() {
    let mut out = [0f32; 2];
    dequantize(
        GgmlType::F32,
        &[0, 0, 0x80, 0x3f, 0, 0, 0x20, 0xc1],
        &mut out,
    );
    assert_eq!(out, [1.0, -10.0]);
    dequantize(GgmlType::F16, &[0, 0x3c, 0, 0xc9], &mut out);
    assert_eq!(out, [1.0, -10.0]);
    dequantize(GgmlType::BF16, &[0x80, 0x3f, 0x20, 0xc1], &mut out);
    assert_eq!(out, [1.0, -10.0]);
}

#[test]
fn codes_and_names_are_found_again() {
    for ty in GgmlType::all() {
        let code = ty.code();
        assert_eq!(GgmlType::from_code(code), Some(ty));
    }
    assert_eq!(GgmlType::from_code(4), None);
}
