//! A unified kernel image from the ESP, which daemon and initrd read with a reader each: where both find a root hash in
//! it, it is the same one.
#![no_main]

use std::io::Cursor;

use cairn_fuzz::{file, within};
use cairn_ota::boot::uki;
use libfuzzer_sys::fuzz_target;

#[expect(dead_code, reason = "the initrd uses more of it")]
#[path = "../../../image/init/src/command_line.rs"]
mod command_line;
#[path = "../../../image/init/src/pe.rs"]
mod pe;
#[expect(dead_code, reason = "the initrd uses more of it")]
#[path = "../../../image/init/src/verity.rs"]
mod verity;

/// As in the initrd.
type Outcome<T> = Result<T, String>;

/// Largest section that either reads, and texts made of it.
const MEMORY: usize = 512 << 10;

fuzz_target!(|data: &[u8]| {
    let image = file(data).expect("a file in memory");
    let daemon = within(MEMORY, || uki::root_hash(&image)).expect("a file can be read");
    let initrd = within(MEMORY, || {
        let section = pe::section(&mut Cursor::new(data), ".cmdline")?;
        let text = std::str::from_utf8(&section).ok()?;
        command_line::root_hash(text.trim_end_matches('\0')).ok()
    });
    if let (Some(daemon), Some(initrd)) = (daemon, initrd) {
        assert_eq!(daemon, initrd.to_string());
    }
});
