//! `.cargo/mlx-linux.toml`: cargo's build script override for whatever `links = "mlx"`.

use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};

use super::mlxc::MLX_LIB;
use crate::{
    setup::wheel,
    workspace::{Workspace, host_triple},
};

/// Folders of the downloads.
pub(crate) struct Paths {
    pub(crate) mlx: PathBuf,
    pub(crate) mlxc: PathBuf,
    pub(crate) bindings: PathBuf,
}

/// Writes the file, unless it already says just this.
pub(crate) fn write(workspace: &Workspace, paths: &Paths) -> Result<()> {
    let path = workspace.root.join(".cargo/mlx-linux.toml");
    let text = render(&host_triple(), paths)?;
    if fs::read_to_string(&path).is_ok_and(|found| found == text) {
        return Ok(());
    }
    let unfinished = workspace.mlx().join("mlx-linux.toml.new");
    fs::write(&unfinished, text).with_context(|| format!("cannot write {}", unfinished.display()))?;
    fs::rename(&unfinished, &path).with_context(|| format!("cannot write {}", path.display()))
}

fn render(triple: &str, paths: &Paths) -> Result<String> {
    let Paths { mlx, mlxc, bindings } = paths;
    let mlxc_lib = mlxc.join("lib");
    let mlx_lib = mlx.join(MLX_LIB);
    let include = mlxc.join("include");
    let private = include.join("mlx/c/private");

    let mut text = String::new();
    let mut line = |line: String| writeln!(text, "{line}").context("a string takes all text");
    line("# Written by `cargo xtask setup`: what the build script of mlx-sys would say if it could build MLX on Linux.".into())?;
    line(format!("[target.{triple}.mlx]"))?;
    let search =
        [&mlxc_lib, &mlx_lib].map(|folder| plain(folder).map(|path| quote(&format!("native={path}"))));
    let [mlxc_search, mlx_search] = search;
    line(format!("rustc-link-search = [{}, {}]", mlxc_search?, mlx_search?))?;
    // mlxc first: it has the faster matrix product, and the loader takes the first definition of a name.
    line(r#"rustc-link-lib = ["dylib=mlxc", "dylib=mlx", "dylib=stdc++"]"#.into())?;
    line("# Keys of our own reach the build scripts of crates that depend on mlx-sys, as DEP_MLX_INCLUDE and so on.".into())?;
    line(format!("version = {}", quote(wheel::MLX.version())))?;
    line(format!("include = {}", path_list(&[&mlx.join("mlx/include"), &include, &private])?))?;
    line(format!("rpath = {}", path_list(&[&mlxc_lib, &mlx_lib])?))?;
    line(format!("[target.{triple}.mlx.rustc-env]"))?;
    line(format!("OUT_DIR = {}", quote(plain(bindings)?)))?;
    Ok(text)
}

/// A list in the manner of `PATH`.
fn path_list(folders: &[&Path]) -> Result<String> {
    let folders = folders.iter().map(|folder| plain(folder)).collect::<Result<Vec<_>>>()?;
    Ok(quote(&folders.join(":")))
}

/// The path, if a list of paths and a linker's `-Wl,` argument can carry it.
fn plain(path: &Path) -> Result<&str> {
    match path.to_str() {
        Some(text) if !text.contains([':', ',']) => Ok(text),
        _ => bail!(
            "{} has a colon, a comma or a broken character in its name, which linkers cannot take; move the checkout",
            path.display()
        ),
    }
}

/// A TOML basic string.
fn quote(text: &str) -> String {
    let mut quoted = String::from("\"");
    for character in text.chars() {
        match character {
            '"' | '\\' => quoted.extend(['\\', character]),
            control if control.is_control() => quoted.push_str(&format!("\\u{:04X}", u32::from(control))),
            plain => quoted.push(plain),
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn toml_strings_carry_quotes_backslashes_and_spaces() {
        assert_eq!(quote(r#"/a b/"c"\d"#), r#""/a b/\"c\"\\d""#);
        assert_eq!(quote("a\tb"), "\"a\\u0009b\"");
    }

    #[test]
    fn a_colon_or_a_comma_in_a_path_is_refused() {
        assert!(plain(Path::new("/srv/a:b")).is_err());
        assert!(plain(Path::new("/srv/a,b")).is_err());
        assert_eq!(plain(Path::new("/srv/a b")).unwrap(), "/srv/a b");
    }
}
