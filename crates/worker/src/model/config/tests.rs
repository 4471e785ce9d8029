#![allow(clippy::unwrap_used)]

use proptest::prelude::*;
use serde_json::json;

use super::*;

mod rotations;

fn config(changes: Value) -> Value {
    let mut config = json!({
        "model_type": "llama", "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
        "num_attention_heads": 4, "vocab_size": 100, "rms_norm_eps": 1e-5,
    });
    for (name, value) in changes.as_object().unwrap() {
        config[name] = value.clone();
    }
    config
}

fn read(config: &Value) -> Result<DecoderConfig, ModelError> {
    DecoderConfig::parse(Settings::new(config)?, &[])
}

fn parse(changes: Value) -> DecoderConfig {
    read(&config(changes.clone())).unwrap_or_else(|error| panic!("{changes}: {error}"))
}

#[track_caller]
fn refused(changes: Value, name: &str) {
    let error = read(&config(changes.clone())).unwrap_err().to_string();
    assert!(error.contains(&format!("`{name}`")), "{changes}: {error}");
}

#[test]
fn what_is_not_said_has_transformers_defaults() {
    for nothing in [json!({}), nulls()] {
        let args = parse(nothing);
        assert_eq!((args.heads.kv, args.heads.dim, args.max_position_embeddings), (4, 16, 2048));
        assert_eq!((args.attention_bias, args.mlp_bias, args.tie_word_embeddings), (false, false, None));
        let plain = RopeConfig::plain(10_000.0);
        assert_eq!(args.rope, plain);
    }
    assert_eq!(parse(json!({ "rms_norm_eps": null })).rms_norm_eps, 1e-6);
}

/// Everything that may be left out.
fn nulls() -> Value {
    let names = [
        "num_key_value_heads",
        "head_dim",
        "max_position_embeddings",
        "attention_bias",
        "mlp_bias",
        "tie_word_embeddings",
        "rope_theta",
        "rope_scaling",
        "rope_parameters",
        "rope_traditional",
        "sliding_window",
        "use_sliding_window",
        "layer_types",
        "quantization",
        "quantization_config",
        "hidden_act",
        "hidden_activation",
        "partial_rotary_factor",
        "attn_logit_softcapping",
        "torch_dtype",
        "dtype",
    ];
    names.into_iter().map(|name| (name.to_owned(), Value::Null)).collect::<serde_json::Map<_, _>>().into()
}

#[test]
fn numbers_and_flags_come_in_several_forms() {
    let args = parse(json!({
        "hidden_size": 64.0, "num_attention_heads": 4.0, "num_key_value_heads": 2.0, "head_dim": 3.2e1,
        "vocab_size": 1e2, "max_position_embeddings": 4096.0, "rms_norm_eps": 0, "rope_theta": 500000,
        "attention_bias": 1, "mlp_bias": 0.0, "tie_word_embeddings": true, "hidden_act": "swish",
        "dtype": "bfloat16", "torch_dtype": 7, "sliding_window": false,
    }));
    assert_eq!((args.hidden_size, args.vocab_size, args.max_position_embeddings), (64, 100, 4096));
    assert_eq!((args.heads.queries, args.heads.kv, args.heads.dim), (4, 2, 32));
    assert_eq!((args.attention_bias, args.mlp_bias, args.tie_word_embeddings), (true, false, Some(true)));
    assert_eq!((args.rms_norm_eps, args.rope.base), (0.0, 500_000.0));
}

