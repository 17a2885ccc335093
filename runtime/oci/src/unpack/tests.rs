//! What a layer may and may not do to the node. Making whiteouts and owners needs root.

use std::{
    io::Write,
    os::unix::{
        fs::{FileTypeExt, MetadataExt, PermissionsExt},
        net::UnixListener,
    },
};

use proptest::prelude::*;
use tar::{EntryType, Header};
use tempfile::TempDir;

use super::*;

const TAR: &str = "application/vnd.oci.image.layer.v1.tar";
const TAR_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
const TAR_ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";
const LIMITS: Limits = Limits { bytes: 64 << 20, entries: 10_000 };

/// A tar written header by header, so that it may say what no honest tool writes.
#[derive(Default)]
struct Layer(Vec<u8>);

impl Layer {
    fn entry(mut self, kind: EntryType, path: &str, link: &str, data: &[u8]) -> Self {
        let mut header = Header::new_ustar();
        header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
        header.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
        header.set_entry_type(kind);
        header.set_mode(if kind == EntryType::Directory { 0o750 } else { 0o640 });
        header.set_uid(11);
        header.set_gid(22);
        header.set_mtime(1_000_000_000);
        header.set_size(data.len() as u64);
        header.set_cksum();
        self.0.extend_from_slice(header.as_bytes());
        self.0.extend_from_slice(data);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    fn file(self, path: &str, data: &str) -> Self {
        self.entry(EntryType::Regular, path, "", data.as_bytes())
    }

    fn dir(self, path: &str) -> Self {
        self.entry(EntryType::Directory, path, "", b"")
    }

    fn symlink(self, path: &str, target: &str) -> Self {
        self.entry(EntryType::Symlink, path, target, b"")
    }

    fn pax(self, records: &[(&str, &[u8])]) -> Self {
        let mut data = Vec::new();
        for (key, value) in records {
            let rest = key.len() + value.len() + 3;
            let mut length = rest + 1;
            while length != rest + length.to_string().len() {
                length = rest + length.to_string().len();
            }
            data.extend_from_slice(format!("{length} {key}=").as_bytes());
            data.extend_from_slice(value);
            data.push(b'\n');
        }
        self.entry(EntryType::XHeader, "pax", "", &data)
    }

    fn end(mut self) -> Vec<u8> {
        self.0.resize(self.0.len() + 1024, 0);
        self.0
    }

    fn unpack(self) -> (TempDir, Result<()>) {
        unpack_bytes(&self.end(), LIMITS)
    }

    /// Where the layer was unpacked; it must have worked.
    fn good(self) -> (TempDir, PathBuf) {
        let (dir, result) = self.unpack();
        result.unwrap();
        let path = dir.path().join("into");
        (dir, path)
    }

    /// The refusal; nothing must have been left or have appeared outside.
    fn refused(self) -> String {
        let (dir, result) = self.unpack();
        let left: Vec<_> = fs::read_dir(dir.path()).unwrap().flatten().map(|e| e.file_name()).collect();
        assert_eq!(left, ["blob"], "something is left or escaped");
        format!("{:#}", result.unwrap_err())
    }
}

fn unpack_bytes(tar: &[u8], limits: Limits) -> (TempDir, Result<()>) {
    assert!(nix::unistd::geteuid().is_root(), "making whiteouts and owners needs root");
    let dir = tempfile::tempdir().unwrap();
    let blob = dir.path().join("blob");
    fs::write(&blob, tar).unwrap();
    let result = unpack(&blob, TAR, &Digest::of(tar), &dir.path().join("into"), limits);
    (dir, result)
}

fn is_whiteout(path: &Path) -> bool {
    let metadata = path.symlink_metadata().unwrap();
    metadata.file_type().is_char_device() && metadata.rdev() == 0
}

fn is_opaque(path: &Path) -> bool {
    let mut buffer = [0u8; 8];
    rustix::fs::getxattr(path, "trusted.overlay.opaque", &mut buffer[..]).is_ok_and(|n| &buffer[..n] == b"y")
}

#[test]
fn metadata_arrives() {
    let capability = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let long = format!("{}/{}", "d".repeat(200), "f".repeat(200));
    let (_dir, root) = Layer::default()
        .dir("./")
        .dir("./a/")
        .pax(&[
            ("SCHILY.xattr.security.capability", &capability),
            ("SCHILY.xattr.user.note", b"x"),
            ("mtime", b"7.25"),
        ])
        .file("./a/f", "content")
        .symlink("a/s", "/etc/passwd")
        .entry(EntryType::Link, "a/h", "./a/f", b"")
        .entry(EntryType::Fifo, "a/p", "", b"")
        .pax(&[("path", long.as_bytes())])
        .file("short", "long")
        .entry(EntryType::GNULongName, "././@LongLink", "", format!("{long}2\0").as_bytes())
        .file("short", "gnu")
        .good();
    let file = root.join("a/f").metadata().unwrap();
    assert_eq!((file.uid(), file.gid(), file.mode() & 0o7777, file.nlink()), (11, 22, 0o640, 2));
    assert_eq!((file.mtime(), file.mtime_nsec()), (7, 250_000_000));
    assert_eq!(fs::read_to_string(root.join("a/h")).unwrap(), "content");
    let folder = root.join("a").metadata().unwrap();
    assert_eq!((folder.mode() & 0o7777, folder.mtime()), (0o750, 1_000_000_000));
    assert_eq!(fs::read_link(root.join("a/s")).unwrap(), Path::new("/etc/passwd"));
    assert_eq!(root.join("a/s").symlink_metadata().unwrap().uid(), 11);
    assert!(root.join("a/p").symlink_metadata().unwrap().file_type().is_fifo());
    assert_eq!(fs::read_to_string(root.join(&long)).unwrap(), "long");
    assert_eq!(fs::read_to_string(root.join(format!("{long}2"))).unwrap(), "gnu");
    let mut buffer = [0u8; 32];
    let length = rustix::fs::getxattr(root.join("a/f"), "security.capability", &mut buffer[..]).unwrap();
    assert_eq!(buffer[..length], capability);
}

#[test]
fn whiteouts_become_overlayfs_ones() {
    let (_dir, root) = Layer::default()
        .dir("a")
        .file("a/.wh.gone", "")
        .dir("b")
        .file("b/.wh..wh..opq", "")
        .file("b/.wh..wh.aufs", "")
        .file("c/.wh.made-anew", "")
        .dir("c/made-anew")
        .file("d/.wh.file", "")
        .file("d/file", "new")
        .dir("e/kept")
        .file("e/.wh.kept", "")
        .good();
    assert!(is_whiteout(&root.join("a/gone")));
    assert!(is_opaque(&root.join("b")) && !is_opaque(&root.join("a")));
    assert_eq!(fs::read_dir(root.join("b")).unwrap().count(), 0);
    assert!(is_opaque(&root.join("c/made-anew")), "what lies below would show");
    assert_eq!(fs::read_to_string(root.join("d/file")).unwrap(), "new");
    assert!(is_opaque(&root.join("e/kept")));
}

#[test]
fn later_entries_replace_earlier_ones() {
    let (_dir, root) = Layer::default()
        .dir("a/b")
        .file("a/b/c", "1")
        .file("a", "now a file")
        .file("x", "1")
        .dir("x")
        .file("x/y", "2")
        .symlink("z", "x")
        .file("z", "no longer a link")
        .good();
    assert_eq!(fs::read_to_string(root.join("a")).unwrap(), "now a file");
    assert_eq!(fs::read_to_string(root.join("x/y")).unwrap(), "2");
    assert_eq!(fs::read_to_string(root.join("z")).unwrap(), "no longer a link");
}

#[test]
fn rejects_paths_that_climb_out() {
    for path in ["../escaped", "a/../../escaped", "./../escaped", "..", "a/..", "/../escaped"] {
        assert!(Layer::default().file(path, "x").refused().contains("climbs out"), "{path}");
    }
    let error = Layer::default().file("f", "x").entry(EntryType::Link, "h", "../blob", b"").refused();
    assert!(error.contains("climbs out"), "{error}");
}

#[test]
fn symlinks_never_lead_out_of_the_layer() {
    let outside = tempfile::tempdir().unwrap();
    let target = outside.path().to_str().unwrap();
    let error = Layer::default().symlink("abs", target).file("abs/escaped", "x").refused();
    assert!(error.contains("leads nowhere"), "{error}");
    // Absolute, relative and in a chain: all resolve below the layer's own root.
    let (_dir, root) = Layer::default()
        .dir(&target[1..])
        .symlink("abs", target)
        .file("abs/escaped", "x")
        .symlink("rel", &format!("../../../../../../../..{target}"))
        .file("rel/also", "x")
        .symlink("one", "two")
        .symlink("two", "/")
        .file("one/chain", "x")
        .good();
    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0);
    assert!(!Path::new("/chain").exists());
    assert!(root.join("chain").exists());
    assert!(
        root.join(&target[1..]).join("escaped").exists() && root.join(&target[1..]).join("also").exists()
    );
}

