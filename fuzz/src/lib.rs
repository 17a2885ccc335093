//! What the fuzz targets share: a bound on memory, documents that write what they read, and files that are in memory
//! only. Each target is one program in `src/bin/`; it must never do more than read bytes and check what came of them.

use std::{error::Error, fmt::Debug, fs::File, io, os::unix::fs::FileExt};

use cairn_model::{DocumentError, error::chain};
use nix::sys::memfd::{MFdFlags, memfd_create};
use peak_alloc::PeakAlloc;
use serde::Serialize;

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

/// Longest text of an error with all its causes, in bytes. It goes to a log, and who sends the bytes must not fill that.
const MAX_TEXT: usize = 2048;

/// What `work` gives, if it never holds more than `limit` bytes at once beyond what is held now.
pub fn within<T>(limit: usize, work: impl FnOnce() -> T) -> T {
    MEMORY.reset_peak_usage();
    let before = MEMORY.current_usage();
    let result = work();
    let held = MEMORY.peak_usage().saturating_sub(before);
    assert!(held <= limit, "{held} bytes of memory, more than {limit}");
    result
}

/// A document takes memory in proportion to its bytes, is refused in few words, and is the same when it is written and
/// read again.
pub fn document<T: Debug + PartialEq + Serialize>(
    bytes: &[u8],
    parse: impl Fn(&[u8]) -> Result<T, DocumentError>,
) -> Option<T> {
    // The smallest element of a list is two bytes and may become a struct of some hundred; a list that grows is held
    // twice.
    match within(200 * bytes.len() + (64 << 10), || parse(bytes)) {
        Ok(document) => {
            let written = serde_json::to_vec(&document).expect("a document can be written");
            let again = parse(&written).expect("what was written can be read");
            assert_eq!(document, again);
            assert_eq!(written, serde_json::to_vec(&again).expect("a document can be written"));
            Some(document)
        }
        Err(error) => {
            refusal(&error);
            None
        }
    }
}

/// A refusal says something, and not too much.
pub fn refusal(error: &dyn Error) {
    let text = chain(error);
    assert!(!text.is_empty() && text.len() <= MAX_TEXT, "an error of {} bytes", text.len());
}

/// A file with these bytes that lies in memory.
///
/// # Errors
/// If the kernel gives none.
pub fn file(bytes: &[u8]) -> io::Result<File> {
    let file = File::from(memfd_create(c"fuzz", MFdFlags::empty())?);
    file.write_all_at(bytes, 0)?;
    Ok(file)
}
