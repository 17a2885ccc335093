//! Makes and signs the two repositories. Metadata is built from tough's schema types and signed over tough's canonical
//! form; tough's editor is passed over, because it wants a whole repository in hand for every signature, while here a
//! node's director files are made from nothing but the wish itself.
//!
//! All functions are synchronous: they write small files and sync them. Call them where blocking is allowed.

mod artifacts;
mod director;
mod export;
mod keys;
mod root;
mod shelf;

use std::{collections::HashMap, io, num::NonZeroU64, path::PathBuf};

use cairn_model::id::Digest;
use jiff::{SignedDuration, Timestamp};
use serde::Serialize;
use serde_json::Value;
use tough::{
    TargetName,
    schema::{
        Hashes, Metafile, Role, Signature, Signed, Snapshot, Target, Timestamp as TimestampRole,
        decoded::{Decoded, Hex},
    },
};

pub use artifacts::Artifacts;
pub use director::Director;
pub use export::Exported;
pub use keys::HubKeys;
pub use root::{RoleName, RootChange, next_root, rotate_root};

use crate::{
    client::ClientError,
    clock::SIGNED_AT,
    keys::{KeyError, KeyPair},
};

const SPEC_VERSION: &str = "1.0.31";
/// The member of a timestamp that says under which root it was signed, so that a rotation makes the hub sign anew.
const SIGNED_UNDER: &str = "x-cairn-root-version";
/// How far ahead a timestamp may claim to be signed before it is signed again: the hub's clock was wrong then.
const AHEAD: SignedDuration = SignedDuration::from_mins(5);

/// Why something was not signed or not published.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SignError {
    /// A key file cannot be used.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The key that is needed is kept elsewhere.
    #[error(
        "the {role} key is not on this machine ({path} is absent); sign where it is kept, for instance with `cairn artifact sign`"
    )]
    KeyOffline {
        /// The role.
        role: &'static str,
        /// Where the key would be.
        path: PathBuf,
    },
    /// The key is not among those that the root names for the role.
    #[error(
        "the {role} key here is not one that the root names; restore the right key, or let the operators rotate the root to this one"
    )]
    KeyNotInRoot {
        /// The role.
        role: &'static str,
    },
    /// There is no repository in the folder yet.
    #[error("{folder} holds no repository; run `cairn-hub init` first")]
    NotInitialised {
        /// The folder.
        folder: PathBuf,
    },
    /// No such file in the repository.
    #[error("the repository has no file {name:?}")]
    NoSuchFile {
        /// The name that was asked for.
        name: String,
    },
    /// A file of the repository cannot be understood.
    #[error("{path} is damaged ({what}); restore the data folder from a backup")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// Metadata signed elsewhere does not hold.
    #[error("the signed metadata is refused")]
    Refused(#[source] ClientError),
    /// Metadata signed elsewhere does not fit what is published.
    #[error(
        "the signed targets are version {found}, but {expected} comes next; take the unsigned ones from the hub again"
    )]
    WrongVersion {
        /// Its version.
        found: u64,
        /// The one that fits.
        expected: u64,
    },
    /// Nodes would refuse targets of this size.
    #[error(
        "the targets would be larger than {limit} bytes, near the most that nodes read; push no more to this hub, \
         start another for new artifacts"
    )]
    Full {
        /// The most that is published.
        limit: u64,
    },
    /// The input is no metadata file.
    #[error("not a TUF metadata file: {0}")]
    NotMetadata(String),
    /// Reading or writing failed.
    #[error("failed to {action} {path}; check the disk and its free space")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which path.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The schema library refused; a bug, or a date out of range.
    #[error("failed to build metadata: {0}")]
    Build(String),
}

/// How long each role's signature holds.
#[derive(Debug, Clone, Copy)]
pub struct Lifetimes {
    /// Of roots.
    pub root: SignedDuration,
    /// Of targets.
    pub targets: SignedDuration,
    /// Of snapshots.
    pub snapshot: SignedDuration,
    /// Of timestamps: how long a node believes that nothing newer is being withheld from it.
    pub timestamp: SignedDuration,
}

impl Default for Lifetimes {
    /// Ten years, a year, a quarter, a week. What the hub signs by itself is signed anew after half of that.
    fn default() -> Self {
        let days = |days: i64| SignedDuration::from_hours(24 * days);
        Self { root: days(3650), targets: days(365), snapshot: days(90), timestamp: days(7) }
    }
}

/// One manifest as a target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TargetEntry {
    /// Its digest.
    pub digest: Digest,
    /// Its length in bytes.
    pub length: u64,
    /// Its media type.
    pub media_type: Option<String>,
    /// The name that it was pushed under.
    pub name: Option<String>,
}

impl TargetEntry {
    /// The manifest with this digest and length.
    pub fn new(digest: Digest, length: u64) -> Self {
        Self { digest, length, media_type: None, name: None }
    }

    /// With its media type.
    pub fn media_type(mut self, media_type: impl Into<String>) -> Self {
        self.media_type = Some(media_type.into());
        self
    }

    /// With the name that it was pushed under (`repo:tag`), for people.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    fn to_target(&self, with_facts: bool) -> Result<(TargetName, Target), SignError> {
        let mut custom = HashMap::new();
        if with_facts {
            let mut fact = |key: &str, text: &Option<String>| {
                if let Some(text) = text {
                    // Control characters have no canonical form that all tools share; no name needs them.
                    let text: String = text.chars().filter(|c| !c.is_control()).take(512).collect();
                    custom.insert(key.to_owned(), Value::String(text));
                }
            };
            fact("mediaType", &self.media_type);
            fact("name", &self.name);
        }
        let sha256 = decoded(self.digest.hex())?;
        Ok((target_name(&self.digest.target_name())?, target(self.length, sha256, custom)))
    }

    fn of_target(name: &TargetName, target: &Target) -> Option<Self> {
        let text = |key: &str| target.custom.get(key).and_then(Value::as_str).map(str::to_owned);
        Some(Self {
            digest: Digest::from_target_name(name.raw())?,
            length: target.length,
            media_type: text("mediaType"),
            name: text("name"),
        })
    }
}

