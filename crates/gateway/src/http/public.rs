//! Text about the server's inside, made fit for everybody to read: bounded, and without paths of this machine.

/// Most bytes of it.
const MAX: usize = 500;

/// At most `max` bytes of `text`, and a sign that there was more.
pub(super) fn clip(mut text: String, max: usize) -> String {
    if text.len() > max {
        text.truncate(text.floor_char_boundary(max));
        text.push('…');
    }
    text
}

/// A text that everybody may read: without absolute paths, and not long.
pub(super) fn public(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(start) = path_start(rest) {
        out.push_str(&rest[..start]);
        out.push_str("<path>");
        rest = &rest[start..];
        rest = &rest[path_len(rest)..];
        if out.len() > MAX {
            return clip(out, MAX);
        }
    }
    out.push_str(rest);
    clip(out, MAX)
}

/// Text about the server's inside: whole for an administrator, for everybody else as [`public`] leaves it.
pub(super) fn shown(text: Option<String>, is_admin: bool) -> Option<String> {
    text.map(|text| if is_admin { text } else { public(&text) })
}

/// Where an absolute path begins: at a slash that does not go on a word, like the one of `organization/model` does.
fn path_start(text: &str) -> Option<usize> {
    let mut before = None;
    for (at, c) in text.char_indices() {
        let opens =
            before.is_none_or(|b: char| !b.is_alphanumeric() && !matches!(b, '/' | '.' | '-' | '_' | '>'));
        let names = text[at + c.len_utf8()..].starts_with(|next: char| !next.is_whitespace());
        if c == '/' && opens && names {
            return Some(at);
        }
        before = Some(c);
    }
    None
}

/// Where it ends. It may have spaces in it: it goes on to the last word with a slash before a mark that ends it in our
/// messages.
fn path_len(text: &str) -> usize {
    const ENDS: [&str; 10] = [": ", "; ", ", ", ". ", " (", ")", "`", "'", "\"", "\n"];
    let end = ENDS.iter().filter_map(|end| text.find(end)).min().unwrap_or(text.len());
    let last = text[..end].rfind('/').unwrap_or_default();
    text[last..end].find(' ').map_or(end, |space| last + space)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_left_out_and_names_stay() {
        for (text, shown) in [
            ("no such model `org/name`; pull it", "no such model `org/name`; pull it"),
            ("cannot open /home/ann/store/blobs/ab: No such file", "cannot open <path>: No such file"),
            ("cannot open /Users/Ann Lee/Library/x: No such file", "cannot open <path>: No such file"),
            ("`/var/x` and '/tmp/y', then", "`<path>` and '<path>', then"),
            ("in /a/b", "in <path>"),
            ("/a/b is damaged: too short; import it", "<path> is damaged: too short; import it"),
            ("/Users/Ann B Lee/x is damaged", "<path> is damaged"),
            ("set aside as /a/b. Import it again", "set aside as <path>. Import it again"),
            ("(/a/b) is gone", "(<path>) is gone"),
            ("path=/a/b", "path=<path>"),
            ("file:///a/b", "file:<path>"),
            ("1 / 2 and w/o and a/b", "1 / 2 and w/o and a/b"),
            ("", ""),
        ] {
            assert_eq!(public(text), shown);
        }
    }

    #[test]
    fn texts_are_bounded_between_characters() {
        let long = public(&"é".repeat(1000));
        assert!(long.len() <= MAX + '…'.len_utf8() && long.ends_with("é…"));
        assert!(public(&"/a: ".repeat(10_000)).len() <= MAX + '…'.len_utf8());
        assert_eq!(clip("abc".into(), 3), "abc");
    }
}
