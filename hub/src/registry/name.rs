//! Repository names, tags and references (OCI Distribution Spec 1.1, "Pulling manifests").

use std::fmt;

use cairn_model::Digest;

/// Longest repository name in bytes: what clients and other registries agree on.
const MAX_REPOSITORY: usize = 255;

/// The name under which content is asked for by its digest, whatever its repository.
pub(crate) const ANY_REPOSITORY: &str = "_";

/// What a manifest is asked for by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Reference {
    /// A tag: at most 128 of letters, digits, `_`, `.`, `-`, the first neither `.` nor `-`.
    Tag(String),
    /// A digest.
    Digest(Digest),
}

impl Reference {
    /// Reads a reference; `None` where it is neither.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        if text.contains(':') {
            return text.parse().ok().map(Self::Digest);
        }
        is_tag(text).then(|| Self::Tag(text.to_owned()))
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tag(tag) => f.write_str(tag),
            Self::Digest(digest) => digest.fmt(f),
        }
    }
}

fn is_tag(text: &str) -> bool {
    let first = |c: char| c.is_ascii_alphanumeric() || c == '_';
    text.len() <= 128 && text.starts_with(first) && text.chars().all(|c| first(c) || c == '.' || c == '-')
}

/// Whether `text` is a repository name: components of a-z and 0-9, with `.`, `_`, `__` or hyphens between those, with
/// `/` between components.
pub(crate) fn is_repository(text: &str) -> bool {
    text.len() <= MAX_REPOSITORY && text.split('/').all(is_component)
}

fn is_component(text: &str) -> bool {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    text.starts_with(plain)
        && text.ends_with(plain)
        && text.split(plain).all(|gap| matches!(gap, "" | "." | "_" | "__") || gap.chars().all(|c| c == '-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_grammar() {
        for good in ["a", "demo/web", "a.b_c__d---e/f0", "0/1"] {
            assert!(is_repository(good), "{good}");
        }
        let long = "a".repeat(256);
        for bad in [
            "", "/", "a/", "/a", "a//b", "A", "a..b", "a___b", "_", "-a", "a.", "../etc", "a b", "a:1", &long,
        ] {
            assert!(!is_repository(bad), "{bad}");
        }
    }

    #[test]
    fn references_are_tags_or_digests() {
        assert_eq!(Reference::parse("v1.0-rc_1"), Some(Reference::Tag("v1.0-rc_1".to_owned())));
        let digest = Digest::of(b"x");
        assert_eq!(Reference::parse(digest.as_str()), Some(Reference::Digest(digest)));
        for bad in ["", ".a", "-a", "a/b", "sha256:zz", "sha512:00", &"a".repeat(129)] {
            assert_eq!(Reference::parse(bad), None, "{bad}");
        }
    }
}
