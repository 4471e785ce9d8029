"""Small random configurations of every architecture, for `small.py`.

Each function takes a source of random numbers and the seed, and returns a configuration. What differs between models of an
architecture in practice has values that make a difference in a small one: windows are shorter than the prompt, contexts are
stretched from a few tokens, factors are far from 1.
"""

# hidden size, query heads, key heads, where a head has hidden / query heads components.
SHAPES = [(64, 4, 2), (96, 6, 3), (96, 4, 1), (128, 4, 4), (64, 8, 2)]
# The same with the size of a head. The kernels for the CPU take multiples of 8.
FREE_SHAPES = [(64, 4, 2, 16), (96, 6, 3, 32), (64, 8, 1, 8), (64, 4, 1, 24), (96, 8, 2, 20)]


def common(model_type, r, seed, free=True):
    config = {
        "model_type": model_type,
        "intermediate_size": r.choice([96, 160]),
        "num_hidden_layers": r.choice([2, 3]),
        "vocab_size": 101,
        "max_position_embeddings": 256,
        "rms_norm_eps": r.choice([1e-5, 1e-6]),
        "rope_theta": r.choice([10000.0, 500000.0]),
        "tie_word_embeddings": seed % 2 == 1,
        "hidden_act": "silu",
        "eos_token_id": 0,
    }
    names = ["hidden_size", "num_attention_heads", "num_key_value_heads", "head_dim"]
    shape = r.choice(FREE_SHAPES if free else SHAPES)
    return {**config, **dict(zip(names, shape))}


def llama3():
    return {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 40,
    }


def yarn(**more):
    return {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64, "beta_fast": 4.0, **more}


