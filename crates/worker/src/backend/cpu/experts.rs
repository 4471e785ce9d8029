//! Experts for the primitive.

use mlx_ext::cpu;
use mlx_rs::{Array, Dtype, error::Exception, ops::indexing::TryIndexOp, transforms::eval};

use super::{
    super::{
        Storage,
        experts::{ExpertSizes, Mix, StoredExperts},
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
    cpu::experts(&cpu::Experts {
        x: job.x,
        routing: job.routing,
        set: &experts.set,
        chosen: job.chosen,
        normalized: job.normalized,
        gate: gate(job.gate),
        residual: Some(job.residual),
        int8,
    })
}
