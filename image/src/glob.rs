//! Path patterns of the data files in `base/`: `*` stands for any characters within one path component, `**` for any
//! at all. Nothing else is special.

/// Whether `path` matches `pattern` as a whole.
pub fn matches(pattern: &str, path: &str) -> bool {
    matches_bytes(pattern.as_bytes(), path.as_bytes())
}

fn matches_bytes(pattern: &[u8], path: &[u8]) -> bool {
    let Some((first, rest)) = pattern.split_first() else { return path.is_empty() };
    if *first != b'*' {
        return path.split_first().is_some_and(|(c, tail)| c == first && matches_bytes(rest, tail));
    }
    let (rest, crosses) = match rest.strip_prefix(b"*") {
        Some(rest) => (rest, true),
        None => (rest, false),
    };
    for end in 0..=path.len() {
        if matches_bytes(rest, &path[end..]) {
            return true;
        }
        if path.get(end) == Some(&b'/') && !crosses {
            return false;
        }
    }
    false
}

/// The lines of a data file, without comments and empty lines.
pub fn lines(text: &str) -> impl Iterator<Item = &str> {
    text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'))
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn star_stays_in_its_component_and_double_star_does_not() {
        let table = [
            ("usr/share/doc/**", "usr/share/doc/bash/README", true),
            ("usr/share/doc/**", "usr/share/doc", false),
            ("usr/share/*/x", "usr/share/a/x", true),
            ("usr/share/*/x", "usr/share/a/b/x", false),
            ("usr/lib/lib*.so.*", "usr/lib/libc.so.6", true),
            ("usr/lib/lib*.so.*", "usr/lib/libc.a", false),
            ("**/x", "a/b/c/x", true),
            ("a", "a", true),
            ("a", "ab", false),
            ("", "", true),
        ];
        for (pattern, path, expected) in table {
            assert_eq!(matches(pattern, path), expected, "{pattern} on {path}");
        }
    }
}
