//! Every pass over a row of logits: the same bits on all levels.
use super::super::Cpu;
use super::super::logits::{Few, Softmax, collect, count, masses, maxima_len, peak, weigh};
use super::Noise;

/// Logits of the row: two stripes and some.
const COLUMNS: usize = 2100;

/// Whether the passes over a row of logits on `cpu` have the scalar level's bits.
pub(super) fn pass(cpu: Cpu) -> bool {
    let mut random = Noise(3);
    let row: Vec<f32> = (0..COLUMNS).map(|_| random.unit() * 20.0).collect();
    passes(cpu, &row) == passes(Cpu::SCALAR, &row)
}

/// The bits of all that the passes find.
fn passes(cpu: Cpu, row: &[f32]) -> Vec<u64> {
    let mut maxima = Vec::with_capacity(maxima_len(row.len()));
    let top = peak(cpu, row, &mut maxima);
    let by = Softmax::new(top.value, 0.7, 1e-6);
    let (mut sums, mut weights, mut few) = (Vec::new(), Vec::new(), Few::default());
    let mass = masses(cpu, row, by, top.value - 9.0, &mut sums);
    let weight = weigh(cpu, row, by, &mut weights);
    collect(cpu, row, &maxima, top.value - 4.0, &mut few);
    let whole = [
        top.index as u64,
        count(cpu, row, top.value - 4.0) as u64,
        mass.to_bits(),
        weight.to_bits(),
    ];
    let wide = sums.iter().map(|v| v.to_bits());
    let narrow = [&maxima, &weights, &few.values];
    let narrow = narrow.into_iter().flatten().map(|v| u64::from(v.to_bits()));
    let ids = few.ids.iter().copied().map(u64::from);
    whole
        .into_iter()
        .chain(wide)
        .chain(narrow)
        .chain(ids)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_row_is_noticed() {
        let mut random = Noise(3);
        let mut row: Vec<f32> = (0..COLUMNS).map(|_| random.unit() * 20.0).collect();
        let right = passes(Cpu::SCALAR, &row);
        let most = (0..COLUMNS).max_by(|&a, &b| row[a].total_cmp(&row[b]));
        row[most.unwrap_or(0)] -= 1e-3;
        assert!(passes(Cpu::SCALAR, &row) != right);
    }
}
