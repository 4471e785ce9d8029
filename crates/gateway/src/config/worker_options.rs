//! What workers are told of the settings. The file's words are the `settings` crate's, and what they mean to a worker is
//! the protocol's.

use std::time::Duration;

use protocol::{
    memory::MemoryShare,
    options::{self, WorkerOptions},
};

use super::{Activations, Config, Cpu, KvType, Verify, Worker};

/// Heartbeats that fit into the longest silence of a worker: some may be late.
const HEARTBEATS_PER_TIMEOUT: u32 = 6;

/// Longest time between two heartbeats: they carry what `/readyz` and the metrics show.
const MAX_HEARTBEAT: Duration = Duration::from_millis(500);

impl Config {
    /// How workers are to work. What memory each of them may use, and which model drafts for its own, is not known before
    /// its model is.
    pub fn worker_options(&self) -> WorkerOptions {
        let Cpu { activations, kv_type } = self.cpu;
        let Worker {
            kv_max_bytes,
            max_num_seqs,
            max_prompt_chunk_tokens,
            adapter_max_bytes,
            special_tokens_in_content,
        } = self.worker;
        let heartbeat = MAX_HEARTBEAT.min(self.workers.heartbeat_timeout / HEARTBEATS_PER_TIMEOUT);
        WorkerOptions {
            verify: match self.verify {
                Verify::Header => options::Verify::Header,
                Verify::Full => options::Verify::Full,
                Verify::Background => options::Verify::Background,
            },
            activations: match activations {
                Activations::Int16 => options::Activations::Int16,
                Activations::Int8 => options::Activations::Int8,
            },
            kv_type: match kv_type {
                KvType::Float32 => options::KvType::Float32,
                KvType::Float16 => options::KvType::Float16,
            },
            kv_bytes: kv_max_bytes,
            keep_prefixes: self.prefix_cache.enabled,
            prefix_disk_bytes: self.prefix_cache.disk_max_bytes,
            max_sequences: max_num_seqs,
            chunk_tokens: max_prompt_chunk_tokens,
            max_draft_tokens: self.speculation.max_draft_tokens,
            draft_model: None,
            adapter_bytes: adapter_max_bytes,
            special_tokens_in_content,
            heartbeat_millis: heartbeat.as_millis().max(1) as u32,
            memory: MemoryShare::UNLIMITED,
        }
    }
}
