//! Layers through the command line: against umoci, over each other, and in a container.

use std::{
    collections::BTreeMap,
    fs,
    io::Write,
    os::unix::fs::{FileTypeExt, MetadataExt},
    path::{Path, PathBuf},
    process::Command,
};

use cairn_model::id::Digest;

use crate::support::{Finished, Replica, busybox_root, cairn_oci, require_root};

const TAR: &str = "application/vnd.oci.image.layer.v1.tar";

/// Packs a folder with GNU tar.
fn tar_of(folder: &Path, into: &Path) -> Vec<u8> {
    let status = Command::new("tar")
        .args([
            "--format=pax",
            "--xattrs",
            "--xattrs-include=*",
            "--pax-option=delete=atime,delete=ctime",
            "-C",
        ])
        .arg(folder)
        .arg("-cf")
        .arg(into)
        .arg(".")
        .status();
    assert!(status.unwrap().success());
    fs::read(into).unwrap()
}

fn unpack(blob: &Path, media_type: &str, diff_id: &Digest, into: &Path) -> Finished {
    let mut command = cairn_oci();
    command.arg("unpack").arg("--blob").arg(blob).args([
        "--media-type",
        media_type,
        "--diff-id",
        diff_id.as_str(),
    ]);
    Finished::of(command.arg("--into").arg(into).output().unwrap())
}

#[test]
fn every_compression_gives_the_same_layer() {
    require_root();
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("root");
    busybox_root(&root);
    let tar = tar_of(&root, &dir.path().join("layer.tar"));
    let diff_id = Digest::of(&tar);
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&tar).unwrap();
    let forms = [
        (TAR, tar.clone()),
        ("application/vnd.oci.image.layer.v1.tar+gzip", gzip.finish().unwrap()),
        ("application/vnd.oci.image.layer.v1.tar+zstd", zstd::encode_all(&*tar, 1).unwrap()),
    ];
    for (number, (media_type, blob)) in forms.iter().enumerate() {
        let file = dir.path().join(format!("blob-{number}"));
        fs::write(&file, blob).unwrap();
        let into = dir.path().join(format!("layers/{number}"));
        unpack(&file, media_type, &diff_id, &into).ok();
        assert_eq!(listing(&into), listing(&root), "{media_type}");
    }
}

#[test]
fn unpacked_layers_run_and_whiteouts_hide() {
    let mut replica = Replica::new("cat /etc/new; ls /etc /hidden; test -e /etc/group || echo gone");
    let (base, change) = (replica.path("base"), replica.path("change"));
    busybox_root(&base);
    fs::create_dir(base.join("hidden")).unwrap();
    fs::write(base.join("hidden/below"), "").unwrap();
    fs::create_dir_all(change.join("etc")).unwrap();
    fs::create_dir(change.join("hidden")).unwrap();
    for (name, text) in
        [("etc/new", "new\n"), ("etc/.wh.group", ""), ("hidden/.wh..wh..opq", ""), ("hidden/above", "")]
    {
        fs::write(change.join(name), text).unwrap();
    }
    replica.workload.layers = [change, base]
        .iter()
        .map(|folder| {
            let blob = folder.with_extension("tar");
            let tar = tar_of(folder, &blob);
            let into = replica.path("layers").join(Digest::of(&tar).hex());
            unpack(&blob, TAR, &Digest::of(&tar), &into).ok();
            into
        })
        .collect();
    let output = replica.run().ok();
    assert!(output.starts_with("new\n") && output.ends_with("gone\n"), "{output}");
    assert!(output.contains("above") && !output.contains("below"), "{output}");
}

#[test]
fn unpacks_what_umoci_unpacks() {
    require_root();
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let root = path("root");
    busybox_root(&root);
    fs::create_dir(root.join("odd")).unwrap();
    fs::hard_link(root.join("bin/busybox"), root.join("odd/hard link")).unwrap();
    std::os::unix::fs::symlink("/absolute", root.join("odd/symlink")).unwrap();
    fs::write(root.join(format!("odd/{}", "long".repeat(50))), "long").unwrap();
    nix::unistd::mkfifo(&root.join("odd/fifo"), nix::sys::stat::Mode::from_bits_truncate(0o604)).unwrap();
    std::os::unix::fs::chown(root.join("odd"), Some(70_000), Some(3_000_000)).unwrap();
    fs::set_permissions(root.join("bin/busybox"), std::os::unix::fs::PermissionsExt::from_mode(0o4755))
        .unwrap();

    // umoci makes the image, and unpacks it again; we unpack its layer.
    let umoci = |args: &[&str]| {
        let output =
            Command::new("umoci").args(args).output().expect("umoci is missing: apt-get install umoci");
        assert!(output.status.success(), "umoci {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    };
    let image = path("image");
    let tagged = format!("{}:t", image.display());
    umoci(&["init", "--layout", image.to_str().unwrap()]);
    umoci(&["new", "--image", &tagged]);
    umoci(&["insert", "--image", &tagged, root.to_str().unwrap(), "/"]);
    umoci(&["unpack", "--image", &tagged, path("bundle").to_str().unwrap()]);
    let (layer, media_type, diff_id) = only_layer(&image);
    unpack(&layer, &media_type, &diff_id, &path("ours")).ok();
    assert_eq!(listing(&path("ours")), listing(&path("bundle/rootfs")));
}

/// Blob, media type and diff id of an image layout's only layer.
fn only_layer(image: &Path) -> (PathBuf, String, Digest) {
    let json = |path: PathBuf| serde_json::from_slice::<serde_json::Value>(&fs::read(path).unwrap()).unwrap();
    let blob = |value: &serde_json::Value| {
        let digest: Digest = value["digest"].as_str().unwrap().parse().unwrap();
        image.join("blobs/sha256").join(digest.hex())
    };
    let manifest = json(blob(&json(image.join("index.json"))["manifests"][0]));
    let config = json(blob(&manifest["config"]));
    assert_eq!(manifest["layers"].as_array().unwrap().len(), 1);
    let media_type = manifest["layers"][0]["mediaType"].as_str().unwrap().to_owned();
    (
        blob(&manifest["layers"][0]),
        media_type,
        config["rootfs"]["diff_ids"][0].as_str().unwrap().parse().unwrap(),
    )
}

/// Every path with all that must be the same.
fn listing(root: &Path) -> BTreeMap<PathBuf, String> {
    let mut found = BTreeMap::new();
    let mut queue = vec![root.to_owned()];
    while let Some(path) = queue.pop() {
        let metadata = path.symlink_metadata().unwrap();
        let kind = metadata.file_type();
        let content = if kind.is_symlink() {
            fs::read_link(&path).unwrap().display().to_string()
        } else if kind.is_file() {
            Digest::of(&fs::read(&path).unwrap()).to_string()
        } else if kind.is_fifo() {
            "fifo".to_owned()
        } else {
            String::new()
        };
        let links = if kind.is_file() { metadata.nlink() } else { 0 };
        // The root itself is made by each tool in its own way.
        if path != root {
            let text = format!(
                "{:o} {}:{} links {links} time {} {content}",
                metadata.mode(),
                metadata.uid(),
                metadata.gid(),
                metadata.mtime()
            );
            found.insert(path.strip_prefix(root).unwrap().to_owned(), text);
        }
        if kind.is_dir() {
            queue.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        }
    }
    found
}
