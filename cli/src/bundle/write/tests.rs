//! Interrupted writes, splits and wrong bytes.

use std::fs;

use super::*;

const BYTES: &[u8] = b"0123456789abcdef";
const WHOLE: Limits = Limits { file: u64::MAX, part: 5 };
const PARTS: Limits = Limits { file: 15, part: 5 };

fn stick() -> (tempfile::TempDir, Arc<Stick>) {
    let folder = tempfile::tempdir().unwrap();
    let stick = Stick::open(folder.path()).unwrap();
    (folder, Arc::new(stick))
}

fn names(stick: &Stick) -> Vec<String> {
    stick.list(BLOBS, 100).unwrap().unwrap().into_iter().map(|entry| entry.name).collect()
}

fn is_there(stick: &Stick) -> bool {
    let digest = Digest::of(BYTES);
    blobs::check(&stick.reader().unwrap(), &digest, BYTES.len() as u64, 5, |_| ()).is_ok()
}

#[test]
fn a_write_that_is_cut_anywhere_goes_on_from_there() {
    let digest = Digest::of(BYTES);
    let size = BYTES.len() as u64;
    for limits in [WHOLE, PARTS] {
        for cut in 0..=BYTES.len() {
            for then in cut..=BYTES.len() {
                let (_folder, stick) = stick();
                let mut writer = Writer::resume(&stick, &digest, size, limits).unwrap();
                writer.write(&BYTES[..cut]).unwrap();
                drop(writer);
                assert!(!is_there(&stick), "cut at {cut}: only a finished blob has its name");
                assert_eq!(Writer::left(&stick, &digest, size, limits).unwrap(), cut as u64);
                let mut writer = Writer::resume(&stick, &digest, size, limits).unwrap();
                assert_eq!(writer.have(), cut as u64);
                writer.write(&BYTES[cut..then]).unwrap();
                drop(writer);
                let mut writer = Writer::resume(&stick, &digest, size, limits).unwrap();
                let have = usize::try_from(writer.have()).unwrap();
                assert_eq!(have, then);
                writer.write(&BYTES[have..]).unwrap();
                writer.finish().unwrap();
                assert!(is_there(&stick), "{limits:?} cut at {cut}, then {then}");
                assert!(names(&stick).iter().all(|name| !name.starts_with('.')), "{:?}", names(&stick));
            }
        }
    }
}

#[test]
fn a_blob_too_large_for_a_file_lies_in_parts() {
    let (_folder, stick) = stick();
    let digest = Digest::of(BYTES);
    let mut writer = Writer::resume(&stick, &digest, 16, PARTS).unwrap();
    writer.write(BYTES).unwrap();
    writer.finish().unwrap();
    let parts: Vec<_> = (0..4).map(|part| format!("{}.{part:03}", digest.hex())).collect();
    assert_eq!(names(&stick), parts);
    assert_eq!(remove(&stick, &digest).unwrap(), 16);
    assert!(names(&stick).is_empty());
}

#[test]
fn rejects_other_bytes_and_keeps_none_of_them() {
    let digest = Digest::of(BYTES);
    for limits in [WHOLE, PARTS] {
        let (_folder, stick) = stick();
        let mut writer = Writer::resume(&stick, &digest, 16, limits).unwrap();
        writer.write(&BYTES[..12]).unwrap();
        writer.write(b"EVIL").unwrap();
        assert!(matches!(writer.write(b"more"), Err(WriteError::TooLong(16))));
        assert!(matches!(writer.finish(), Err(WriteError::Digest)));
        assert!(names(&stick).is_empty(), "{:?}", names(&stick));
        // Nor does a blob that ends early get its name.
        let mut writer = Writer::resume(&stick, &digest, 16, limits).unwrap();
        writer.write(&BYTES[..12]).unwrap();
        assert!(matches!(writer.finish(), Err(WriteError::Digest)));
    }
}

#[test]
fn what_lies_beside_and_is_too_long_is_begun_anew() {
    let (folder, stick) = stick();
    let digest = Digest::of(BYTES);
    stick.make_folder(BLOBS).unwrap();
    fs::write(folder.path().join(beside(WHOLE, 16, &digest, 0)), [0; 17]).unwrap();
    assert_eq!(Writer::left(&stick, &digest, 16, WHOLE).unwrap(), 0);
    let mut writer = Writer::resume(&stick, &digest, 16, WHOLE).unwrap();
    writer.write(BYTES).unwrap();
    writer.finish().unwrap();
    assert!(is_there(&stick));
}

#[test]
fn the_other_form_of_a_blob_goes() {
    let (folder, stick) = stick();
    let digest = Digest::of(BYTES);
    stick.make_folder(BLOBS).unwrap();
    for (limits, other) in [(WHOLE, part_path(&digest, 0)), (PARTS, blob_path(&digest))] {
        fs::write(folder.path().join(&other), "damaged").unwrap();
        let mut writer = Writer::resume(&stick, &digest, 16, limits).unwrap();
        writer.write(BYTES).unwrap();
        writer.finish().unwrap();
        assert!(is_there(&stick) && !folder.path().join(other).exists());
        remove(&stick, &digest).unwrap();
    }
}

#[test]
fn nothing_is_a_blob_too() {
    let (_folder, stick) = stick();
    Writer::resume(&stick, &Digest::of(b""), 0, WHOLE).unwrap().finish().unwrap();
    blobs::check(&stick.reader().unwrap(), &Digest::of(b""), 0, 5, |_| ()).unwrap();
}

#[test]
fn what_an_export_that_was_cut_off_left_can_go() {
    let (folder, stick) = stick();
    for (limits, content) in [(WHOLE, &b"one"[..]), (PARTS, BYTES)] {
        let mut writer =
            Writer::resume(&stick, &Digest::of(content), content.len() as u64 + 1, limits).unwrap();
        writer.write(&content[..3]).unwrap();
    }
    let kept = format!("{BLOBS}/.mine.partial");
    fs::write(folder.path().join(&kept), "").unwrap();
    remove_unfinished(&stick).unwrap();
    assert_eq!(names(&stick), [".mine.partial"]);
}

#[test]
fn rejects_more_parts_than_a_reader_looks_for() {
    let (_folder, stick) = stick();
    let refused = Writer::resume(&stick, &Digest::of(BYTES), 5 * MAX_PARTS + 1, PARTS);
    assert!(matches!(refused, Err(WriteError::TooManyParts)));
}
