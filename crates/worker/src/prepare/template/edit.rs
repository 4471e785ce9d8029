//! Changes of a template's source, and the source with all of them.

use std::cmp::Reverse;

/// A change of the source.
#[derive(Debug)]
pub(super) struct Edit {
    at: usize,
    /// Bytes that go.
    remove: usize,
    insert: String,
    /// Belongs to what follows it, not to what comes before.
    opens: bool,
}

impl Edit {
    /// Writes `insert` before the expression that begins at `at`.
    pub(super) fn open(at: usize, insert: &str) -> Self {
        Self { at, remove: 0, insert: insert.into(), opens: true }
    }

    /// Writes `insert` behind the expression that ends at `at`.
    pub(super) fn close(at: usize, insert: &str) -> Self {
        Self::replace(at, at, insert)
    }

    /// Writes `insert` in place of what is from `start` to `end`.
    pub(super) fn replace(start: usize, end: usize, insert: impl Into<String>) -> Self {
        Self { at: start, remove: end - start, insert: insert.into(), opens: false }
    }
}

/// `source` with all `edits`, in the order in which they were made.
pub(super) fn apply(source: &str, edits: Vec<Edit>) -> String {
    let mut edits: Vec<(usize, Edit)> = edits.into_iter().enumerate().collect();
    // At one place what closes comes first; of what opens there, the outermost, which was found last.
    edits.sort_by_key(|(made, edit)| {
        (edit.at, edit.opens, if edit.opens { Reverse(*made) } else { Reverse(usize::MAX - made) })
    });
    let mut text = String::with_capacity(source.len() + edits.len() * 16);
    let mut done = 0;
    for (_, edit) in edits {
        text.push_str(source.get(done..edit.at).unwrap_or_default());
        text.push_str(&edit.insert);
        done = edit.at + edit.remove;
    }
    text.push_str(source.get(done..).unwrap_or_default());
    text
}
