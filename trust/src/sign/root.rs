//! Roots: the first one of a repository, and those that follow when keys change.

use std::{collections::HashMap, num::NonZeroU64};

use jiff::Timestamp;
use sigstore_tuf::TrustedMetadataSet;
use tough::schema::{
    RoleKeys, RoleType, Root, Signed,
    decoded::{Decoded, Hex},
    key::{Ed25519Key, Ed25519Scheme, Key},
};

use super::{SPEC_VERSION, SignError, decoded, seal, sign_file, version, whole_seconds};
use crate::{
    client::{ClientError, REPOSITORY},
    keys::{KeyPair, PublicKey},
};

/// A top-level role.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RoleName {
    /// Says which keys the roles have.
    Root,
    /// Says which targets there are.
    Targets,
    /// Binds the files together.
    Snapshot,
    /// Says which snapshot is the newest.
    Timestamp,
}

impl RoleName {
    fn schema(self) -> RoleType {
        match self {
            Self::Root => RoleType::Root,
            Self::Targets => RoleType::Targets,
            Self::Snapshot => RoleType::Snapshot,
            Self::Timestamp => RoleType::Timestamp,
        }
    }
}

/// What is to be different in the next root.
#[derive(Debug, Clone, Default)]
pub struct RootChange {
    /// Keys to add to roles.
    pub add: Vec<(RoleName, PublicKey)>,
    /// Ids of keys to remove from roles.
    pub remove: Vec<(RoleName, String)>,
    /// Thresholds to set.
    pub thresholds: Vec<(RoleName, u64)>,
}

/// The keys of a new repository's four roles.
pub(super) struct FirstKeys<'a> {
    pub(super) root: &'a KeyPair,
    pub(super) targets: PublicKey,
    pub(super) snapshot: PublicKey,
    pub(super) timestamp: PublicKey,
}

/// The first root of the repository called `name`, one key and threshold 1 for each role.
pub(super) fn first_root(name: &str, keys: &FirstKeys<'_>, expires: Timestamp) -> Result<Vec<u8>, SignError> {
    let mut root = Root {
        spec_version: SPEC_VERSION.into(),
        consistent_snapshot: true,
        version: NonZeroU64::MIN,
        expires: whole_seconds(expires)?,
        keys: HashMap::new(),
        roles: HashMap::new(),
        _extra: HashMap::from([(REPOSITORY.to_owned(), name.into())]),
    };
    add_key(&mut root, RoleName::Root, keys.root.public())?;
    add_key(&mut root, RoleName::Targets, keys.targets)?;
    add_key(&mut root, RoleName::Snapshot, keys.snapshot)?;
    add_key(&mut root, RoleName::Timestamp, keys.timestamp)?;
    let file = seal(root, &[keys.root])?;
    check_root(None, &file)?;
    Ok(file)
}

/// The root that follows `old`, changed and not signed yet: for ceremonies in which several operators sign in turn with
/// [`sign_file`].
pub fn next_root(old: &[u8], change: &RootChange, expires: Timestamp) -> Result<Vec<u8>, SignError> {
    let mut root = parse_root(old)?;
    root.version = version(root.version.get().saturating_add(1))?;
    root.expires = whole_seconds(expires)?;
    for (role, key) in &change.add {
        add_key(&mut root, *role, *key)?;
    }
    for (role, id) in &change.remove {
        let id = decoded(id)?;
        if let Some(keys) = root.roles.get_mut(&role.schema()) {
            keys.keyids.retain(|known| *known != id);
        }
    }
    for (role, threshold) in &change.thresholds {
        if let Some(keys) = root.roles.get_mut(&role.schema()) {
            keys.threshold = version(*threshold)?;
        }
    }
    for (role, keys) in &root.roles {
        if keys.threshold.get() > keys.keyids.len() as u64 {
            return Err(SignError::Build(format!("{role} would have fewer keys than its threshold")));
        }
    }
    let used: Vec<Decoded<Hex>> = root.roles.values().flat_map(|keys| keys.keyids.clone()).collect();
    root.keys.retain(|id, _| used.contains(id));
    seal(root, &[])
}

/// The root that follows `old`, signed by `signers`, of which enough must be root keys of the old root and enough of
/// the new one.
pub fn rotate_root(
    old: &[u8],
    change: &RootChange,
    signers: &[&KeyPair],
    expires: Timestamp,
) -> Result<Vec<u8>, SignError> {
    let new = sign_file(&next_root(old, change, expires)?, signers)?;
    check_root(Some(old), &new)?;
    Ok(new)
}

/// That a client would follow from `old` to `new`, or would pin `new` where there is no old one.
pub(super) fn check_root(old: Option<&[u8]>, new: &[u8]) -> Result<(), SignError> {
    let refused = |error| SignError::Refused(ClientError::refused("root")(error));
    let Some(old) = old else {
        return TrustedMetadataSet::from_root(new).map(drop).map_err(refused);
    };
    if parse_root(old)?._extra.get(REPOSITORY) != parse_root(new)?._extra.get(REPOSITORY) {
        return Err(SignError::Refused(ClientError::WrongRepository));
    }
    let mut set = TrustedMetadataSet::from_root(old).map_err(refused)?;
    set.update_root(new).map_err(refused)
}

pub(super) fn parse_root(file: &[u8]) -> Result<Root, SignError> {
    let file: Signed<Root> =
        serde_json::from_slice(file).map_err(|error| SignError::NotMetadata(error.to_string()))?;
    Ok(file.signed)
}

/// That `key` may sign for `role` by `root`.
pub(super) fn require_key(
    root: &Root,
    role: RoleName,
    what: &'static str,
    key: &KeyPair,
) -> Result<(), SignError> {
    let id = decoded(&key.public().tuf_key_id())?;
    let named = root.roles.get(&role.schema()).is_some_and(|keys| keys.keyids.contains(&id));
    if named { Ok(()) } else { Err(SignError::KeyNotInRoot { role: what }) }
}

fn add_key(root: &mut Root, role: RoleName, key: PublicKey) -> Result<(), SignError> {
    let id = decoded(&key.tuf_key_id())?;
    let keyval = Ed25519Key { public: key.as_bytes().to_vec().into(), _extra: HashMap::new() };
    let key = Key::Ed25519 { keyval, scheme: Ed25519Scheme::Ed25519, _extra: HashMap::new() };
    root.keys.insert(id.clone(), key);
    let empty = || RoleKeys { keyids: Vec::new(), threshold: NonZeroU64::MIN, _extra: HashMap::new() };
    let keys = root.roles.entry(role.schema()).or_insert_with(empty);
    if !keys.keyids.contains(&id) {
        keys.keyids.push(id);
    }
    Ok(())
}
