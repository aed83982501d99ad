//! Experts on the CPU: choices row by row, products by the kernels that take all experts of a layer at once.
use candle_vllm_kernels::cpu::{
    self as kernels, Part,
    routing::{Choice, Routes},
};

use super::{Cpu, host, packed};
use crate::{
    Error, Result, Tensor,
    backend::{Backend, Expert, Experts, Linear, Router},
};

fn part(linear: &Linear) -> Result<Part<'_>> {
    Ok(Part {
        matrix: packed(linear.format.as_ref())?,
        bias: host(linear.bias.as_ref())?,
    })
}

impl Cpu {
    /// The experts of each row of x.
    pub(super) fn chosen(&mut self, x: &Tensor, router: &Router) -> Result<Routes> {
        let logits = self.linear(x, &router.linear)?;
        let [rows, count] = logits.shape();
        let width = router.width();
        let mut chosen = vec![Choice::default(); rows * width];
        let correction = host(router.correction.as_ref())?;
        let (cx, rule) = (&self.compute, &router.rule);
        kernels::routing::route(
            cx,
            rule,
            logits.data(),
            count,
            correction,
            &mut chosen,
            width,
        );
        if let Some(shared) = &router.shared {
            let gate = shared.gate.as_ref().map(|gate| self.linear(x, gate));
            let gate = gate.transpose()?;
            let sigmoid = |g: f32| 1.0 / (1.0 + (-g).exp());
            for (row, choices) in chosen.chunks_mut(width).enumerate() {
                choices[width - 1] = Choice {
                    expert: count as u32,
                    weight: gate.as_ref().map_or(1.0, |g| sigmoid(g.data()[row])),
                };
            }
        }
        router.scaled(Routes {
            used: width,
            chosen,
        })
    }

    /// What the experts of each row make of it.
    pub(super) fn together(
        &mut self,
        x: &Tensor,
        routes: &Routes,
        experts: &Experts,
    ) -> Result<Tensor> {
        let by = routes.by_expert(experts.all.len());
        let mut list = Vec::with_capacity(by.touched.len());
        for (expert, range) in &by.touched {
            let Expert { feed, down } = &experts.all[*expert];
            list.push(kernels::Expert {
                gate: feed.gate.as_ref().map(part).transpose()?,
                up: part(&feed.up)?,
                down: part(down)?,
                rows: &by.rows[range.clone()],
                weights: &by.weights[range.clone()],
            });
        }
        let first = experts.all.first();
        let first = first.ok_or_else(|| Error::Run("a layer without experts".into()))?;
        let rows = x.shape()[0];
        let mut out = self.spare.tensor(rows, first.down.n());
        kernels::experts(
            &self.compute,
            &mut self.bench,
            x.data(),
            rows,
            &list,
            first.feed.activation,
            experts.weigh,
            out.data_mut()?,
        );
        Ok(out)
    }
}
