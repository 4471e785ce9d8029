//! Importing GGUF files: what comes out, and that nothing bad gets in.
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "gguf/settings.rs"]
mod settings;
mod support;

use std::{fs, io::Write, ops::ControlFlow};

use artifact_store::{Dtype, FileRole, ImportEvent, Store, StoreError, Transform};
use half::f16;
use proptest::prelude::*;
use support::{
    Gguf, GgufTensor, TOKENS, float, import_bytes, import_gguf, matrix, number, stored_tensor, text, texts,
    tiny_llama,
};
use tempfile::TempDir;

fn refusal(gguf: &Gguf) -> String {
    let folder = TempDir::new().unwrap();
    let error = import_bytes(folder.path(), &gguf.bytes()).unwrap_err();
    assert!(matches!(error, StoreError::BadSource { .. }), "{error}");
    assert_eq!(support::files_below(&folder.path().join("store")), [".lock"]);
    error.to_string()
}

fn halves(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks(2).map(|pair| f16::from_le_bytes([pair[0], pair[1]]).to_f32()).collect()
}

#[test]
fn the_configuration_is_that_of_hugging_face() {
    let (_folder, artifact) = import_gguf(&tiny_llama());
    let config = &artifact.manifest.config;
    assert_eq!(config["model_type"], "llama");
    assert_eq!(config["hidden_size"], 64);
    assert_eq!(config["head_dim"], 32);
    assert_eq!(config["num_key_value_heads"], 1);
    assert_eq!(config["vocab_size"], 6);
    assert_eq!(config["rms_norm_eps"], 1e-5);
    assert_eq!(config["rope_theta"], 100_000.0);
    assert_eq!(config["tie_word_embeddings"], true);
    assert_eq!(config["quantization"]["bits"], 4);
    assert_eq!(config["quantization"]["group_size"], 32);
    assert_eq!(config["quantization"]["model.embed_tokens"]["bits"], 8);
    assert_eq!(artifact.manifest.chat_template.as_deref(), Some(support::TEMPLATE));
    assert_eq!(artifact.manifest.eos_token_ids, [0, 2]);
    assert_eq!(artifact.manifest.eos_token.as_deref(), Some("<|im_end|>"));
}

#[test]
fn tensors_have_mlx_shapes_and_aligned_places() {
    let (_folder, artifact) = import_gguf(&tiny_llama());
    let q = "model.layers.0.self_attn.q_proj";
    assert_eq!(stored_tensor(&artifact, &format!("{q}.weight")).1, [64, 8]);
    assert_eq!(stored_tensor(&artifact, &format!("{q}.biases")).1, [64, 2]);
    assert_eq!(stored_tensor(&artifact, "model.embed_tokens.weight").1, [6, 16]);
    assert_eq!(stored_tensor(&artifact, "model.norm.weight").0, Dtype::F32);
    for entry in &artifact.manifest.tensors {
        let alignment = 1_u64 << entry.len.trailing_zeros().min(6);
        assert_eq!(entry.offset % alignment, 0, "{entry:?}");
    }
}

#[test]
fn rows_of_q_and_k_are_back_in_their_order_and_others_stay() {
    let (_folder, artifact) = import_gguf(&tiny_llama());
    // The scale of row n is n in the file. Row 1 of a head was stored as row 2, row 16 as row 1.
    let first_scales = |name: &str| -> Vec<f32> {
        halves(&stored_tensor(&artifact, &format!("model.layers.0.{name}.scales")).2)
            .into_iter()
            .step_by(2)
            .collect()
    };
    let q = first_scales("self_attn.q_proj");
    assert_eq!(q[..3], [0.0, 2.0, 4.0]);
    assert_eq!(q[16..18], [1.0, 3.0]);
    assert_eq!(q[32..34], [32.0, 34.0]);
    assert_eq!(first_scales("self_attn.k_proj")[..2], [0.0, 2.0]);
    assert_eq!(first_scales("self_attn.v_proj")[..3], [0.0, 1.0, 2.0]);
}

/// Bits, and type of scales.
type Packing = (u32, Dtype);

