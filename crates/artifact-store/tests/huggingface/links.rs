//! Where links may lead, and who may read what was private.

use std::{
    fs::{self, Permissions},
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
};

use tempfile::TempDir;

use crate::{import, support::huggingface_folder};

/// A folder whose file `name` is a link to what `target` makes beside the folder; what import says to it.
fn linked(name: &str, target: impl FnOnce(&Path, &Path) -> PathBuf) -> Result<(), String> {
    let root = TempDir::new().unwrap();
    let folder = huggingface_folder(&root.path().join("model"));
    let content = fs::read(folder.join(name)).unwrap_or_else(|_| b"secret".to_vec());
    let _ = fs::remove_file(folder.join(name));
    let elsewhere = root.path().join("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    fs::write(elsewhere.join("file"), content).unwrap();
    let target = target(&folder, &elsewhere);
    symlink(target, folder.join(name)).unwrap();
    import(root.path()).map(drop).map_err(|error| {
        let stored = crate::support::files_below(&root.path().join("store"));
        assert!(
            !stored.iter().any(|file| file.starts_with("blobs") || file.starts_with("artifacts")),
            "{stored:?}"
        );
        error.to_string()
    })
}

const NAMES: [&str; 6] = [
    "chat_template.jinja",
    "config.json",
    "tokenizer.json",
    "generation_config.json",
    "model-1.safetensors",
    "model.safetensors.index.json",
];

#[test]
fn links_that_lead_out_are_refused() {
    for name in NAMES {
        for target in [
            |_: &Path, elsewhere: &Path| elsewhere.join("file"),
            |_: &Path, _: &Path| PathBuf::from("../elsewhere/file"),
            // Over another link of the folder.
            |folder: &Path, elsewhere: &Path| {
                symlink(elsewhere.join("file"), folder.join("over")).unwrap();
                PathBuf::from("over")
            },
            // Through a folder that is a link.
            |folder: &Path, elsewhere: &Path| {
                symlink(elsewhere, folder.join("sub")).unwrap();
                PathBuf::from("sub/file")
            },
            // Out and in again by another name, and out.
            |folder: &Path, elsewhere: &Path| {
                symlink(folder, elsewhere.join("back")).unwrap();
                PathBuf::from("../elsewhere/back/../elsewhere/file")
            },
        ] {
            let refused = linked(name, target).unwrap_err();
            assert!(refused.contains("outside of the folder") && refused.contains(name), "{refused}");
        }
    }
}

#[test]
fn a_linked_folder_of_templates_is_refused() {
    let root = TempDir::new().unwrap();
    let folder = huggingface_folder(&root.path().join("model"));
    let elsewhere = root.path().join("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    fs::write(elsewhere.join("notes.jinja"), "secret").unwrap();
    symlink(&elsewhere, folder.join("additional_chat_templates")).unwrap();
    let refused = import(root.path()).unwrap_err().to_string();
    assert!(refused.contains("outside of the folder"), "{refused}");
}

#[test]
fn links_within_the_folder_are_followed() {
    for name in NAMES {
        let inside = |folder: &Path, elsewhere: &Path| {
            fs::create_dir(folder.join("sub")).unwrap();
            fs::rename(elsewhere.join("file"), folder.join("sub/file")).unwrap();
            symlink("sub/file", folder.join("over")).unwrap();
            PathBuf::from("over")
        };
        assert_eq!(linked(name, inside), Ok(()), "{name}");
    }
}

/// `models--x--y/snapshots/<revision>/<file>` is a link to `models--x--y/blobs/<digest>`.
#[test]
fn a_snapshot_of_the_hub_cache_is_imported() {
    let root = TempDir::new().unwrap();
    let cache = root.path().join("models--x--y");
    let snapshot = huggingface_folder(&cache.join("snapshots/0123abcd"));
    fs::create_dir(cache.join("blobs")).unwrap();
    for (number, name) in crate::support::files_below(&snapshot).iter().enumerate() {
        fs::rename(snapshot.join(name), cache.join(format!("blobs/{number:064}"))).unwrap();
        symlink(format!("../../blobs/{number:064}"), snapshot.join(name)).unwrap();
    }
    // The folder itself may be a link: the user named it.
    symlink("models--x--y/snapshots/0123abcd", root.path().join("model")).unwrap();
    let (store, _) = import(root.path()).unwrap();
    let artifact = store.resolve("0123abcd").unwrap();
    assert_eq!(artifact.manifest.chat_template.as_deref(), Some("plain"));

    // A blob that is a link itself, as one would make it to be followed.
    fs::write(root.path().join("private"), "secret").unwrap();
    symlink("../../private", cache.join("blobs/x")).unwrap();
    symlink("../../blobs/x", snapshot.join("chat_template.jinja")).unwrap();
    assert!(import(root.path()).unwrap_err().to_string().contains("outside of the folder"));
}

#[test]
fn what_was_private_stays_private() {
    let root = TempDir::new().unwrap();
    let folder = huggingface_folder(&root.path().join("model"));
    for name in crate::support::files_below(&folder) {
        fs::set_permissions(folder.join(name), Permissions::from_mode(0o644)).unwrap();
    }
    fs::set_permissions(folder.join("config.json"), Permissions::from_mode(0o600)).unwrap();
    fs::set_permissions(folder.join("model-1.safetensors"), Permissions::from_mode(0o640)).unwrap();
    let (store, imported) = import(root.path()).unwrap();
    let artifact = store.resolve("model").unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    for file in &artifact.manifest.files {
        let expected = match file.name.as_str() {
            "config.json" => 0o400,
            "model-1.safetensors" => 0o440,
            _ => 0o444,
        };
        assert_eq!(mode(&artifact.blob_path(file)), expected, "{}", file.name);
    }
    let manifest = root.path().join(format!("store/artifacts/{}.json", imported.digest));
    assert_eq!(mode(&manifest), 0o400, "it has what config.json has");
}
