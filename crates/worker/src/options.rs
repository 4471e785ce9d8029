//! What the options in the gateway's greeting mean for this process.

use std::time::Duration;

use mlx_ext::Device;
use protocol::{
    message::MAX_DELTA_TOKENS,
    options::{Activations, KvType, WorkerOptions},
};

use crate::{
    cache::BLOCK_TOKENS,
    model::{Kernels, KvBudget, KvDtype, KvWindows},
    schedule::{Limits, WindowLimits},
};

/// What computes on `device`.
pub fn kernels(options: &WorkerOptions, device: Device) -> Kernels {
    let kernels = Kernels::of(device);
    match options.activations {
        Activations::Int16 => kernels,
        Activations::Int8 => kernels.with_int8_activations(),
    }
}

/// Memory for keys and values.
pub fn kv_budget(options: &WorkerOptions) -> KvBudget {
    KvBudget {
        bytes: options.kv_bytes,
        sequences: max_num_seqs(options),
        dtype: match options.kv_type {
            KvType::Float32 => KvDtype::Float32,
            KvType::Float16 => KvDtype::Float16,
        },
        // What is written to disk has the keys and values of all layers, also of those that no window reaches any more.
        step_tokens: (!keeps_on_disk(options))
            .then(|| chunk_tokens(options).max(max_draft_tokens(options) + 1)),
    }
}

/// Whether prefixes are to be kept on disk.
pub fn keeps_on_disk(options: &WorkerOptions) -> bool {
    options.keep_prefixes && options.prefix_disk_bytes > 0
}

/// What a step may hold in layers that keep no more than their windows reach.
pub fn window_limits(windows: KvWindows) -> WindowLimits {
    let KvWindows { tokens, stretch } = windows;
    WindowLimits { tokens, stretch }
}

/// What a step may hold, where there is memory for the keys and values of `kv_tokens`, and for so many sequences.
pub fn limits(options: &WorkerOptions, kv_tokens: usize, kv_sequences: usize) -> Limits {
    let (max_num_seqs, chunk_tokens) = (max_num_seqs(options).min(kv_sequences), chunk_tokens(options));
    Limits {
        max_num_seqs,
        max_held_seqs: kv_sequences.saturating_add(1),
        chunk_tokens,
        // Room for every decode and a chunk, so that neither waits for the other.
        max_num_batched_tokens: max_num_seqs.saturating_add(chunk_tokens),
        kv_tokens,
        unit_tokens: BLOCK_TOKENS,
        keep_prefixes: options.keep_prefixes,
        max_draft_tokens: max_draft_tokens(options),
        windows: None,
    }
}

/// Time between two heartbeats.
pub fn heartbeat(options: &WorkerOptions) -> Duration {
    Duration::from_millis(options.heartbeat_millis.max(1).into())
}

/// Most tokens of a prompt that one step computes.
pub fn chunk_tokens(options: &WorkerOptions) -> usize {
    options.chunk_tokens.max(1) as usize
}

fn max_draft_tokens(options: &WorkerOptions) -> usize {
    (options.max_draft_tokens as usize).min(MAX_DELTA_TOKENS - 1)
}

fn max_num_seqs(options: &WorkerOptions) -> usize {
    options.max_sequences.max(1) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_has_room_for_every_decode_and_a_chunk() {
        let options = WorkerOptions { max_sequences: 3, chunk_tokens: 16, ..WorkerOptions::default() };
        let limits = limits(&options, 500, 4);
        assert_eq!((limits.max_num_seqs, limits.chunk_tokens, limits.kv_tokens), (3, 16, 500));
        assert_eq!(limits.max_num_batched_tokens, 19);
    }

    #[test]
    fn where_sequences_take_more_memory_there_are_fewer() {
        let options = WorkerOptions { max_sequences: 9, chunk_tokens: 16, ..WorkerOptions::default() };
        let fewer = limits(&options, 500, 4);
        assert_eq!((fewer.max_num_seqs, fewer.max_held_seqs, fewer.max_num_batched_tokens), (4, 5, 20));
        assert_eq!(limits(&options, 500, usize::MAX).max_num_seqs, 9);
    }

    #[test]
    fn what_would_serve_nobody_is_one() {
        let options = WorkerOptions { max_sequences: 0, chunk_tokens: 0, ..WorkerOptions::default() };
        let limits = limits(&options, 500, 4);
        assert_eq!((limits.max_num_seqs, limits.chunk_tokens, limits.max_num_batched_tokens), (1, 1, 2));
        assert_eq!((kv_budget(&options).sequences, chunk_tokens(&options)), (1, 1));
    }

    #[test]
    fn types_are_those_that_were_asked_for() {
        let exact = WorkerOptions { kv_bytes: 7, ..WorkerOptions::default() };
        let fast =
            WorkerOptions { activations: Activations::Int8, kv_type: KvType::Float16, ..exact.clone() };
        assert_eq!(
            (kv_budget(&exact).bytes, kv_budget(&exact).dtype, kv_budget(&fast).dtype),
            (7, KvDtype::Float32, KvDtype::Float16)
        );
        let disk = WorkerOptions { keep_prefixes: true, prefix_disk_bytes: 1, ..exact.clone() };
        assert_eq!((kv_budget(&disk).step_tokens, kv_budget(&fast).step_tokens), (None, Some(256)));
        assert_eq!(kernels(&exact, Device::Cpu), Kernels::Cpu);
        assert_eq!(kernels(&fast, Device::Cpu), Kernels::CpuInt8);
        assert_eq!(kernels(&fast, Device::Gpu), Kernels::Mlx, "a GPU has no such kernels");
    }
}
