//! Experts for the primitive.

use mlx_ext::cpu;
use mlx_rs::{Array, error::Exception};

use super::{
    super::{
        experts::{ExpertSizes, Mix, StoredExperts},
        routing::{Groups, Routing, Scores},
    },
    gate, stored,
};

/// The experts of a layer.
pub(crate) struct CpuExperts {
    set: cpu::ExpertSet,
}

impl CpuExperts {
    /// Of gates, ups and downs.
    pub(crate) fn new(parts: [StoredExperts; 3], sizes: ExpertSizes) -> Result<Self, Exception> {
        let [gates, ups, downs] = parts.map(|part| part.separate(sizes.count));
        let (gates, ups, downs) = (gates?, ups?, downs?);
        let [gates, ups, downs] =
            [&gates, &ups, &downs].map(|part| part.iter().map(stored).collect::<Vec<cpu::Matrix<'_>>>());
        // The set has handles of its own of all arrays.
        let set = cpu::ExpertSet::new([&gates, &ups, &downs], sizes.inputs, sizes.inner)?;
        Ok(Self { set })
    }
}

pub(crate) fn mix(job: &Mix<'_>, experts: &CpuExperts, int8: bool) -> Result<Array, Exception> {
    let Routing { router, rule, correction } = job.routing;
    let groups = rule.groups.unwrap_or(Groups { count: 1, chosen: 1, best: 1 });
    cpu::experts(&cpu::Experts {
        x: job.x,
        router,
        routing: cpu::Routing {
            chosen: rule.chosen,
            scores: match rule.scores {
                Scores::Softmax => cpu::Scores::Softmax,
                Scores::Sigmoid => cpu::Scores::Sigmoid,
            },
            correction,
            groups: groups.count,
            chosen_groups: groups.chosen,
            best_of_group: groups.best,
            normalized: rule.normalized,
            factor: rule.factor,
            weighs_inputs: rule.weighs_inputs,
        },
        set: &experts.set,
        gate: gate(job.gate),
        residual: Some(job.residual),
        int8,
    })
}
