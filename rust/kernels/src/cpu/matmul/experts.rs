//! Experts: each multiplies only the rows that chose it, all experts of a layer in one parallel region for the hidden rows
//! and one for the way back. A row takes its sum over its experts in their order, whatever other rows there are, by the
//! arithmetic of any other product: its bits depend on itself alone. Knows no router.
use super::super::input::{Filling, Input, fill_each};
use super::super::pack::Matrix;
use super::super::{Activation, Compute};
use super::sink::{Role, Sink};
use super::{Shared, Work, gated, panels_a_task, run};

/// A matrix of an expert.
#[derive(Debug, Clone, Copy)]
pub struct Part<'a> {
    /// `[n, k]`
    pub matrix: &'a Matrix,
    /// `[n]`
    pub bias: Option<&'a [f32]>,
}

/// An expert, and the rows that chose it.
#[derive(Debug, Clone, Copy)]
pub struct Expert<'a> {
    /// Into the activation; without it `up` goes there.
    pub gate: Option<Part<'a>>,
    /// Beside the gate.
    pub up: Part<'a>,
    /// Back to the width of the rows.
    pub down: Part<'a>,
    /// Rows of x, each once.
    pub rows: &'a [u32],
    /// How much the expert counts in each of them.
    pub weights: &'a [f32],
}

impl Expert<'_> {
    fn panel_bytes(&self) -> usize {
        let gate = self.gate.map_or(0, |g| g.matrix.panel_bytes());
        gate + self.up.matrix.panel_bytes()
    }

    fn check(&self, k: usize, n: usize) {
        let fits = |p: &Part<'_>, shape: (usize, usize)| {
            (p.matrix.n(), p.matrix.k()) == shape && p.bias.is_none_or(|b| b.len() == shape.0)
        };
        let width = self.up.matrix.n();
        let parts = fits(&self.up, (width, k)) && fits(&self.down, (n, width));
        let gate = self.gate.as_ref().is_none_or(|g| fits(g, (width, k)));
        assert!(parts && gate, "experts: matrices that do not fit");
        let counted = self.rows.len() == self.weights.len();
        assert!(counted, "experts: not one weight a row");
    }
}

/// What an expert's weight multiplies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Weigh {
    /// What it gives.
    Output,
    /// What it gets (Llama 4).
    Input,
}

/// Buffers, kept from call to call.
#[derive(Debug, Default)]
pub struct Bench {
    /// What experts get that all rows chose.
    all: Input,
    /// What the others get, most rows first, so that each buffer grows to what its place needs.
    some: Vec<Input>,
    /// Hidden rows, expert by expert.
    hidden: Vec<f32>,
    /// Their forms, in the order of `some`.
    back: Vec<Input>,
    /// Rows times weights, where those multiply the input.
    weighted: Vec<f32>,
    /// 0, 1, 2 ...
    count: Vec<u32>,
    ones: Vec<f32>,
}

/// An expert's share of a call.
struct Share<'a> {
    expert: &'a Expert<'a>,
    /// Its place among all shares by number of rows, most first.
    rank: usize,
    /// Whether it takes every row as it is.
    all: bool,
    /// Where its rows begin among those of all shares.
    slot: usize,
    /// Where its hidden rows begin.
    hidden: usize,
}

impl<'a> Share<'a> {
    /// The matrices that its rows meet first.
    fn first_matrices(&self) -> [&'a Matrix; 2] {
        let (gate, up) = (self.expert.gate, self.expert.up.matrix);
        [gate.map_or(up, |g| g.matrix), up]
    }

    fn width(&self) -> usize {
        self.expert.up.matrix.n()
    }

    fn rows(&self) -> usize {
        self.expert.rows.len()
    }
}

