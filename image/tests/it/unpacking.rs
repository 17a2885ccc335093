//! Packages as an attacker or a broken mirror could make them never leave their tree.

use std::io::Write;

use cairn_image::deb;
use cairn_image::tree::{Kind, Node};

/// A .deb with one data.tar of this name.
fn deb(member: &str, data: &[u8]) -> Vec<u8> {
    let mut builder = ar::Builder::new(Vec::new());
    let mut add = |name: &str, content: &[u8]| {
        builder.append(&ar::Header::new(name.as_bytes().to_vec(), content.len() as u64), content).unwrap();
    };
    add("debian-binary", b"2.0\n");
    add("control.tar", b"never looked at");
    add(member, data);
    builder.into_inner().unwrap()
}

fn entry(tar: &mut tar::Builder<Vec<u8>>, name: &str, kind: tar::EntryType, link: &str, content: &[u8]) {
    let mut header = tar::Header::new_gnu();
    let field = &mut header.as_old_mut().name;
    field[..name.len()].copy_from_slice(name.as_bytes());
    header.set_entry_type(kind);
    header.set_mode(0o4755);
    header.set_uid(0);
    header.set_gid(42);
    header.set_size(content.len() as u64);
    if !link.is_empty() {
        header.set_link_name_literal(link).unwrap();
    }
    header.set_cksum();
    tar.append(&header, content).unwrap();
}

fn tar_of(entries: &[(&str, tar::EntryType, &str, &[u8])]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (name, kind, link, content) in entries {
        entry(&mut tar, name, *kind, link, content);
    }
    tar.into_inner().unwrap()
}

fn unpack(deb: &[u8]) -> Result<Vec<(String, Node)>, String> {
    deb::unpack(deb, &|path| !path.starts_with("drop")).map_err(|error| format!("{error:#}"))
}

#[test]
fn every_compression_of_debian_is_read() {
    let tar = tar_of(&[("./lib/x", tar::EntryType::Regular, "", b"content")]);
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&tar).unwrap();
    let mut xz = xz2::write::XzEncoder::new(Vec::new(), 0);
    xz.write_all(&tar).unwrap();
    let table = [
        ("data.tar", tar.clone()),
        ("data.tar.gz", gzip.finish().unwrap()),
        ("data.tar.xz", xz.finish().unwrap()),
        ("data.tar.zst", zstd::encode_all(tar.as_slice(), 1).unwrap()),
    ];
    for (member, data) in table {
        let nodes = unpack(&deb(member, &data)).unwrap();
        assert_eq!(
            nodes,
            [("usr/lib/x".to_owned(), Node::file(0o4755, *b"content").owned_by(0, 42))],
            "{member}"
        );
    }
}

#[test]
fn links_and_choice_are_kept() {
    use tar::EntryType as Type;
    let tar = tar_of(&[
        ("./usr/a", Type::Regular, "", b"a"),
        ("./usr/hard", Type::Link, "./usr/a", b""),
        ("./usr/soft", Type::Symlink, "../../etc/passwd", b""),
        ("./drop/b", Type::Regular, "", b"b"),
    ]);
    let nodes = unpack(&deb("data.tar", &tar)).unwrap();
    let kinds: Vec<_> = nodes.iter().map(|(path, node)| (path.as_str(), &node.kind)).collect();
    assert_eq!(kinds[1].1, kinds[0].1);
    assert_eq!(kinds[2], ("usr/soft", &Kind::Link("../../etc/passwd".into())));
    assert_eq!(kinds.len(), 3);
}

#[test]
fn rejects_paths_that_leave_the_tree_and_odd_files() {
    use tar::EntryType as Type;
    let table: [(&str, Type, &str, &str); 4] = [
        ("../etc/passwd", Type::Regular, "", "leaves its folder"),
        ("usr/x", Type::Char, "", "should not hold"),
        ("usr/x", Type::Link, "usr/nowhere", "left out"),
        ("usr/x", Type::Link, "../../etc/shadow", "leaves its folder"),
    ];
    for (name, kind, link, expected) in table {
        let said = unpack(&deb("data.tar", &tar_of(&[(name, kind, link, b"")]))).unwrap_err();
        assert!(said.contains(expected), "{name}: {said}");
    }
}

#[test]
fn damaged_packages_are_errors_and_never_panic() {
    let good = deb("data.tar", &tar_of(&[("./usr/x", tar::EntryType::Regular, "", &[7; 700])]));
    for cut in (0..good.len() - 1100).step_by(7) {
        assert!(unpack(&good[..cut]).is_err(), "cut at {cut}");
    }
    assert!(unpack(&deb("data.tar.lzma", b"x")).unwrap_err().contains("unknown way"));
    assert!(unpack(&deb("other", b"x")).unwrap_err().contains("no data.tar"));
    assert!(unpack(b"no archive at all").is_err());
}
