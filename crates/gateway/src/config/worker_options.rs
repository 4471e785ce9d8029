//! What workers are told of the settings. The file's words are the `settings` crate's, and what they mean to a worker is
//! the protocol's.

use protocol::options::{self, WorkerOptions};

use super::{Activations, Config, Cpu, KvType, Verify, Worker};

impl Config {
    /// How workers are to work.
    pub fn worker_options(&self) -> WorkerOptions {
        let Cpu { activations, kv_type } = self.cpu;
        let Worker { kv_max_bytes, max_num_seqs, max_prompt_chunk_tokens, special_tokens_in_content } =
            self.worker;
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
            max_sequences: max_num_seqs,
            chunk_tokens: max_prompt_chunk_tokens,
            special_tokens_in_content,
        }
    }
}