#[test]
fn rope_has_had_many_names() {
    let llama3 = json!({
        "factor": 8, "low_freq_factor": 1.0, "high_freq_factor": 4, "original_max_position_embeddings": 8192,
    });
    let with = |base: &Value, more: Value| {
        let mut object = base.clone();
        for (name, value) in more.as_object().unwrap() {
            object[name] = value.clone();
        }
        object
    };
    let stretched =
        RopeScaling::Llama3 { factor: 8.0, low_freq_factor: 1.0, high_freq_factor: 4.0, old_context: 8192.0 };
    for types in [
        json!({ "type": "llama3" }),
        json!({ "rope_type": "llama3" }),
        json!({ "type": "llama3", "rope_type": "llama3" }),
        json!({ "type": null, "rope_type": "llama3" }),
    ] {
        let object = with(&llama3, types);
        assert_eq!(parse(json!({ "rope_scaling": object })).rope.scaling, stretched, "{object}");
        let object = with(&object, json!({ "rope_theta": 5e5 }));
        let args = parse(json!({ "rope_theta": null, "rope_parameters": object }));
        assert_eq!((&args.rope.scaling, args.rope.base), (&stretched, 500_000.0));
        let kinds = config(json!({ "rope_parameters": { "full_attention": object } }));
        let nested = DecoderConfig::parse(Settings::new(&kinds).unwrap(), &["rope_parameters"]).unwrap();
        assert_eq!(nested.rope, args.rope);
        let both = parse(json!({ "rope_scaling": object, "rope_parameters": object, "rope_theta": 5e5 }));
        assert_eq!(both.rope, args.rope);
    }
    let linear = json!({ "type": "linear", "rope_type": "linear", "factor": 4 });
    assert_eq!(parse(json!({ "rope_scaling": linear })).rope.scaling, RopeScaling::Linear { factor: 4.0 });
    for plain in
        [json!({}), json!({ "rope_type": "default" }), json!({ "rope_theta": 1e6 }), json!({ "factor": 1 })]
    {
        assert_eq!(parse(json!({ "rope_scaling": plain })).rope.scaling, RopeScaling::Plain, "{plain}");
    }
    assert_eq!(parse(json!({ "rope_scaling": {}, "rope_parameters": { "rope_theta": 1e6 } })).rope.base, 1e6);
}

fn yarn(more: Value) -> Value {
    let mut yarn = json!({ "type": "yarn", "factor": 4, "original_max_position_embeddings": 1000 });
    for (name, value) in more.as_object().unwrap() {
        yarn[name] = value.clone();
    }
    yarn
}

fn long_rope(factors: Value) -> Value {
    json!({ "type": "longrope", "long_factor": factors, "original_max_position_embeddings": 1000 })
}

#[test]
fn a_stretched_context_may_have_a_gain() {
    let scaling =
        |value: Value| parse(json!({ "rope_scaling": value, "max_position_embeddings": 4000 })).rope.scaling;
    let gain = |value: Value| scaling(value).gain();
    let near =
        |found: f64, expected: f64| assert!((found - expected).abs() < 1e-12, "{found}, not {expected}");
    near(gain(yarn(json!({}))), 0.1 * 4_f64.ln() + 1.0);
    near(gain(yarn(json!({ "attention_factor": 1.5 }))), 1.5);
    near(gain(yarn(json!({ "mscale": 1.0, "mscale_all_dim": 1.0 }))), 1.0);
    near(gain(long_rope(json!(vec![1.5; 8]))), (1.0 + 4_f64.ln() / 1000_f64.ln()).sqrt());
    assert_eq!(scaling(json!({ "type": "dynamic", "factor": 4 })), RopeScaling::Plain);
    let su = json!({ "type": "su", "long_factor": vec![2; 8], "original_max_position_embeddings": 4000 });
    assert_eq!(scaling(su), RopeScaling::LongRope { factors: vec![2.0; 8], gain: 1.0 });
}

#[test]
fn layers_have_windows_as_they_are_said_to() {
    let windows = |changes: Value, on: bool| {
        let config = config(changes);
        let rule = WindowRule { on, slides: &|layer| layer == 1 };
        layer_windows(Settings::new(&config).unwrap(), 2, &rule).map_err(|error| error.to_string())
    };
    assert_eq!(windows(json!({}), true).unwrap(), [None, None]);
    assert_eq!(windows(json!({ "sliding_window": 8 }), true).unwrap(), [None, Some(8)]);
    assert_eq!(windows(json!({ "sliding_window": 8 }), false).unwrap(), [None, None]);
    assert_eq!(
        windows(json!({ "sliding_window": 8, "use_sliding_window": true }), false).unwrap(),
        [None, Some(8)]
    );
    let kinds = json!(["sliding_attention", "full_attention"]);
    assert_eq!(windows(json!({ "sliding_window": 8, "layer_types": kinds }), true).unwrap(), [Some(8), None]);
    assert!(windows(json!({ "layer_types": kinds }), true).unwrap_err().contains("`sliding_window`"));
    assert!(
        windows(json!({ "layer_types": ["full_attention"] }), true).unwrap_err().contains("`layer_types`")
    );
    let chunked = json!({ "layer_types": ["full_attention", "chunked_attention"] });
    assert!(windows(chunked, true).unwrap_err().contains("chunked_attention"));
}