#[test]
fn hard_link_to_a_symlink_is_no_way_to_the_nodes_files() {
    let (_dir, result) = Layer::default()
        .symlink("passwd", "/etc/passwd")
        .entry(EntryType::Link, "h", "passwd", b"")
        .file("h", "overwritten")
        .unpack();
    result.unwrap();
    assert!(fs::read_to_string("/etc/passwd").unwrap().contains("root:"));
    let error =
        Layer::default().symlink("etc", "/etc").entry(EntryType::Link, "h", "etc/passwd", b"").refused();
    assert!(error.contains("passwd") || error.contains("link target"), "{error}");
}

#[test]
fn rejects_device_nodes_outside_dev_and_skips_those_inside() {
    for kind in [EntryType::Char, EntryType::Block] {
        assert!(Layer::default().entry(kind, "etc/sda", "", b"").refused().contains("device node"));
    }
    let (_dir, root) = Layer::default().dir("dev").entry(EntryType::Char, "dev/null", "", b"").good();
    assert_eq!(fs::read_dir(root.join("dev")).unwrap().count(), 0);
}

#[test]
fn rejects_overlayfs_attributes_and_drops_foreign_ones() {
    for name in ["trusted.overlay.redirect", "trusted.overlay.opaque"] {
        let error = Layer::default().pax(&[(&format!("SCHILY.xattr.{name}"), b"/etc")]).dir("a").refused();
        assert!(error.contains("overlayfs's own"), "{error}");
    }
    let (_dir, root) =
        Layer::default().pax(&[("SCHILY.xattr.user.overlay.redirect", b"/etc")]).dir("a").good();
    let mut buffer = [0u8; 8];
    assert!(rustix::fs::getxattr(root.join("a"), "user.overlay.redirect", &mut buffer[..]).is_err());
}

