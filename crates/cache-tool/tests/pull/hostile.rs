//! What an earlier download left, and what a hub says, are not trusted.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
};

use artifact_store::Digest;
use serde_json::{Value, json};
use test_support::{FakeHub, Repository, gguf::tiny_llama, safetensors::safetensors};

use crate::{HubEnv, text};

impl HubEnv {
    /// Breaks a pull off before the last file, and returns the folder of the download.
    fn broken_off(&self) -> PathBuf {
        {
            let mut repository = self.hub.repository.lock().unwrap();
            repository.refuses = true;
            repository.cuts = [&[usize::MAX; 6][..], &[70_000]].concat();
        }
        assert_eq!(self.fails(&["pull", "org/model"]).0, 4);
        self.hub.repository.lock().unwrap().refuses = false;
        self.hub.asked();
        let mut folders = fs::read_dir(self.path("store/downloads")).unwrap();
        let folder = folders.next().unwrap().unwrap().path();
        assert!(folder.join("config.json").exists() && folder.join("model-2.safetensors.part").exists());
        folder
    }

    fn files_asked(&self) -> Vec<String> {
        let asked = self.hub.asked().into_iter();
        asked.filter_map(|asked| asked.path.strip_prefix("/cdn/").map(str::to_owned)).collect()
    }

    fn manifest(&self) -> Value {
        let json = self.ok(&["inspect", "org/model", "--json"]);
        serde_json::from_slice::<Value>(&json.stdout).unwrap()["manifest"].clone()
    }

    /// The stored files are those of the hub.
    fn check_stored(&self) {
        let files = &self.hub.repository.lock().unwrap().files;
        for file in self.manifest()["files"].as_array().unwrap() {
            let name = file["name"].as_str().unwrap();
            assert_eq!(file["blob"], Digest::of(&files[name]).to_string(), "{name}");
        }
    }
}

fn zero(path: &Path) {
    let len = fs::metadata(path).unwrap().len() as usize;
    fs::write(path, vec![b' '; len]).unwrap();
}

#[test]
fn what_a_broken_download_left_is_used_only_if_it_is_what_the_hub_has() {
    for blob_ids in [false, true] {
        let env = HubEnv::new();
        env.hub.repository.lock().unwrap().blob_ids = blob_ids;
        let folder = env.broken_off();
        // The size is right, as after a crash that lost the bytes.
        for damaged in ["model-1.safetensors", "config.json", "model-2.safetensors.part"] {
            zero(&folder.join(damaged));
        }
        env.ok(&["pull", "org/model"]);
        let asked = env.files_asked();
        // The second part is asked for as if it were good, found to be wrong, and fetched as a whole.
        let expected = ["config.json", "model-1.safetensors", "model-2.safetensors", "model-2.safetensors"];
        assert_eq!(asked, expected, "{blob_ids}");
        env.check_stored();
    }
}

#[test]
fn what_the_hub_does_not_have_is_not_imported() {
    let env = HubEnv::new();
    let folder = env.broken_off();
    let secret = env.path("secret");
    fs::write(&secret, "{% secret %}").unwrap();
    fs::write(folder.join("chat_template.jinja"), "EVIL").unwrap();
    fs::create_dir(folder.join("additional_chat_templates")).unwrap();
    symlink(&secret, folder.join("additional_chat_templates/x.jinja")).unwrap();
    fs::remove_file(folder.join("tokenizer.json")).unwrap();
    symlink(&secret, folder.join("tokenizer.json")).unwrap();
    let had_template = env.hub.repository.lock().unwrap().files.contains_key("chat_template.jinja");
    env.ok(&["pull", "org/model"]);
    env.check_stored();
    let manifest = env.manifest();
    let stored = manifest["files"].as_array().unwrap().iter();
    assert_eq!(
        stored.filter(|file| file["name"] == "chat_template.jinja").count(),
        usize::from(had_template)
    );
    assert!(!manifest.to_string().contains("EVIL") && !manifest.to_string().contains("secret"), "{manifest}");
}

#[test]
fn files_of_another_hub_are_not_taken_for_this_ones() {
    let env = HubEnv::new();
    env.broken_off();
    let mut other = Repository::default();
    for (name, bytes) in &env.hub.repository.lock().unwrap().files {
        other.files.insert(name.clone(), bytes.clone());
    }
    let json = json!({ "eos_token": "</s>", "chat_template": "of the other hub" });
    other.files.insert("tokenizer_config.json".to_owned(), json.to_string().into_bytes());
    let other = HubEnv::with_hub(env.env, other);
    other.ok(&["pull", "org/model"]);
    assert_eq!(other.files_asked().len(), 7, "all of it");
    other.check_stored();
}

#[test]
fn a_damaged_blob_of_the_store_is_downloaded_again() {
    let env = HubEnv::new();
    env.ok(&["pull", "org/model"]);
    let large = Digest::of(&env.hub.repository.lock().unwrap().files["model-2.safetensors"]).to_string();
    let blob = env.path(&format!("store/blobs/sha256/{}/{large}", &large[..2]));
    fs::remove_file(&blob).unwrap();
    let len = env.hub.repository.lock().unwrap().files["model-2.safetensors"].len();
    fs::write(&blob, vec![0; len]).unwrap();
    env.hub.asked();
    env.ok(&["pull", "org/model"]);
    assert!(env.files_asked().contains(&"model-2.safetensors".to_owned()));
    env.check_stored();
    env.ok(&["verify"]);
}