#[test]
fn a_model_of_text_may_have_a_place_and_defaults_of_its_own() {
    let config = json!({ "text_config": { "head_dim": 8 }, "head_dim": 4 });
    let settings =
        Settings::new(&config).unwrap().with_defaults(&[("num_attention_heads", 3.0), ("head_dim", 2.0)]);
    let text = settings.of_text().unwrap();
    assert_eq!(text.whole("head_dim", 1, 9).unwrap(), Some(8));
    assert_eq!(text.whole("num_attention_heads", 1, 9).unwrap(), Some(3));
    assert_eq!(text.number("rope_theta", 1.0, 9.0).unwrap(), None);
    let nothing = json!({ "num_attention_heads": null });
    let nothing =
        Settings::new(&nothing).unwrap().with_defaults(&[("num_attention_heads", 3.0), ("mlp_bias", 1.0)]);
    assert_eq!(nothing.whole("num_attention_heads", 1, 9).unwrap(), None);
    assert_eq!(nothing.flag("mlp_bias").unwrap(), Some(true));
    let error = text.refuse::<()>("head_dim", 8).unwrap_err().to_string();
    assert!(error.contains("`text_config.head_dim`"), "{error}");
}

#[test]
fn what_would_change_the_answers_is_refused_by_name() {
    for (changes, name) in [
        (json!({ "hidden_act": "gelu" }), "hidden_act"),
        (json!({ "hidden_activation": "gelu_pytorch_tanh" }), "hidden_activation"),
        (json!({ "sliding_window": 1024 }), "sliding_window"),
        (json!({ "layer_types": ["full_attention", "sliding_attention"] }), "layer_types"),
        (json!({ "layer_types": "full_attention" }), "layer_types"),
        (json!({ "partial_rotary_factor": 0.5 }), "partial_rotary_factor"),
        (json!({ "final_logit_softcapping": 30.0 }), "final_logit_softcapping"),
        (
            json!({ "rope_parameters": { "partial_rotary_factor": 0.25 } }),
            "rope_parameters.partial_rotary_factor",
        ),
        (json!({ "rope_scaling": { "type": "ntk", "factor": 4 } }), "rope_scaling.rope_type"),
        (json!({ "rope_scaling": { "type": "dynamic" } }), "rope_scaling.factor"),
        (
            json!({ "rope_scaling": { "type": "yarn", "factor": 4 } }),
            "rope_scaling.original_max_position_embeddings",
        ),
        (json!({ "rope_scaling": yarn(json!({ "truncate": "no" })) }), "rope_scaling.truncate"),
        (json!({ "rope_scaling": { "type": "longrope" } }), "rope_scaling.long_factor"),
        (json!({ "rope_scaling": long_rope(json!([1.0, 0.0])) }), "rope_scaling.long_factor"),
        // Heads have 16 components here.
        (json!({ "rope_scaling": long_rope(json!([1.0, 2.0])) }), "rope_scaling.long_factor"),
        (json!({ "use_qk_norm": true }), "use_qk_norm"),
        (json!({ "clip_qkv": 8.0 }), "clip_qkv"),
        (
            json!({ "rope_scaling": { "type": "linear", "rope_type": "llama3", "factor": 4 } }),
            "rope_scaling.type",
        ),
        (json!({ "rope_scaling": { "type": "linear" } }), "rope_scaling.factor"),
        (json!({ "rope_scaling": { "factor": 4 } }), "rope_scaling.rope_type"),
        (
            json!({ "rope_scaling": { "type": "linear", "factor": 4 }, "rope_parameters": { "rope_type": "default" } }),
            "rope_parameters",
        ),
        (
            json!({ "rope_scaling": { "type": "llama3", "factor": 4, "low_freq_factor": 4, "high_freq_factor": 4 } }),
            "rope_scaling.low_freq_factor",
        ),
        (
            json!({ "rope_parameters": { "full_attention": { "rope_theta": 1e6 }, "sliding_attention": {} } }),
            "rope_parameters",
        ),
        (json!({ "rope_scaling": { "full_attention": { "rope_type": "default" } } }), "rope_scaling"),
        (json!({ "num_key_value_heads": 3 }), "num_key_value_heads"),
        (json!({ "head_dim": 7 }), "head_dim"),
    ] {
        refused(changes, name);
    }
    parse(json!({ "sliding_window": 1024, "use_sliding_window": false }));
    parse(json!({ "sliding_window": 4096, "max_position_embeddings": 4096 }));
    parse(json!({ "sliding_window": 1024, "layer_types": ["full_attention", "full_attention"] }));
}

#[test]
fn an_architecture_may_cover_more() {
    for (name, value) in [
        ("hidden_act", json!("gelu")),
        ("partial_rotary_factor", json!(0.5)),
        ("final_logit_softcapping", json!(30.0)),
        ("layer_types", json!(["sliding_attention"])),
        ("sliding_window", json!(16)),
    ] {
        let config = config(json!({ name: value }));
        assert!(read(&config).is_err());
        DecoderConfig::parse(Settings::new(&config).unwrap(), &[name]).unwrap();
        assert!(DecoderConfig::parse(Settings::new(&config).unwrap(), &["another"]).is_err());
    }
}

