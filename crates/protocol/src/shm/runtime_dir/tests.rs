#![allow(clippy::unwrap_used)]
use std::os::unix::{
    ffi::OsStringExt,
    fs::{PermissionsExt, symlink},
};

use super::*;

fn shared(parent: impl Into<PathBuf>) -> Place {
    Place { parent: parent.into(), private: false }
}

fn private(parent: impl Into<PathBuf>) -> Place {
    Place { parent: parent.into(), private: true }
}

fn dir_in(parent: &Path) -> RuntimeDir {
    first_usable(vec![shared(parent)]).unwrap()
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// A place is passed over for the next one.
#[track_caller]
fn refused(place: Place, why: &str) {
    let next = tempfile::tempdir().unwrap();
    let dir = first_usable(vec![place.clone(), shared(next.path())]).unwrap();
    assert_eq!(dir.path().unwrap().parent(), Some(next.path()), "{place:?}");
    let error = first_usable(vec![place]).unwrap_err().to_string();
    assert!(error.contains(why), "{error}");
}

#[test]
fn first_usable_parent_wins_and_the_folder_is_private_and_goes_away() {
    let parent = tempfile::tempdir().unwrap();
    let places = vec![shared("/nonexistent"), shared(parent.path()), shared("/never/reached")];
    let one = first_usable(places.clone()).unwrap();
    let two = first_usable(places).unwrap();
    let (path, other) = (one.path().unwrap(), two.path().unwrap());
    assert_ne!(path, other);
    assert_eq!(path.parent(), Some(parent.path()));
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
    fs::write(path.join("left"), b"behind").unwrap();
    drop((one, two));
    assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 0);
}

#[test]
fn a_folder_that_was_removed_is_made_again() {
    let parent = tempfile::tempdir().unwrap();
    let dir = dir_in(parent.path());
    let first = dir.path().unwrap();
    assert_eq!(dir.path().unwrap(), first);
    fs::remove_dir_all(&first).unwrap();
    let second = dir.path().unwrap();
    assert_eq!(fs::metadata(&second).unwrap().permissions().mode() & 0o777, 0o700);
    // Only old files go: the lock is one, and without it the folder is not safe from the next gateway.
    fs::remove_file(second.join(LOCK)).unwrap();
    let third = dir.path().unwrap();
    assert!(third.join(LOCK).exists());
    assert_eq!(dir.path().unwrap(), third);
    drop(dir);
    assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 0);
}

#[test]
fn a_place_of_others_or_open_to_them_is_passed_over() {
    let parent = tempfile::tempdir().unwrap();
    for mode in [0o755, 0o701, 0o777, 0o1777, 0o770] {
        set_mode(parent.path(), mode);
        refused(private(parent.path()), &format!("is open to other users (its mode is {mode:o})"));
    }
    for mode in [0o777, 0o770] {
        set_mode(parent.path(), mode);
        refused(shared(parent.path()), "is open to other users");
    }
    set_mode(parent.path(), 0o1777);
    dir_in(parent.path());
    set_mode(parent.path(), 0o700);
    first_usable(vec![private(parent.path())]).unwrap();

    // Only root may give a folder away; everybody else can't write into this one.
    let root = rustix::process::geteuid().is_root();
    if root {
        std::os::unix::fs::chown(parent.path(), Some(12_345), None).unwrap();
        refused(private(parent.path()), "belongs to the user 12345");
    } else {
        refused(private("/"), "belongs to the user 0");
    }
}

#[test]
fn a_place_whose_path_can_not_be_used_is_passed_over() {
    let parent = tempfile::tempdir().unwrap();
    let long = parent.path().join("x".repeat(MAX_SOCKET_PATH));
    fs::create_dir(&long).unwrap();
    refused(shared(long), "is too long for a socket's path");
    let bytes = parent.path().join(OsString::from_vec(b"\xff".to_vec()));
    // Some file systems refuse such a name by themselves.
    let _ = fs::create_dir(&bytes);
    refused(shared(bytes), "is not UTF-8");
    let file = parent.path().join("file");
    fs::write(&file, b"").unwrap();
    refused(shared(file), "is not a folder");
    refused(shared("target"), "is not an absolute path");
    refused(private(parent.path().join("none")), "can't be used: No such file");
}

#[test]
fn the_longest_socket_of_the_longest_place_can_be_bound() {
    let parent = tempfile::tempdir().unwrap();
    let name = MAX_SOCKET_PATH - LONGEST_NAME.len() - parent.path().as_os_str().len() - 1;
    let place = parent.path().join("x".repeat(name));
    fs::create_dir(&place).unwrap();
    shared(&place).check().unwrap();
    let socket = format!("{}{LONGEST_NAME}", place.display());
    fs::create_dir(Path::new(&socket).parent().unwrap()).unwrap();
    std::os::unix::net::UnixListener::bind(socket).unwrap();
}

#[test]
fn what_is_set_comes_first_and_tmp_last() {
    let variable = |name: &str| (name == "XDG_RUNTIME_DIR").then(|| OsString::from("/run/user/1"));
    let found = places(variable);
    assert_eq!(found.first(), Some(&private("/run/user/1")));
    assert_eq!(found.last(), Some(&shared("/tmp")));
    // Set to nothing is not set.
    assert_eq!(places(|_| Some(OsString::new())), places(|_| None));
}

#[test]
fn what_the_dead_left_is_swept_and_nothing_else() {
    let parent = tempfile::tempdir().unwrap();
    let inside = |name: &str| parent.path().join(name);
    let living = dir_in(parent.path());
    // As a killed process leaves it: everything is there, and nobody holds the lock.
    let dead = inside("kr-mlx-1-0");
    fs::create_dir(&dead).unwrap();
    fs::write(dead.join(LOCK), b"").unwrap();
    fs::write(dead.join("3.shm"), b"ring").unwrap();
    let newborn = inside("kr-mlx-2-0");
    fs::create_dir(&newborn).unwrap();
    let foreign = inside("other");
    fs::create_dir(&foreign).unwrap();
    fs::write(foreign.join(LOCK), b"").unwrap();
    symlink(&foreign, inside("kr-mlx-3-0")).unwrap();

    let next = dir_in(parent.path());
    assert!(!dead.exists());
    assert!(living.folder().path.exists() && next.folder().path.exists());
    assert!(newborn.exists(), "its process may not have locked it yet");
    assert!(foreign.join(LOCK).exists() && inside("kr-mlx-3-0").is_symlink());
}

#[test]
fn a_folder_that_is_swept_while_it_is_made_is_not_used() {
    let parent = tempfile::tempdir().unwrap();
    let path = parent.path().join("kr-mlx-1-0");
    assert!(lock(&path).unwrap().is_none(), "the folder is gone");
    fs::create_dir(&path).unwrap();
    assert!(lock(&path).unwrap().is_some());
}

#[test]
fn failure_names_every_place() {
    let error = first_usable(vec![shared("/nonexistent"), shared("relative")]).unwrap_err().to_string();
    assert!(error.contains("/nonexistent can't be used: ") && error.contains("; relative is not"), "{error}");
}