/// Number, name and packing: none where the elements become f16.
const TYPES: [(u32, &str, Option<Packing>); 10] = [
    (2, "Q4_0", Some((4, Dtype::F16))),
    (3, "Q4_1", Some((4, Dtype::F16))),
    (6, "Q5_0", Some((5, Dtype::F16))),
    (7, "Q5_1", Some((5, Dtype::F16))),
    (8, "Q8_0", Some((8, Dtype::F16))),
    (12, "Q4_K", Some((4, Dtype::F32))),
    (13, "Q5_K", Some((5, Dtype::F32))),
    (10, "Q2_K", None),
    (11, "Q3_K", None),
    (14, "Q6_K", None),
];

/// A llama whose `attn_v` has this type: 128 rows of 256 elements, each with recorded blocks; and a row's values.
fn llama_with_type(number: u32, name: &str) -> (Gguf, Vec<f32>) {
    let recorded = &support::vectors("gguf.json")[name];
    let bytes = |key: &str| hex(recorded[key].as_str().unwrap());
    let values: Vec<f32> = floats(&bytes("values"));
    // Two blocks: a row has both, several times, or is the first of two.
    let (row, values) = match 256 / (values.len() / 2) {
        1 => (bytes("blocks")[..bytes("blocks").len() / 2].to_vec(), values[..256].to_vec()),
        blocks => (bytes("blocks").repeat(blocks / 2), values.repeat(blocks / 2)),
    };
    let mut gguf = support::llama(256, 256);
    gguf.replace_tensor("blk.0.attn_v.weight", number, row.repeat(128));
    (gguf, values)
}

fn hex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
}

#[test]
fn every_quantized_type_keeps_its_values() {
    for (number, type_name, packing) in TYPES {
        let (gguf, expected) = llama_with_type(number, type_name);
        let (_folder, artifact) = import_gguf(&gguf);
        let module = "model.layers.0.self_attn.v_proj";
        let part = |part: &str| stored_tensor(&artifact, &format!("{module}.{part}"));
        let (dtype, shape, weight) = part("weight");
        let Some((bits, scales_dtype)) = packing else {
            assert_eq!((dtype, &shape[..]), (Dtype::F16, &[128, 256][..]), "{type_name}");
            let rounded: Vec<f32> = expected.iter().map(|value| f16::from_f32(*value).to_f32()).collect();
            assert_eq!(halves(&weight), rounded.repeat(128), "{type_name}");
            let transform = Transform::Dequantize { from: vec![type_name.to_owned()], to: Dtype::F16 };
            assert!(artifact.manifest.transforms.contains(&transform), "{type_name}");
            continue;
        };
        assert_eq!((dtype, &shape[..]), (Dtype::U32, &[128, u64::from(8 * bits)][..]), "{type_name}");
        assert_eq!(part("scales").0, scales_dtype, "{type_name}");
        let numbers = |bytes: &[u8]| if scales_dtype == Dtype::F16 { halves(bytes) } else { floats(bytes) };
        let (scales, biases) = (numbers(&part("scales").2), numbers(&part("biases").2));
        let found: Vec<f32> = (0..256 * 128)
            .map(|i| {
                let q = bit_stream(&weight, i, bits as usize);
                scales[i / 32] * f32::from(q) + biases[i / 32]
            })
            .collect();
        assert_eq!(found, expected.repeat(128), "{type_name}");
        let config = &artifact.manifest.config["quantization"];
        let bits_said = config[module]["bits"].as_u64().or(config["bits"].as_u64());
        assert_eq!(bits_said, Some(bits.into()), "{type_name}");
    }
}

/// Element `i` of a stream of bits, the first element in the lowest ones.
fn bit_stream(bytes: &[u8], i: usize, bits: usize) -> u8 {
    let bit = |at: usize| bytes[at / 8] >> (at % 8) & 1;
    (0..bits).fold(0, |q, place| q | bit(i * bits + place) << place)
}

fn rope_factors(factors: impl Iterator<Item = f32>) -> GgufTensor {
    let data: Vec<u8> = factors.flat_map(f32::to_le_bytes).collect();
    GgufTensor { name: "rope_freqs.weight".to_owned(), dims: vec![data.len() as u64 / 4], kind: 0, data }
}

