//! What several modules' tests take for granted: a node and its OS, of which nothing is to be said.

use cairn_model::{
    local::{LinkState, LocalStatus},
    report::{OsState, OsStatus, Slot},
};

/// Version 0.1.0 in slot a, and nothing in the other.
pub(crate) fn os_status(state: OsState) -> OsStatus {
    OsStatus {
        version: "0.1.0".parse().unwrap(),
        compatible: "cairn-generic-amd64".to_owned(),
        slot: Slot::A,
        other: None,
        state,
        release: None,
        target: None,
        progress: None,
        detail: None,
    }
}

/// A node that knows no hub and does not update its OS.
pub(crate) fn local_status() -> LocalStatus {
    LocalStatus {
        schema: 1,
        version: "0.1.0".to_owned(),
        node: "n-0123456789abcdef".parse().unwrap(),
        fingerprint: "aaaa bbbb".to_owned(),
        hub: None,
        link: LinkState::Unconfigured,
        last_contact: None,
        generation: 7,
        workloads: Vec::new(),
        problems: Vec::new(),
        os: None,
        media: None,
        unsent_reports: 0,
    }
}
