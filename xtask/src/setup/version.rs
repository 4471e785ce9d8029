//! Versions as tools print them.

/// Whether the first version number in `text` (`cmake version 3.31.6`) is `wanted` (major, minor) or newer.
pub(super) fn at_least(text: &str, wanted: [u32; 2]) -> bool {
    let number = |part: Option<&str>| part.and_then(|part| part.parse::<u32>().ok());
    text.split_whitespace().find_map(|word| {
        let mut parts = word.split(['.', '-']);
        Some([number(parts.next())?, number(parts.next())?])
    }) >= Some(wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_compare_by_number() {
        assert!(at_least("cmake version 3.31.6\n\nCMake suite maintained by Kitware", [3, 25]));
        assert!(at_least("cmake version 4.0.0-rc1", [3, 25]));
        assert!(!at_least("cmake version 3.9.2", [3, 25]));
        assert!(!at_least("command not found", [3, 25]));
    }
}
