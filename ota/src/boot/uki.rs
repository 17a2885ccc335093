//! What a unified kernel image says about itself: its `.cmdline` section, which names the root that it boots.

use std::{fs::File, io, os::unix::fs::FileExt};

/// Longest command line that is read.
const MAX_COMMAND_LINE: usize = 16 << 10;

/// Most sections that are looked at.
const MAX_SECTIONS: usize = 96;

/// Size of a section header.
const SECTION: usize = 40;

/// The kernel command line in the image; `None` if the file is no such image or has none.
///
/// # Errors
/// If the file cannot be read.
pub fn command_line(image: &File) -> io::Result<Option<String>> {
    let Some(section) = find_section(image, b".cmdline")? else { return Ok(None) };
    let Some(content) = read(image, section.0, section.1)? else { return Ok(None) };
    let text = content.split(|byte| *byte == 0).next().unwrap_or_default();
    Ok(String::from_utf8(text.to_vec()).ok())
}

/// The root hash that the image boots: the first `roothash=` of its command line, as the initrd takes it.
///
/// # Errors
/// If the file cannot be read.
pub fn root_hash(image: &File) -> io::Result<Option<String>> {
    Ok(command_line(image)?.as_deref().and_then(root_hash_of))
}

/// The first `roothash=` of a command line, if it is a SHA-256 in lower-case hex.
pub fn root_hash_of(command_line: &str) -> Option<String> {
    let value = command_line.split_whitespace().find_map(|word| word.strip_prefix("roothash="))?;
    let sound = value.len() == 64 && value.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    sound.then(|| value.to_owned())
}

/// Offset and length of a section's content.
fn find_section(image: &File, name: &[u8; 8]) -> io::Result<Option<(u64, usize)>> {
    let Some(dos) = read(image, 0, 64)?.filter(|bytes| bytes.starts_with(b"MZ")) else { return Ok(None) };
    let coff = u64::from(long(&dos, 0x3c));
    let Some(header) = read(image, coff, 24)?.filter(|bytes| bytes.starts_with(b"PE\0\0")) else {
        return Ok(None);
    };
    let (count, optional) = (short(&header, 6), short(&header, 20));
    if count > MAX_SECTIONS {
        return Ok(None);
    }
    let Some(table) = read(image, coff + 24 + optional as u64, count * SECTION)? else { return Ok(None) };
    let found = table.chunks_exact(SECTION).find(|section| section.starts_with(name));
    Ok(found.and_then(|section| {
        // The size in memory leaves out what fills the file's last sector.
        let length = long(section, 8).min(long(section, 16)) as usize;
        (length <= MAX_COMMAND_LINE).then(|| (u64::from(long(section, 20)), length))
    }))
}

/// `None` where the file ends before.
fn read(image: &File, at: u64, length: usize) -> io::Result<Option<Vec<u8>>> {
    let mut bytes = vec![0; length];
    match image.read_exact_at(&mut bytes, at) {
        Ok(()) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
        Err(error) => Err(error),
    }
}

fn short(bytes: &[u8], at: usize) -> usize {
    bytes.get(at..at + 2).map_or(0, |part| usize::from(u16::from_le_bytes([part[0], part[1]])))
}

fn long(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).map_or(0, |part| u32::from_le_bytes([part[0], part[1], part[2], part[3]]))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn image(command_line: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0u8; 64];
        bytes[..2].copy_from_slice(b"MZ");
        bytes[0x3c] = 64;
        bytes.extend(b"PE\0\0");
        bytes.resize(88, 0);
        bytes[70] = 2;
        bytes[84] = 16;
        bytes.resize(104, 0);
        for (name, length, at) in [(b".osrel\0\0", 0u32, 0u32), (b".cmdline", command_line.len() as u32, 184)]
        {
            let mut section = name.to_vec();
            section.resize(SECTION, 0);
            section[8..12].copy_from_slice(&length.to_le_bytes());
            section[16..20].copy_from_slice(&length.to_le_bytes());
            section[20..24].copy_from_slice(&at.to_le_bytes());
            bytes.extend(section);
        }
        bytes.extend(command_line);
        bytes
    }

    fn file(bytes: &[u8]) -> File {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(bytes, 0).unwrap();
        file
    }

    #[test]
    fn the_root_hash_is_that_of_the_command_line() {
        let hash = "0123456789abcdef".repeat(4);
        let bytes = image(format!("ro roothash={hash} x\n\0").as_bytes());
        assert_eq!(root_hash(&file(&bytes)).unwrap(), Some(hash));
        for length in 0..bytes.len() - 1 {
            assert_eq!(root_hash(&file(&bytes[..length])).unwrap(), None, "cut at {length}");
        }
    }

    #[test]
    fn refuses_what_is_no_root_hash() {
        let hash = "0123456789abcdef".repeat(4);
        let bad = [
            "ro".to_owned(),
            "roothash=".into(),
            format!("roothash={}", &hash[1..]),
            format!("roothash={}", hash.to_uppercase()),
            format!("roothash=short roothash={hash}"),
            format!("xroothash={hash}"),
        ];
        for text in bad {
            assert_eq!(root_hash(&file(&image(text.as_bytes()))).unwrap(), None, "{text}");
        }
        assert_eq!(root_hash(&file(&image(&[0xff; 80]))).unwrap(), None);
        assert_eq!(root_hash(&file(&image(&vec![b' '; MAX_COMMAND_LINE + 1]))).unwrap(), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_panic(
            mut bytes in prop::collection::vec(any::<u8>(), 0..400), coff in 0u32..400, made: bool,
        ) {
            if made && bytes.len() > 64 {
                bytes[..2].copy_from_slice(b"MZ");
                bytes[0x3c..0x40].copy_from_slice(&coff.to_le_bytes());
                let at = coff as usize;
                if at + 4 <= bytes.len() {
                    bytes[at..at + 4].copy_from_slice(b"PE\0\0");
                }
            }
            let _ = root_hash(&file(&bytes)).unwrap();
        }

        #[test]
        fn a_changed_byte_never_panics(at in 0usize..184, to: u8) {
            let mut bytes = image(b"ro roothash=0 x");
            bytes[at] = to;
            let _ = root_hash(&file(&bytes)).unwrap();
        }
    }
}
