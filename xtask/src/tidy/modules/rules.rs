//! The table of the rules. A path that does not exist breaks none of them.

/// What the modules of one crate may name.
pub(super) struct Rule {
    /// The package.
    pub(super) krate: &'static str,
    pub(super) limit: Limit,
    pub(super) why: &'static str,
}

/// Paths of this crate begin with `crate`, others with a crate's name. A path stands for everything below it, too.
pub(super) enum Limit {
    /// From the top down; a lower one never names a higher one.
    Layers(&'static [&'static str]),
    /// None names another.
    Apart(&'static [&'static str]),
    /// `of` never names any of `what`.
    Never { of: &'static str, what: &'static [&'static str] },
    /// Of its own crate, `of` names only itself and `what`, and what these pass on.
    Only { of: &'static str, what: &'static [&'static str] },
    /// Only `by` names `what`. Others may have it from there.
    Reserved { what: &'static str, by: &'static [&'static str] },
}

use Limit::{Apart, Layers, Never, Only, Reserved};

/// Crates with types of tensors.
const TENSORS: &[&str] = &["mlx_rs", "mlx_sys", "mlx_ext"];

/// Crates with types of HTTP.
const HTTP: &[&str] = &["axum", "http", "http_body", "hyper", "tower_http"];

pub(super) const RULES: &[Rule] = &[
    // The gateway. `main` is a crate of its own, above all of these.
    Rule {
        krate: "gateway",
        limit: Layers(&[
            "crate::assembly", // puts all of it together
            "crate::shutdown", // ends all that runs, in order
            "crate::reload",   // gives all that runs another configuration
            "crate::http",
            "crate::serve",
            "crate::fleet",
            "crate::worker",
            "crate::metrics", // where layers register what they count
            "crate::trace",   // the spans of a request, which all layers make
            "crate::config",
            "crate::cli", // what the configuration is combined with
        ]),
        why: "what is below works, and is tested, without what is above",
    },
    Rule {
        krate: "gateway",
        limit: Never { of: "crate::http", what: &["crate::worker"] },
        why: "HTTP asks `serve` and `fleet`; which process does the work is not its business",
    },
    Rule {
        krate: "gateway",
        limit: Apart(&["crate::http::openai", "crate::http::anthropic", "crate::http::ollama"]),
        why: "each dialect can be read, changed and removed alone; what two need belongs in `http` or `serve`",
    },
    Rule {
        krate: "gateway",
        limit: Never { of: "crate::serve", what: HTTP },
        why: "the core serves every dialect, and whatever comes after HTTP",
    },
    Rule {
        krate: "gateway",
        limit: Never { of: "crate::fleet", what: HTTP },
        why: "it is about models and processes",
    },
    Rule {
        krate: "gateway",
        limit: Never { of: "crate::worker", what: HTTP },
        why: "it is about one process and its wire",
    },
    // The worker.
    Rule {
        krate: "worker",
        limit: Only {
            of: "crate::model::arch",
            what: &[
                "crate::model::layers",
                // What an architecture is and what it is built from.
                "crate::model::Architecture",
                "crate::model::Encoder",
                "crate::model::EncoderInput",
                "crate::model::config",
                "crate::model::error",
                "crate::model::state",
                "crate::model::weights",
            ],
        },
        why: "an architecture is a composition of layers and chooses neither kernel nor device",
    },
    Rule {
        krate: "worker",
        limit: Only {
            of: "crate::model::layers",
            what: &[
                "crate::backend",
                // What adapters add to products: a product asks, and knows no adapter.
                "crate::model::adapters",
                // Passed on to architectures, which then import layers alone.
                "crate::model::Architecture",
                "crate::model::Encoder",
                "crate::model::EncoderInput",
                "crate::model::config",
                "crate::model::error",
                "crate::model::state",
                "crate::model::weights",
            ],
        },
        why: "layers know no architecture, and the engine's requests and schedule even less",
    },
    Rule {
        krate: "worker",
        limit: Reserved { what: "mlx_ext::cpu", by: &["crate::backend::cpu"] },
        why: "device and kernel are chosen in one place",
    },
    Rule {
        krate: "worker",
        limit: Reserved { what: "mlx_rs::fast", by: &["crate::backend::mlx"] },
        why: "device and kernel are chosen in one place",
    },
    Rule {
        krate: "worker",
        limit: Never { of: "crate::schedule", what: TENSORS },
        why: "scheduling is pure: it is tested without a model",
    },
    Rule {
        krate: "worker",
        limit: Never { of: "crate::cache", what: TENSORS },
        why: "it counts blocks and is tested without memory for them",
    },
    // The wire.
    Rule {
        krate: "protocol",
        limit: Reserved { what: "bincode", by: &["crate::codec"] },
        why: "another codec can take its place",
    },
];
