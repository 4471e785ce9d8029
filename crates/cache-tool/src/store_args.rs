//! Which store, and how large it may become: options of every command.

use std::{env, path::PathBuf};

use anyhow::anyhow;
use artifact_store::{Store, StoreError, default_store_dir};
use settings::{Cache, File, parse_size};

/// Where the limit comes from when no option says it.
const LIMIT_VARIABLE: &str = "KR_CACHE_MAX_SIZE";

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Store")]
pub(crate) struct StoreArgs {
    /// Folder of the store [default: $KR_CACHE_DIR, or kr-serve in the user's cache folder (macOS: Application Support)]
    #[arg(long, global = true, value_name = "DIR")]
    store: Option<PathBuf>,
    /// Size to keep the store to, such as 50GiB [default: $KR_CACHE_MAX_SIZE, or that of --config, or 100GiB]
    #[arg(long, global = true, value_name = "SIZE", value_parser = parse_size)]
    max_size: Option<u64>,
    /// Configuration of the server, for its cache.max_size_bytes; all of it is checked
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
}

impl StoreArgs {
    /// To import into: made if it is not there.
    pub(crate) fn open(&self) -> anyhow::Result<Store> {
        Ok(Store::open(self.dir()?)?.with_max_size(self.limit()?))
    }

    /// To change: not made if it is not there.
    pub(crate) fn open_existing(&self) -> anyhow::Result<Store> {
        self.open_read_only()?;
        self.open()
    }

    /// To look at.
    pub(crate) fn open_read_only(&self) -> anyhow::Result<Store> {
        Ok(Store::open_read_only(self.dir()?)?.with_max_size(self.limit()?))
    }

    /// What the option says, in bytes.
    pub(crate) fn max_size(&self) -> Option<u64> {
        self.max_size
    }

    /// Size to which imports keep the store, in bytes.
    pub(crate) fn limit(&self) -> anyhow::Result<u64> {
        // A mistake in the file is told even if its limit is not the one that counts.
        let configured = self.configured()?;
        if let Some(size) = self.max_size() {
            return Ok(size);
        }
        match env::var_os(LIMIT_VARIABLE) {
            Some(text) => {
                parse_size(&text.to_string_lossy()).map_err(|problem| anyhow!("${LIMIT_VARIABLE} {problem}"))
            }
            None => Ok(configured.unwrap_or_else(|| Cache::default().max_size_bytes)),
        }
    }

    fn configured(&self) -> anyhow::Result<Option<u64>> {
        let Some(path) = &self.config else { return Ok(None) };
        Ok(Some(File::load(Some(path))?.settings.cache.max_size_bytes))
    }

    fn dir(&self) -> Result<PathBuf, StoreError> {
        self.store.clone().map_or_else(default_store_dir, Ok)
    }
}