/// Adds the signatures of `keys` over a metadata file that is unsigned or signed by others: what an operator does with
/// a key that never leaves his machine.
pub fn sign_file(file: &[u8], keys: &[&KeyPair]) -> Result<Vec<u8>, SignError> {
    let not = |what: &str| SignError::NotMetadata(what.to_owned());
    let mut file: Value =
        serde_json::from_slice(file).map_err(|error| SignError::NotMetadata(error.to_string()))?;
    let signed = file.get("signed").filter(|s| s.get("_type").is_some_and(Value::is_string));
    let signed = signed.ok_or_else(|| not("it has no signed part"))?;
    let canonical = sigstore_tuf::canonical_json::to_canonical_bytes(signed)
        .map_err(|error| SignError::NotMetadata(error.to_string()))?;
    let signatures = file.get_mut("signatures").and_then(Value::as_array_mut);
    let signatures = signatures.ok_or_else(|| not("it has no list of signatures"))?;
    for key in keys {
        let id = key.public().tuf_key_id();
        signatures.retain(|signature| signature["keyid"] != id.as_str());
        let signature = hex::encode(key.sign(&canonical));
        signatures.push(serde_json::json!({ "keyid": id, "sig": signature }));
    }
    serde_json::to_vec(&file).map_err(|error| SignError::Build(error.to_string()))
}

/// A role, signed by `keys`, as the bytes of its file.
fn seal<T: Role + Serialize>(role: T, keys: &[&KeyPair]) -> Result<Vec<u8>, SignError> {
    let canonical = role.canonical_form().map_err(|error| SignError::Build(error.to_string()))?;
    let mut signatures = Vec::with_capacity(keys.len());
    for key in keys {
        signatures.push(Signature {
            keyid: decoded(&key.public().tuf_key_id())?,
            sig: key.sign(&canonical).into(),
        });
    }
    // By way of a value, whose members are sorted: the same role gives the same bytes.
    let file = serde_json::to_value(Signed { signed: role, signatures });
    file.and_then(|file| serde_json::to_vec(&file)).map_err(|error| SignError::Build(error.to_string()))
}

fn make_snapshot(
    version: NonZeroU64,
    targets: (NonZeroU64, &[u8]),
    lifetimes: Lifetimes,
    now: Timestamp,
) -> Result<Snapshot, SignError> {
    let mut snapshot = Snapshot::new(SPEC_VERSION.into(), version, expiry(now, lifetimes.snapshot)?);
    snapshot.meta.insert("targets.json".into(), pin(targets.0, targets.1)?);
    Ok(snapshot)
}

fn make_timestamp(
    version: NonZeroU64,
    snapshot: Metafile,
    root_version: u64,
    lifetimes: Lifetimes,
    now: Timestamp,
) -> Result<TimestampRole, SignError> {
    let mut timestamp = TimestampRole::new(SPEC_VERSION.into(), version, expiry(now, lifetimes.timestamp)?);
    timestamp.meta.insert("snapshot.json".into(), snapshot);
    timestamp._extra.insert(SIGNED_AT.into(), whole_seconds(now)?.to_string().into());
    timestamp._extra.insert(SIGNED_UNDER.into(), root_version.into());
    Ok(timestamp)
}

/// Version, length and hash of a file, as its parent names it.
fn pin(version: NonZeroU64, file: &[u8]) -> Result<Metafile, SignError> {
    let sha256 = decoded(Digest::of(file).hex())?;
    let hashes = Hashes { sha256, _extra: HashMap::new() };
    Ok(Metafile { length: Some(file.len() as u64), hashes: Some(hashes), version, _extra: HashMap::new() })
}

fn target(length: u64, sha256: Decoded<Hex>, custom: HashMap<String, Value>) -> Target {
    let hashes = Hashes { sha256, _extra: HashMap::new() };
    Target { length, hashes, custom, _extra: HashMap::new() }
}

fn target_name(name: &str) -> Result<TargetName, SignError> {
    TargetName::new(name).map_err(|error| SignError::Build(error.to_string()))
}

fn decoded(hex: &str) -> Result<Decoded<Hex>, SignError> {
    Ok(hex::decode(hex).map_err(|error| SignError::Build(error.to_string()))?.into())
}

fn version(number: u64) -> Result<NonZeroU64, SignError> {
    NonZeroU64::new(number).ok_or_else(|| SignError::Build("version 0".into()))
}

fn whole_seconds(time: Timestamp) -> Result<Timestamp, SignError> {
    Timestamp::from_second(time.as_second()).map_err(|error| SignError::Build(error.to_string()))
}

fn expiry(now: Timestamp, lifetime: SignedDuration) -> Result<Timestamp, SignError> {
    let expires = now.checked_add(lifetime).map_err(|error| SignError::Build(error.to_string()))?;
    whole_seconds(expires)
}

/// Whether what expires at `expires` after a life of `lifetime` is past half of it.
fn past_half(expires: Timestamp, lifetime: SignedDuration, now: Timestamp) -> bool {
    expires.duration_since(now) < lifetime / 2
}
