//! Identifiers as validated newtypes: what parses is well-formed for the rest of its life.

use std::{borrow::Cow, fmt, str::FromStr};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// Why a text is not the identifier that it was taken for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a valid {what}: {rule}")]
pub struct IdError {
    what: &'static str,
    text: String,
    rule: &'static str,
}

impl IdError {
    fn new(what: &'static str, text: &str, rule: &'static str) -> Self {
        // Outside text is cut before it is quoted: an error must not carry a megabyte of somebody's input.
        Self { what, text: text.chars().take(80).collect(), rule }
    }
}

macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident, $what:literal, $rule:literal, $pattern:literal, $valid:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// The text form.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl JsonSchema for $name {
            fn schema_name() -> Cow<'static, str> {
                stringify!($name).into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({ "type": "string", "description": concat!($what, ": ", $rule), "pattern": $pattern })
            }
        }

        impl FromStr for $name {
            type Err = IdError;
            fn from_str(text: &str) -> Result<Self, IdError> {
                let valid: fn(&str) -> bool = $valid;
                if valid(text) { Ok(Self(text.to_owned())) } else { Err(IdError::new($what, text, $rule)) }
            }
        }

        impl TryFrom<String> for $name {
            type Error = IdError;
            fn try_from(text: String) -> Result<Self, IdError> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> String {
                id.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

/// Lower-case letters, digits and inner hyphens; 1 to `max` characters; starts with a letter (RFC 1123 label, cut so
/// that the unit, slice and interface names made of it stay within the kernel's and systemd's limits).
fn is_label(text: &str, max: usize) -> bool {
    text.len() <= max
        && text.starts_with(|c: char| c.is_ascii_lowercase())
        && !text.ends_with('-')
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}

text_id!(
    /// A node: `n-` and the first 16 hex digits of the SHA-256 of its raw Ed25519 public key. Derived, so that the same
    /// node that enrols twice is the same node.
    NodeId, "node id", "expected n- and 16 lower-case hex digits",
    "^n-[0-9a-f]{16}$",
    |t| t.strip_prefix("n-").is_some_and(|h| h.len() == 16 && is_lower_hex(h))
);
text_id!(
    /// An app's name: an RFC 1123 label of at most 40 characters that starts with a letter.
    AppName, "app name", "expected 1 to 40 of a-z, 0-9 and inner hyphens, a letter first",
    "^[a-z]([a-z0-9-]{0,38}[a-z0-9])?$",
    |t| is_label(t, 40)
);
text_id!(
    /// A Compose service's name, narrowed to what is also a host name: an RFC 1123 label of at most 40 characters.
    ServiceName, "service name", "expected 1 to 40 of a-z, 0-9 and inner hyphens, a letter first",
    "^[a-z]([a-z0-9-]{0,38}[a-z0-9])?$",
    |t| is_label(t, 40)
);
text_id!(
    /// The kernel's boot id (`/proc/sys/kernel/random/boot_id`) without hyphens: 32 lower-case hex digits.
    BootId, "boot id", "expected 32 lower-case hex digits",
    "^[0-9a-f]{32}$",
    |t| t.len() == 32 && is_lower_hex(t)
);
text_id!(
    /// A content digest, `sha256:` and 64 lower-case hex digits (OCI Image Spec, "Digests"; other algorithms are
    /// refused).
    Digest, "digest", "expected sha256: and 64 lower-case hex digits",
    "^sha256:[0-9a-f]{64}$",
    |t| t.strip_prefix("sha256:").is_some_and(|h| h.len() == 64 && is_lower_hex(h))
);

fn is_lower_hex(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

impl NodeId {
    /// The id of the node that holds the private half of `ed25519_public` (32 raw bytes).
    pub fn of_public_key(ed25519_public: &[u8; 32]) -> Self {
        let hash = hex::encode(Sha256::digest(ed25519_public));
        Self(format!("n-{}", &hash[..16]))
    }
}

impl Digest {
    /// The digest of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self::from_sha256(&Sha256::digest(bytes).into())
    }

    /// The digest whose raw SHA-256 is `hash`.
    pub fn from_sha256(hash: &[u8; 32]) -> Self {
        Self(format!("sha256:{}", hex::encode(hash)))
    }

    /// The 64 hex digits, as in `blobs/sha256/<hex>`.
    pub fn hex(&self) -> &str {
        &self.0["sha256:".len()..]
    }

    /// The name of this artifact in both TUF repositories: `sha256.<hex>`. Flat, because clients disagree on where the
    /// hash prefix of a nested target name goes.
    pub fn target_name(&self) -> String {
        format!("sha256.{}", self.hex())
    }

    /// The digest that `name` names, if it has the form of [`Digest::target_name`].
    pub fn from_target_name(name: &str) -> Option<Self> {
        format!("sha256:{}", name.strip_prefix("sha256.")?).parse().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_accept_their_grammar_and_nothing_else() {
        let hex64 = "a".repeat(64);
        assert!(format!("sha256:{hex64}").parse::<Digest>().is_ok());
        for bad in ["sha256:", "sha512:aa", &format!("sha256:{}", "A".repeat(64)), &hex64] {
            assert!(bad.parse::<Digest>().is_err(), "{bad}");
        }
        assert!("web-1".parse::<AppName>().is_ok());
        for bad in ["", "-a", "a-", "1a", "A", "a_b", "a/b", "a.b", "../x", &"a".repeat(41)] {
            assert!(bad.parse::<AppName>().is_err(), "{bad}");
        }
        assert!("n-0123456789abcdef".parse::<NodeId>().is_ok());
        assert!("n-0123".parse::<NodeId>().is_err());
    }

    #[test]
    fn the_schemas_patterns_are_the_grammar() {
        fn check<T: FromStr + JsonSchema>(text: &str) {
            let schema = schemars::schema_for!(T);
            let pattern = regex::Regex::new(schema.get("pattern").unwrap().as_str().unwrap()).unwrap();
            assert_eq!(pattern.is_match(text), text.parse::<T>().is_ok(), "{text:?}");
        }
        let mut texts = vec![String::new()];
        for part in ["a", "-", "9", "a-", "A", "_", "\n", "0123456789abcdef"] {
            for count in [1, 2, 4, 32, 39, 40, 41, 64] {
                texts
                    .extend(["", "n-", "sha256:", "a"].map(|start| format!("{start}{}", part.repeat(count))));
            }
        }
        for text in texts {
            check::<NodeId>(&text);
            check::<AppName>(&text);
            check::<ServiceName>(&text);
            check::<BootId>(&text);
            check::<Digest>(&text);
        }
    }

    #[test]
    fn target_names_round_trip() {
        let digest = Digest::of(b"x");
        assert_eq!(Digest::from_target_name(&digest.target_name()), Some(digest));
        assert_eq!(Digest::from_target_name("sha256.zz"), None);
    }
}
