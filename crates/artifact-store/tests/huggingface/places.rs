//! Where templates, special tokens and end tokens may be defined, and how numbers may be written.

use std::{fs, ops::ControlFlow, path::Path};

use artifact_store::{EmbeddingConfig, Manifest, Pooling, Transform, python_json};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{import, refusal, support::huggingface_folder};

/// The manifest of a folder after `change`.
fn manifest(change: impl FnOnce(&Path)) -> Manifest {
    let root = TempDir::new().unwrap();
    let folder = huggingface_folder(&root.path().join("model"));
    change(&folder);
    let (store, _) = import(root.path()).unwrap();
    store.resolve("model").unwrap().manifest
}

fn write(folder: &Path, name: &str, content: &str) {
    let path = folder.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, content).unwrap();
}

/// The default template and the named ones, with this in `tokenizer_config.json`.
fn templates(configured: &Value, files: &[(&str, &str)]) -> (Option<String>, Vec<(String, String)>) {
    let manifest = manifest(|folder| {
        let config = json!({ "eos_token": "<end>", "chat_template": configured });
        write(folder, "tokenizer_config.json", &config.to_string());
        files.iter().for_each(|(name, text)| write(folder, name, text));
    });
    (manifest.chat_template, manifest.named_chat_templates.into_iter().collect())
}

