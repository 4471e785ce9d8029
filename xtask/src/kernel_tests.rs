//! The C++ tests of mlx-ext's kernels: they need nothing but a C++ compiler, so they can run under any checker and on
//! an emulated CPU.

#[path = "../../crates/mlx-ext/cpp/units.rs"]
mod units;

use std::{
    env,
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::SystemTime,
};

use anyhow::{Context, Result, bail};
use units::{FLAGS, INSTRUCTION_SETS, InstructionSet};

use crate::{process, setup::prerequisites, workspace::Workspace};

/// A way to compile the tests and to run them.
pub(crate) struct Mode {
    /// Of its folder, and in messages.
    pub(crate) name: &'static str,
    /// The compiler's command; empty: the one that set-up uses.
    pub(crate) compiler: &'static [&'static str],
    /// What it compiles for, in Rust's terms.
    pub(crate) arch: &'static str,
    /// For the compiler, beside what the kernels always get.
    pub(crate) flags: &'static [&'static str],
    /// Program and arguments under which the tests run; empty: none.
    pub(crate) under: &'static [&'static str],
    /// Variables of the tests' environment.
    pub(crate) environment: &'static [(&'static str, &'static str)],
    /// Whether everything takes so long that less of it has to do.
    pub(crate) brief: bool,
}

/// As they are.
pub(crate) const PLAIN: Mode = Mode {
    name: "plain",
    compiler: &[],
    arch: env::consts::ARCH,
    flags: &["-O2"],
    under: &[],
    environment: &[],
    brief: false,
};

impl Mode {
    /// Compiles what has changed, and runs every test on every instruction set that the CPU has.
    ///
    /// # Errors
    /// Something does not compile, or tests fail: all of them run nevertheless.
    pub(crate) fn run(&self, workspace: &Workspace) -> Result<()> {
        let build = Build::new(self, workspace)?;
        build.compile()?;
        let mut failed = Vec::new();
        for test in &build.tests {
            for set in self.instruction_sets() {
                eprintln!("kernels, {}: {test} on {set}", self.name);
                let mut command = self.under(&build.folder.join(test));
                command.args(self.brief.then_some("brief"));
                command.env("KR_ISA", set).envs(self.environment.iter().copied());
                if let Err(error) = process::run(command) {
                    failed.push(format!("{test} on {set}: {error:#}"));
                }
            }
        }
        if failed.is_empty() { Ok(()) } else { bail!("kernels, {}: {}", self.name, failed.join("; ")) }
    }

    /// What the machine lacks for it, if it does: tells a program that does nothing from one that cannot be made.
    pub(crate) fn lacks(&self, workspace: &Workspace) -> Result<Option<String>> {
        if let Some(program) = self.under.first()
            && !process::succeeds(with(program, &["--version"]))
        {
            return Ok(Some((*program).to_owned()));
        }
        let Some(mut compiler) = self.compiler() else { return Ok(Some("a C++ compiler".to_owned())) };
        let folder = self.folder(workspace)?;
        let (source, program) = (folder.join("probe.cpp"), folder.join("probe"));
        fs::write(&source, "int main() {}\n")
            .with_context(|| format!("cannot write {}", source.display()))?;
        compiler.args(self.flags).arg(&source).arg("-o").arg(&program);
        let shown = process::display(&compiler);
        let works = process::succeeds(compiler) && process::succeeds(self.under(&program));
        Ok((!works).then(|| format!("a compiler whose program works: {shown}")))
    }

    /// Those whose units are compiled and that can run here, and the one without units of its own.
    fn instruction_sets(&self) -> Vec<&'static str> {
        let can_run = |set: &&InstructionSet| {
            set.arch == self.arch && (self.arch != env::consts::ARCH || set.is_here())
        };
        // Valgrind translates instructions, and knows none of AVX-512.
        let is_known = |set: &&InstructionSet| {
            self.under.first() != Some(&"valgrind") || !set.name.starts_with("avx512")
        };
        let sets = INSTRUCTION_SETS.iter().filter(can_run).filter(is_known);
        sets.map(|set| set.name).chain(["portable"]).collect()
    }

    fn compiler(&self) -> Option<Command> {
        match self.compiler {
            [] => prerequisites::compiler(),
            [program, arguments @ ..] => {
                process::succeeds(with(program, &["--version"])).then(|| with(program, arguments))
            }
        }
    }

    fn under(&self, program: &Path) -> Command {
        match self.under {
            [] => Command::new(program),
            [checker, arguments @ ..] => {
                let mut command = with(checker, arguments);
                command.arg(program);
                command
            }
        }
    }

    fn folder(&self, workspace: &Workspace) -> Result<PathBuf> {
        let folder = workspace.target()?.join("kernel-tests").join(self.name);
        fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        Ok(folder)
    }
}

