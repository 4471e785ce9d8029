//! Which repository is meant.

use std::path::PathBuf;

use artifact_store::StoreError;

const DEFAULT_REVISION: &str = "main";

/// `ORGANISATION/NAME`, and which of its revisions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Repository {
    pub(crate) id: String,
    /// A branch, a tag or a commit.
    pub(crate) revision: String,
}

impl Repository {
    /// Reads `REPO[@REVISION]`.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let (id, revision) = text.split_once('@').unwrap_or((text, DEFAULT_REVISION));
        let part = |part: &str| {
            let legal = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
            part.bytes().all(legal) && part.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric())
        };
        if id.split('/').count() > 2 || !id.split('/').all(part) || revision.is_empty() {
            return Err("write ORGANISATION/NAME, or ORGANISATION/NAME@REVISION".to_owned());
        }
        Ok(Self { id: id.to_owned(), revision: revision.to_owned() })
    }

    /// This repository cannot be imported, because of `reason`.
    pub(crate) fn error(&self, reason: impl Into<String>) -> anyhow::Error {
        StoreError::BadSource { path: PathBuf::from(&self.id), reason: reason.into() }.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repository_may_have_a_revision() {
        let parsed = |text| Repository::parse(text).map(|repository| (repository.id, repository.revision));
        let both = |id: &str, revision: &str| Ok((id.to_owned(), revision.to_owned()));
        assert_eq!(parsed("org/Name-1.5"), both("org/Name-1.5", "main"));
        assert_eq!(parsed("gpt2@refs/pr/1"), both("gpt2", "refs/pr/1"));
        for bad in ["", "a/b/c", "../x", "a//b", "a/..", "a b", "a/b@", "/a", "a/", "https://host/a"] {
            assert!(parsed(bad).is_err(), "{bad}");
        }
    }
}
