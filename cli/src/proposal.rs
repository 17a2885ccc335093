//! What a hub asks an operator to sign, held against what is genuine already. Pure: it decides what the signature would
//! change, and refuses what an operator can't have meant to sign. A hub may be stolen; this is where it meets a person.

use std::collections::BTreeMap;

use cairn_model::Digest;
use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;
use serde_json::Value;

use crate::reference::Reference;

/// Longest that a signature may hold: a longer one could only be taken back by a new key.
const MAX_LIFETIME: SignedDuration = SignedDuration::from_hours(24 * 366 * 2);

/// The targets metadata, as far as it must be understood to be judged.
#[derive(Debug, Deserialize)]
struct Targets {
    _type: String,
    version: u64,
    expires: Timestamp,
    targets: BTreeMap<String, Target>,
    #[serde(default)]
    delegations: Option<Value>,
    /// Members that no version of ours writes.
    #[serde(flatten)]
    extra: BTreeMap<String, Value>,
}

#[derive(Debug, Deserialize)]
struct Target {
    length: u64,
    hashes: BTreeMap<String, String>,
    #[serde(default)]
    custom: Option<Value>,
}

/// What a signature would change.
#[derive(Debug)]
pub(crate) struct Proposal {
    pub(crate) version: u64,
    pub(crate) expires: Timestamp,
    /// Would be genuine, and is not yet.
    pub(crate) added: Vec<Addition>,
}

/// One manifest that would become genuine.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Addition {
    pub(crate) digest: Digest,
    pub(crate) length: u64,
    /// What the hub calls it: not part of what nodes check.
    pub(crate) name: String,
}

impl Addition {
    /// The repository of that name, where it has one.
    pub(crate) fn repository(&self) -> Option<String> {
        let reference = self.name.parse::<Reference>().ok()?;
        Some(reference.repository)
    }
}

/// Why nobody should sign it.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("what the hub wants signed is no targets metadata: {0}")]
    Malformed(String),
    #[error("the hub wants version {found} signed, but {expected} comes next")]
    Version { found: u64, expected: u64 },
    #[error("the hub wants a signature that ends at {0}: in the past, or more than two years from now")]
    Lifetime(Timestamp),
    #[error("the hub wants the delegations changed: who may sign is not for a hub to propose")]
    Delegations,
    #[error("the hub wants {0} to be genuine no more")]
    Removed(String),
    #[error("the hub wants {0} to mean other bytes than before")]
    Changed(String),
    #[error("{0} is not the digest of what it stands for")]
    Misnamed(String),
}

/// Holds `unsigned` against `current`, both the `signed` part of targets metadata; the first is the hub's word, the
/// second is verified.
pub(crate) fn compare(current: &Value, unsigned: &Value, now: Timestamp) -> Result<Proposal, Refusal> {
    let malformed = |error: serde_json::Error| Refusal::Malformed(error.to_string());
    let current = Targets::deserialize(current).map_err(malformed)?;
    let proposed = Targets::deserialize(unsigned).map_err(malformed)?;
    if proposed._type != "targets" {
        return Err(Refusal::Malformed(format!("its type is {:?}", proposed._type)));
    }
    let known = |key: &String| key == "spec_version" || current.extra.contains_key(key);
    if let Some(key) = proposed.extra.keys().find(|key| !known(key)) {
        return Err(Refusal::Malformed(format!("it has an unknown member {key:?}")));
    }
    let expected = current.version.saturating_add(1);
    if proposed.version != expected {
        return Err(Refusal::Version { found: proposed.version, expected });
    }
    if proposed.expires <= now || proposed.expires.duration_since(now) > MAX_LIFETIME {
        return Err(Refusal::Lifetime(proposed.expires));
    }
    if proposed.delegations != current.delegations {
        return Err(Refusal::Delegations);
    }
    for (name, before) in &current.targets {
        let after = proposed.targets.get(name).ok_or_else(|| Refusal::Removed(name.clone()))?;
        if after.length != before.length || after.hashes != before.hashes {
            return Err(Refusal::Changed(name.clone()));
        }
    }
    let mut added = Vec::new();
    for (name, target) in &proposed.targets {
        if !current.targets.contains_key(name) {
            added.push(addition(name, target)?);
        }
    }
    Ok(Proposal { version: proposed.version, expires: proposed.expires, added })
}