#[test]
fn set_user_id_survives_the_change_of_owner() {
    let mut layer = Layer::default().file("su", "x");
    let mut header = Header::new_ustar();
    header.as_mut_bytes().copy_from_slice(&layer.0[..512]);
    header.set_mode(0o4755);
    header.set_cksum();
    layer.0[..512].copy_from_slice(header.as_bytes());
    let (_dir, root) = layer.good();
    assert_eq!(root.join("su").metadata().unwrap().permissions().mode() & 0o7777, 0o4755);
}

#[test]
fn rejects_decompression_bomb() {
    let zeros = vec![0u8; 8 << 20];
    let tar = Layer::default().entry(EntryType::Regular, "zeros", "", &zeros).end();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    gzip.write_all(&tar).unwrap();
    let bombs = [(TAR_GZIP, gzip.finish().unwrap()), (TAR_ZSTD, zstd::encode_all(&*tar, 3).unwrap())];
    for (media_type, bomb) in bombs {
        assert!(bomb.len() < 64 << 10);
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("blob"), bomb).unwrap();
        let limits = Limits { bytes: 1 << 20, entries: 10 };
        let into = dir.path().join("into");
        let error =
            unpack(&dir.path().join("blob"), media_type, &Digest::of(&tar), &into, limits).unwrap_err();
        assert!(format!("{error:#}").contains("unpacks to more than 1048576 bytes"), "{error:#}");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "something is left");
    }
    // Also after the tar's end marker.
    let mut tail = Layer::default().file("a", "x").end();
    tail.extend_from_slice(&zeros);
    let (_dir, result) = unpack_bytes(&tail, Limits { bytes: 1 << 20, entries: 10 });
    assert!(format!("{:#}", result.unwrap_err()).contains("unpacks to more than"));
}

#[test]
fn rejects_too_many_entries_and_oversized_headers() {
    let layer = (0..20).fold(Layer::default(), |layer, n| layer.file(&format!("f{n}"), ""));
    let (_dir, result) = unpack_bytes(&layer.end(), Limits { bytes: 1 << 20, entries: 10 });
    assert!(format!("{:#}", result.unwrap_err()).contains("more than 10 entries"));
    let huge = vec![b'a'; 5000];
    let error = Layer::default().entry(EntryType::GNULongName, "l", "", &huge).file("x", "").refused();
    assert!(error.contains("larger than"), "{error}");
    let huge = vec![b'a'; 2 << 20];
    assert!(Layer::default().entry(EntryType::XHeader, "p", "", &huge).refused().contains("larger than"));
    let long = "a/".repeat(3000);
    assert!(
        Layer::default().pax(&[("path", long.as_bytes())]).file("x", "").refused().contains("longer than")
    );
}

#[test]
fn rejects_folder_names_that_would_fill_the_memory() {
    // Few bytes on disk for each of the many times that one deep folder is named.
    let deep = vec!["d".repeat(250); 12].join("/");
    let layer =
        (0..30_000).fold(Layer::default(), |layer, _| layer.pax(&[("path", deep.as_bytes())]).dir("x"));
    let (_dir, result) = unpack_bytes(&layer.end(), Limits { bytes: 1 << 30, entries: 1_000_000 });
    assert!(format!("{:#}", result.unwrap_err()).contains("folder names take more than"));
}

