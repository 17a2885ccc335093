//! What a caller names as a bundle, and the options that RAUC's callers send with it.

use std::path::PathBuf;

use cairn_model::Digest;
use url::Url;
use zbus::zvariant::Value;

use super::{Dict, port::Source};

/// Longest name of a bundle that is looked at.
const MAX_SOURCE: usize = 4096;

/// Why what a caller asks for is not even tried.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum AskError {
    /// Neither a folder nor a release.
    #[error(
        "'{text}' names no release: {why}; give an absolute path or file:/// of a folder with an OCI layout, \
         sha256:<digest of the release>, or cairn:<its version>"
    )]
    Source {
        /// As given, cut.
        text: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// Something that RAUC can leave out and Cairn does not.
    #[error("{key} is refused: {why}")]
    Option {
        /// Its name.
        key: &'static str,
        /// Why, and what to do instead.
        why: &'static str,
    },
    /// RAUC's own words.
    #[error("Unsupported key: {0}")]
    Key(String),
    /// Right name, wrong type.
    #[error("the value of '{key}' is not {expected}")]
    Type {
        /// Its name.
        key: String,
        /// What it should be.
        expected: &'static str,
    },
}

/// Reads the name of a bundle.
pub(super) fn parse(text: &str) -> Result<Source, AskError> {
    let refuse = |why| AskError::Source { text: text.chars().take(200).collect(), why };
    if text.len() > MAX_SOURCE || text.contains('\0') {
        return Err(refuse("it is too long, or holds a NUL"));
    }
    if text.starts_with('/') {
        return Ok(Source::Folder(PathBuf::from(text)));
    }
    if text.starts_with("sha256:") {
        return text.parse().map(Source::Digest).map_err(|_| refuse("it is no SHA-256 in lower-case hex"));
    }
    if let Some(version) = text.strip_prefix("cairn:") {
        return version.parse().map(Source::Version).map_err(|_| refuse("it is no OS version"));
    }
    if text.starts_with("file:") {
        let path = Url::parse(text).ok().and_then(|url| url.to_file_path().ok());
        return path.map(Source::Folder).ok_or_else(|| refuse("it is no file:/// of this machine"));
    }
    if text.contains("://") {
        return Err(refuse(
            "a node asks no address that a caller names: releases come from its hub or a folder",
        ));
    }
    Err(refuse("it is neither a path that begins with / nor a digest nor a version"))
}

/// What of RAUC's options counts here.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Options {
    /// RAUC's `require-manifest-hash`: the release must have this digest.
    pub(super) digest: Option<Digest>,
}

const FETCHED: &str = "a node fetches releases only from its hub, with its own key; leave it out";
const CHECKED: &str = "what a release is for is always checked; leave it out, or set it to false";

/// Reads the options of `InstallBundle`.
pub(super) fn options(args: &Dict) -> Result<Options, AskError> {
    let mut options = Options::default();
    for (key, value) in args {
        let wrong = |expected| AskError::Type { key: key.clone(), expected };
        match (key.as_str(), &**value) {
            ("ignore-compatible", Value::Bool(true)) => {
                return Err(AskError::Option { key: "ignore-compatible", why: CHECKED });
            }
            ("ignore-version-limit", Value::Bool(true)) => {
                return Err(AskError::Option { key: "ignore-version-limit", why: CHECKED });
            }
            ("ignore-compatible" | "ignore-version-limit", Value::Bool(false))
            | ("transaction-id", Value::Str(_)) => {}
            ("ignore-compatible" | "ignore-version-limit", _) => return Err(wrong("a boolean")),
            ("transaction-id", _) => return Err(wrong("a string")),
            ("require-manifest-hash", Value::Str(hash)) => {
                let digest = format!("sha256:{}", hash.strip_prefix("sha256:").unwrap_or(hash.as_str()));
                options.digest = Some(digest.parse().map_err(|_| wrong("a SHA-256 in lower-case hex"))?);
            }
            ("require-manifest-hash", _) => return Err(wrong("a string")),
            _ => access(key, value)?,
        }
    }
    Ok(options)
}

