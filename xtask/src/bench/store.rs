//! `cargo xtask bench store`: what the artifact store saves.

use std::{
    fs::{self, File},
    hint::black_box,
    io::Read,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use serde_json::Value;
use sha2::{Digest, Sha256};
use test_support::{Server, memory};

use super::{machine, running, statistics::Sample, synthetic, table};
use crate::{binaries::Binaries, build, model, process, workspace::Workspace};

/// Reloads of each artifact.
const RELOADS: usize = 7;
/// Disk space that stays free.
const SPARE: u64 = 2 << 30;
/// Bytes that are hashed to see how fast one core is.
const HASHED: usize = 512 << 20;
/// Workers whose memory is measured.
const WORKERS: [u32; 3] = [1, 2, 4];

#[derive(clap::Args)]
pub(super) struct Args {
    /// Sizes of made-up artifacts in GB; each takes twice its size of disk while it is measured [default: those of 2 and
    /// 8 for which there is space].
    #[arg(long, value_name = "GB,…", value_delimiter = ',')]
    sizes: Option<Vec<f64>>,
    /// Folder for models and store, removed afterwards [default: a new one in .mlx].
    #[arg(long, value_name = "DIR")]
    folder: Option<PathBuf>,
}

/// A model outside of the store, to be imported.
struct SourceModel {
    name: String,
    path: PathBuf,
}

/// What one artifact took.
struct Times {
    import: Duration,
    first_load: Duration,
    reload: Sample,
    ready: Sample,
    first_answer: Sample,
    read: Duration,
    blob_bytes: u64,
}

/// Sets up, builds, measures, prints.
pub(super) fn run(workspace: &Workspace, args: &Args) -> Result<()> {
    let binaries = build::run(workspace)?;
    let parent = args.folder.clone().unwrap_or_else(|| workspace.mlx());
    let folder = tempfile::Builder::new().prefix("bench-store-").tempdir_in(&parent);
    let folder = folder.with_context(|| format!("cannot make a folder in {}", parent.display()))?;
    println!("{}\n", machine::describe());

    let real = model::file(workspace)?;
    let real = SourceModel { name: model::DEFAULT.to_owned(), path: real };
    let mut rows = vec![(real.name.clone(), measure(&binaries, folder.path(), &real)?)];
    for size in sizes(args, folder.path())? {
        let name = format!("made-{}-gb", size as f64 / 1e9);
        eprintln!("making {name}");
        let path = folder.path().join(&name);
        synthetic::make(&path, size)?;
        let made = SourceModel { name: name.clone(), path };
        rows.push((name, measure(&binaries, folder.path(), &made)?));
        fs::remove_dir_all(&made.path).with_context(|| format!("cannot remove {}", made.path.display()))?;
    }
    print_times(&rows);
    println!("\nSHA-256: {:.2} GB/s on one core\n", hashing());
    let store = folder.path().join("memory");
    import(&binaries, &store, &real)?;
    print_memory(&binaries, &store, &real.name)
}

/// Bytes of the artifacts to make.
fn sizes(args: &Args, folder: &Path) -> Result<Vec<u64>> {
    let free = fs4::available_space(folder).context("cannot tell how much disk space is free")?;
    let fits = |bytes: &u64| 2 * bytes + SPARE < free;
    if let Some(sizes) = &args.sizes {
        let bytes: Vec<u64> = sizes.iter().map(|size| (size * 1e9) as u64).collect();
        if let Some(large) = bytes.iter().find(|bytes| !fits(bytes)) {
            bail!("{large} bytes twice do not fit into the {free} that are free in {}", folder.display());
        }
        return Ok(bytes);
    }
    Ok([2_000_000_000, 8_000_000_000].into_iter().filter(fits).collect())
}

/// Imports and loads `model` in a store of its own, which is removed.
fn measure(binaries: &Binaries, folder: &Path, model: &SourceModel) -> Result<Times> {
    let store = folder.join("store");
    eprintln!("importing {}", model.name);
    let started = Instant::now();
    import(binaries, &store, model)?;
    let import = started.elapsed();

    let load = || {
        let server = running::start(binaries, &store, &model.name, 1)?;
        let load =
            running::load_times(&server).into_iter().next().context("no worker tells how long it loaded")?;
        let started = Instant::now();
        running::answer(&server, &model.name, 1)?;
        anyhow::Ok((load, server.ready_after, started.elapsed()))
    };
    let (first_load, ..) = load()?;
    let (mut reload, mut ready, mut first_answer) = (Sample::default(), Sample::default(), Sample::default());
    for _ in 0..RELOADS {
        let (load, took, answer) = load()?;
        reload.add(load.as_secs_f64());
        ready.add(took.as_secs_f64());
        first_answer.add(answer.as_secs_f64());
    }
    let weights = weights(binaries, &store, &model.name)?;
    // Once so that it is in the page cache, as it was for the reloads.
    read(&weights)?;
    let started = Instant::now();
    let blob_bytes = read(&weights)?;
    let read = started.elapsed();
    fs::remove_dir_all(&store).with_context(|| format!("cannot remove {}", store.display()))?;
    Ok(Times { import, first_load, reload, ready, first_answer, read, blob_bytes })
}

fn cache_tool(binaries: &Binaries, store: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(&binaries.cache_tool);
    command.arg("--store").arg(store).args(arguments);
    command
}

fn import(binaries: &Binaries, store: &Path, model: &SourceModel) -> Result<()> {
    let mut command = cache_tool(binaries, store, &["import"]);
    command.arg(&model.path).args(["--name", &model.name]);
    process::output(command).map(drop)
}

/// The largest blob of an artifact.
fn weights(binaries: &Binaries, store: &Path, name: &str) -> Result<PathBuf> {
    let text = process::output(cache_tool(binaries, store, &["inspect", name, "--json"]))?;
    let inspected: Value =
        serde_json::from_str(&text).context("inspect printed something other than JSON")?;
    let files = inspected["manifest"]["files"].as_array().context("inspect's JSON names no files")?;
    let largest = files.iter().max_by_key(|file| file["size"].as_u64());
    let digest = largest.and_then(|file| file["blob"].as_str()).context("a file has no blob")?;
    let prefix = digest.get(..2).context("a digest is short")?;
    Ok(store.join("blobs/sha256").join(prefix).join(digest))
}

/// Reads all of a file; returns how many bytes that were.
fn read(path: &Path) -> Result<u64> {
    let mut file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    let mut buffer = vec![0; 1 << 20];
    let mut bytes = 0;
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(bytes),
            count => bytes += count as u64,
        }
    }
}

