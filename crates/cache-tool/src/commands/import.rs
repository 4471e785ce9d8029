//! `cache-tool import`.

use std::path::{Path, PathBuf};

use anyhow::Context;
use artifact_store::{ImportOptions, Imported, Quantization, Store};
use clap::builder::PossibleValuesParser;

use crate::{output::print_imported, progress::ImportProgress, store_args::StoreArgs};

/// Take a model into the store.
///
/// SOURCE is a GGUF file (docs/models.md has the architectures), or a folder with
/// config.json, tokenizer.json and safetensors files. Its bytes are checked,
/// converted where MLX needs another layout, and stored once however often
/// they are imported. Prints the digest of the artifact.
///
/// --quantize makes dense matrices smaller, as MLX itself would: a weight then
/// takes 2 to 8 bits, and a scale and a bias for each group of weights. A recipe
/// (mixed_3_6 for example) takes the second number of bits where rounding costs
/// most, and the first elsewhere.
///
/// With --adapter-of, SOURCE is a folder with a LoRA adapter of a stored model, as
/// mlx-lm or PEFT writes it. It is named after both (base:adapter), and served by
/// the workers of its base.
///
/// Example: cache-tool import SmolLM2-135M-Instruct.Q4_1.gguf --name smollm2-135m
/// Example: cache-tool import ~/models/Llama-3.2-1B-Instruct --quantize 4
/// Example: cache-tool import ~/adapters --adapter-of smollm2-135m --name poems
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Args {
    /// A .gguf file, a folder as Hugging Face publishes models, or one with an adapter
    source: PathBuf,
    /// What to call it [default: the name of the file or folder]
    #[arg(long)]
    name: Option<String>,
    /// SOURCE is an adapter of this stored model
    #[arg(long, value_name = "BASE", conflicts_with = "quantize")]
    adapter_of: Option<String>,
    #[command(flatten)]
    quantize: QuantizeArgs,
    /// Print JSON, sizes in bytes
    #[arg(long)]
    json: bool,
}

/// What `import` and `pull` make of dense matrices.
#[derive(Debug, clap::Args)]
pub(crate) struct QuantizeArgs {
    /// Quantize dense matrices to this many bits per weight, or with one of mlx-lm's mixed recipes
    #[arg(long, value_name = "BITS", value_parser = PossibleValuesParser::new(Quantization::names()))]
    quantize: Option<String>,
    /// Weights that share a scale and a bias
    #[arg(long, value_name = "WEIGHTS", value_parser = ["32", "64", "128"], default_value = "64", requires = "quantize")]
    group_size: String,
}

impl QuantizeArgs {
    pub(crate) fn options(&self) -> anyhow::Result<ImportOptions> {
        let Some(asked) = &self.quantize else { return Ok(ImportOptions::default()) };
        let quantize = Quantization::named(asked, self.group_size.parse()?)?;
        Ok(ImportOptions { quantize: Some(quantize) })
    }
}

pub(crate) fn run(store_args: &StoreArgs, args: &Args) -> anyhow::Result<()> {
    // A wrong path should not leave an empty store behind.
    args.source.metadata().with_context(|| format!("cannot read {}", args.source.display()))?;
    let (store, name) = (store_args.open()?, args.name.as_deref());
    let imported = match &args.adapter_of {
        Some(base) => import_adapter(&store, &args.source, base, name)?,
        None => import(&store, &args.source, name, &args.quantize.options()?)?,
    };
    print_imported(&imported, args.json)
}

fn import_adapter(store: &Store, source: &Path, base: &str, name: Option<&str>) -> anyhow::Result<Imported> {
    let mut progress = ImportProgress::new()?;
    let imported = store.import_adapter(source, base, name, &mut |event| progress.observe(event));
    progress.finish();
    Ok(imported?)
}

/// Imports, and shows how far it is.
pub(crate) fn import(
    store: &Store,
    source: &Path,
    name: Option<&str>,
    options: &ImportOptions,
) -> anyhow::Result<Imported> {
    let mut progress = ImportProgress::new()?;
    let imported = store.import_with(source, name, options, &mut |event| progress.observe(event));
    progress.finish();
    Ok(imported?)
}