#[test]
fn rotary_factors_become_settings() {
    let mut gguf = tiny_llama();
    gguf.set("llama.rope.freq_base", float(500_000.0));
    // Wavelengths of heads of 32, stretched as Llama 3.2 stretches them.
    let factors = (0..16).map(|pair| {
        let turns = 8192.0 / (500_000_f64.powf(f64::from(pair) / 16.0) * std::f64::consts::TAU);
        let smooth = ((turns - 1.0) / 3.0).clamp(0.0, 1.0);
        (1.0 / ((1.0 - smooth) / 32.0 + smooth)) as f32
    });
    gguf.tensors.push(rope_factors(factors));
    let (_folder, artifact) = import_gguf(&gguf);
    let scaling = &artifact.manifest.config["rope_scaling"];
    assert_eq!((&scaling["rope_type"], &scaling["factor"]), (&"llama3".into(), &32.0.into()));
    assert_eq!(scaling["original_max_position_embeddings"], 8192.0);
    assert!(artifact.manifest.transforms.contains(&Transform::RecoverRopeScaling));
    assert!(artifact.manifest.tensors.iter().all(|tensor| !tensor.name.contains("rope")));
}

#[test]
fn a_file_that_changes_meanwhile_is_refused() {
    let folder = TempDir::new().unwrap();
    let source = tiny_llama().write(&folder.path().join("tiny.gguf"));
    let store = Store::open(folder.path().join("store")).unwrap();
    let mut append = |event: ImportEvent| {
        if let ImportEvent::Planned(_) = event {
            fs::OpenOptions::new().append(true).open(&source).unwrap().write_all(&[0]).unwrap();
        }
        ControlFlow::Continue(())
    };
    let error = store.import(&source, None, &mut append).unwrap_err();
    assert!(error.to_string().contains("changed while it was imported"), "{error}");
    assert!(store.list().unwrap().is_empty());
    assert!(store.import(&source, None, &mut |_| ControlFlow::Continue(())).is_ok());
}

#[test]
fn an_output_matrix_is_not_tied_and_biases_are_attention_biases() {
    let mut gguf = tiny_llama();
    gguf.tensors.push(matrix("output", TOKENS.len() as u64, 64, 8));
    let mut bias = gguf.tensors[1].clone();
    bias.name = "blk.0.attn_q.bias".to_owned();
    gguf.tensors.push(bias);
    let (_folder, artifact) = import_gguf(&gguf);
    assert_eq!(artifact.manifest.config["tie_word_embeddings"], false);
    assert_eq!(artifact.manifest.config["attention_bias"], true);
    assert_eq!(artifact.manifest.config["quantization"]["lm_head"]["bits"], 8);
    let (_, shape, bytes) = stored_tensor(&artifact, "model.layers.0.self_attn.q_proj.bias");
    assert_eq!(shape, [64]);
    let second = f32::from_le_bytes(bytes[4..8].try_into().unwrap());
    assert_eq!(second, 2.0, "biases are permuted like rows");
}

#[test]
fn what_is_not_known_is_refused_with_a_reason() {
    let changed = |key: &str, value: Vec<u8>| {
        let mut gguf = tiny_llama();
        gguf.set(key, value);
        refusal(&gguf)
    };
    assert!(changed("general.architecture", text("mamba")).contains("`mamba`"));
    assert!(changed("tokenizer.ggml.pre", text("unheard-of")).contains("`unheard-of`"));
    assert!(changed("tokenizer.ggml.model", text("rwkv")).contains("safetensors folder"));
    assert!(changed("tokenizer.ggml.model", text("llama")).contains("tokenizer.ggml.scores"));
    assert!(changed("tokenizer.ggml.merges", texts(&["a z"])).contains("`a z`"));
    assert!(changed("tokenizer.ggml.eos_token_id", number(99)).contains("99"));
    assert!(changed("llama.embedding_length", number(32)).contains("shape"));
    assert!(changed("llama.attention.head_count", number(0)).contains("head_count"));
    assert!(changed("llama.expert_count", number(8)).contains("expert_used_count"));
    assert!(changed("llama.rope.scaling.type", text("longrope")).contains("rope_factors_long"));
    assert!(changed("general.alignment", number(3)).contains("alignment"));

    let with_tensor = |name: &str, kind: u32| {
        let mut gguf = tiny_llama();
        gguf.tensors[0].name = name.to_owned();
        gguf.tensors[0].kind = kind;
        refusal(&gguf)
    };
    assert!(
        with_tensor("token_embd.weight", 12).contains("impossible shape"),
        "64 elements are no superblock"
    );
    for (kind, name) in
        [(40, "NVFP4"), (16, "IQ2_XXS"), (23, "IQ4_XS"), (34, "TQ1_0"), (31, "31"), (255, "255")]
    {
        assert!(with_tensor("token_embd.weight", kind).contains(name), "{name}");
    }
    assert!(changed("split.count", number(3)).contains("one of 3 parts"));
    assert!(with_tensor("other.weight", 8).contains("token_embd.weight"));
    let mut gguf = tiny_llama();
    gguf.tensors.push(rope_factors((0..16).map(|pair| 1.0 + pair as f32)));
    assert!(refusal(&gguf).contains("rope_scaling"));
    let mut gguf = tiny_llama();
    gguf.version = 1;
    assert!(refusal(&gguf).contains("version is 1"));
}

