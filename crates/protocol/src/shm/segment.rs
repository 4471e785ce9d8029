//! The file that gateway and worker both map.
//!
//! ```text
//!      0  magic (8), layout version (4), zero (4), data bytes of a ring (8), zeros
//!    128  control of the request ring (gateway to worker)
//!    640  control of the report ring (worker to gateway)
//!   4096  data of the request ring
//!   4096 + ring_bytes  data of the report ring
//! ```
//!
//! What this guards against is a peer that crashes or goes astray. Processes of the same user could also
//! shorten the file under us, which ends in a signal: against those there is no defence, nor a need for one.
#![allow(unsafe_code)]

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use memmap2::{MmapOptions, MmapRaw};

use super::{
    ring::{Consumer, Control, Producer, RingMemory, WORD},
    sync::Word,
};

const MAGIC: [u8; 8] = *b"kr-shm\r\n";
const LAYOUT: u32 = 1;
const HEADER_LEN: usize = 24;
const CONTROL_START: usize = 128;
const DATA_START: usize = 4096;
const MIN_RING: u64 = 4096;
const MAX_RING: u64 = 1 << 30;

const _: () = {
    assert!(size_of::<Control>() == 512 && align_of::<Control>() == CONTROL_START);
    assert!(CONTROL_START + 2 * size_of::<Control>() <= DATA_START);
};

/// Which process this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Writes the request ring, reads the report ring.
    Gateway,
    /// Reads the request ring, writes the report ring.
    Worker,
}

/// A mapped file with two new rings, for one gateway and one worker and for one incarnation.
pub struct Segment {
    mapping: Arc<Mapping>,
}

/// Why a segment can't be used.
#[derive(Debug, thiserror::Error)]
pub enum SegmentError {
    /// The system refused.
    #[error("segment {}: can't {action}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// The segment's file.
        path: PathBuf,
        /// What the system says. `StorageFull`: the runtime folder's file system is too small for the rings.
        source: io::Error,
    },
    /// The wanted size is not usable.
    #[error(
        "a ring of {ring_bytes} bytes can't be made: choose a power of two from {MIN_RING} to {MAX_RING}"
    )]
    RingBytes {
        /// In bytes.
        ring_bytes: u64,
    },
    /// The file is something else, or is damaged.
    #[error("{} is not a segment of this build: {what}; start gateway and worker from the same release", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
}

impl Segment {
    /// Creates the file, which must not exist, with mode 0600, and maps it. Each ring has `ring_bytes` of data: a
    /// power of two from 4 KiB to 1 GiB.
    ///
    /// The file is removed by [`unlink`](Self::unlink), or else when the segment and its ends are dropped.
    ///
    /// # Errors
    /// If the size is no good, the file exists, or the file system is full.
    pub fn create(path: impl Into<PathBuf>, ring_bytes: u64) -> Result<Self, SegmentError> {
        let path = path.into();
        check_ring_bytes(ring_bytes)?;
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
            .map_err(|source| SegmentError::Io { action: "create it", path: path.clone(), source })?;
        let name = FileName { path, linked: AtomicBool::new(true) };
        // Zeros are written out, and not just promised with ftruncate: if memory or disk is full, this is an
        // error here and not a SIGBUS at the first use of a page.
        fill(&mut file, ring_bytes).map_err(|source| name.error("reserve its space", source))?;
        Self::map(&file, name, ring_bytes)
    }

    /// Maps the segment that the gateway created at `path`.
    ///
    /// # Errors
    /// If it is no new segment of this build's layout, or is open to other users.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, SegmentError> {
        let name = FileName { path: path.into(), linked: AtomicBool::new(false) };
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(&name.path)
            .map_err(|source| name.error("open it", source))?;
        let ring_bytes = check_file(&mut file, &name)?;
        let segment = Self::map(&file, name, ring_bytes)?;
        let [requests, reports] = segment.mapping.rings();
        let ours = [&requests.control().tail.0, &reports.control().head.0];
        if ours.iter().any(|index| index.load(Ordering::Relaxed) != 0) {
            return Err(segment.mapping.name.foreign("another worker has used it already".into()));
        }
        Ok(segment)
    }

    /// The file's path.
    pub fn path(&self) -> &Path {
        &self.mapping.name.path
    }

    /// Data bytes of each ring.
    pub fn ring_bytes(&self) -> u64 {
        self.mapping.ring_bytes as u64
    }

    /// Removes the file's name, so that nothing is left even if both processes are killed. For the gateway, once the
    /// worker has accepted; in the worker, and the second time, it does nothing.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn unlink(&self) -> Result<(), SegmentError> {
        self.mapping.name.unlink().map_err(|source| self.mapping.name.error("remove it", source))
    }

    /// This side's writing end and reading end, which keep the memory mapped.
    pub fn into_ends(self, side: Side) -> (Producer, Consumer) {
        let [requests, reports] = self.mapping.rings();
        match side {
            Side::Gateway => (Producer::new(Arc::new(requests)), Consumer::new(Arc::new(reports))),
            Side::Worker => (Producer::new(Arc::new(reports)), Consumer::new(Arc::new(requests))),
        }
    }

    fn map(file: &File, name: FileName, ring_bytes: u64) -> Result<Self, SegmentError> {
        let ring_bytes = ring_bytes as usize;
        let raw = MmapOptions::new()
            .len(DATA_START + 2 * ring_bytes)
            .map_raw(file)
            .map_err(|source| name.error("map it", source))?;
        Ok(Self { mapping: Arc::new(Mapping { raw, ring_bytes, name }) })
    }
}