/// Gigabytes a second of SHA-256 on one core, with the implementation that the store has.
fn hashing() -> f64 {
    let bytes = vec![0x5a; HASHED];
    let started = Instant::now();
    black_box(Sha256::digest(&bytes));
    HASHED as f64 / started.elapsed().as_secs_f64() / 1e9
}

fn print_times(rows: &[(String, Times)]) {
    let mut table = table(&[
        "artifact",
        "weights, MB",
        "import, s",
        "import, GB/s",
        "first load, s",
        "reload, ms",
        "reload / first load",
        "one read, ms",
        "reload / read",
        "start to ready, ms",
        "first token after, ms",
    ]);
    let millis = |seconds: f64| format!("{:.1}", seconds * 1e3);
    let percent = |share: f64| format!("{:.3} %", share * 100.0);
    for (name, times) in rows {
        let first = times.import + times.first_load;
        let reload = times.reload.median();
        table.add_row(vec![
            name.clone(),
            format!("{:.0}", times.blob_bytes as f64 / 1e6),
            format!("{:.2}", times.import.as_secs_f64()),
            format!("{:.2}", times.blob_bytes as f64 / times.import.as_secs_f64() / 1e9),
            format!("{:.2}", first.as_secs_f64()),
            format!("{} (max {})", millis(reload), millis(times.reload.max())),
            percent(reload / first.as_secs_f64()),
            millis(times.read.as_secs_f64()),
            percent(reload / times.read.as_secs_f64()),
            millis(times.ready.median()),
            millis(times.first_answer.median()),
        ]);
    }
    println!("{table}\n");
    println!(
        "First load: import, with hashing and sync, and the first worker's load. Reload: what a worker reports, from its\n\
         process's start until its weights can be used; the median of {RELOADS}. One read: the weights' file, read once from\n\
         the page cache by one thread. Start to ready: gateway and worker, processes and all. First token after: a request\n\
         of a few tokens, which brings every page of the weights into the worker's tables."
    );
}

fn print_memory(binaries: &Binaries, store: &Path, model: &str) -> Result<()> {
    let mut table =
        table(&["workers", "sum of PSS of blobs, MB", "RSS of blobs, each, MB", "private besides, each, MB"]);
    for workers in WORKERS {
        let server = running::start(binaries, store, model, workers)?;
        running::wait_for_workers(&server, workers as usize)?;
        touch_all(&server, model, workers)?;
        let pids = server.workers();
        let memories = |name: &str| {
            let memories = pids.iter().map(|&pid| memory::mapped(pid, name));
            memories.collect::<Result<Vec<_>, _>>().context("memory can be measured on Linux only")
        };
        let (blobs, all) = (memories("/blobs/sha256/")?, memories("")?);
        let megabytes = |bytes: u64| format!("{:.1}", bytes as f64 / 1e6);
        let range = |values: &mut dyn Iterator<Item = u64>| {
            let values: Vec<u64> = values.collect();
            let (least, most) = (values.iter().min().copied(), values.iter().max().copied());
            format!("{} - {}", megabytes(least.unwrap_or(0)), megabytes(most.unwrap_or(0)))
        };
        table.add_row(vec![
            pids.len().to_string(),
            megabytes(blobs.iter().map(|memory| memory.pss).sum()),
            range(&mut blobs.iter().map(|memory| memory.rss)),
            range(&mut all.iter().map(|memory| memory.private)),
        ]);
    }
    println!("{table}");
    Ok(())
}

/// Has every worker answer, so that each has touched all of its weights: requests at the same time go to different ones.
fn touch_all(server: &Server, model: &str, workers: u32) -> Result<()> {
    thread::scope(|scope| {
        let requests: Vec<_> =
            (0..workers * 2).map(|_| scope.spawn(|| running::answer(server, model, 64))).collect();
        requests.into_iter().try_for_each(|request| {
            request.join().unwrap_or_else(|_| Err(anyhow::anyhow!("a request's thread panicked")))
        })
    })
}
