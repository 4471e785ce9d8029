//! `bindings.rs`: MLX's C interface in Rust, as `mlx-sys` would generate it on macOS.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};

use super::{mlxc::Sources, prerequisites::Tools};
use crate::{
    process, progress,
    setup::{
        downloads::{Downloads, key},
        wheel,
    },
};

/// In place of mlx-c's own `half.h`: see the file.
const HALF: &str = include_str!("native/half.h");
/// Change it when `generate` changes, so that bindings are made anew.
const RECIPE: &str = "bindgen 0.72, rust 1.73, without malloc and realloc";
/// Where libclang is in its wheel.
const LIBCLANG_LIB: &str = "libclang-18.1.1.data/platlib/clang/native";

/// The folder with `bindings.rs`.
pub(crate) fn ensure(downloads: &Downloads, tools: &Tools, sources: &Sources) -> Result<PathBuf> {
    let libclang = wheel::LIBCLANG.ensure(downloads)?.join(LIBCLANG_LIB);
    let key = key(&[RECIPE, HALF, &sources.mlx_sys, &tools.compiler_version, &wheel::LIBCLANG.key()?]);
    downloads.ensure("bindings", &key, |folder| {
        let step = progress::spinner("generating the Rust bindings of mlx-c");
        let half = folder.join("half.h");
        fs::write(&half, HALF).with_context(|| format!("cannot write {}", half.display()))?;
        // The wheel has libclang alone, without the headers that belong to a compiler (stddef.h and the like).
        let mut include = tools.compiler();
        include.arg("-print-file-name=include");
        let include = process::output(include)?;

        // A process of its own, because libclang is found by an environment variable.
        let this = std::env::current_exe().context("cannot tell where this program is")?;
        let mut generate = Command::new(this);
        generate.arg("generate-bindings").env("LIBCLANG_PATH", &libclang);
        generate.arg("--mlx-c").arg(&sources.root).arg("--half").arg(&half);
        generate.arg("--system-include").arg(include.trim()).arg("--output").arg(folder.join("bindings.rs"));
        for header in sources.files("h")? {
            generate.arg(header);
        }
        process::output(generate)?;
        step.finish();
        Ok(())
    })
}

/// What the process that runs bindgen is given.
#[derive(clap::Args)]
pub(crate) struct GenerateArgs {
    #[arg(long)]
    mlx_c: PathBuf,
    #[arg(long)]
    half: PathBuf,
    #[arg(long)]
    system_include: PathBuf,
    #[arg(long)]
    output: PathBuf,
    headers: Vec<PathBuf>,
}

/// Runs bindgen.
pub(crate) fn generate(args: &GenerateArgs) -> Result<()> {
    let text = |path: &Path| path.to_string_lossy().into_owned();
    let mut builder = bindgen::Builder::default()
        .rust_target("1.73.0".parse().context("bindgen does not know Rust 1.73")?)
        .clang_args(["-include".to_owned(), text(&args.half)])
        .clang_args(["-isystem".to_owned(), text(&args.system_include)])
        .clang_arg(format!("-I{}", args.mlx_c.display()))
        .blocklist_function("malloc")
        .blocklist_function("realloc");
    for header in &args.headers {
        builder = builder.header(text(header));
    }
    let bindings = builder.generate().context("bindgen cannot read mlx-c's headers")?;
    bindings.write_to_file(&args.output).with_context(|| format!("cannot write {}", args.output.display()))
}