#[test]
fn rejects_damage() {
    let tar = Layer::default().dir("a").file("a/f", &"x".repeat(2000)).end();
    for cut in [100, 600, 1100, 1600, 3000] {
        let (_dir, result) = unpack_bytes(&tar[..cut], LIMITS);
        assert!(format!("{:#}", result.unwrap_err()).contains("ends in the middle"), "cut at {cut}");
    }
    let mut flipped = tar.clone();
    flipped[0] ^= 1;
    let (_dir, result) = unpack_bytes(&flipped, LIMITS);
    assert!(format!("{:#}", result.unwrap_err()).contains("checksum is wrong"));
    assert!(Layer::default().entry(EntryType::GNUSparse, "s", "", b"").refused().contains("sparse"));
}

#[test]
fn rejects_content_that_is_not_the_diff_id() {
    let dir = tempfile::tempdir().unwrap();
    let blob = dir.path().join("blob");
    fs::write(&blob, Layer::default().file("a", "x").end()).unwrap();
    let error = unpack(&blob, TAR, &Digest::of(b"other"), &dir.path().join("into"), LIMITS).unwrap_err();
    assert!(format!("{error:#}").contains("damaged or forged"), "{error:#}");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "something is left");
}

#[test]
fn rejects_unknown_media_type() {
    let dir = tempfile::tempdir().unwrap();
    let error =
        unpack(Path::new("/x"), "text/plain", &Digest::of(b""), &dir.path().join("i"), LIMITS).unwrap_err();
    assert!(error.to_string().contains("is no image layer"), "{error}");
}

#[test]
fn abandoned_staging_folder_is_removed_and_a_busy_one_kept() {
    let dir = tempfile::tempdir().unwrap();
    let tar = Layer::default().file("a", "x").end();
    fs::write(dir.path().join("blob"), &tar).unwrap();
    let (abandoned, busy) = (dir.path().join(".unpack-into-1"), dir.path().join(".unpack-into-2"));
    fs::create_dir_all(abandoned.join("half")).unwrap();
    fs::create_dir(&busy).unwrap();
    let lock = open_dir(&busy).unwrap();
    rustix::fs::flock(&lock, FlockOperation::LockExclusive).unwrap();
    for _ in 0..2 {
        unpack(&dir.path().join("blob"), TAR, &Digest::of(&tar), &dir.path().join("into"), LIMITS).unwrap();
    }
    assert!(!abandoned.exists() && busy.exists() && dir.path().join("into/a").exists());
}

#[test]
fn sockets_of_the_node_are_no_target() {
    // A layer that names a path at which the node listens: it is the layer's own path.
    let dir = tempfile::tempdir().unwrap();
    let _socket = UnixListener::bind(dir.path().join("s")).unwrap();
    let path = dir.path().join("s").to_str().unwrap().to_owned();
    let (_dir, root) = Layer::default().file(&path, "x").good();
    assert!(root.join(&path[1..]).is_file());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    /// Any sequence of entries over a few names, with symlinks anywhere: whatever it makes stays inside.
    #[test]
    fn no_sequence_of_entries_escapes(steps in prop::collection::vec((0..5u8, 0..6usize, 0..6usize), 1..24)) {
        let outside = tempfile::tempdir().unwrap();
        let absolute = outside.path().to_str().unwrap().to_owned();
        let up = format!("../../../..{absolute}");
        let names = ["a", "b", "a/b", "b/a", "a/b/a", "a/.wh.b"];
        let targets = [absolute.as_str(), up.as_str(), "..", "b", "/", "a/b"];
        let mut layer = Layer::default();
        for (kind, name, target) in steps {
            let (name, target) = (names[name], targets[target]);
            layer = match kind {
                0 => layer.file(name, "x"),
                1 => layer.dir(name),
                2 | 3 => layer.symlink(name, target),
                _ => layer.entry(EntryType::Link, name, names[5 - name.len() % 5], b""),
            };
        }
        let (dir, _) = layer.unpack();
        prop_assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0);
        let known = |name: &std::ffi::OsStr| name == "blob" || name == "into";
        let stray = fs::read_dir(dir.path()).unwrap().flatten().find(|e| !known(&e.file_name()));
        prop_assert!(stray.is_none(), "{:?}", stray);
    }

    /// Any bytes: an error, or a layer, but no panic and nothing left.
    #[test]
    fn no_bytes_panic(noise in prop::collection::vec(any::<u8>(), 0..2048), at in 0..1500usize) {
        let mut tar = Layer::default().dir("a").file("a/f", "content").end();
        for (offset, byte) in noise.iter().enumerate().filter(|(_, b)| **b < 24) {
            let len = tar.len();
            tar[(at + offset * 7) % len] ^= byte;
        }
        let _ = unpack_bytes(&tar, LIMITS);
    }
}
