//! `libmlxc.so`: MLX's C interface, compiled from the sources that `mlx-sys` carries.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    thread,
};

use anyhow::{Context, Result, bail};

use super::prerequisites::Tools;
use crate::{
    process, progress,
    setup::{
        downloads::{Downloads, key},
        wheel,
    },
    workspace::Workspace,
};

/// Before every source: see the file.
const COMPAT: &str = include_str!("native/compat.h");
/// Our own sources in the library, by file name.
const OWN: [(&str, &str); 2] =
    [("kr_blas.cpp", include_str!("native/blas.cpp")), ("kr_clock.cpp", include_str!("native/clock.cpp"))];
const FLAGS: [&str; 4] = ["-std=c++20", "-O2", "-fPIC", "-w"];

/// The sources of mlx-c.
pub(crate) struct Sources {
    /// The version of the `mlx-sys` crate they come from.
    pub(crate) mlx_sys: String,
    /// The folder that holds `mlx/c`.
    pub(crate) root: PathBuf,
}

impl Sources {
    /// Asks cargo where `mlx-sys` is; it downloads the crate if need be.
    pub(crate) fn locate(workspace: &Workspace) -> Result<Self> {
        let metadata = workspace.metadata()?;
        let packages = metadata["packages"].as_array().context("`cargo metadata` lists no packages")?;
        let package = packages
            .iter()
            .find(|package| package["name"] == "mlx-sys")
            .context("no crate of the workspace depends on mlx-sys, so there is nothing to set up")?;
        let (Some(version), Some(manifest)) =
            (package["version"].as_str(), package["manifest_path"].as_str())
        else {
            bail!("`cargo metadata` does not say where mlx-sys is");
        };
        let root = Path::new(manifest).with_file_name("src").join("mlx-c");
        let sources = Self { mlx_sys: version.to_owned(), root };
        sources.check_mlx_version()?;
        Ok(sources)
    }

    /// mlx-c only fits the MLX release it was written for; that and the wheel's have to be changed together.
    fn check_mlx_version(&self) -> Result<()> {
        let path = self.root.join("CMakeLists.txt");
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let wanted = format!("GIT_TAG v{}", wheel::MLX.version());
        if text.contains(&wanted) {
            return Ok(());
        }
        bail!(
            "mlx-sys {} builds with another MLX than {}: set version and SHA-256 of the wheel in xtask/src/setup/wheel.rs to the `GIT_TAG` in {}",
            self.mlx_sys,
            wheel::MLX.version(),
            path.display()
        )
    }

    /// The files of `mlx/c` whose names end in `.extension`, in order.
    pub(crate) fn files(&self, extension: &str) -> Result<Vec<PathBuf>> {
        files_in(&self.root.join("mlx/c"), extension)
    }
}

/// The folder with `lib/libmlxc.so` and `include/mlx/c`.
pub(crate) fn ensure(downloads: &Downloads, tools: &Tools, sources: &Sources, mlx: &Path) -> Result<PathBuf> {
    let mut inputs = vec![tools.compiler_version.as_str(), &sources.mlx_sys, COMPAT];
    inputs.extend(FLAGS);
    inputs.extend(OWN.iter().flat_map(|(name, text)| [*name, *text]));
    // The library names the wheel's folder in its run-time path.
    let mlx_name = folder_name(mlx)?;
    inputs.push(mlx_name);

    downloads.ensure("mlxc", &key(&inputs), |folder| {
        let objects = folder.join("objects");
        let library = folder.join("lib");
        for needed in [&objects, &library] {
            fs::create_dir(needed).with_context(|| format!("cannot make {}", needed.display()))?;
        }
        copy_headers(sources, folder)?;
        let compilations = compilations(tools, sources, &objects, mlx)?;
        compile(compilations)?;

        let mut link = tools.compiler();
        link.args(["-shared", "-o"]).arg(library.join("libmlxc.so")).args(files_in(&objects, "o")?);
        link.arg(format!("-L{}", mlx.join(MLX_LIB).display())).arg("-lmlx");
        // Relative to the library itself, so that the checkout may be moved.
        link.arg(format!("-Wl,-rpath,$ORIGIN/../../{mlx_name}/{MLX_LIB}"));
        link.arg("-Wl,-soname,libmlxc.so");
        process::output(link)?;
        fs::remove_dir_all(&objects).with_context(|| format!("cannot remove {}", objects.display()))
    })
}

/// Where in the unpacked wheel the library is.
pub(crate) const MLX_LIB: &str = "mlx/lib";

fn folder_name(folder: &Path) -> Result<&str> {
    folder.file_name().and_then(|name| name.to_str()).context("a download's folder has a plain name")
}

/// Crates that compile C++ against mlx-c find its headers here, also after cargo's registry is cleaned.
fn copy_headers(sources: &Sources, folder: &Path) -> Result<()> {
    for part in ["mlx/c", "mlx/c/private"] {
        let target = folder.join("include").join(part);
        fs::create_dir_all(&target).with_context(|| format!("cannot make {}", target.display()))?;
        for header in files_in(&sources.root.join(part), "h")? {
            let copy = target.join(header.file_name().unwrap_or_default());
            fs::copy(&header, &copy).with_context(|| format!("cannot copy {}", header.display()))?;
        }
    }
    Ok(())
}

/// One compiler run for every source.
fn compilations(tools: &Tools, sources: &Sources, objects: &Path, mlx: &Path) -> Result<Vec<Command>> {
    let compat = objects.join("kr_compat.h");
    fs::write(&compat, COMPAT).with_context(|| format!("cannot write {}", compat.display()))?;
    let mut files = sources.files("cpp")?;
    for (name, text) in OWN {
        let path = objects.join(name);
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        files.push(path);
    }
    // The longest first, or the last core would still be at it when the others are done.
    files.sort_by_key(|file| std::cmp::Reverse(fs::metadata(file).map_or(0, |metadata| metadata.len())));
    let command = |file: &PathBuf| {
        let mut command = tools.compiler();
        command.args(FLAGS).arg("-include").arg(&compat).arg("-I").arg(&sources.root);
        command.arg("-I").arg(mlx.join("mlx/include")).arg("-c").arg(file);
        command.arg("-o").arg(objects.join(file.with_extension("o").file_name().unwrap_or_default()));
        command
    };
    Ok(files.iter().map(command).collect())
}

/// Runs the compilers, one a core. The first error stops the rest.
fn compile(commands: Vec<Command>) -> Result<()> {
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let step = progress::counted(
        format!("compiling mlx-c, {} files on {cores} cores (a minute or two, once)", commands.len()),
        commands.len(),
    );
    process::output_all(commands, || step.advance())?;
    step.finish();
    Ok(())
}

/// The files directly in `folder` whose names end in `.extension`, in order.
fn files_in(folder: &Path, extension: &str) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))? {
        let path = entry?.path();
        if path.extension().is_some_and(|it| it == extension) {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}
