//! `cache-tool inspect`.

use std::{collections::BTreeMap, path::Path};

use anyhow::Context;
use artifact_store::{Artifact, FileRole, Listed, Manifest, Store};
use serde_json::{Value, json};

use crate::output::{ago, listed_json, names, plain_table, print, print_json, print_table, size, table};

/// Show what an artifact is made of.
///
/// The size and the header of each file are checked on the way.
///
/// Example: cache-tool inspect smollm2-135m
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Args {
    /// A name, a digest, or the first digits of a digest
    name: String,
    /// Print JSON, with the whole manifest in it
    #[arg(long)]
    json: bool,
}

/// What the tensors of an artifact add up to.
struct Summary {
    parameters: u64,
    /// Tensors and bytes by element type.
    dtypes: BTreeMap<String, (usize, u64)>,
}

pub(crate) fn run(store: &Path, args: &Args) -> anyhow::Result<()> {
    let store = Store::open_read_only(store)?;
    let artifact = store.resolve(&args.name)?;
    for file in &artifact.manifest.files {
        artifact.open_blob(file)?;
    }
    let listed = store.list()?.into_iter().find(|listed| listed.digest == artifact.digest);
    let listed = listed.context("the artifact was removed meanwhile")?;
    let summary = Summary::of(&artifact.manifest);
    if args.json {
        print_json(&as_json(&artifact, &listed, &summary)?)
    } else {
        show(&artifact, &listed, &summary)
    }
}

impl Summary {
    fn of(manifest: &Manifest) -> Self {
        let mut dtypes: BTreeMap<String, (usize, u64)> = BTreeMap::new();
        for tensor in &manifest.tensors {
            let (count, bytes) = dtypes.entry(tensor.dtype.to_string()).or_default();
            *count += 1;
            *bytes += tensor.len;
        }
        Self { parameters: parameters(manifest), dtypes }
    }
}

/// Packed weights hold 32 / bits parameters a word; the scales and biases of
/// their groups are not parameters.
fn parameters(manifest: &Manifest) -> u64 {
    let names: std::collections::HashSet<&str> =
        manifest.tensors.iter().map(|tensor| tensor.name.as_str()).collect();
    let mut total = 0;
    for tensor in &manifest.tensors {
        let elements: u64 = tensor.shape.iter().product();
        let (module, field) = tensor.name.rsplit_once('.').unwrap_or(("", &tensor.name));
        let packed = names.contains(format!("{module}.scales").as_str());
        total += match field {
            "scales" | "biases" if packed => 0,
            "weight" if packed => elements * 32 / bits_of(&manifest.config, module).max(1),
            _ => elements,
        };
    }
    total
}

/// Bits of a quantized module: its own entry, or the default.
fn bits_of(config: &Value, module: &str) -> u64 {
    let quantization = &config["quantization"];
    let own = quantization[module]["bits"].as_u64();
    own.or_else(|| quantization["bits"].as_u64()).unwrap_or(32)
}

fn quantization(config: &Value) -> String {
    let quantization = &config["quantization"];
    let (Some(bits), Some(group)) = (quantization["bits"].as_u64(), quantization["group_size"].as_u64())
    else {
        return "none".to_owned();
    };
    let others = quantization.as_object().into_iter().flatten().filter(|(_, value)| value.is_object());
    let others: Vec<_> = others.map(|(module, value)| format!("{module} {} bits", value["bits"])).collect();
    let mut text = format!("{bits} bits, groups of {group}");
    match others.len() {
        0 => {}
        1..=3 => text += &format!("; {}", others.join(", ")),
        n => text += &format!("; {n} modules differ"),
    }
    text
}

fn as_json(artifact: &Artifact, listed: &Listed, summary: &Summary) -> anyhow::Result<Value> {
    let mut value = listed_json(listed);
    value["parameters"] = summary.parameters.into();
    value["quantization"] = artifact.manifest.config["quantization"].clone();
    let dtypes = summary
        .dtypes
        .iter()
        .map(|(dtype, (tensors, bytes))| (dtype.clone(), json!({ "tensors": tensors, "bytes": bytes })));
    value["dtypes"] = dtypes.collect::<serde_json::Map<_, _>>().into();
    value["manifest"] = serde_json::to_value(&artifact.manifest)?;
    Ok(value)
}

fn show(artifact: &Artifact, listed: &Listed, summary: &Summary) -> anyhow::Result<()> {
    let manifest = &artifact.manifest;
    let yes = |present: bool| if present { "yes" } else { "no" };
    let tokenizer = artifact.files(FileRole::Tokenizer).next().is_some();
    let dtypes = summary.dtypes.iter();
    let dtypes: Vec<_> =
        dtypes.map(|(dtype, (count, bytes))| format!("{count} {dtype} ({})", size(*bytes))).collect();
    let mut facts = plain_table();
    for (label, fact) in [
        ("names", names(listed)),
        ("digest", artifact.digest.to_string()),
        ("architecture", manifest.architecture().unwrap_or("-").to_owned()),
        ("parameters", millions(summary.parameters)),
        ("quantization", quantization(&manifest.config)),
        ("tensors", dtypes.join(", ")),
        ("tokenizer", yes(tokenizer).to_owned()),
        ("chat template", yes(manifest.chat_template.is_some()).to_owned()),
        ("end tokens", format!("{:?}", manifest.eos_token_ids)),
        ("size on disk", size(listed.size)),
        ("imported", ago(listed.imported_at)),
        ("last use", ago(listed.last_use)),
    ] {
        facts.add_row([label.to_owned(), fact]);
    }
    print_table(&facts)?;
    print("")?;
    let mut files = table(["FILE", "SIZE", "SHA-256"]);
    for file in &manifest.files {
        files.add_row([file.name.clone(), size(file.size), file.blob.to_string()]);
    }
    print_table(&files)
}

fn millions(parameters: u64) -> String {
    format!("{:.1} million", parameters as f64 / 1e6)
}
