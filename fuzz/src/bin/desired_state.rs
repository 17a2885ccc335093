//! The desired state of a node: what is read names no replica and no command twice, and is the same when it is written
//! and read.
#![no_main]

use std::collections::BTreeSet;

use cairn_fuzz::document;
use cairn_model::DesiredState;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some(state) = document(data, DesiredState::parse) else { return };
    let commands: BTreeSet<&str> = state.commands.iter().map(|command| command.id.as_str()).collect();
    assert_eq!(commands.len(), state.commands.len());
    for replicas in state.apps.values().flat_map(|app| app.services.values()) {
        assert_eq!(replicas.iter().collect::<BTreeSet<_>>().len(), replicas.len());
    }
    assert!(state.policy.poll_seconds > 0 && state.policy.report_seconds > 0);
});
