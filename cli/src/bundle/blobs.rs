//! Blobs on a stick, read: whole or in parts, and never believed for lying under their digest.

use std::{
    fs::File,
    io::{self, ErrorKind, Read},
};

use cairn_model::{
    Digest,
    media::{MAX_PARTS, blob_path, part_path},
};
use cairn_trust::fetch::Folder;
use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
use sha2::{Digest as _, Sha256};

/// How much of a blob is in memory at a time.
const CHUNK: usize = 1 << 20;

/// What is wrong with a blob on a stick.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Fault {
    #[error("it is missing")]
    Missing,
    #[error("it has {found} bytes instead of {expected}")]
    Size { found: u64, expected: u64 },
    #[error("its bytes are not those of its digest")]
    Digest,
    #[error("its parts are not of {0} bytes each, so nodes would misread it")]
    Parts(u64),
    #[error("{0}")]
    Unreadable(#[from] io::Error),
}

/// The files of a blob.
#[derive(Debug)]
pub(crate) struct Found {
    /// Path and claimed size of each.
    files: Vec<(String, u64)>,
}

impl Found {
    /// How many bytes they claim to have.
    pub(crate) fn size(&self) -> u64 {
        self.files.iter().map(|(_, size)| *size).fold(0, u64::saturating_add)
    }

    /// Whether each but the last has `part` bytes: readers look into the middle of a blob by that.
    fn are_even(&self, part: u64) -> bool {
        let full = self.files.len().saturating_sub(1);
        self.files[..full].iter().all(|(_, size)| *size == part)
    }
}

/// The files of a blob; `None` where it is not there.
pub(crate) fn find(folder: &Folder, digest: &Digest) -> io::Result<Option<Found>> {
    let whole = blob_path(digest);
    if let Some(size) = folder.len(&whole)? {
        return Ok(Some(Found { files: vec![(whole, size)] }));
    }
    let mut files = Vec::new();
    for part in 0..MAX_PARTS {
        let path = part_path(digest, part);
        let Some(size) = folder.len(&path)? else { break };
        files.push((path, size));
    }
    Ok((!files.is_empty()).then_some(Found { files }))
}

/// Reads a blob from the medium itself, all of it, and holds it against its digest; parts have `part` bytes. `progress` is
/// told of each piece.
pub(crate) fn check(
    folder: &Folder,
    digest: &Digest,
    size: u64,
    part: u64,
    mut progress: impl FnMut(u64),
) -> Result<(), Fault> {
    let lying = find(folder, digest)?.ok_or(Fault::Missing)?;
    let found = lying.size();
    // What a file system claims costs nothing to hold against what is signed, and saves reading a 4 TB hole.
    if found != size {
        return Err(Fault::Size { found, expected: size });
    }
    if !lying.are_even(part) {
        return Err(Fault::Parts(part));
    }
    let (mut hash, mut read) = (Sha256::new(), 0);
    for (path, _) in lying.files {
        let mut file = folder.file(&path)?.ok_or(Fault::Missing)?;
        from_the_medium(&file);
        read += hash_up_to(&mut file, size - read, &mut hash, &mut progress)?;
    }
    if read != size {
        return Err(Fault::Size { found: read, expected: size });
    }
    if Digest::from_sha256(&hash.finalize().into()) == *digest { Ok(()) } else { Err(Fault::Digest) }
}

/// The bytes of a small blob, checked.
pub(crate) fn read(folder: &Folder, digest: &Digest, max: u64) -> Result<Vec<u8>, Fault> {
    let bytes = folder.read(&blob_path(digest), max)?.ok_or(Fault::Missing)?;
    if Digest::of(&bytes) == *digest { Ok(bytes) } else { Err(Fault::Digest) }
}

/// Feeds at most `most` bytes of `file` to `hash`; how many there were.
pub(crate) fn hash_up_to(
    file: &mut impl Read,
    most: u64,
    hash: &mut Sha256,
    mut progress: impl FnMut(u64),
) -> io::Result<u64> {
    let mut chunk = vec![0; CHUNK];
    let mut file = file.take(most);
    let mut total = 0;
    loop {
        match file.read(&mut chunk) {
            Ok(0) => return Ok(total),
            Ok(length) => {
                hash.update(&chunk[..length]);
                total += length as u64;
                progress(length as u64);
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Lets the kernel forget what it holds of the file, so that what is read next comes from the stick: a stick that lies
/// about its size takes every write and loses it.
fn from_the_medium(file: &File) {
    // Where the file system keeps everything in memory anyway there is nothing to forget.
    let _ = posix_fadvise(file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED);
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink, path::Path};

    use super::*;

    fn put(folder: &Path, path: &str, bytes: &[u8]) {
        let path = folder.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }

    #[test]
    fn whole_or_in_parts_a_blob_is_what_its_digest_says_or_nothing() {
        let temp = tempfile::tempdir().unwrap();
        let folder = Folder::open(temp.path()).unwrap();
        let (whole, parts) = (Digest::of(b"whole"), Digest::of(b"in parts"));
        assert!(matches!(check(&folder, &whole, 5, 4, |_| ()), Err(Fault::Missing)));
        put(temp.path(), &blob_path(&whole), b"whole");
        put(temp.path(), &part_path(&parts, 0), b"in p");
        put(temp.path(), &part_path(&parts, 1), b"arts");
        let mut seen = 0;
        check(&folder, &whole, 5, 4, |n| seen += n).unwrap();
        check(&folder, &parts, 8, 4, |n| seen += n).unwrap();
        assert_eq!(seen, 13);
        assert!(matches!(check(&folder, &parts, 9, 4, |_| ()), Err(Fault::Size { found: 8, expected: 9 })));
        assert!(matches!(check(&folder, &parts, 8, 5, |_| ()), Err(Fault::Parts(5))));
        put(temp.path(), &part_path(&parts, 1), b"arTs");
        assert!(matches!(check(&folder, &parts, 8, 4, |_| ()), Err(Fault::Digest)));
        put(temp.path(), &blob_path(&whole), b"wholE");
        assert!(matches!(check(&folder, &whole, 5, 4, |_| ()), Err(Fault::Digest)));
        assert!(matches!(read(&folder, &whole, 5), Err(Fault::Digest)));
    }

    #[test]
    fn no_link_and_no_hole_is_read() {
        let temp = tempfile::tempdir().unwrap();
        let folder = Folder::open(temp.path()).unwrap();
        let digest = Digest::of(b"blob");
        put(temp.path(), "elsewhere", b"blob");
        fs::create_dir_all(temp.path().join("blobs/sha256")).unwrap();
        symlink(temp.path().join("elsewhere"), temp.path().join(blob_path(&digest))).unwrap();
        assert!(matches!(check(&folder, &digest, 4, 4, |_| ()), Err(Fault::Unreadable(_))));
        fs::remove_file(temp.path().join(blob_path(&digest))).unwrap();
        // 4 TB that are not there: answered by the size alone.
        File::create(temp.path().join(blob_path(&digest))).unwrap().set_len(4 << 40).unwrap();
        let read = |n| panic!("{n} bytes were read");
        assert!(matches!(check(&folder, &digest, 4, 4, read), Err(Fault::Size { .. })));
    }
}
