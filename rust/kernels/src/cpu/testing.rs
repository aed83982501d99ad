//! What the kernels' tests share: random weights of every type and the levels of this machine.
use super::Cpu;
use super::ggml::GgmlType;
use super::pack::Storage;

/// A generator of reproducible numbers.
pub(crate) struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }
    pub fn bits(&mut self) -> u32 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as u32
    }
    /// Between -1 and 1.
    pub fn unit(&mut self) -> f32 {
        self.bits() as f32 / (1u32 << 30) as f32 - 1.0
    }
    pub fn values(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.unit()).collect()
    }
}

/// Every level that this machine runs, scalar first, and those with optional instructions also with fewer of them.
pub(crate) fn cpus() -> Vec<Cpu> {
    let mut cpus = Cpu::available();
    let narrower: Vec<Cpu> = cpus.iter().flat_map(|cpu| cpu.narrower()).collect();
    cpus.extend(narrower);
    cpus
}

/// Every way of keeping a type for which all levels have an oracle: exact, and of quantised types 8 and 15 bits.
pub(crate) fn storages(ty: GgmlType) -> Vec<Storage> {
    match ty {
        GgmlType::F32 => vec![Storage::F32],
        GgmlType::F16 => vec![Storage::F16],
        GgmlType::BF16 => [false, true].map(|dot| Storage::Bf16 { dot }).to_vec(),
        _ if ty.in_codebook() => vec![Storage::F32],
        _ => vec![Storage::F32, Storage::A8(ty), Storage::A15(ty)],
    }
}

/// A file's bytes of an `[n, k]` matrix: any bits in the weights, scales of about 0.01.
pub(crate) fn random_weights(random: &mut Random, ty: GgmlType, n: usize, k: usize) -> Vec<u8> {
    let halves: &[usize] = match ty {
        GgmlType::F32 | GgmlType::F16 | GgmlType::BF16 => &[],
        GgmlType::MXFP4 | GgmlType::IQ1_M => &[],
        GgmlType::Q4_1 | GgmlType::Q5_1 | GgmlType::Q4_K | GgmlType::Q5_K => &[0, 2],
        GgmlType::Q2_K => &[80, 82],
        GgmlType::Q3_K => &[108],
        GgmlType::Q6_K => &[208],
        GgmlType::TQ1_0 => &[52],
        GgmlType::TQ2_0 => &[64],
        _ => &[0],
    };
    let blocks = n * k / ty.block_len();
    let mut data: Vec<u8> = (0..blocks * ty.block_bytes())
        .map(|_| random.bits() as u8)
        .collect();
    for block in data.chunks_exact_mut(ty.block_bytes()) {
        let v = random.unit();
        match ty {
            GgmlType::F32 => block.copy_from_slice(&v.to_le_bytes()),
            GgmlType::F16 => block.copy_from_slice(&half::f16::from_f32(v).to_le_bytes()),
            GgmlType::BF16 => block.copy_from_slice(&half::bf16::from_f32(v).to_le_bytes()),
            GgmlType::MXFP4 => block[0] = 116 + block[0] % 6,
            // The scale stands in the highest bits of four words.
            GgmlType::IQ1_M => {
                let d = half::f16::from_f32(v * 0.02).to_bits();
                for i in 0..4 {
                    let own = &mut block[49 + 2 * i];
                    *own = *own & 15 | ((d >> (4 * i) & 15) << 4) as u8;
                }
            }
            _ => {}
        }
        for &at in halves {
            let v = half::f16::from_f32(random.unit() * 0.02);
            block[at..at + 2].copy_from_slice(&v.to_le_bytes());
        }
    }
    data
}