/// Reads the options of `InspectBundle`: how RAUC is to fetch. All of them would be about addresses that callers name.
pub(super) fn access_options(args: &Dict) -> Result<(), AskError> {
    args.iter().try_for_each(|(key, value)| access(key, value))
}

fn access(key: &str, value: &Value<'_>) -> Result<(), AskError> {
    let known = ["tls-cert", "tls-key", "tls-ca", "tls-no-verify", "http-headers"];
    let Some(key) = known.into_iter().find(|name| *name == key) else {
        return Err(AskError::Key(key.chars().take(80).collect()));
    };
    if matches!(value, Value::Bool(false)) {
        return Ok(());
    }
    Err(AskError::Option { key, why: FETCHED })
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn refuses_what_names_no_release() {
        let check = |text: &str, why: &str| {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.contains(why) && error.contains("give an absolute path"), "{text}: {error}");
        };
        check("", "neither a path");
        check("release", "neither a path");
        check("../release", "neither a path");
        check("https://example.org/update.raucb", "asks no address");
        check("ftp://example.org/", "asks no address");
        check("file://otherhost/release", "of this machine");
        check("file:release\0", "NUL");
        check("sha256:abc", "SHA-256");
        check(&DIGEST.to_uppercase().replace("SHA256", "sha256"), "SHA-256");
        check("cairn:v1", "no OS version");
        check(&format!("/{}", "x".repeat(MAX_SOURCE)), "too long");
        assert!(parse(&"é".repeat(9000)).unwrap_err().to_string().len() < 700, "outside text is cut");
    }

    #[test]
    fn takes_folders_digests_and_versions() {
        for (text, expected) in [
            ("/media/stick", Source::Folder("/media/stick".into())),
            ("file:///media/my%20stick", Source::Folder("/media/my stick".into())),
            (DIGEST, Source::Digest(DIGEST.parse().unwrap())),
            ("cairn:0.2.0", Source::Version("0.2.0".parse().unwrap())),
        ] {
            assert_eq!(parse(text), Ok(expected), "{text}");
        }
    }

    fn args(key: &str, value: Value<'static>) -> Dict {
        Dict::from([(key.to_owned(), value.try_into().unwrap())])
    }

    #[test]
    fn no_option_switches_a_check_off() {
        let refused = |key: &str, value: Value<'static>, why: &str| {
            let error = options(&args(key, value)).unwrap_err().to_string();
            assert!(error.contains(why), "{key}: {error}");
        };
        refused("ignore-compatible", Value::Bool(true), "always checked");
        refused("ignore-version-limit", Value::Bool(true), "always checked");
        refused("ignore-compatible", Value::from("yes"), "not a boolean");
        refused("require-manifest-hash", Value::from("1234"), "SHA-256");
        refused("tls-no-verify", Value::Bool(true), "only from its hub");
        refused("http-headers", Value::from(vec!["X: y"]), "only from its hub");
        refused("something-new", Value::Bool(false), "Unsupported key: something-new");
        let error = access_options(&args("ignore-compatible", Value::Bool(true))).unwrap_err();
        assert_eq!(error.to_string(), "Unsupported key: ignore-compatible");
    }

    #[test]
    fn what_raucs_own_tools_send_is_taken() {
        let sent = args("ignore-compatible", Value::Bool(false));
        assert_eq!(options(&sent), Ok(Options::default()));
        assert_eq!(options(&args("transaction-id", Value::from("7"))), Ok(Options::default()));
        assert_eq!(access_options(&args("tls-no-verify", Value::Bool(false))), Ok(()));
        let bare = DIGEST.strip_prefix("sha256:").unwrap();
        for hash in [DIGEST, bare] {
            let options = options(&args("require-manifest-hash", Value::from(hash.to_owned()))).unwrap();
            assert_eq!(options.digest, Some(DIGEST.parse().unwrap()));
        }
    }
}