/// Where a mode's programs are made, and of what.
struct Build<'a> {
    mode: &'a Mode,
    folder: PathBuf,
    /// The folder of the kernels, and that of their tests.
    sources: [PathBuf; 2],
    /// Names without `.cpp`.
    units: Vec<String>,
    tests: Vec<String>,
}

impl<'a> Build<'a> {
    fn new(mode: &'a Mode, workspace: &Workspace) -> Result<Self> {
        let cpp = workspace.root.join("crates/mlx-ext/cpp");
        let sources = [cpp.join("kernels"), cpp.join("tests")];
        let is_for = |file: &String| InstructionSet::of_unit(file).is_none_or(|set| set.arch == mode.arch);
        let names = |folder: &Path, wanted: &dyn Fn(&String) -> bool| -> Result<Vec<String>> {
            let files = file_names(folder)?.into_iter().filter(|name| name.ends_with(".cpp") && wanted(name));
            Ok(files.map(|name| name.trim_end_matches(".cpp").to_owned()).collect())
        };
        let units = names(&sources[0], &is_for)?;
        let tests = names(&sources[1], &|name| name.ends_with("_test.cpp"))?;
        Ok(Self { mode, folder: mode.folder(workspace)?, sources, units, tests })
    }

    /// Headers are shared by nearly all of it, so it is compiled as a whole, if anything has changed.
    fn compile(&self) -> Result<()> {
        let made = self.tests.iter().map(|test| modified(&self.folder.join(test))).min().flatten();
        if made.is_some_and(|made| self.newest_source().is_ok_and(|newest| newest < made)) {
            return Ok(());
        }
        eprintln!("kernels, {}: compiling", self.mode.name);
        let [kernels, tests] = &self.sources;
        let mut compilations = Vec::new();
        for (folder, name) in
            self.units.iter().map(|unit| (kernels, unit)).chain(self.tests.iter().map(|test| (tests, test)))
        {
            let file = format!("{name}.cpp");
            let set_flags = InstructionSet::of_unit(&file).map_or(&[][..], |set| set.flags);
            let mut command = self.compiler()?;
            command.args(set_flags).arg("-I").arg(kernels).arg("-c").arg(folder.join(&file));
            compilations.push(to(command, self.object(name)));
        }
        process::output_all(compilations, || {})?;
        let link = |test: &String| {
            let mut command = self.compiler()?;
            command.arg(self.object(test)).args(self.units.iter().map(|unit| self.object(unit)));
            Ok(to(command, self.folder.join(test)))
        };
        process::output_all(self.tests.iter().map(link).collect::<Result<_>>()?, || {})
    }

    fn compiler(&self) -> Result<Command> {
        let mut command =
            self.mode.compiler().context("the kernels' tests need a C++ compiler (c++, g++ or $CXX)")?;
        command.args(["-std=c++20", "-g", "-Wall", "-Wextra", "-pthread"]).args(FLAGS).args(self.mode.flags);
        Ok(command)
    }

    fn object(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{name}.o"))
    }

    /// When any source changed, or this program, which knows the flags.
    fn newest_source(&self) -> Result<SystemTime> {
        let mut newest = env::current_exe().ok().and_then(|program| modified(&program));
        for folder in &self.sources {
            for name in file_names(folder)? {
                newest = newest.max(modified(&folder.join(name)));
            }
        }
        newest.context("the kernels' sources have no time of modification")
    }
}

fn file_names(folder: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))? {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}

fn modified(path: &Path) -> Option<SystemTime> {
    fs::metadata(path).and_then(|metadata| metadata.modified()).ok()
}

fn with(program: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.args(arguments);
    command
}

fn to(mut command: Command, output: impl Into<OsString>) -> Command {
    command.arg("-o").arg(output.into());
    command
}
