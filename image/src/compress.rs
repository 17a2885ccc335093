//! The disk image as one zstd stream: holes cost nothing on the way, and `cairn-image flash` reads it as it is.

use std::fs::File;
use std::io::{BufWriter, Read, Write};
use std::path::Path;

use anyhow::{Context, Result};

/// Above it, each step costs twice the time for half a per cent: most of an image is compressed already.
const LEVEL: i32 = 9;

/// Bytes that are read at once.
const PIECE: usize = 1 << 20;

/// Writes `source` compressed to `output`. The frame carries size and checksum, so that a reader can tell how much will
/// come and whether it came unharmed.
pub fn compress(source: &Path, output: &Path) -> Result<()> {
    let failed = || format!("failed to write {}", output.display());
    let unread = || format!("failed to read {}", source.display());
    let mut from = File::open(source).with_context(unread)?;
    let size = from.metadata().with_context(unread)?.len();
    let to = BufWriter::new(File::create(output).with_context(failed)?);
    let mut encoder = zstd::Encoder::new(to, LEVEL).with_context(failed)?;
    encoder.include_checksum(true).with_context(failed)?;
    encoder.set_pledged_src_size(Some(size)).with_context(failed)?;
    let mut piece = vec![0; PIECE];
    loop {
        let count = from.read(&mut piece).with_context(unread)?;
        if count == 0 {
            break;
        }
        encoder.write_all(&piece[..count]).with_context(failed)?;
    }
    let file = encoder.finish().and_then(|buffer| buffer.into_inner().map_err(|error| error.into_error()));
    file.and_then(|file| file.sync_all()).with_context(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_compressed_comes_back_and_holes_cost_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let (raw, packed) = (folder.path().join("raw"), folder.path().join("raw.zst"));
        let mut content = vec![0u8; 9 << 20];
        content[5 << 20] = 7;
        std::fs::write(&raw, &content).unwrap();
        compress(&raw, &packed).unwrap();
        let bytes = std::fs::read(&packed).unwrap();
        assert!(bytes.len() < 4096, "{}", bytes.len());
        assert!(zstd::decode_all(bytes.as_slice()).unwrap() == content);
        let size = zstd::zstd_safe::get_frame_content_size(&bytes).unwrap();
        assert_eq!(size, Some(content.len() as u64));
    }

    #[test]
    fn a_source_that_is_not_there_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let error = compress(&folder.path().join("none"), &folder.path().join("x")).unwrap_err();
        assert!(format!("{error:#}").contains("none"), "{error:#}");
    }
}