def longrope(dims):
    return {
        "type": "longrope",
        "short_factor": [1.0] * (dims // 2),
        "long_factor": [1.0 + 0.25 * pair for pair in range(dims // 2)],
    }


def windows(config, seed):
    """Some layers see a window: said layer by layer, as a Llama may."""
    layers = config["num_hidden_layers"]
    kinds = ["sliding_attention" if (layer + seed) % 2 else "full_attention" for layer in range(layers)]
    return {"layer_types": kinds, "sliding_window": 40}


def llama(r, seed, model_type="llama"):
    config = common(model_type, r, seed)
    config["attention_bias"] = r.random() < 0.5
    config["mlp_bias"] = r.random() < 0.5
    linear = {"rope_type": "linear", "factor": 4.0}
    dynamic = {"rope_type": "dynamic", "factor": 2.0}
    scaling = [llama3(), yarn(), None, linear, dynamic][seed % 5]
    return {**config, "rope_scaling": scaling, **(windows(config, seed) if seed % 3 == 2 else {})}


def mistral(r, seed):
    config = common("mistral", r, seed)
    return {**config, **(windows(config, seed) if seed % 3 else {"sliding_window": None})}


def ministral3(r, seed):
    config = common("ministral3", r, seed)
    rope = yarn() if seed % 2 else {"rope_type": "default", "original_max_position_embeddings": 40}
    mscales = {"mscale": 1.0, "mscale_all_dim": 1.0} if seed % 3 == 2 else {}
    theta = config.pop("rope_theta")
    config["rope_parameters"] = {**rope, **mscales, "rope_theta": theta, "llama_4_scaling_beta": 0.3}
    return {**config, **(windows(config, seed) if seed % 3 else {})}


def mistral3(r, seed):
    text = (ministral3 if seed % 2 else mistral)(r, seed)
    return {"model_type": "mistral3", "text_config": text, "vocab_size": text["vocab_size"], "eos_token_id": 0}


def qwen2(r, seed):
    config = common("qwen2", r, seed, free=False)
    return {**config, "use_sliding_window": False, "sliding_window": 40, "rope_scaling": yarn() if seed % 3 == 1 else None}


def qwen3(r, seed):
    config = common("qwen3", r, seed)
    return {**config, "attention_bias": False, "rope_scaling": yarn() if seed % 3 == 1 else None}


def gemma3_text(r, seed):
    config = common("gemma3_text", r, seed)
    return {
        **config,
        "num_hidden_layers": 4,
        "hidden_activation": "gelu_pytorch_tanh",
        "hidden_act": "gelu_pytorch_tanh",
        "query_pre_attn_scalar": 24,
        "sliding_window": r.choice([24, 40]),
        "sliding_window_pattern": r.choice([2, 3]),
        "rope_local_base_freq": 1000.0,
        "rope_scaling": {"rope_type": "linear", "factor": 8.0} if seed % 2 else None,
    }


def gemma3(r, seed):
    text = gemma3_text(r, seed)
    return {"model_type": "gemma3", "text_config": text, "vocab_size": text["vocab_size"], "eos_token_id": 0}


def gemma4_text(r, seed):
    config = common("gemma4_text", r, seed)
    window, full = "sliding_attention", "full_attention"
    rope = {
        full: {"rope_type": "proportional", "partial_rotary_factor": r.choice([0.25, 0.5]), "rope_theta": 10000.0},
        window: {"rope_type": "default", "rope_theta": 1000.0},
    }
    del config["rope_theta"]
    values_are_keys = seed % 3 != 0
    config = {
        **config,
        # Few layers: scores are not scaled, so that roundings grow from one to the next.
        "num_hidden_layers": [4, 3, 5][seed % 3],
        "layer_types": [[window, full, window, full], [window, window, full], [window, window, full, window, full]][seed % 3],
        "hidden_activation": "gelu_pytorch_tanh",
        "hidden_act": "gelu_pytorch_tanh",
        "sliding_window": r.choice([24, 40]),
        "rope_parameters": None if seed % 3 == 2 else rope,
        "global_head_dim": r.choice([32, 48]),
        "num_global_key_value_heads": 1 if values_are_keys else None,
        "attention_k_eq_v": values_are_keys,
        "num_kv_shared_layers": 0 if seed % 3 == 1 else 2,
        "use_double_wide_mlp": seed % 3 == 0,
        "hidden_size_per_layer_input": 0 if seed % 3 == 1 else 32,
        "vocab_size_per_layer_input": 101,
        "final_logit_softcapping": [r.choice([4.0, 15.0]), None][seed % 2],
        "enable_moe_block": seed % 3 == 1,
    }
    if seed % 3 == 1:
        config.update({"num_experts": r.choice([6, 9]), "top_k_experts": r.choice([2, 3]), "moe_intermediate_size": 64})
        config["fused_experts"] = seed % 2 == 0
    return config


def gemma4(r, seed):
    # Another order of models, so that there are experts in all forms.
    text = gemma4_text(r, seed + 4)
    behind = text["tie_word_embeddings"]
    ours = {"fused_experts": text.pop("fused_experts", False), "text_model_behind": behind}
    nested = {"model_type": "gemma4", "text_config": text, "vocab_size": text["vocab_size"], "eos_token_id": 0}
    return {**nested, **ours}


def phi3(r, seed):
    config = common("phi3", r, seed, free=False)
    head_dim = config["hidden_size"] // config["num_attention_heads"]
    part = [1.0, 0.75, 0.5][seed % 3] if head_dim % 16 == 0 else 1.0
    scaling = longrope(int(head_dim * part)) if seed % 2 else None
    old = {"original_max_position_embeddings": 64}
    return {**config, **old, "partial_rotary_factor": part, "rope_scaling": scaling, "sliding_window": None}


def gemma2(r, seed):
    # mlx-lm gives no layer a window: ours is longer than the prompt.
    config = common("gemma2", r, seed)
    return {
        **config,
        "tie_word_embeddings": True,
        "hidden_activation": "gelu_pytorch_tanh",
        "hidden_act": "gelu_pytorch_tanh",
        "query_pre_attn_scalar": 24,
        "sliding_window": 256,
        "attn_logit_softcapping": r.choice([5.0, 20.0]),
        "final_logit_softcapping": r.choice([4.0, 15.0]),
    }


def smollm3(r, seed):
    config = {**common("smollm3", r, seed), "num_hidden_layers": 4}
    layers = {"no_rope_layers": [1, 0, 0, 1]} if seed % 2 else {"no_rope_layer_interval": 2}
    return {**config, **layers, "attention_bias": seed % 3 == 2}


def olmo2(r, seed):
    config = common("olmo2", r, seed)
    return {**config, "attention_bias": False, "rope_scaling": llama3() if seed % 3 == 2 else None}


def olmo3(r, seed):
    config = {**common("olmo3", r, seed), "num_hidden_layers": 4}
    kinds = ["sliding_attention", "full_attention"] * 2 if seed % 2 else None
    scaling = yarn() if seed % 3 else None
    return {**config, "sliding_window": 40, "layer_types": kinds, "rope_scaling": scaling}


def granite(r, seed):
    factors = {
        "attention_multiplier": r.choice([0.1, 0.3]),
        "embedding_multiplier": r.choice([3.0, 12.0]),
        "residual_multiplier": r.choice([0.22, 0.5]),
        "logits_scaling": r.choice([2.0, 0.5]),
    }
    biases = {"attention_bias": seed % 3 == 1, "mlp_bias": seed % 3 == 2}
    return {**common("granite", r, seed, free=False), **factors, **biases}


def glm4(r, seed):
    config = common("glm4", r, seed)
    config["head_dim"] = {20: 24}.get(config["head_dim"], config["head_dim"])
    return {**config, "tie_word_embeddings": False, "attention_bias": seed % 2 == 1, "partial_rotary_factor": 0.5}


def cohere2(r, seed):
    config = common("cohere2", r, seed, free=False)
    return {
        **config,
        "head_dim": config["hidden_size"] // config["num_attention_heads"],
        "tie_word_embeddings": True,
        "num_hidden_layers": 4,
        "layer_norm_eps": 1e-5,
        "layer_norm_bias": seed % 3 == 1,
        "attention_bias": seed % 3 == 2,
        "logit_scale": r.choice([0.25, 2.0]),
        "sliding_window": 40,
        "sliding_window_pattern": r.choice([2, 4]),
    }


def mixtral(r, seed):
    config = common("mixtral", r, seed, free=False)
    experts = {"num_local_experts": r.choice([4, 5]), "num_experts_per_tok": r.choice([1, 2])}
    return {**config, **experts, "sliding_window": None, "separate_experts": seed % 2 == 1}


def qwen3_moe(r, seed):
    config = {**common("qwen3_moe", r, seed), "num_hidden_layers": 3}
    # mlx-lm finds experts that are stored one by one only if the first layer has some.
    separate = seed % 2 == 1
    experts = {
        "num_experts": r.choice([6, 9]),
        "num_experts_per_tok": r.choice([2, 3]),
        "moe_intermediate_size": 64,
        "norm_topk_prob": seed % 3 != 1,
        "decoder_sparse_step": 1 if separate else 2,
        "mlp_only_layers": [1] if seed % 3 == 1 else [],
    }
    return {**config, **experts, "attention_bias": False, "separate_experts": separate}


def cohere(r, seed):
    config = {**cohere2(r, seed), "model_type": "cohere", "num_hidden_layers": 3}
    for name in ["sliding_window", "sliding_window_pattern"]:
        del config[name]
    return config


def seed_oss(r, seed):
    biases = {"attention_bias": seed % 3 != 0, "attention_out_bias": seed % 3 == 2, "mlp_bias": seed % 2 == 1}
    # Of quantized ones mlx-lm cannot use the embedding as a head.
    return {**common("seed_oss", r, seed), **biases, "tie_word_embeddings": False}


def ernie4_5(r, seed):
    return {**common("ernie4_5", r, seed), "use_bias": seed % 2 == 1}


def olmoe(r, seed):
    experts = {"num_experts": r.choice([6, 9]), "num_experts_per_tok": r.choice([2, 3]), "norm_topk_prob": seed % 2 == 0}
    return {**common("olmoe", r, seed), **experts, "separate_experts": seed % 3 == 1}


def deepseek_experts(r, seed):
    """Some experts, of which every token goes through one or two."""
    return {
        "n_routed_experts": 8,
        "num_experts_per_tok": r.choice([2, 3]),
        "n_shared_experts": r.choice([1, 2]),
        "moe_intermediate_size": r.choice([32, 64]),
        "first_k_dense_replace": 1,
        "num_hidden_layers": 3,
        "separate_experts": seed % 3 == 1,
        "tie_word_embeddings": False,
    }


def chosen_by_sigmoid(r, seed):
    groups = {"n_group": [1, 4, 2][seed % 3], "topk_group": [1, 2, 1][seed % 3]}
    return {**groups, "norm_topk_prob": seed % 2 == 0, "routed_scaling_factor": r.choice([1.0, 2.5])}


def glm4_moe(r, seed):
    config = common("glm4_moe", r, seed)
    config["head_dim"] = {20: 24}.get(config["head_dim"], config["head_dim"])
    more = {"attention_bias": seed % 2 == 1, "use_qk_norm": seed % 3 != 1, "partial_rotary_factor": 0.5}
    return {**config, **deepseek_experts(r, seed), **chosen_by_sigmoid(r, seed), **more, "rope_scaling": None}


def latent(r, seed):
    """Sizes of latent attention. The kernels for the CPU take sums of rank and rotated components that are multiples of 8."""
    heads = r.choice([2, 4])
    sizes = {
        "num_attention_heads": heads,
        "num_key_value_heads": heads,
        "q_lora_rank": None if seed % 2 else 32,
        "kv_lora_rank": r.choice([32, 64]),
        "qk_rope_head_dim": [8, 12, 16][seed % 3],
        "qk_nope_head_dim": r.choice([32, 64]),
        "v_head_dim": r.choice([16, 32]),
    }
    mscales = {"mscale": 1.0, "mscale_all_dim": r.choice([0.7, 1.0])} if seed % 3 != 1 else {}
    scaling = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64, "beta_fast": 4.0, **mscales}
    return {**sizes, "rope_scaling": scaling, "attention_bias": seed % 3 == 2}


def deepseek_v3(r, seed, model_type="deepseek_v3"):
    config = common(model_type, r, seed, free=False)
    return {**config, **deepseek_experts(r, seed), **chosen_by_sigmoid(r, seed), **latent(r, seed)}


def deepseek_v2(r, seed):
    groups = {"topk_method": "greedy"}
    if seed % 2 == 0:
        groups = {"topk_method": "group_limited_greedy", "n_group": 4, "topk_group": 2}
    more = {**groups, "norm_topk_prob": False, "routed_scaling_factor": r.choice([1.0, 16.0])}
    return {**common("deepseek_v2", r, seed, free=False), **deepseek_experts(r, seed), **latent(r, seed), **more}


def deepseek(r, seed):
    scaling = {"type": "linear", "factor": 4.0} if seed % 2 else None
    config = {**common("deepseek", r, seed, free=False), **deepseek_experts(r, seed)}
    config["head_dim"] = config["hidden_size"] // config["num_attention_heads"]
    return {**config, "norm_topk_prob": False, "rope_scaling": scaling, "attention_bias": seed % 3 == 2}


def llama4(r, seed):
    text = {
        **common("llama4_text", r, seed),
        "attention_bias": seed % 3 == 2,
        "attention_chunk_size": r.choice([24, 40]),
        "num_hidden_layers": 4,
        "interleave_moe_layer_step": 1 + seed % 2,
        "intermediate_size_mlp": 160,
        "num_local_experts": r.choice([4, 5]),
        "num_experts_per_tok": 1,
        "use_qk_norm": seed % 3 != 1,
        "rms_norm_eps": 1e-6,  # that of queries and keys is always so in mlx-lm
        "rope_scaling": llama3() if seed % 2 else None,
        "attn_temperature_tuning": [4, 0, True][seed % 3],
        "floor_scale": 16,
        "attn_scale": 0.3,
        "tie_word_embeddings": False,
    }
    return {"model_type": "llama4", "text_config": text, "vocab_size": text["vocab_size"], "eos_token_id": 0}


def gpt_oss(r, seed):
    # Few layers: the more tokens choose experts, the more of them choose between two that are nearly alike.
    config = {**common("gpt_oss", r, seed), "num_hidden_layers": 2, "attention_bias": True, "tie_word_embeddings": False}
    kinds = ["sliding_attention", "full_attention"]
    experts = {"num_local_experts": r.choice([5, 8]), "num_experts_per_tok": r.choice([2, 3])}
    return {
        **config,
        **experts,
        "layer_types": [None, kinds, kinds[::-1]][seed % 3],
        "sliding_window": r.choice([24, 40]),
        "rope_scaling": yarn() if seed % 2 == 0 else None,
        "swiglu_limit": 7.0,
    }


def lfm2(r, seed):
    config = common("lfm2", r, seed, free=False)
    layers = 4
    kinds = ["full_attention" if (layer + seed) % 3 == 1 else "conv" for layer in range(layers)]
    sizes = {
        "block_dim": config["hidden_size"],
        "block_ff_dim": 96,
        "block_multiple_of": 32,
        "block_ffn_dim_multiplier": r.choice([1.0, 1.5]),
        "block_auto_adjust_ff_dim": seed % 3 == 1,
    }
    of_layers = {"layer_types": kinds} if seed % 2 else {"full_attn_idxs": [i for i in range(layers) if kinds[i] != "conv"]}
    for name in ["intermediate_size", "rms_norm_eps"]:
        del config[name]
    return {
        **config,
        **sizes,
        **of_layers,
        "num_hidden_layers": layers,
        "tie_word_embeddings": True,
        "norm_eps": r.choice([1e-5, 1e-6]),
        "conv_L_cache": [3, 4, 2][seed % 3],
        "conv_bias": seed % 2 == 1,
        "convolutions_of_transformers": seed % 2 == 0,
    }


def lfm2_moe(r, seed):
    config = lfm2(r, seed)
    for name in ["block_dim", "block_ff_dim", "block_multiple_of", "block_ffn_dim_multiplier", "block_auto_adjust_ff_dim"]:
        del config[name]
    config["layer_types"] = ["full_attention" if (layer + seed) % 3 == 1 else "conv" for layer in range(4)]
    experts = {
        "num_experts": r.choice([6, 9]),
        "num_experts_per_tok": r.choice([2, 3]),
        "moe_intermediate_size": 64,
        "num_dense_layers": [1, 2, 0][seed % 3],
        "norm_topk_prob": seed % 3 != 1,
        "use_expert_bias": seed % 2 == 0,
        "routed_scaling_factor": r.choice([1.0, 2.5]),
        "separate_experts": seed % 2 == 0,
    }
    return {**config, **experts, "model_type": "lfm2_moe", "intermediate_size": 96}


def delta_net(r, seed):
    """What models with gated delta nets have in common."""
    keys, values = r.choice([(2, 4), (1, 3), (2, 2)])
    return {
        "num_hidden_layers": 4,
        "linear_num_key_heads": keys,
        "linear_num_value_heads": values,
        "linear_key_head_dim": r.choice([16, 12]),
        # A quantized output needs a multiple of 32 components.
        "linear_value_head_dim": r.choice({4: [16, 40], 3: [32], 2: [16, 48]}[values]),
        "linear_conv_kernel_dim": [4, 3][seed % 2],
        "full_attention_interval": [4, 2][seed % 2],
    }


def shared_experts(r, seed):
    return {
        "num_experts": r.choice([6, 9]),
        "num_experts_per_tok": r.choice([2, 3]),
        "moe_intermediate_size": 64,
        "shared_expert_intermediate_size": 96,
        "norm_topk_prob": seed % 3 != 1,
    }


def heads_of_16(r, config):
    """A quarter of each head is rotated."""
    return {**config, "hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": r.choice([1, 2]), "head_dim": 16}


def qwen3_next(r, seed):
    config = heads_of_16(r, common("qwen3_next", r, seed))
    # mlx-lm takes the files of transformers for those if their first layers have separate experts.
    of_transformers = seed % 3 == 1
    layers = {"decoder_sparse_step": 1 if of_transformers else 2, "mlp_only_layers": [3] if seed % 3 == 2 else []}
    return {
        **config,
        **delta_net(r, seed),
        **shared_experts(r, seed),
        **layers,
        "partial_rotary_factor": [0.25, 0.5][seed % 2],
        "attention_bias": seed % 3 == 2,
        "separate_experts": of_transformers,
        "convolutions_of_transformers": of_transformers,
    }


def qwen3_5(r, seed, model_type="qwen3_5"):
    config = heads_of_16(r, common(model_type + "_text", r, seed))
    theta = config.pop("rope_theta")
    rope = {"rope_type": "default", "mrope_section": [1, 1, 0], "partial_rotary_factor": [0.25, 0.5][seed % 2]}
    text = {**config, **delta_net(r, seed), "rope_parameters": {**rope, "rope_theta": theta}}
    if model_type == "qwen3_5_moe":
        text.update(shared_experts(r, seed))
    nested = {"model_type": model_type, "text_config": text, "vocab_size": text["vocab_size"], "eos_token_id": 0}
    return {**nested, "convolutions_of_transformers": seed % 3 == 1}


ARCHITECTURES = {
    "cohere": cohere,
    "cohere2": cohere2,
    "deepseek": deepseek,
    "deepseek_v2": deepseek_v2,
    "deepseek_v3": deepseek_v3,
    "ernie4_5": ernie4_5,
    "gemma2": gemma2,
    "gemma3": gemma3,
    "gemma3_text": gemma3_text,
    "gemma4": gemma4,
    "gemma4_text": gemma4_text,
    "glm4": glm4,
    "glm4_moe": glm4_moe,
    "gpt_oss": gpt_oss,
    "granite": granite,
    "iquestcoder": lambda r, seed: llama(r, seed, "iquestcoder"),
    "joyai_llm_flash": lambda r, seed: deepseek_v3(r, seed, "joyai_llm_flash"),
    "kimi_k2": lambda r, seed: deepseek_v3(r, seed, "kimi_k2"),
    "lfm2": lfm2,
    "lfm2_moe": lfm2_moe,
    "llama": llama,
    "llama4": llama4,
    "ministral3": ministral3,
    "mistral": mistral,
    "mistral3": mistral3,
    "mixtral": mixtral,
    "olmo2": olmo2,
    "olmo3": olmo3,
    "olmoe": olmoe,
    "phi3": phi3,
    "qwen2": qwen2,
    "qwen3": qwen3,
    "qwen3_5": qwen3_5,
    "qwen3_5_moe": lambda r, seed: qwen3_5(r, seed, "qwen3_5_moe"),
    "qwen3_moe": qwen3_moe,
    "qwen3_next": qwen3_next,
    "seed_oss": seed_oss,
    "smollm3": smollm3,
}