#[test]
fn templates_are_found_in_every_place_and_files_count_more() {
    let named = |names: &[(&str, &str)]| -> Vec<(String, String)> {
        names.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect()
    };
    let some = |text: &str| Some(text.to_owned());
    let list = json!([{ "name": "default", "template": "A" }, { "name": "rag", "template": "B" }]);
    let (jinja, legacy) = (("chat_template.jinja", "J"), ("chat_template.json", r#"{"chat_template": "K"}"#));
    let tools = ("additional_chat_templates/tool_use.jinja", "T");
    let hidden = ("additional_chat_templates/._tool_use.jinja", "macOS");

    assert_eq!(templates(&json!("A"), &[]), (some("A"), vec![]));
    assert_eq!(templates(&list, &[]), (some("A"), named(&[("rag", "B")])));
    assert_eq!(templates(&json!({ "default": "A", "rag": "B" }), &[]), (some("A"), named(&[("rag", "B")])));
    assert_eq!(templates(&json!([{ "name": "rag", "template": "B" }]), &[]), (None, named(&[("rag", "B")])));
    assert_eq!(templates(&Value::Null, &[]), (None, vec![]));
    assert_eq!(templates(&Value::Null, &[jinja, hidden]), (some("J"), vec![]));
    assert_eq!(templates(&list, &[jinja]), (some("J"), vec![]), "the file takes the place of all");
    assert_eq!(templates(&list, &[jinja, tools]), (some("J"), named(&[("tool_use", "T")])));
    assert_eq!(templates(&json!("A"), &[tools]), (some("A"), named(&[("tool_use", "T")])));
    assert_eq!(templates(&Value::Null, &[legacy]), (some("K"), vec![]));
    assert_eq!(templates(&Value::Null, &[legacy, tools]), (some("K"), named(&[("tool_use", "T")])));
    assert_eq!(templates(&json!("A"), &[legacy]), (some("A"), vec![]));
    assert_eq!(templates(&Value::Null, &[legacy, jinja]), (some("J"), vec![]));
    let legacy_list = json!({ "chat_template": list }).to_string();
    let listed = templates(&Value::Null, &[("chat_template.json", &legacy_list)]);
    assert_eq!(listed, (some("A"), named(&[("rag", "B")])));
}

#[test]
fn named_templates_come_back_from_an_exported_folder() {
    let root = TempDir::new().unwrap();
    let folder = huggingface_folder(&root.path().join("model"));
    write(&folder, "chat_template.jinja", "J");
    write(&folder, "additional_chat_templates/tool_use.jinja", "T");
    write(&folder, "config.json", r#"{"model_type": "llama", "x": [Infinity]}"#);
    let (store, imported) = import(root.path()).unwrap();
    let exported = root.path().join("exported");
    let written =
        store.resolve("model").unwrap().export(&exported, &mut |_| ControlFlow::Continue(())).unwrap();
    assert!(written.files.iter().any(|name| name == "additional_chat_templates/tool_use.jinja"));
    let again = store.import(&exported, None, &mut |_| ControlFlow::Continue(())).unwrap();
    assert_eq!((again.digest, again.new_bytes), (imported.digest, 0));
}

#[test]
fn special_tokens_are_found_in_the_older_files_and_for_a_class() {
    let found = manifest(|folder| {
        write(folder, "tokenizer_config.json", r#"{"bos_token": "<a>", "pad_token": null}"#);
        let map = json!({ "bos_token": { "content": "<b>" }, "eos_token": "<end>", "unk_token": "<unk>" });
        write(folder, "special_tokens_map.json", &map.to_string());
        write(folder, "added_tokens.json", r#"{"<b>": 1}"#);
    });
    assert_eq!((found.bos_token.as_deref(), found.eos_token.as_deref()), (Some("<b>"), Some("<end>")));
    assert_eq!(
        found.special_tokens.into_iter().collect::<Vec<_>>(),
        [("unk_token".to_owned(), "<unk>".to_owned())]
    );
    assert_eq!(found.eos_token_ids, [2, 7, 9]);
    let kept: Vec<_> = found.files.iter().map(|file| file.name.as_str()).collect();
    assert!(kept.contains(&"special_tokens_map.json") && kept.contains(&"added_tokens.json"), "{kept:?}");

    let of_class = manifest(|folder| {
        fs::remove_file(folder.join("tokenizer_config.json")).unwrap();
        let tokenizer = json!({ "model": { "vocab": { "<s>": 0, "</s>": 1 } }, "added_tokens": [] });
        write(folder, "tokenizer.json", &tokenizer.to_string());
    });
    assert_eq!((of_class.bos_token.as_deref(), of_class.eos_token.as_deref()), (Some("<s>"), Some("</s>")));
    assert_eq!(of_class.eos_token_ids, [1, 2, 7]);
}

#[test]
fn an_end_token_may_stand_in_the_vocabulary_or_in_the_decoder_only() {
    let in_vocabulary = manifest(|folder| {
        let tokenizer = json!({ "model": { "vocab": { "<end>": 5 } }, "added_tokens": null });
        write(folder, "tokenizer.json", &tokenizer.to_string());
    });
    assert_eq!(in_vocabulary.eos_token_ids, [2, 5, 7]);
    let in_decoder = manifest(|folder| {
        let decoder = json!({ "11": { "content": "<|im_end|>", "special": true } });
        let config = json!({ "eos_token": "<|im_end|>", "added_tokens_decoder": decoder });
        write(folder, "tokenizer_config.json", &config.to_string());
    });
    assert_eq!(in_decoder.eos_token_ids, [2, 7, 11]);
}

/// As transformers does, whatever the post-processor of `tokenizer.json` is.
#[test]
fn a_tokenizer_writes_the_tokens_that_its_settings_say() {
    let root = TempDir::new().unwrap();
    let folder = huggingface_folder(&root.path().join("model"));
    let bytes =
        json!({ "type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true });
    let tokenizer = json!({
        "model": { "type": "BPE", "vocab": { "<end>": 0 }, "merges": [] },
        "added_tokens": [{ "id": 0, "content": "<end>" }], "post_processor": bytes,
    });
    write(&folder, "tokenizer.json", &tokenizer.to_string());
    write(&folder, "tokenizer_config.json", r#"{"bos_token": "<end>", "add_bos_token": true}"#);
    let (store, _) = import(root.path()).unwrap();
    let artifact = store.resolve("model").unwrap();
    let stored: Value = serde_json::from_slice(&artifact.read_tokenizer().unwrap()).unwrap();
    assert_eq!(stored["post_processor"]["single"][0]["SpecialToken"]["id"], "<end>");
    assert_eq!(stored["added_tokens"], tokenizer["added_tokens"]);
    assert_eq!(artifact.manifest.transforms, [Transform::AddTokens]);
}

/// As transformers adds it, so that a template's text becomes this token.
#[test]
fn a_token_that_only_the_decoder_has_is_added_to_the_tokenizer() {
    let root = TempDir::new().unwrap();
    let folder = huggingface_folder(&root.path().join("model"));
    let decoder = json!({ "10": { "content": "<|im_end|>", "special": true }, "9": { "content": "<end>" } });
    let config = json!({ "eos_token": "<|im_end|>", "added_tokens_decoder": decoder });
    write(&folder, "tokenizer_config.json", &config.to_string());
    let (store, imported) = import(root.path()).unwrap();
    let artifact = store.resolve("model").unwrap();
    let tokenizer: Value = serde_json::from_slice(&artifact.read_tokenizer().unwrap()).unwrap();
    assert_eq!(tokenizer["added_tokens"][1]["content"], "<|im_end|>");
    assert_eq!(
        (&tokenizer["added_tokens"][1]["id"], tokenizer["added_tokens"].as_array().unwrap().len()),
        (&json!(10), 2)
    );
    assert_eq!(artifact.manifest.transforms, [Transform::AddTokens]);
    assert_eq!(artifact.manifest.eos_token_ids, [2, 7, 10]);
    assert!(
        imported.warnings.iter().any(|warning| warning.contains("<|im_end|>")),
        "it has no embedding either"
    );
    assert_eq!(import(root.path()).unwrap().1.digest, imported.digest);
}

#[test]
fn numbers_that_only_python_writes_are_kept() {
    let manifest = manifest(|folder| {
        write(
            folder,
            "config.json",
            r#"{"model_type": "llama", "limits": [0.0, Infinity], "x": NaN, "y": 1e400}"#,
        );
        write(folder, "generation_config.json", r#"{"eos_token_id": 2, "top_p": NaN}"#);
    });
    let number = |value: &Value| python_json::as_float(value).unwrap();
    assert_eq!(number(&manifest.config["limits"][1]), f64::INFINITY);
    assert!(number(&manifest.config["x"]).is_nan());
    assert_eq!(number(&manifest.config["y"]), f64::INFINITY);
}

/// transformers imports such a model as well; only a prompt with such a token can't be answered.
#[test]
fn tokens_without_an_embedding_are_told() {
    let root = TempDir::new().unwrap();
    let folder = huggingface_folder(&root.path().join("model"));
    let added = json!([{ "id": 2, "content": "<end>" }, { "id": 3, "content": "[PAD]" }, { "id": 4, "content": "a\u{1b}" }]);
    let tokenizer = json!({ "model": { "vocab": {} }, "added_tokens": added });
    write(&folder, "tokenizer.json", &tokenizer.to_string());
    let (_, imported) = import(root.path()).unwrap();
    let [warning] = &imported.warnings[..] else { panic!("{:?}", imported.warnings) };
    assert!(warning.contains(r#""[PAD]" (3)"#) && warning.contains("3 embeddings"), "{warning}");
    assert!(!warning.contains('\u{1b}') && !warning.contains("<end>"), "{warning}");
    // What the tensor has counts more than what is said of it.
    let config = json!({ "model_type": "llama", "vocab_size": 99 });
    write(&folder, "config.json", &config.to_string());
    assert_eq!(import(root.path()).unwrap().1.warnings, [] as [&str; 0]);
    let tensors = [("b", vec![1.0]), ("model.embed_tokens.weight", vec![1.0; 4])];
    fs::write(folder.join("model-2.safetensors"), crate::support::safetensors(&tensors)).unwrap();
    assert!(import(root.path()).unwrap().1.warnings[0].contains("4 embeddings"));
}

const POOLING: &str = "1_Pooling/config.json";

/// What sentence-transformers writes: a mean, divided by its length, of at most 256 tokens.
fn write_modules(folder: &Path) {
    let module = |kind: &str, path: &str| json!({ "type": format!("sentence_transformers.models.{kind}"), "path": path });
    let modules = json!([
        module("Transformer", ""),
        module("Pooling", "1_Pooling"),
        module("Normalize", "2_Normalize")
    ]);
    write(folder, "modules.json", &modules.to_string());
    write(
        folder,
        POOLING,
        &json!({ "pooling_mode_mean_tokens": true, "pooling_mode_cls_token": false }).to_string(),
    );
    write(folder, "sentence_bert_config.json", &json!({ "max_seq_length": 256 }).to_string());
}

#[test]
fn what_makes_an_embedding_is_in_the_manifest_and_comes_back_from_an_exported_folder() {
    assert_eq!(manifest(|_| {}).embedding, None);
    let root = TempDir::new().unwrap();
    write_modules(&huggingface_folder(&root.path().join("model")));
    let (store, imported) = import(root.path()).unwrap();
    let artifact = store.resolve("model").unwrap();
    let expected =
        EmbeddingConfig { pooling: Pooling::Mean, normalize: true, max_tokens: Some(256), dense: Vec::new() };
    assert_eq!(artifact.manifest.embedding, Some(expected));
    let exported = root.path().join("exported");
    let written = artifact.export(&exported, &mut |_| ControlFlow::Continue(())).unwrap();
    assert!(written.files.iter().any(|name| name == POOLING), "{:?}", written.files);
    let again = store.import(&exported, None, &mut |_| ControlFlow::Continue(())).unwrap();
    assert_eq!((again.digest, again.new_bytes), (imported.digest, 0));
}

#[test]
fn an_embedding_that_could_not_be_served_is_refused_with_its_file() {
    type Spoil = fn(&Path);
    let spoils: [(Spoil, &str); 5] = [
        (|folder| fs::remove_file(folder.join(POOLING)).unwrap(), POOLING),
        (|folder| write(folder, POOLING, r#"{"pooling_mode_max_tokens": true}"#), "pooling_mode_max_tokens"),
        (|folder| write(folder, "modules.json", r#"[{"type": "a.CNN", "path": "2_CNN"}]"#), "`a.CNN`"),
        (|folder| write(folder, "modules.json", "{"), "modules.json"),
        (|folder| write(folder, "sentence_bert_config.json", r#"{"max_seq_length": 0}"#), "max_seq_length"),
    ];
    for (spoil, named) in spoils {
        let text = refusal(|folder| {
            write_modules(folder);
            spoil(folder);
        });
        assert!(text.contains(named), "{text}");
    }
}

/// A matrix of sentence-transformers behind the pooling.
fn write_dense(folder: &Path) {
    write_modules(folder);
    let module = |kind: &str, path: &str| json!({ "type": format!("a.{kind}"), "path": path });
    let modules =
        json!([module("Transformer", ""), module("Pooling", "1_Pooling"), module("Dense", "2_Dense")]);
    write(folder, "modules.json", &modules.to_string());
    let identity = "torch.nn.modules.linear.Identity";
    let dense = json!({"in_features": 4, "out_features": 1, "bias": false, "activation_function": identity});
    write(folder, "2_Dense/config.json", &dense.to_string());
    let weights = crate::support::safetensors(&[("linear.weight", vec![1.0; 4])]);
    fs::write(folder.join("2_Dense/model.safetensors"), weights).unwrap();
    write(folder, "config_sentence_transformers.json", r#"{"prompts": {"query": "Find: "}}"#);
}

#[test]
fn matrices_behind_the_pooling_are_stored_and_come_back_under_their_names() {
    let root = TempDir::new().unwrap();
    write_dense(&huggingface_folder(&root.path().join("model")));
    let (store, imported) = import(root.path()).unwrap();
    assert!(imported.warnings.iter().any(|it| it.contains("query: \"Find: \"")), "{:?}", imported.warnings);
    let artifact = store.resolve("model").unwrap();
    let manifest = &artifact.manifest;
    assert!(manifest.embeds());
    assert_eq!(manifest.embedding_size(), Some(1));
    let dense = manifest.tensors.iter().find(|tensor| tensor.name == "2_Dense.linear.weight").unwrap();
    assert_eq!(manifest.files[dense.file].name, "2_Dense/model.safetensors");
    let exported = root.path().join("exported");
    artifact.export(&exported, &mut |_| ControlFlow::Continue(())).unwrap();
    let index = fs::read_to_string(exported.join("model.safetensors.index.json")).unwrap_or_default();
    assert!(!index.contains("Dense"), "{index}");
    let again = store.import(&exported, None, &mut |_| ControlFlow::Continue(())).unwrap();
    assert_eq!((again.digest, again.new_bytes), (imported.digest, 0));
}

#[test]
fn a_matrix_behind_the_pooling_that_is_incomplete_is_refused_with_its_file() {
    for (missing, named) in
        [("2_Dense/model.safetensors", "2_Dense/model.safetensors"), ("2_Dense/config.json", "in_features")]
    {
        let text = refusal(|folder| {
            write_dense(folder);
            fs::remove_file(folder.join(missing)).unwrap();
        });
        assert!(text.contains(named), "{text}");
    }
}