/// `out[row] = sum of weight * down(act(gate row) * up row)` over the experts of each row, in the order of `experts`;
/// x is `[rows, k]`, `out` `[rows, n]`. Experts without rows are not read.
///
/// # Panics
/// When shapes do not fit, or an expert's row is none of x.
#[allow(clippy::too_many_arguments)]
pub fn experts(
    cx: &Compute,
    bench: &mut Bench,
    x: &[f32],
    rows: usize,
    experts: &[Expert<'_>],
    act: Activation,
    weigh: Weigh,
    out: &mut [f32],
) {
    if rows == 0 {
        return;
    }
    let (k, n) = (x.len() / rows, out.len() / rows);
    let whole = x.len() == rows * k && out.len() == rows * n;
    assert!(whole, "experts: x or out is not a number of rows");
    let most = experts.iter().map(|e| e.rows.len()).max();
    for i in bench.count.len()..rows.max(most.unwrap_or(0)) {
        bench.count.push(i as u32);
        bench.ones.push(1.0);
    }
    for expert in experts {
        expert.check(k, n);
        let known = expert.rows.iter().all(|&r| (r as usize) < rows);
        assert!(known, "experts: a row that x does not have");
    }
    out.fill(0.0);
    let shares = shares(bench, rows, experts, weigh);
    if weigh == Weigh::Input {
        weighted(bench, x, k, &shares);
    }
    take(cx, bench, x, k, weigh, &shares);
    hide(cx, bench, act, &shares);
    bring_back(cx, bench, weigh, &shares, (n, out));
}

fn shares<'a>(
    bench: &mut Bench,
    rows: usize,
    experts: &'a [Expert<'a>],
    weigh: Weigh,
) -> Vec<Share<'a>> {
    let (mut slot, mut hidden) = (0, 0);
    let mut shares: Vec<Share<'a>> = Vec::with_capacity(experts.len());
    for expert in experts.iter().filter(|e| !e.rows.is_empty()) {
        let share = Share {
            expert,
            rank: 0,
            all: weigh == Weigh::Output && expert.rows == &bench.count[..rows],
            slot,
            hidden,
        };
        slot += share.rows();
        hidden += share.rows() * share.width();
        shares.push(share);
    }
    let mut order: Vec<usize> = (0..shares.len()).collect();
    order.sort_by_key(|&i| std::cmp::Reverse(shares[i].rows()));
    for (rank, i) in order.into_iter().enumerate() {
        shares[i].rank = rank;
    }
    let grow = |inputs: &mut Vec<Input>| {
        if inputs.len() < shares.len() {
            inputs.resize_with(shares.len(), Input::new);
        }
    };
    grow(&mut bench.some);
    grow(&mut bench.back);
    if bench.hidden.len() < hidden {
        bench.hidden.resize(hidden, 0.0);
    }
    shares
}

