//! The grant on a stick, which makes whoever wrote it the master of a blank node: what is read is the same when it is
//! written and read, both roots byte for byte.
#![no_main]

use cairn_fuzz::{refusal, within};
use cairn_model::enroll::{EnrollGrant, MAX_GRANT_BYTES};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let grant = match within(8 * data.len() + (64 << 10), || EnrollGrant::parse(data)) {
        Ok(grant) => grant,
        Err(error) => return refusal(&error),
    };
    assert!(data.len() <= MAX_GRANT_BYTES);
    let written = serde_json::to_vec(&grant).expect("a grant can be written");
    let again = EnrollGrant::parse(&written).expect("what was written can be read");
    assert_eq!(grant.node, again.node);
    assert_eq!(grant.state, again.state);
    let bytes = |grant: &EnrollGrant| {
        [&grant.director_root, &grant.artifacts_root]
            .map(|root| root.as_ref().map(|root| root.get().to_owned()))
    };
    assert_eq!(bytes(&grant), bytes(&again));
});
