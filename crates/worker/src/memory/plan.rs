//! What a worker may use: the gateway's share, divided when it is known what the model takes.

use mlx_ext::Device;
use protocol::{
    memory::{MemoryNeeds, Shortage, StoredSize, WorkerBytes},
    options::WorkerOptions,
};

use crate::model::{ModelSize, pinned_states};

/// How a worker's share of memory is divided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemoryPlan {
    options: WorkerOptions,
    cache_bytes: u64,
}

impl MemoryPlan {
    /// That of a worker that computes on `device`, for a model of which nothing has been read or mapped yet.
    ///
    /// # Errors
    /// It is too large.
    pub fn new(options: &WorkerOptions, device: Device, size: StoredSize) -> Result<Self, Shortage> {
        let cache_bytes = match device {
            Device::Cpu => 0,
            Device::Gpu => options.memory.gpu_cache_bytes(size.weight_bytes),
        };
        let needs = MemoryNeeds::of_stored(options, &options.memory, size, device == Device::Gpu);
        options.memory.of_each_worker(&needs)?;
        Ok(Self { options: options.clone(), cache_bytes })
    }

    /// Bytes of freed memory that MLX may keep.
    pub fn cache_bytes(&self) -> u64 {
        self.cache_bytes
    }

    /// What a worker of a model of this size may use beside the weights.
    ///
    /// # Errors
    /// The model is too large.
    pub fn divide(&self, size: ModelSize) -> Result<WorkerBytes, Shortage> {
        let ModelSize { weight_bytes, private_bytes, kv_token_bytes, state_bytes, context_length } = size;
        let context = context_length.into();
        let needs = MemoryNeeds::new(&self.options, weight_bytes, kv_token_bytes, context, self.cache_bytes);
        // Those of one sequence, and a snapshot.
        let states = pinned_states(1).saturating_add(1);
        let least = needs.least_kv_bytes.saturating_add(states.saturating_mul(state_bytes));
        let needs = MemoryNeeds { least_kv_bytes: least.min(self.options.kv_bytes), ..needs };
        self.options.memory.of_each_worker(&needs.with_private_weights(private_bytes))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use protocol::memory::MemoryShare;

    use super::*;

    const GIB: u64 = 1 << 30;

    fn options(left_bytes: u64) -> WorkerOptions {
        let memory = MemoryShare { max_bytes: 16 * GIB, left_bytes, workers: 1, leaves_room: false };
        WorkerOptions { memory, ..WorkerOptions::default() }
    }

    fn plan(left: u64, device: Device) -> Result<MemoryPlan, Shortage> {
        let size = StoredSize { weight_bytes: 5 * GIB, ..StoredSize::default() };
        MemoryPlan::new(&options(left), device, size)
    }

    #[test]
    fn keys_and_values_get_what_the_weights_leave() {
        let size = ModelSize {
            weight_bytes: 5 * GIB,
            private_bytes: 0,
            kv_token_bytes: 1 << 17,
            state_bytes: 0,
            context_length: 8192,
        };
        let cpu = plan(7 * GIB, Device::Cpu).unwrap().divide(size).unwrap();
        assert_eq!(cpu.kv + cpu.other, 2 * GIB);
        let on_gpu = plan(7 * GIB, Device::Gpu).unwrap();
        let gpu = on_gpu.divide(size).unwrap();
        assert_eq!((gpu.kv + gpu.other, gpu.other - cpu.other), (2 * GIB, on_gpu.cache_bytes()));
        assert_eq!(on_gpu.cache_bytes(), 2 * GIB / 8);
        assert_eq!(plan(100 * GIB, Device::Gpu).unwrap().cache_bytes(), 2 * GIB);
        assert_eq!(plan(100 * GIB, Device::Cpu).unwrap().divide(size).unwrap().kv, options(0).kv_bytes);
        assert!(
            plan(6 * GIB, Device::Cpu).unwrap().divide(ModelSize { weight_bytes: 6 * GIB, ..size }).is_err()
        );
    }

    #[test]
    fn every_worker_has_its_own_private_weights() {
        let size = |private_bytes| ModelSize {
            weight_bytes: 5 * GIB,
            private_bytes,
            kv_token_bytes: 1 << 17,
            state_bytes: 0,
            context_length: 8192,
        };
        let options = |workers| {
            let memory = MemoryShare { workers, ..options(11 * GIB).memory };
            WorkerOptions { memory, ..WorkerOptions::default() }
        };
        let stored = StoredSize { weight_bytes: 5 * GIB, ..StoredSize::default() };
        let divide = |workers, private_bytes| {
            MemoryPlan::new(&options(workers), Device::Cpu, stored).unwrap().divide(size(private_bytes))
        };
        let (none, some) = (divide(2, 0).unwrap(), divide(2, GIB).unwrap());
        assert_eq!(some.other - none.other, GIB);
        assert!(divide(1, 4 * GIB).is_ok() && divide(2, 4 * GIB).is_err());
    }

    #[test]
    fn a_model_whose_weights_are_too_large_is_refused_by_its_manifest_alone() {
        let shortage = plan(5 * GIB, Device::Cpu).unwrap_err();
        assert!(shortage.to_string().starts_with("it needs 5.0 GiB for its weights"), "{shortage}");
        assert!(plan(6 * GIB, Device::Cpu).is_ok());
    }
}
