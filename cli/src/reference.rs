//! `NAME:TAG` as typed for `cairn artifact push`: a repository of this hub and a tag in it.

use std::str::FromStr;

/// The longest repository name, as hubs and registries in the field have it.
const MAX_REPOSITORY: usize = 255;
/// The longest tag (OCI Distribution Spec 1.1, "Pulling manifests").
const MAX_TAG: usize = 128;

/// A repository and a tag.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Reference {
    /// Lower-case path components, joined by `/`.
    pub(crate) repository: String,
    /// Letters, digits, `_`, `.`, `-`.
    pub(crate) tag: String,
}

impl FromStr for Reference {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.contains('@') {
            return Err("a digest can't be chosen; name a tag: NAME:TAG".into());
        }
        let (repository, tag) = match text.rsplit_once(':') {
            Some((repository, tag)) if !tag.contains('/') => (repository, tag),
            _ => (text, "latest"),
        };
        let first = repository.split('/').next().unwrap_or_default();
        if repository.contains('/') && (first.contains([':', '.']) || first == "localhost") {
            return Err(format!(
                "{first} looks like a registry's host; the hub of the context is meant: leave the host away"
            ));
        }
        if repository.is_empty()
            || repository.len() > MAX_REPOSITORY
            || !repository.split('/').all(is_component)
        {
            return Err(
                "a repository is lower-case letters and digits with inner . _ - and /, as in demo/web".into(),
            );
        }
        if !is_tag(tag) {
            return Err("a tag is 1 to 128 letters, digits, _ . and -, as in demo/web:1".into());
        }
        Ok(Self { repository: repository.into(), tag: tag.into() })
    }
}

/// One path component: `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`.
fn is_component(text: &str) -> bool {
    let alphanumeric = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = text.as_bytes();
    let ends = |b: Option<&u8>| b.is_some_and(|b| alphanumeric(*b));
    let known = bytes.iter().all(|b| alphanumeric(*b) || b".-_".contains(b));
    // Between two letters or digits: one dot, one or two underscores, or any number of hyphens.
    let separated = text
        .split(|c: char| c.is_ascii_alphanumeric())
        .all(|gap| matches!(gap, "" | "." | "_" | "__") || gap.bytes().all(|b| b == b'-'));
    known && separated && ends(bytes.first()) && ends(bytes.last())
}

fn is_tag(text: &str) -> bool {
    text.len() <= MAX_TAG
        && text.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_')
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_repository_and_tag_and_refuses_what_is_not_one() {
        let check = |text: &str| text.parse::<Reference>().map(|r| (r.repository, r.tag));
        assert_eq!(check("demo/web:1"), Ok(("demo/web".into(), "1".into())));
        assert_eq!(check("web"), Ok(("web".into(), "latest".into())));
        assert_eq!(check("a.b--c__d:V1.0"), Ok(("a.b--c__d".into(), "V1.0".into())));
        for bad in
            ["", ":1", "Demo:1", "a//b", "../x", "a/../b", "a:", "a:.x", "-a", "a-", "a..b", "a@sha256:00"]
        {
            assert!(check(bad).is_err(), "{bad}");
        }
        assert!(check("hub.example:5000/web:1").is_err_and(|e| e.contains("leave the host away")));
        assert!(check("localhost/web").is_err_and(|e| e.contains("host")));
    }
}