#[test]
fn what_a_pull_reuses_stays_when_its_artifact_goes_meanwhile() {
    let env = HubEnv::new();
    env.ok(&["pull", "org/model", "--name", "old"]);
    {
        let mut repository = env.hub.repository.lock().unwrap();
        let weights = safetensors(&[("a", vec![0.5; 100])]);
        repository.files.insert("model-1.safetensors".to_owned(), weights);
        let store = env.path("store");
        repository.on_file = Some(Box::new(move |name| {
            if name == "model-1.safetensors" {
                let mut tool = Command::new(env!("CARGO_BIN_EXE_cache-tool"));
                let removed = tool.arg("--store").arg(&store).args(["remove", "old"]).output().unwrap();
                assert!(removed.status.success(), "{}", text(&removed.stderr));
            }
        }));
    }
    env.hub.asked();
    env.ok(&["pull", "org/model"]);
    assert!(!env.files_asked().contains(&"model-2.safetensors".to_owned()), "it was stored");
    env.check_stored();
    env.ok(&["verify"]);
}

#[test]
fn sizes_that_no_disk_has_are_added_up_and_refused() {
    let env = HubEnv::new();
    let mut sizes = [("model-1.safetensors", 1 << 63), ("model-2.safetensors", 1 << 63)];
    for repeated in [false, true] {
        env.hub.repository.lock().unwrap().sizes =
            sizes.iter().map(|(name, size)| ((*name).to_owned(), *size)).collect();
        let (code, said) = env.fails(&["pull", "org/model"]);
        assert_eq!(code, 6, "{repeated}: {said}");
        assert!(!env.files_asked().iter().any(|file| file.ends_with(".safetensors")));
        sizes[0].1 = u64::MAX;
    }
    for name in ["model.safetensors.index.json", "config.json", "tokenizer.json"] {
        env.hub.repository.lock().unwrap().sizes = [(name.to_owned(), 1 << 30)].into();
        let (code, said) = env.fails(&["pull", "org/model"]);
        assert!(code == 4 && said.contains(&format!("its {name} has 1073741824 bytes, more than")), "{said}");
        assert!(env.files_asked().is_empty());
    }
}

#[test]
fn the_token_goes_to_no_other_port_and_along_on_the_same_one() {
    let env = HubEnv::new();
    let cdn = FakeHub::start(Repository {
        files: env.hub.repository.lock().unwrap().files.clone(),
        ..Repository::default()
    });
    {
        let mut repository = env.hub.repository.lock().unwrap();
        (repository.gated, repository.cdn) = (true, Some(cdn.endpoint.clone()));
    }
    let pulled = env.run(&["pull", "org/model"], Some("secret"));
    assert!(pulled.status.success(), "{}", text(&pulled.stderr));
    let asked = cdn.asked();
    assert_eq!(asked.len(), 7);
    assert!(asked.iter().all(|asked| asked.authorization.is_none()), "{asked:?}");

    // A repository with a new name.
    env.hub.asked();
    let pulled = env.run(&["pull", "org/moved"], Some("secret"));
    assert!(pulled.status.success(), "{}", text(&pulled.stderr));
    let asked = env.hub.asked();
    assert!(asked[1].path.starts_with("/api/models/org/model/"), "{asked:?}");
    assert!(asked.iter().all(|asked| asked.authorization.as_deref() == Some("Bearer secret")), "{asked:?}");
}

#[test]
fn two_files_of_one_name_are_not_mixed_up() {
    let env = HubEnv::gguf();
    let mut other = tiny_llama().bytes();
    {
        let mut repository = env.hub.repository.lock().unwrap();
        // Another value near the end, in the part that comes before the connection breaks.
        let at = other.len() - 40;
        other[at] ^= 1;
        repository.files.insert("Q8/tiny.gguf".to_owned(), other.clone());
        (repository.refuses, repository.cuts) = (true, vec![other.len() - 8]);
    }
    assert_eq!(env.fails(&["pull", "org/model", "--file", "Q4/tiny.gguf"]).0, 4);
    env.hub.repository.lock().unwrap().refuses = false;
    env.ok(&["pull", "org/model", "--file", "Q8/tiny.gguf"]);
    assert_eq!(env.manifest()["source"]["digest"], Digest::of(&other).to_string());
}

#[test]
fn foreign_text_commands_no_terminal_and_forges_no_line() {
    let env = HubEnv::new();
    let evil = "\u{1b}]0;x\u{7}\u{9b}2J\nerror: forged\u{202e}";
    {
        let mut repository = env.hub.repository.lock().unwrap();
        let index = json!({ "weight_map": { "a": format!("{evil}.safetensors") } });
        repository.files.insert("model.safetensors.index.json".to_owned(), index.to_string().into_bytes());
        repository.files.remove("model.safetensors");
    }
    let (code, said) = env.fails(&["pull", "org/model"]);
    assert_eq!(code, 4, "{said}");
    assert!(said.contains("\\u{1b}]0;x\\u{7}\\u{9b}2J\\nerror: forged\\u{202e}"), "{said}");
    assert!(said.lines().count() == 1 && !said.trim_end().chars().any(char::is_control), "{said:?}");
}

#[test]
fn a_description_that_is_not_one_is_refused() {
    let env = HubEnv::new();
    env.hub.repository.lock().unwrap().files.insert("x".repeat(33 << 20), Vec::new());
    let (code, said) = env.fails(&["pull", "org/model"]);
    assert!(code == 1 && said.contains("more than 33554432 bytes"), "{said}");
}