#[test]
fn a_file_may_be_cut_off_anywhere() {
    let bytes = tiny_llama().bytes();
    let folder = TempDir::new().unwrap();
    let header = tiny_llama().header().len();
    // Every length of the header, and some of the data.
    let lengths = (0..header).step_by(7).chain((header..bytes.len()).step_by(1999)).chain([bytes.len() - 1]);
    for len in lengths {
        let error = import_bytes(folder.path(), &bytes[..len]).unwrap_err();
        assert!(matches!(error, StoreError::BadSource { .. }), "{len}: {error}");
    }
}

#[test]
fn huge_counts_and_lengths_are_refused_before_anything_is_allocated() {
    let folder = TempDir::new().unwrap();
    let original = tiny_llama().bytes();
    // Tensor count, key count, length of the first key.
    for place in [8, 16, 24] {
        for hostile in [u64::MAX, u64::MAX / 2, 1 << 40, 1 << 33] {
            let mut bytes = original.clone();
            bytes[place..place + 8].copy_from_slice(&hostile.to_le_bytes());
            let error = import_bytes(folder.path(), &bytes).unwrap_err();
            assert!(matches!(error, StoreError::BadSource { .. }), "{place}: {error}");
        }
    }
    for dims in [vec![u64::MAX, u64::MAX], vec![1 << 62, 64], vec![0, 0], vec![32; 5], vec![]] {
        let mut gguf = tiny_llama();
        gguf.tensors[0].dims = dims;
        refusal(&gguf);
    }
}

#[test]
fn tensors_on_top_of_each_other_or_outside_the_file_are_refused() {
    let mut gguf = tiny_llama();
    // Without data of its own, it lies on the tensors that follow.
    let extra = support::GgufTensor { name: "x".to_owned(), dims: vec![64, 48], kind: 0, data: Vec::new() };
    gguf.tensors.insert(0, extra);
    assert!(refusal(&gguf).contains("overlap"));

    let gguf = tiny_llama();
    let mut bytes = gguf.bytes();
    // The header ends with the last tensor's offset.
    let end = gguf.header().len();
    bytes[end - 8..end].copy_from_slice(&(u64::MAX - 31).to_le_bytes());
    let folder = TempDir::new().unwrap();
    assert!(import_bytes(folder.path(), &bytes).unwrap_err().to_string().contains("too early"));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    /// Either it is refused, or what was stored can be read back as the manifest says.
    #[test]
    fn flipped_bytes_never_panic(flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6)) {
        let gguf = tiny_llama();
        let header = gguf.header().len();
        let mut bytes = gguf.bytes();
        for (place, value) in flips {
            bytes[place.index(header)] = value;
        }
        let folder = TempDir::new().unwrap();
        match import_bytes(folder.path(), &bytes) {
            Ok((store, _)) => {
                let artifact = store.resolve("tiny").unwrap();
                for (_, file) in artifact.files(FileRole::Weights) {
                    artifact.open_blob(file).unwrap();
                }
            }
            Err(error) => prop_assert!(matches!(error, StoreError::BadSource { .. }), "{}", error),
        }
    }
}