#[test]
fn long_values_are_cut_in_messages() {
    let long = "x".repeat(10_000);
    for changes in
        [json!({ "hidden_act": long }), json!({ "layer_types": [long] }), json!({ "clip_qkv": [long] })]
    {
        let error = read(&config(changes)).unwrap_err().to_string();
        assert!(error.len() < 250 && error.contains('…'), "{error}");
    }
}

/// As Python writes and transformers reads them.
#[test]
fn numbers_that_are_none_are_refused_where_they_count() {
    for word in ["NaN", "Infinity", "-Infinity"] {
        let number = json!({ "__float__": word });
        parse(json!({ "initializer_range": number, "time_step_limit": [0.0, number] }));
        for name in ["rms_norm_eps", "rope_theta", "hidden_size", "max_position_embeddings", "rope_scaling"] {
            refused(json!({ name: number }), name);
        }
        refused(json!({ "rope_scaling": { "type": "linear", "factor": number } }), "rope_scaling.factor");
    }
    let error = read(&config(json!({ "rms_norm_eps": { "__float__": "NaN" } }))).unwrap_err();
    assert!(error.to_string().contains("`rms_norm_eps` = NaN"), "{error}");
}

const NAMES: [&str; 14] = [
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "vocab_size",
    "max_position_embeddings",
    "rms_norm_eps",
    "rope_theta",
    "rope_scaling",
    "attention_bias",
    "sliding_window",
    "quantization",
];

/// Numbers around every power of two and at the ends of all types, in both forms; and things that are no numbers.
fn extreme() -> impl Strategy<Value = Value> {
    let powers = (0..=64_u32, -2..=2_i128).prop_map(|(power, off)| (1_i128 << power) + off);
    let whole = prop_oneof![powers, Just(67_108_865), Just(0), any::<i64>().prop_map(i128::from)];
    let number = (whole, any::<bool>(), any::<bool>()).prop_map(|(whole, negative, as_float)| {
        let whole = if negative { -whole } else { whole };
        match (as_float, i64::try_from(whole), u64::try_from(whole)) {
            (false, Ok(whole), _) => json!(whole),
            (false, _, Ok(whole)) => json!(whole),
            _ => json!(whole as f64),
        }
    });
    let scaling = (number.clone(), number.clone()).prop_map(|(factor, old)| {
        json!({ "rope_type": "llama3", "factor": factor, "original_max_position_embeddings": old })
    });
    let others =
        [json!(null), json!("64"), json!([64]), json!(1e300), json!(5e-324), json!(0.5), json!(true)];
    prop_oneof![6 => number, 1 => any::<f64>().prop_map(|value| json!(value)), 1 => scaling,
                1 => prop::sample::select(others.to_vec())]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn whatever_passes_can_be_multiplied(
        changes in prop::collection::btree_map(prop::sample::select(NAMES.to_vec()), extreme(), 0..5),
    ) {
        let changes = changes.into_iter().map(|(name, value)| (name.to_owned(), value));
        let Ok(args) = read(&config(Value::Object(changes.collect()))) else { return Ok(()) };
        let Heads { queries, kv, dim } = args.heads;
        let sizes = [
            args.hidden_size, args.intermediate_size, args.num_hidden_layers, args.vocab_size, queries, kv, dim,
            args.max_position_embeddings,
        ];
        prop_assert!(sizes.iter().all(|&size| size > 0), "{args:?}");
        prop_assert!(queries % kv == 0 && dim % 2 == 0);
        // What load and the kernels multiply in 32 bits.
        let dims = sizes.map(i64::from);
        let width = (dims[4] + 2 * dims[5]) * dims[6];
        let words = [width, 2 * dims[1], dims[3], 3 * dims[0], dims[7] + 1024];
        prop_assert!(words.iter().all(|&size| i32::try_from(size).is_ok()), "{args:?}");
        prop_assert!(args.rms_norm_eps.is_finite() && args.rms_norm_eps >= 0.0);
        // Both as an angle and, as MLX takes it, the other way round, in float32.
        let inv_freq = super::super::layers::inv_freq(&args.rope, dim);
        let is_normal = |inv_freq: &f64| (*inv_freq as f32).is_normal() && (inv_freq.recip() as f32).is_normal();
        prop_assert!(inv_freq.iter().all(is_normal), "{args:?}");
    }
}
