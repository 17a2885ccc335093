//! Placement constraints in Swarm's syntax: `node.labels.zone==berlin`.

use std::{collections::BTreeMap, fmt, str::FromStr};

use crate::{facts::Facts, id::NodeId};

/// One entry of `deploy.placement.constraints`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Constraint {
    /// What of the node is looked at.
    pub key: ConstraintKey,
    /// `==` if true, `!=` if not.
    pub equal: bool,
    /// The value that it is compared with, exactly.
    pub value: String,
}

/// What of a node a [`Constraint`] looks at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ConstraintKey {
    /// `node.id`.
    Id,
    /// `node.hostname`.
    Hostname,
    /// `node.platform.arch` or `node.arch`, in OCI's names (`amd64`); `x86_64` and `aarch64` are understood.
    Arch,
    /// `node.labels.<name>`.
    Label(String),
}

/// Why a text is no constraint.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConstraintError {
    /// Neither `==` nor `!=`.
    #[error("has neither == nor !=")]
    Operator,
    /// A key that is not known.
    #[error("looks at {0:?}, which a node does not have")]
    Key(String),
    /// Nothing after the operator, or what no label can hold.
    #[error("compares with {0:?}, which no node can have")]
    Value(String),
}

impl Constraint {
    /// Whether the node with these `labels` and `facts` fits. A label that is not there differs from every value.
    pub fn matches(&self, node: &NodeId, labels: &BTreeMap<String, String>, facts: &Facts) -> bool {
        let actual = match &self.key {
            ConstraintKey::Id => Some(node.as_str()),
            ConstraintKey::Hostname => Some(facts.hostname.as_str()),
            ConstraintKey::Arch => Some(facts.arch.as_str()),
            ConstraintKey::Label(name) => labels.get(name).map(String::as_str),
        };
        (actual == Some(self.value.as_str())) == self.equal
    }
}

impl FromStr for Constraint {
    type Err = ConstraintError;

    fn from_str(text: &str) -> Result<Self, ConstraintError> {
        let (key, equal, value) = match (text.split_once("!="), text.split_once("==")) {
            // The operator that comes first counts: `a==b!=c` compares with `b!=c`.
            (Some((left, right)), Some((key, _))) if left.len() < key.len() => (left, false, right),
            (_, Some((key, value))) => (key, true, value),
            (Some((key, value)), None) => (key, false, value),
            (None, None) => return Err(ConstraintError::Operator),
        };
        let (key, value) = (key.trim(), value.trim());
        let plain = |text: &str| !text.is_empty() && text.len() <= 253 && !text.contains(char::is_control);
        let key = match key {
            "node.id" => ConstraintKey::Id,
            "node.hostname" => ConstraintKey::Hostname,
            "node.platform.arch" | "node.arch" => ConstraintKey::Arch,
            _ => match key.strip_prefix("node.labels.") {
                Some(label) if plain(label) && !label.contains(char::is_whitespace) => {
                    ConstraintKey::Label(label.to_owned())
                }
                _ => return Err(ConstraintError::Key(key.chars().take(80).collect())),
            },
        };
        if !plain(value) {
            return Err(ConstraintError::Value(value.chars().take(80).collect()));
        }
        let value = match (&key, value) {
            (ConstraintKey::Arch, "x86_64") => "amd64",
            (ConstraintKey::Arch, "aarch64") => "arm64",
            _ => value,
        };
        Ok(Self { key, equal, value: value.to_owned() })
    }
}

impl fmt::Display for Constraint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.key {
            ConstraintKey::Id => f.write_str("node.id")?,
            ConstraintKey::Hostname => f.write_str("node.hostname")?,
            ConstraintKey::Arch => f.write_str("node.platform.arch")?,
            ConstraintKey::Label(name) => write!(f, "node.labels.{name}")?,
        }
        write!(f, "{}{}", if self.equal { "==" } else { "!=" }, self.value)
    }
}
