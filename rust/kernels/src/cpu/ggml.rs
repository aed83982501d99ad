//! Block layouts of the ggml types, as files store them, and their scalar dequantisation.
//! Source: ggml-common.h and ggml-quants.c of llama.cpp.

/// Element and block types that can be read. Codes are those of GGUF tensor infos.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(non_camel_case_types, missing_docs)]
pub enum GgmlType {
    F32,
    F16,
    BF16,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q2_K,
    Q3_K,
    Q4_K,
    Q5_K,
    Q6_K,
}

impl GgmlType {
    const TABLE: [(GgmlType, u32, &'static str, usize, usize); 13] = [
        (GgmlType::F32, 0, "F32", 1, 4),
        (GgmlType::F16, 1, "F16", 1, 2),
        (GgmlType::Q4_0, 2, "Q4_0", 32, 18),
        (GgmlType::Q4_1, 3, "Q4_1", 32, 20),
        (GgmlType::Q5_0, 6, "Q5_0", 32, 22),
        (GgmlType::Q5_1, 7, "Q5_1", 32, 24),
        (GgmlType::Q8_0, 8, "Q8_0", 32, 34),
        (GgmlType::Q2_K, 10, "Q2_K", 256, 84),
        (GgmlType::Q3_K, 11, "Q3_K", 256, 110),
        (GgmlType::Q4_K, 12, "Q4_K", 256, 144),
        (GgmlType::Q5_K, 13, "Q5_K", 256, 176),
        (GgmlType::Q6_K, 14, "Q6_K", 256, 210),
        (GgmlType::BF16, 30, "BF16", 1, 2),
    ];

    fn entry(self) -> &'static (GgmlType, u32, &'static str, usize, usize) {
        // Every variant stands in the table; the first entry is never reached for another type.
        Self::TABLE
            .iter()
            .find(|e| e.0 == self)
            .unwrap_or(&Self::TABLE[0])
    }
    /// The type of a GGUF tensor-info code, if it can be read.
    pub fn from_code(code: u32) -> Option<Self> {
        Self::TABLE.iter().find(|e| e.1 == code).map(|e| e.0)
    }
    /// ggml's name, e.g. `Q4_K`.
    pub fn name(self) -> &'static str {
        self.entry().2
    }
    /// Elements a block.
    pub fn block_len(self) -> usize {
        self.entry().3
    }
    /// Bytes a block.
    pub fn block_bytes(self) -> usize {
        self.entry().4
    }
}
