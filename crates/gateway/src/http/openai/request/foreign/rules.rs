//! The fields that this server doesn't offer.

use super::neutral::Neutral::{self, Any, Null, Number, Off, Only, True, Words};

/// Names, what asks for nothing, and what any other value asks for.
type Rule = (&'static [&'static str], Neutral, &'static str);

/// The fields, by what they ask for.
pub(in crate::http::openai::request) const RULES: &[Rule] = &[
    // OpenAI.
    // Of operations: what generates reads these two itself.
    (&["tools"], Off, "calling tools"),
    (&["functions"], Off, "calling functions"),
    (&["tool_choice"], Words(&["none", "auto"]), "calling tools"),
    (&["function_call"], Words(&["none", "auto"]), "calling functions"),
    (&["modalities"], Only("text"), "output other than text"),
    (&["audio"], Null, "audio output"),
    (&["web_search_options"], Null, "searching the web"),
    (&["reasoning_effort"], Words(&["auto", "default"]), "choosing how much the model reasons"),
    (&["verbosity"], Words(&["medium"]), "choosing how long answers are"),
    (&["suffix"], Off, "filling in before a suffix"),
    // Constrained output under other names, and ways of it that this server doesn't have. An empty schema asks for any
    // JSON.
    (
        &["ebnf", "format", "schema"],
        Words(&[""]),
        "constrained output under this name; see `structured_outputs`",
    ),
    (&["structural_tag"], Words(&[""]), "constraining parts of the output"),
    (&["guided_whitespace_pattern"], Words(&[""]), "choosing the whitespace of JSON"),
    (&["grammar_triggers", "grammar_lazy", "preserved_tokens"], Words(&[""]), "constrained output"),
    // Ends of the generation.
    (
        &["min_length", "min_completion_tokens"],
        Off,
        "a least number of tokens under this name; see `min_tokens`",
    ),
    (&["stop_tokens"], Off, "stopping at token ids under this name; see `stop_token_ids`"),
    (&["eos_token_id"], Null, "stopping at token ids"),
    (&["stop_regex"], Off, "stopping at a pattern"),
    (&["no_stop_trim"], Off, "keeping the stop string under this name; see `include_stop_str_in_output`"),
    (&["ban_eos_token"], Off, "forbidding the end token; `ignore_eos` goes on after it"),
    (&["max_time", "t_max_predict_ms", "t_max_prompt_ms"], Number(-1.0), "a limit of time"),
    (&["n_indent"], Off, "stopping at an indentation"),
    // Choosing tokens.
    (
        &["bad_words", "bad_words_ids", "banned_strings", "banned_tokens", "custom_token_bans"],
        Off,
        "banned words",
    ),
    (&["allowed_token_ids", "force_words_ids", "suppress_tokens"], Off, "choosing among certain tokens"),
    (&["tfs_z", "tfs"], Number(1.0), "this way of sampling"),
    (
        &["top_a", "top_n_sigma", "mirostat", "xtc_probability", "dry_multiplier"],
        Number(-1.0),
        "this way of sampling",
    ),
    (
        &["dynatemp_range", "dynatemp_low", "smoothing_factor", "eta_cutoff", "epsilon_cutoff"],
        Off,
        "this way of sampling",
    ),
    (
        &["dynamic_temperature", "temperature_last", "min_keep", "adaptive_target"],
        Number(-1.0),
        "this way of sampling",
    ),
    (&["samplers", "sampler_order", "sampler_priority"], Off, "choosing the order of the filters"),
    (
        &["penalty_alpha", "no_repeat_ngram_size", "encoder_no_repeat_ngram_size", "repetition_detection"],
        Off,
        "this penalty",
    ),
    (
        &["encoder_repetition_penalty", "repetition_penalty_range", "presence_penalty_range"],
        Number(1.0),
        "this penalty",
    ),
    (&["penalize_nl"], True, "leaving line ends out of the penalties"),
    (&["do_sample"], True, "greedy choice under this name; set `temperature` to 0"),
    (&["use_beam_search", "early_stopping"], Off, "beam search"),
    (&["num_beams", "num_beam_groups", "length_penalty", "diversity_penalty"], Number(1.0), "beam search"),
    (&["guidance_scale", "cfg_scale"], Number(1.0), "guidance"),
    (
        &["negative_prompt", "logits_processors", "custom_logit_processor", "logits_processor_args"],
        Off,
        "changing logits",
    ),
    (&["watermark"], Off, "watermarks"),
    // The prompt.
    (&["chat_template", "template", "raw", "chat_template_kwargs"], Off, "changing the chat template"),
    (
        &["enable_thinking", "think", "thinking", "thinking_budget", "reasoning"],
        Null,
        "choosing how the model reasons",
    ),
    (
        &["reasoning_budget", "reasoning_budget_tokens", "thinking_token_budget"],
        Number(-1.0),
        "choosing how the model reasons",
    ),
    (&["reasoning_format"], Words(&["none", "auto"]), "taking reasoning out of the answer"),
    (&["include_reasoning"], True, "taking reasoning out of the answer"),
    (&["add_generation_prompt"], True, "leaving the generation prompt out"),
    (&["continue_final_message", "prefix", "prefill"], Off, "continuing the last message"),
    (
        &["role_mapping", "documents", "guideline", "tool_prompt", "system", "context", "task"],
        Off,
        "changing the prompt",
    ),
    (
        &["truncate_prompt_tokens", "truncate", "truncation", "truncation_length", "transforms"],
        Off,
        "cutting prompts",
    ),
    (&["num_ctx", "n_ctx", "context_length", "max_context_length"], Off, "choosing the context's length"),
    (
        &["options", "parameters", "extra_body", "custom_params", "vllm_xargs"],
        Off,
        "fields inside another one",
    ),
    (&["input_ids", "prompt_embeds", "input_embeds", "prompt_token_ids"], Off, "a prompt in this form"),
    (&["thinking_forced_open", "reasoning_in_content"], Off, "choosing how the model reasons"),
    (
        &["images", "image_data", "multimodal_data", "files", "mm_processor_kwargs"],
        Off,
        "input other than text",
    ),
    (&["input_prefix", "input_suffix", "input_extra"], Off, "filling in the middle"),
    (&["mode"], Words(&["instruct"]), "changing the chat template"),
    (
        &["instruction_template", "chat_instruct_command", "character", "preset", "generation_prompt"],
        Off,
        "changing the prompt",
    ),
    (&["safe_prompt", "prompt_mode", "_debug_render_only"], Off, "changing the prompt"),
    // Models.
    (&["lora", "lora_path", "adapter", "adapters", "adapter_id"], Off, "adapters"),
    (&["models", "plugins", "web_search", "enable_search", "search_parameters"], Off, "this"),
    // More in the answer.
    (&["prompt_logprobs"], Words(&[]), "returning log probabilities"),
    (&["n_probs", "top_n_tokens", "decoder_input_details"], Off, "returning log probabilities"),
    (&["return_tokens_as_token_ids", "return_token_ids", "return_tokens"], Off, "returning token ids"),
    (
        &["return_prompt_token_ids", "return_meta_info", "return_hidden_states"],
        Off,
        "returning more than the text",
    ),
    (
        &["return_routed_experts", "return_cached_tokens_details", "return_full_text"],
        Off,
        "returning more than the text",
    ),
    (
        &["return_progress", "timings_per_token", "post_sampling_probs", "details"],
        Off,
        "returning more than the text",
    ),
    (&["response_fields"], Off, "choosing the fields of the answer"),
    (&["skip_special_tokens"], True, "showing special tokens"),
    (&["detokenize"], True, "answers without text"),
    // Only where, when and for whom; or how a feature works that is off.
    (
        &["user", "user_id", "metadata", "store", "safety_identifier", "service_tier", "include_obfuscation"],
        Any,
        "",
    ),
    (
        &[
            "prompt_cache_key",
            "prompt_cache_retention",
            "prediction",
            "parallel_tool_calls",
            "parse_tool_calls",
        ],
        Any,
        "",
    ),
    (
        &[
            "guided_decoding_backend",
            "cache_prompt",
            "cache_salt",
            "id_slot",
            "slot_id",
            "n_keep",
            "num_keep",
            "n_discard",
            "n_cache_reuse",
        ],
        Any,
        "",
    ),
    (
        &[
            "keep_alive",
            "ttl",
            "num_thread",
            "n_threads",
            "num_batch",
            "num_gpu",
            "sse_ping_interval",
            "verbose",
        ],
        Any,
        "",
    ),
    (&["num_draft_tokens", "speculative.n_max", "speculative.n_min", "speculative.p_min"], Any, ""),
    (
        &["request_id", "rid", "session_id", "chat_id", "session_params", "extra_key", "custom_labels"],
        Any,
        "",
    ),
    (&["kv_transfer_params", "data_parallel_rank", "routed_dp_rank", "disagg_prefill_dp_rank"], Any, ""),
    (&["bootstrap_host", "bootstrap_port", "bootstrap_room", "ngram_corpus_id"], Any, ""),
    (&["provider", "route", "usage", "tags", "trace", "trace_id", "title", "background_tasks"], Any, ""),
    (&["separate_reasoning", "stream_reasoning", "spaces_between_special_tokens"], Any, ""),
    (&["mirostat_tau", "mirostat_eta", "dry_base", "dry_allowed_length", "dry_penalty_last_n"], Any, ""),
    (&["dry_sequence_breakers", "dry_range", "xtc_threshold", "dynatemp_high", "dynatemp_exponent"], Any, ""),
    (
        &["smoothing_curve", "adaptive_decay", "images_config", "prompt_cache_options", "backend_sampling"],
        Any,
        "",
    ),
    (
        &["engine", "ngl", "cpu_threads", "use_audio_in_video", "max_dynamic_patch", "min_dynamic_patch"],
        Any,
        "",
    ),
];
