//! The initrd: cairn-init, the modules it loads and their list, as a cpio archive in zstd.

use anyhow::{Context, Result};

use crate::modules::LATER;

/// Compression level; the archive is small and built once.
const LEVEL: i32 = 19;

/// One entry of the archive.
#[derive(Debug)]
pub enum Entry<'a> {
    /// A folder.
    Folder(&'a str),
    /// A file with permission bits and content.
    File(String, u32, Vec<u8>),
}

/// The compressed archive. `modules` are in loading order; `files` are further files of the initrd.
pub fn build(
    init: &[u8],
    modules: Vec<(String, Vec<u8>)>,
    files: Vec<(String, Vec<u8>)>,
    epoch: u64,
) -> Result<Vec<u8>> {
    let line = |name: &str| if name == LATER { format!("{LATER}\n") } else { format!("/m/{name}.ko\n") };
    let list: String = modules.iter().map(|(name, _)| line(name)).collect();
    let mut entries = vec![
        Entry::Folder("dev"),
        Entry::Folder("m"),
        Entry::Folder("proc"),
        Entry::Folder("sys"),
        Entry::Folder("sysroot"),
        Entry::File("init".into(), 0o755, init.to_vec()),
        Entry::File("modules.list".into(), 0o644, list.into_bytes()),
    ];
    let loaded = modules.into_iter().filter(|(name, _)| name != LATER);
    entries.extend(loaded.map(|(name, content)| Entry::File(format!("m/{name}.ko"), 0o644, content)));
    entries.extend(files.into_iter().map(|(name, content)| Entry::File(name, 0o644, content)));
    let archive = cpio(&entries, epoch)?;
    zstd::bulk::compress(&archive, LEVEL).context("failed to compress the initrd")
}

/// A cpio archive in the "newc" format, as the kernel's documentation of the initramfs buffer defines it.
pub fn cpio(entries: &[Entry<'_>], epoch: u64) -> Result<Vec<u8>> {
    let time = u32::try_from(epoch).context("the build time is out of range")?;
    let mut archive = Vec::new();
    for (inode, entry) in (1u32..).zip(entries) {
        let (name, mode, links, content): (&str, u32, u32, &[u8]) = match entry {
            Entry::Folder(name) => (name, 0o040_755, 2, &[]),
            Entry::File(name, mode, content) => (name, 0o100_000 | mode, 1, content),
        };
        append(&mut archive, inode, mode, links, time, name, content)?;
    }
    append(&mut archive, 0, 0, 1, 0, "TRAILER!!!", &[])?;
    Ok(archive)
}

fn append(
    archive: &mut Vec<u8>,
    inode: u32,
    mode: u32,
    links: u32,
    time: u32,
    name: &str,
    content: &[u8],
) -> Result<()> {
    let size = u32::try_from(content.len()).with_context(|| format!("{name} is too large for cpio"))?;
    let name_size = u32::try_from(name.len() + 1).context("a name is too long for cpio")?;
    // ino, mode, uid, gid, nlink, mtime, size, device (4), name size, checksum
    let fields = [inode, mode, 0, 0, links, time, size, 0, 0, 0, 0, name_size, 0];
    archive.extend(b"070701");
    archive.extend(fields.iter().flat_map(|field| format!("{field:08x}").into_bytes()));
    archive.extend(name.as_bytes());
    archive.push(0);
    archive.resize(archive.len().next_multiple_of(4), 0);
    archive.extend(content);
    archive.resize(archive.len().next_multiple_of(4), 0);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_archive_is_newc_byte_by_byte() {
        let entries = [Entry::Folder("d"), Entry::File("d/f".into(), 0o644, b"hello".to_vec())];
        let archive = cpio(&entries, 0x10).unwrap();
        // inode, mode, uid, gid, links, time, size, four device numbers, length of the name, checksum
        let fields = ["00000001", "000041ed", "00000000", "00000000", "00000002", "00000010", "00000000"];
        let expected = format!("070701{}{}{}{}d", fields.concat(), "0".repeat(32), "00000002", "0".repeat(8));
        assert!(archive.starts_with(expected.as_bytes()), "{}", String::from_utf8_lossy(&archive));
        assert_eq!(archive[112..118], *b"070701", "the next header is aligned");
        assert_eq!(archive.len() % 4, 0);
        let text = String::from_utf8_lossy(&archive);
        assert!(text.contains(&["d/f\0\0\0hello\0\0\0", "070701"].concat()), "{text}");
        assert!(text.trim_end_matches('\0').ends_with("TRAILER!!!"));
    }

    #[test]
    fn modules_are_listed_in_loading_order() {
        let modules = vec![("b".to_owned(), vec![1]), ("a".to_owned(), vec![2])];
        let packed = build(b"init", modules, vec![("cmdline".into(), b"x".to_vec())], 0).unwrap();
        let archive = zstd::decode_all(packed.as_slice()).unwrap();
        let text = String::from_utf8_lossy(&archive);
        assert!(text.contains("/m/b.ko\n/m/a.ko\n"));
        assert!(text.contains("cmdline\0"));
    }
}
