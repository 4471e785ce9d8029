//! Which store, and how large it may become: options of every command.

use std::{env, fs, path::PathBuf};

use anyhow::{Context, anyhow};
use artifact_store::{DEFAULT_MAX_SIZE, Store, StoreError, default_store_dir};
use bytesize::ByteSize;
use serde_json::Value;

/// Where the limit comes from when no option says it.
const LIMIT_VARIABLE: &str = "KR_CACHE_MAX_SIZE";

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Store")]
pub(crate) struct Place {
    /// Folder of the store [default: $KR_CACHE_DIR, or kr-serve in the user's cache folder (macOS: Application Support)]
    #[arg(long, global = true, value_name = "DIR")]
    store: Option<PathBuf>,
    /// Size to keep the store to, such as 50GiB [default: $KR_CACHE_MAX_SIZE, or that of --config, or 100GiB]
    #[arg(long, global = true, value_name = "SIZE")]
    max_size: Option<ByteSize>,
    /// Configuration of the server, for its cache.max_size_bytes
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
}

impl Place {
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
        self.max_size.map(|size| size.as_u64())
    }

    /// Size to which imports keep the store, in bytes.
    pub(crate) fn limit(&self) -> anyhow::Result<u64> {
        if let Some(size) = self.max_size() {
            return Ok(size);
        }
        if let Ok(text) = env::var(LIMIT_VARIABLE) {
            return parse(&text).with_context(|| format!("${LIMIT_VARIABLE}"));
        }
        Ok(self.configured()?.unwrap_or(DEFAULT_MAX_SIZE))
    }

    fn configured(&self) -> anyhow::Result<Option<u64>> {
        let Some(path) = &self.config else { return Ok(None) };
        let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        let config: Value = serde_saphyr::from_str(&text).with_context(|| path.display().to_string())?;
        let size = match &config["cache"]["max_size_bytes"] {
            Value::Null => return Ok(None),
            Value::String(size) => size.clone(),
            other => other.to_string(),
        };
        parse(&size).map(Some).with_context(|| format!("{}: cache.max_size_bytes", path.display()))
    }

    fn dir(&self) -> Result<PathBuf, StoreError> {
        self.store.clone().map_or_else(default_store_dir, Ok)
    }
}

fn parse(text: &str) -> anyhow::Result<u64> {
    let size: Result<ByteSize, String> = text.parse();
    size.map(|size| size.as_u64()).map_err(|_| anyhow!("`{text}` is no size; write for example 50GiB"))
}
