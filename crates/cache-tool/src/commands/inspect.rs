//! `cache-tool inspect`.

use std::collections::BTreeMap;

use anyhow::Context;
use artifact_store::{
    Artifact, ArtifactSummary, Digest, FileRole, Holder, Manifest, Packing, Pooling, Store,
};
use serde_json::{Value, json};

use crate::{
    output::{Rows, ago, names, print_json, print_script, size, summary_json},
    store_args::StoreArgs,
};

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

/// `tokenizer.json`, in short.
struct Tokenizer {
    kind: String,
    tokens: usize,
}

/// All that is shown.
struct Facts {
    artifact: Artifact,
    listed: ArtifactSummary,
    /// `None`: nobody uses it. Empty: somebody unknown.
    holders: Option<Vec<Holder>>,
    summary: Summary,
    tokenizer: Option<Tokenizer>,
    /// Of an adapter, what it adapts.
    base: Option<String>,
}

pub(crate) fn run(store_args: &StoreArgs, args: &Args) -> anyhow::Result<()> {
    let store = store_args.open_read_only()?;
    // Before we are one of them.
    let holders = store.holders(store.locate(&args.name)?)?;
    let artifact = store.resolve(&args.name)?;
    for file in &artifact.manifest.files {
        artifact.open_blob(file)?;
    }
    let listed = store.list()?.into_iter().find(|listed| listed.digest == artifact.digest);
    let listed = listed.context("the artifact was removed meanwhile")?;
    let summary = Summary::of(&artifact.manifest);
    let tokenizer = Tokenizer::of(&artifact)?;
    let base = artifact.manifest.base.map(|digest| base(&store, digest)).transpose()?;
    let facts = Facts { artifact, listed, holders, summary, tokenizer, base };
    if args.json { print_json(&facts.as_json()?) } else { facts.show() }
}

/// A base's digest, and its names or that it is not there.
fn base(store: &Store, digest: Digest) -> anyhow::Result<String> {
    let listed = store.list()?.into_iter().find(|listed| listed.digest == digest);
    let known = listed.map_or("not in the store".to_owned(), |listed| names(&listed));
    Ok(format!("{digest} ({known})"))
}

