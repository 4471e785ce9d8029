//! Experts for the primitive.

use mlx_ext::cpu;
use mlx_rs::{Array, Dtype, error::Exception, ops::indexing::TryIndexOp, transforms::eval};

use super::{
    super::{
        Storage,
        experts::{ExpertSizes, Mix, StoredExperts},
        routing::{Groups, Routing, Scores},
    },
    gate, stored,
};

/// The experts of a layer.
pub(crate) struct CpuExperts {
    set: cpu::ExpertSet,
}

/// One part of all experts, one by one.
struct Separate {
    matrices: Vec<Storage>,
    /// As many, or none.
    biases: Vec<Array>,
}

impl CpuExperts {
    /// Of gates, ups and downs.
    pub(crate) fn new(parts: [StoredExperts; 3], sizes: ExpertSizes) -> Result<Self, Exception> {
        let [gates, ups, downs] = parts.map(|part| Separate::new(part, sizes.count));
        let (gates, ups, downs) = (gates?, ups?, downs?);
        let [gates, ups, downs] = [&gates, &ups, &downs].map(Separate::matrices);
        // The set has handles of its own of all arrays.
        let set = cpu::ExpertSet::new([&gates, &ups, &downs], sizes.inputs, sizes.inner)?;
        Ok(Self { set })
    }
}

impl Separate {
    fn new(part: StoredExperts, count: i32) -> Result<Self, Exception> {
        let matrices = part.matrices.separate(count)?;
        let mut biases = Vec::new();
        if let Some(bias) = part.bias {
            let bias = bias.as_dtype(Dtype::Float32)?;
            biases = (0..count).map(|expert| bias.try_index(expert)).collect::<Result<_, _>>()?;
            eval(&biases)?;
        }
        Ok(Self { matrices, biases })
    }

    fn matrices(&self) -> Vec<cpu::Matrix<'_>> {
        let matrix = |(expert, storage)| cpu::Matrix { bias: self.biases.get(expert), ..stored(storage) };
        self.matrices.iter().enumerate().map(matrix).collect()
    }
}

pub(crate) fn mix(job: &Mix<'_>, experts: &CpuExperts, int8: bool) -> Result<Array, Exception> {
    let Routing { router, rule, correction, factors } = job.routing;
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
            factors,
            groups: groups.count,
            chosen_groups: groups.chosen,
            best_of_group: groups.best,
            normalized: rule.normalized,
            least_sum: rule.least_sum,
            factor: rule.factor,
            weighs_inputs: rule.weighs_inputs,
        },
        set: &experts.set,
        gate: gate(job.gate),
        residual: job.residual,
        int8,
    })
}
