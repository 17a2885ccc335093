//! What an operator is asked to make genuine: what it is by its own bytes, whatever it is called.

use std::fmt::Write as _;

use cairn_model::{Digest, Release};
use jiff::Timestamp;
use serde::Serialize;

use super::{Column, Row, os, table::lay_out, text};

/// One manifest that would become genuine, unveiled.
#[derive(Debug, Serialize)]
pub(crate) struct Unveiled {
    pub(crate) digest: Digest,
    /// What the hub calls it.
    pub(crate) name: String,
    /// What it is.
    pub(crate) kind: String,
    /// Bytes of the manifest.
    pub(crate) length: u64,
    pub(crate) release: Option<Release>,
}

impl Row for Unveiled {
    const COLUMNS: &'static [Column] = &[
        Column::always("DIGEST"),
        Column::always("KIND"),
        Column::always("MANIFEST"),
        Column::always("NAME AT THE HUB"),
    ];

    fn cells(&self, _now: Timestamp) -> Vec<String> {
        vec![self.digest.to_string(), self.kind.clone(), text::size(self.length), self.name.clone()]
    }

    fn name(&self) -> String {
        self.digest.to_string()
    }
}

/// A release in full: with it an operator vouches for a whole OS, and for a command that runs as root on every node.
pub(crate) fn release_block(digest: &Digest, release: &Release) -> String {
    let mut lines = os::identity(release);
    lines.push(vec!["Root hash:".into(), release.verity.root_hash.clone()]);
    lines.push(vec!["Kernel:".into(), release.uki.digest.to_string()]);
    let mut out = format!("\nOS release {digest}\n");
    for line in lay_out(&lines).lines() {
        let _ = writeln!(out, "  {line}");
    }
    os::changelog(&mut out, release);
    out
}
