//! The mapping under a [`MappedFile`](crate::MappedFile): reserved in one piece, file laid into it.

#![allow(unsafe_code)]

use std::{fs::File, io, os::fd::AsRawFd, ptr};

use libc::c_void;

/// Lengths are rounded up to this: the page size of Apple's machines, which Metal asks for, and a
/// multiple of x86's. (Where pages are larger, the page size is used.)
pub(crate) const UNIT: usize = 16 * 1024;

/// Address space that holds one file, unmapped on drop.
///
/// ```text
/// | front page ... size word | file's bytes ... | zeros up to a multiple of UNIT |
/// start                      data                                              start + reserved
/// ```
///
/// MLX's CPU allocator keeps a block's size in the 8 bytes before its data and reads it there from
/// any buffer it meets. The anonymous front page provides that word, so the file needs none.
#[derive(Debug)]
pub(crate) struct Region {
    start: *mut c_void,
    reserved: usize,
    data: *mut u8,
    file_len: usize,
    padded_len: usize,
}

// SAFETY: a Region only owns address space; nothing of it is tied to the thread that made it.
unsafe impl Send for Region {}
// SAFETY: a shared Region gives out addresses and lengths, never access.
unsafe impl Sync for Region {}

impl Region {
    /// Maps all of `file`, which must not be empty.
    pub(crate) fn map(file: &File) -> io::Result<Self> {
        let too_large = || io::Error::from(io::ErrorKind::FileTooLarge);
        let file_len = usize::try_from(file.metadata()?.len()).map_err(|_| too_large())?;
        let unit = page_size().max(UNIT);
        let padded_len = file_len.checked_next_multiple_of(unit).ok_or_else(too_large)?;
        let reserved = padded_len.checked_add(unit).ok_or_else(too_large)?;

        // SAFETY: an anonymous mapping at an address of the kernel's choice touches nothing else.
        let start = unsafe {
            libc::mmap(
                ptr::null_mut(),
                reserved,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANON | libc::MAP_NORESERVE,
                -1,
                0,
            )
        };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: `unit` < `reserved`, so the address is inside the mapping made above.
        let data = unsafe { start.cast::<u8>().add(unit) };
        let region = Self { start, reserved, data, file_len, padded_len };
        region.lay_in(file)?;
        region.write_size_word();
        Ok(region)
    }

    /// Replaces the reserved pages from `data` on by the file's.
    fn lay_in(&self, file: &File) -> io::Result<()> {
        let (protection, sharing) = if cfg!(target_os = "macos") {
            // Wiring a private writable mapping for the GPU would copy its pages.
            (libc::PROT_READ, libc::MAP_SHARED)
        } else {
            // Copy-on-write: should MLX ever reuse the buffer for a result, it writes to a page of
            // its own instead of faulting.
            // No swap is reserved for that: it would have to hold the whole file, and one larger than
            // the machine's memory could not be mapped.
            (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_NORESERVE)
        };
        // SAFETY: MAP_FIXED replaces exactly `data .. data + file_len` rounded up to pages, which
        // lies inside our own reservation (`padded_len` is a multiple of the page size), and no
        // reference into it exists yet.
        let laid = unsafe {
            libc::mmap(
                self.data.cast(),
                self.file_len,
                protection,
                sharing | libc::MAP_FIXED,
                file.as_raw_fd(),
                0,
            )
        };
        if laid == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    }

    fn write_size_word(&self) {
        // SAFETY: the word ends where `data` begins: inside the anonymous, writable front page,
        // aligned because `data` is page-aligned, and nobody else knows the address yet.
        unsafe { self.data.cast::<usize>().sub(1).write(self.padded_len) };
    }

    /// Address of the file's first byte, aligned to a page.
    pub(crate) fn data(&self) -> *mut u8 {
        self.data
    }

    /// Address of the size word before the data: what MLX's CPU backend calls the buffer.
    #[cfg(target_os = "linux")]
    pub(crate) fn buffer(&self) -> *mut c_void {
        self.data.wrapping_sub(size_of::<usize>()).cast()
    }

    /// The file's length in bytes.
    pub(crate) fn file_len(&self) -> usize {
        self.file_len
    }

    /// Readable bytes from `data()` on: the file's length rounded up to a multiple of [`UNIT`].
    pub(crate) fn padded_len(&self) -> usize {
        self.padded_len
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: start and length are those of the one reservation, and the Arc around this Region
        // is held by every MLX array over it, so no address into it is in use any more.
        let status = unsafe { libc::munmap(self.start, self.reserved) };
        debug_assert_eq!(status, 0, "munmap: {}", io::Error::last_os_error());
    }
}

fn page_size() -> usize {
    // SAFETY: sysconf reads a constant of the system.
    let size = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    usize::try_from(size).unwrap_or(UNIT)
}