/// The mapped file. Invariant: `raw` is `DATA_START + 2 * ring_bytes` long.
struct Mapping {
    raw: MmapRaw,
    ring_bytes: usize,
    name: FileName,
}

impl Mapping {
    /// The request ring and the report ring.
    fn rings(self: &Arc<Self>) -> [MappedRing; 2] {
        [0, 1].map(|index| MappedRing { mapping: self.clone(), index })
    }
}

/// One of a segment's rings. Invariant: `index` is 0 or 1.
struct MappedRing {
    mapping: Arc<Mapping>,
    index: usize,
}

impl RingMemory for MappedRing {
    fn control(&self) -> &Control {
        let offset = CONTROL_START + self.index * size_of::<Control>();
        // SAFETY: by the invariants and the assertions at the top of this file, a `Control` at `offset` lies within
        // the mapping and is aligned, as mappings start on a page. It consists of atomics, for which all
        // bytes are valid and which others may change at any time. The mapping lives as long as `self`.
        unsafe { &*self.mapping.raw.as_ptr().add(offset).cast::<Control>() }
    }

    fn words(&self) -> &[Word] {
        let offset = DATA_START + self.index * self.mapping.ring_bytes;
        // SAFETY: by the invariants, `ring_bytes` from `offset` on lie within the mapping; both are multiples of 8.
        // `Word` is a transparent atomic: all bytes are valid, others may change them at any time. The mapping
        // lives as long as `self`.
        unsafe {
            let start = self.mapping.raw.as_ptr().add(offset).cast::<Word>();
            std::slice::from_raw_parts(start, self.mapping.ring_bytes / WORD)
        }
    }
}

/// The file's path, and whether it is ours to remove.
struct FileName {
    path: PathBuf,
    linked: AtomicBool,
}

impl FileName {
    fn unlink(&self) -> io::Result<()> {
        if self.linked.swap(false, Ordering::Relaxed) { fs::remove_file(&self.path) } else { Ok(()) }
    }

    fn error(&self, action: &'static str, source: io::Error) -> SegmentError {
        SegmentError::Io { action, path: self.path.clone(), source }
    }

    fn foreign(&self, what: String) -> SegmentError {
        SegmentError::Foreign { path: self.path.clone(), what }
    }
}

impl Drop for FileName {
    fn drop(&mut self) {
        // The folder may be gone already; there is nobody left to tell.
        let _ = self.unlink();
    }
}

fn check_ring_bytes(ring_bytes: u64) -> Result<(), SegmentError> {
    if ring_bytes.is_power_of_two() && (MIN_RING..=MAX_RING).contains(&ring_bytes) {
        Ok(())
    } else {
        Err(SegmentError::RingBytes { ring_bytes })
    }
}

fn file_len(ring_bytes: u64) -> u64 {
    DATA_START as u64 + 2 * ring_bytes
}

fn fill(file: &mut File, ring_bytes: u64) -> io::Result<()> {
    let mut header = [0; HEADER_LEN];
    header[..8].copy_from_slice(&MAGIC);
    header[8..12].copy_from_slice(&LAYOUT.to_le_bytes());
    header[16..].copy_from_slice(&ring_bytes.to_le_bytes());
    file.write_all(&header)?;
    io::copy(&mut io::repeat(0).take(file_len(ring_bytes) - HEADER_LEN as u64), file)?;
    Ok(())
}

/// Reads the header through the file and not through the mapping: nobody can change it between check and use.
fn check_file(file: &mut File, name: &FileName) -> Result<u64, SegmentError> {
    let metadata = file.metadata().map_err(|source| name.error("look at it", source))?;
    if metadata.mode() & 0o077 != 0 {
        return Err(name.foreign(format!("its mode {:o} lets other users in", metadata.mode() & 0o777)));
    }
    let mut header = [0; HEADER_LEN];
    file.read_exact(&mut header).map_err(|source| name.error("read its header", source))?;
    let [magic @ .., l0, l1, l2, l3, _, _, _, _, r0, r1, r2, r3, r4, r5, r6, r7] = header;
    if magic != MAGIC {
        return Err(name.foreign("it starts with other bytes".into()));
    }
    let layout = u32::from_le_bytes([l0, l1, l2, l3]);
    if layout != LAYOUT {
        return Err(name.foreign(format!("its layout is {layout}, this build's is {LAYOUT}")));
    }
    let ring_bytes = u64::from_le_bytes([r0, r1, r2, r3, r4, r5, r6, r7]);
    check_ring_bytes(ring_bytes)?;
    if metadata.len() != file_len(ring_bytes) {
        let what = format!("it has {} bytes instead of {}", metadata.len(), file_len(ring_bytes));
        return Err(name.foreign(what));
    }
    Ok(ring_bytes)
}