impl Tokenizer {
    fn of(artifact: &Artifact) -> anyhow::Result<Option<Self>> {
        if artifact.files(FileRole::Tokenizer).next().is_none() {
            return Ok(None);
        }
        let json: Value = serde_json::from_slice(&artifact.read_tokenizer()?).context("tokenizer.json")?;
        // A vocabulary is an object, or a list of pairs; added tokens may be in it or not.
        let vocabulary = &json["model"]["vocab"];
        let has = |text: &str| vocabulary.get(text).is_some();
        let tokens = vocabulary.as_object().map_or(0, |map| map.len())
            + vocabulary.as_array().map_or(0, |list| list.len());
        let added = json["added_tokens"].as_array().into_iter().flatten();
        let added = added.filter(|token| !token["content"].as_str().is_some_and(has)).count();
        let kind = json["model"]["type"].as_str().unwrap_or("unknown kind").to_owned();
        Ok(Some(Self { kind, tokens: tokens + added }))
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

    fn tensors(&self) -> String {
        let dtypes = self.dtypes.iter();
        let words: Vec<_> =
            dtypes.map(|(dtype, (count, bytes))| format!("{count} {dtype} ({})", size(*bytes))).collect();
        words.join(", ")
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

/// Bits of a quantized module's weights: of its own settings, or of the model's.
fn bits_of(config: &Value, module: &str) -> u64 {
    let settings = Packing::settings(config).unwrap_or(&Value::Null);
    let own = Some(&settings[module]).filter(|own| own.is_object());
    Packing::of(own.unwrap_or(settings)).map_or(32, |packing| packing.bits.into())
}

fn quantization(config: &Value) -> String {
    let Some(settings) = Packing::settings(config) else { return "none".to_owned() };
    let describe =
        |settings| Packing::of(settings).map_or("unknown".to_owned(), |packing| packing.to_string());
    let mut text = describe(settings);
    let others = settings.as_object().into_iter().flatten().filter(|(_, value)| value.is_object());
    let others: Vec<_> = others.map(|(module, own)| format!("{module} {}", describe(own))).collect();
    match others.len() {
        0 => {}
        1..=3 => text += &format!("; {}", others.join("; ")),
        n => text += &format!("; {n} modules differ"),
    }
    text
}

impl Facts {
    fn as_json(&self) -> anyhow::Result<Value> {
        let manifest = &self.artifact.manifest;
        let mut value = summary_json(&self.listed);
        let holders = self.holders.iter().flatten();
        let holders = holders.map(|holder| json!({ "pid": holder.pid, "program": holder.program }));
        value["in_use"] = self.holders.is_some().into();
        value["holders"] = holders.collect::<Vec<_>>().into();
        value["embedding_size"] = manifest.embedding_size().into();
        value["parameters"] = self.summary.parameters.into();
        value["quantization"] = Packing::settings(&manifest.config).cloned().unwrap_or_default();
        let dtypes =
            self.summary.dtypes.iter().map(|(dtype, (tensors, bytes))| {
                (dtype.clone(), json!({ "tensors": tensors, "bytes": bytes }))
            });
        value["dtypes"] = dtypes.collect::<serde_json::Map<_, _>>().into();
        let tokenizer = self.tokenizer.as_ref();
        value["tokenizer"] =
            tokenizer.map_or(Value::Null, |it| json!({ "type": it.kind, "tokens": it.tokens }));
        value["chat_templates"] = templates(manifest).into_iter().map(|(name, _)| name).collect();
        value["manifest"] = serde_json::to_value(manifest)?;
        Ok(value)
    }

    fn show(&self) -> anyhow::Result<()> {
        let (manifest, listed) = (&self.artifact.manifest, &self.listed);
        let mut facts = Rows::new();
        for (label, fact) in [
            ("names", names(listed)),
            ("digest", self.artifact.digest.to_string()),
            ("architecture", manifest.architecture().unwrap_or("-").to_owned()),
            ("adapter of", self.base.clone().unwrap_or_else(|| "-".to_owned())),
            ("parameters", millions(self.summary.parameters)),
            ("quantization", quantization(&manifest.config)),
            ("tensors", self.summary.tensors()),
            ("tokenizer", self.tokenizer.as_ref().map_or("none".to_owned(), Tokenizer::describe)),
            ("chat template", templates_in_words(manifest)),
            ("changed by import", transforms_in_words(manifest)),
            ("embedding", embedding_in_words(manifest)),
            ("end tokens", format!("{:?}", manifest.eos_token_ids)),
            ("size on disk", size(listed.size)),
            ("imported", ago(listed.imported_at)),
            ("last use", ago(listed.last_use)),
            ("pinned", if listed.pinned { "yes" } else { "no" }.to_owned()),
            ("in use", in_use(self.holders.as_deref())),
        ] {
            facts.add_row([label.to_owned(), fact]);
        }
        facts.print()?;
        print_script("")?;
        let mut files = Rows::with_header(["FILE", "SIZE", "SHA-256"]);
        for file in &manifest.files {
            files.add_row([file.name.clone(), size(file.size), file.blob.to_string()]);
        }
        files.print()
    }
}

impl Tokenizer {
    fn describe(&self) -> String {
        format!("{}, {} tokens", self.kind, self.tokens)
    }
}

/// Every chat template, the default one first.
fn templates(manifest: &Manifest) -> Vec<(String, &str)> {
    let default = manifest.chat_template.iter().map(|text| ("default".to_owned(), text.as_str()));
    let named = manifest.named_chat_templates.iter().map(|(name, text)| (name.clone(), text.as_str()));
    default.chain(named).collect()
}

fn transforms_in_words(manifest: &Manifest) -> String {
    let words: Vec<_> = manifest.transforms.iter().map(ToString::to_string).collect();
    if words.is_empty() { "nothing".to_owned() } else { words.join("; ") }
}

fn templates_in_words(manifest: &Manifest) -> String {
    let templates = templates(manifest);
    let words: Vec<_> =
        templates.iter().map(|(name, text)| format!("{name} ({} characters)", text.len())).collect();
    if words.is_empty() { "none".to_owned() } else { words.join(", ") }
}

fn embedding_in_words(manifest: &Manifest) -> String {
    if !manifest.embeds() {
        return "no".to_owned();
    }
    let size = manifest.embedding_size().map_or(String::new(), |size| format!("{size} numbers, "));
    let Some(config) = &manifest.embedding else {
        return size + "the mean of all tokens, normalized (the model does not say how)";
    };
    let pooling = match config.pooling {
        Pooling::FirstToken => "of the first token",
        Pooling::Mean => "the mean of all tokens",
        Pooling::LastToken => "of the last token",
    };
    let dense = match config.dense.len() {
        0 => String::new(),
        1 => ", through 1 matrix".to_owned(),
        several => format!(", through {several} matrices"),
    };
    let length = if config.normalize { ", normalized" } else { "" };
    let tokens = config.max_tokens.map(|tokens| format!(", of at most {tokens} tokens")).unwrap_or_default();
    format!("{size}{pooling}{dense}{length}{tokens}")
}

fn in_use(holders: Option<&[Holder]>) -> String {
    match holders {
        None => "no".to_owned(),
        Some([]) => "yes, by an unknown process".to_owned(),
        Some(known) => known.iter().map(Holder::to_string).collect::<Vec<_>>().join(", "),
    }
}

fn millions(parameters: u64) -> String {
    format!("{:.1} million", parameters as f64 / 1e6)
}