fn addition(name: &str, target: &Target) -> Result<Addition, Refusal> {
    let digest = Digest::from_target_name(name).ok_or_else(|| Refusal::Misnamed(name.to_owned()))?;
    if target.hashes.get("sha256").map(String::as_str) != Some(digest.hex()) {
        return Err(Refusal::Misnamed(name.to_owned()));
    }
    let custom = |key: &str| {
        let value = target.custom.as_ref().and_then(|custom| custom.get(key)).and_then(Value::as_str);
        value.unwrap_or_default().to_owned()
    };
    Ok(Addition { digest, length: target.length, name: custom("name") })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn targets(version: u64, digests: &[&Digest]) -> Value {
        let targets: BTreeMap<String, Value> = digests
            .iter()
            .map(|digest| {
                let target =
                    json!({"length": 7, "hashes": {"sha256": digest.hex()}, "custom": {"name": "a:1"}});
                (digest.target_name(), target)
            })
            .collect();
        json!({"_type": "targets", "spec_version": "1.0.31", "version": version,
            "expires": "2027-01-01T00:00:00Z", "targets": targets})
    }

    fn check(change: impl FnOnce(&mut Value)) -> Result<Proposal, Refusal> {
        let (old, new) = (Digest::of(b"old"), Digest::of(b"new"));
        let mut proposed = targets(4, &[&old, &new]);
        change(&mut proposed);
        compare(&targets(3, &[&old]), &proposed, "2026-06-01T00:00:00Z".parse().unwrap())
    }

    #[test]
    fn shows_what_would_become_genuine() {
        let proposal = check(|_| ()).unwrap();
        let digests: Vec<_> = proposal.added.iter().map(|added| &added.digest).collect();
        assert_eq!(digests, [&Digest::of(b"new")]);
        assert_eq!((proposal.version, proposal.added[0].name.as_str()), (4, "a:1"));
    }

    #[test]
    fn rejects_what_no_operator_means_to_sign() {
        let (old, new) = (Digest::of(b"old").target_name(), Digest::of(b"new").target_name());
        let refusal = |change: &dyn Fn(&mut Value)| check(change).unwrap_err();
        assert_eq!(
            refusal(&|p| drop(p["targets"].as_object_mut().unwrap().remove(&old))),
            Refusal::Removed(old.clone())
        );
        assert_eq!(refusal(&|p| p["targets"][&old]["length"] = json!(8)), Refusal::Changed(old.clone()));
        assert_eq!(
            refusal(&|p| p["targets"][&new]["hashes"]["sha256"] = json!("00")),
            Refusal::Misnamed(new.clone())
        );
        assert_eq!(
            refusal(&|p| p["targets"]["evil"] = json!({"length": 1, "hashes": {}})),
            Refusal::Misnamed("evil".into())
        );
        assert_eq!(refusal(&|p| p["version"] = json!(5)), Refusal::Version { found: 5, expected: 4 });
        assert_eq!(refusal(&|p| p["version"] = json!(3)), Refusal::Version { found: 3, expected: 4 });
        assert_eq!(refusal(&|p| p["delegations"] = json!({"keys": {}, "roles": []})), Refusal::Delegations);
        for wrong in ["2026-01-01T00:00:00Z", "2036-01-01T00:00:00Z"] {
            assert!(matches!(refusal(&|p| p["expires"] = json!(wrong)), Refusal::Lifetime(_)), "{wrong}");
        }
        for (member, value) in [("_type", "root"), ("x-new", "y"), ("targets", "none")] {
            assert!(matches!(refusal(&|p| p[member] = json!(value)), Refusal::Malformed(_)), "{member}");
        }
    }
}
