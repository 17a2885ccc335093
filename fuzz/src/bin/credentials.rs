//! What a hypervisor or firmware passes to the initrd in SMBIOS strings: only names of ours get in, each once, in bounded
//! number, and files for the network have names that stay in their folder.
#![no_main]

use std::collections::BTreeSet;

use cairn_fuzz::within;
use libfuzzer_sys::fuzz_target;

#[path = "../../../image/init/src/credentials.rs"]
mod credentials;
#[expect(dead_code, reason = "the initrd uses more of it")]
#[path = "../../../image/init/src/provision.rs"]
mod provision;

fuzz_target!(|data: &[u8]| {
    // An empty string of a table is one byte, and 16 in the list of them.
    let found = within(64 * data.len() + 8192, || credentials::from_smbios(data));
    assert!(found.len() <= provision::MAX_COUNT);
    let names: BTreeSet<&str> = found.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names.len(), found.len(), "a name twice");
    assert!(names.iter().all(|name| provision::is_ours(name) && !name.contains(['/', '\0'])));
    assert!(found.iter().map(|(_, value)| value.len()).sum::<usize>() <= data.len());
    for sealed in [true, false] {
        let told = provision::combine(found.clone(), found.clone(), sealed);
        assert!(
            told.credentials.iter().all(|(name, _)| name == "system.hostname" || provision::is_ours(name))
        );
        assert!(told.networks.iter().all(|(name, _)| {
            !name.starts_with('.') && !name.contains('/') && name.matches('.').count() == 1
        }));
    }
});
