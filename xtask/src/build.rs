//! `cargo xtask build`: the three programs, optimized.

use std::{fs, path::Path};

use anyhow::{Context, Result};

use crate::{binaries::Binaries, setup, workspace::Workspace};

/// MLX's compiled Metal kernels. MLX looks for a file of this name beside the program first.
const METALLIB: &str = "mlx.metallib";

/// Sets up and builds with the release profile.
pub(crate) fn run(workspace: &Workspace) -> Result<Binaries> {
    setup::run(workspace)?;
    let arguments = ["build", "--release", "-p", "gateway", "-p", "worker", "-p", "cache-tool"];
    let binaries = Binaries::build(workspace, &arguments)?;
    place_metallib(&workspace.mlx().join("metal"), binaries.folder())?;
    Ok(binaries)
}

/// On macOS, puts the Metal kernels that the build left in `built` beside the programs, so that these can be copied to
/// another machine: otherwise the worker looks for them at the path they were built at. On Linux there are none.
fn place_metallib(built: &Path, folder: &Path) -> Result<()> {
    let source = built.join(METALLIB);
    if !source.is_file() {
        return Ok(());
    }
    // Under another name first: a worker that starts meanwhile must not map half of it.
    let unfinished = folder.join(format!("{METALLIB}.new"));
    let target = folder.join(METALLIB);
    fs::copy(&source, &unfinished)
        .and_then(|_| fs::rename(&unfinished, &target))
        .with_context(|| format!("cannot copy {} to {}", source.display(), target.display()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn kernels_are_placed_beside_the_programs_if_there_are_any() {
        let folder = tempfile::tempdir().unwrap();
        let (built, programs) = (folder.path().join("metal"), folder.path().join("release"));
        fs::create_dir_all(&programs).unwrap();
        place_metallib(&built, &programs).unwrap();
        assert!(!programs.join(METALLIB).exists());

        fs::create_dir(&built).unwrap();
        fs::write(built.join(METALLIB), "kernels").unwrap();
        place_metallib(&built, &programs).unwrap();
        assert_eq!(fs::read(programs.join(METALLIB)).unwrap(), b"kernels");
        assert_eq!(fs::read_dir(&programs).unwrap().count(), 1);
    }
}