/// Rows times weights, share by share.
fn weighted(bench: &mut Bench, x: &[f32], k: usize, shares: &[Share<'_>]) {
    bench.weighted.clear();
    for share in shares {
        for (&row, &weight) in share.expert.rows.iter().zip(share.expert.weights) {
            let row = &x[row as usize * k..][..k];
            bench.weighted.extend(row.iter().map(|v| v * weight));
        }
    }
}

/// One input a share, by rank.
fn by_rank<'a>(inputs: &'a mut [Input], shares: &[Share<'_>]) -> Vec<Option<&'a mut Input>> {
    inputs[..shares.len()].iter_mut().map(Some).collect()
}

/// Brings the rows that each expert gets into the forms that it needs.
fn take(cx: &Compute, bench: &mut Bench, x: &[f32], k: usize, weigh: Weigh, shares: &[Share<'_>]) {
    let own: Vec<[&Matrix; 2]> = shares.iter().map(Share::first_matrices).collect();
    let of_all = || shares.iter().zip(&own).filter(|(s, _)| s.all);
    let together: Vec<&Matrix> = of_all().flat_map(|(_, m)| m).copied().collect();
    let mut inputs = by_rank(&mut bench.some, shares);
    let mut fillings = Vec::with_capacity(shares.len());
    if let Some((share, _)) = of_all().next() {
        fillings.push(Filling {
            input: &mut bench.all,
            x,
            k,
            rows: share.expert.rows,
            matrices: &together,
        });
    }
    for (share, matrices) in shares.iter().zip(&own).filter(|(s, _)| !s.all) {
        let (x, rows) = match weigh {
            Weigh::Output => (x, share.expert.rows),
            Weigh::Input => (
                &bench.weighted[share.slot * k..],
                &bench.count[..share.rows()],
            ),
        };
        if let Some(input) = inputs[share.rank].take() {
            fillings.push(Filling {
                input,
                x,
                k,
                rows,
                matrices,
            });
        }
    }
    fill_each(cx, &mut fillings);
}

/// The hidden rows of all experts.
fn hide<'a>(cx: &Compute, bench: &mut Bench, act: Activation, shares: &[Share<'a>]) {
    let (all, some) = (&bench.all, &bench.some);
    let input = |s: &Share<'_>| if s.all { all } else { &some[s.rank] };
    let bytes = |s: &Share<'_>| s.expert.panel_bytes() * s.expert.up.matrix.panels();
    let bytes: usize = shares.iter().map(bytes).sum();
    let mut tasks = Vec::with_capacity(shares.len());
    let mut total = 0;
    for share in shares {
        let step = panels_a_task(cx, input(share), share.expert.panel_bytes(), bytes);
        tasks.push((total, step));
        total += share.expert.up.matrix.panels().div_ceil(step);
    }
    let hidden = Shared(bench.hidden.as_mut_ptr());
    cx.pool.for_each(total, &|task| {
        let i = tasks.partition_point(|t| t.0 <= task) - 1;
        let (share, (first, step)) = (&shares[i], tasks[i]);
        let (expert, input) = (share.expert, input(share));
        let start = (task - first) * step;
        let panels = start..(start + step).min(expert.up.matrix.panels());
        let work = |part: Part<'a>, role| {
            let work = Work {
                matrix: part.matrix,
                input,
                panels: panels.clone(),
                tiles: 0..input.tiles(),
            };
            let sink = Sink {
                out: hidden.get().wrapping_add(share.hidden),
                n: share.width(),
                bias: part.bias,
                role,
                isa: cx.cpu.isa(),
            };
            (work, sink)
        };
        // SAFETY: the sizes were checked and `hidden` holds all shares; a share's panel belongs to one task.
        unsafe {
            match expert.gate {
                Some(gate) => gated(
                    cx.cpu,
                    work(gate, Role::Set),
                    work(expert.up, Role::Set),
                    act,
                ),
                None => {
                    let (work, sink) = work(expert.up, Role::Activate(act));
                    run(cx.cpu, &work, &sink);
                }
            }
        }
    });
}

/// Adds what each expert gives to its rows: a task does so for some columns of all experts, one after the other.
fn bring_back(
    cx: &Compute,
    bench: &mut Bench,
    weigh: Weigh,
    shares: &[Share<'_>],
    (n, out): (usize, &mut [f32]),
) {
    let own: Vec<[&Matrix; 1]> = shares.iter().map(|s| [s.expert.down.matrix]).collect();
    let mut inputs = by_rank(&mut bench.back, shares);
    let mut fillings = Vec::with_capacity(shares.len());
    for (share, matrices) in shares.iter().zip(&own) {
        if let Some(input) = inputs[share.rank].take() {
            fillings.push(Filling {
                input,
                x: &bench.hidden[share.hidden..],
                k: share.width(),
                rows: &bench.count[..share.rows()],
                matrices,
            });
        }
    }
    fill_each(cx, &mut fillings);
    let Some(most) = shares.iter().find(|s| s.rank == 0) else {
        return;
    };
    let panel: usize = own.iter().map(|m| m[0].panel_bytes()).sum();
    let panels = most.expert.down.matrix.panels();
    let step = panels_a_task(cx, &bench.back[0], panel, panel * panels);
    let (back, ones, out) = (&bench.back, &bench.ones, Shared(out.as_mut_ptr()));
    cx.pool.for_each(panels.div_ceil(step), &|task| {
        for share in shares {
            let input = &back[share.rank];
            let down = share.expert.down;
            let work = Work {
                matrix: down.matrix,
                input,
                panels: task * step..((task + 1) * step).min(panels),
                tiles: 0..input.tiles(),
            };
            let weights = match weigh {
                Weigh::Output => share.expert.weights.as_ptr(),
                Weigh::Input => ones.as_ptr(),
            };
            let sink = Sink {
                out: out.get(),
                n,
                bias: down.bias,
                role: Role::Scatter {
                    to: share.expert.rows.as_ptr(),
                    weights,
                },
                isa: cx.cpu.isa(),
            };
            // SAFETY: rows and sizes were checked, and a task alone writes the columns of its panels.
            unsafe { run(cx.cpu, &work, &sink) };
        }
    });
}
