//! What is assembled of a closure: a disk of the same layout as every other, and a release that a node takes. The closure
//! is a tree of files from the lock's packages that looks like a store; NixOS itself is not in reach. Needs the packages of
//! the lock: `./x test` fetches them and names their folder in CAIRN_TEST_PACKAGES, else the test says that it did not run.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use cairn_image::build::Manifest;
use cairn_image::closure::{self, Request};
use cairn_image::lock::Lock;
use cairn_image::release::{self, layout::Layout};
use cairn_image::tools::{Tools, write_folder};
use cairn_image::{deb, uki, verity};
use cairn_ota::layout::{self, Role};

/// Not the store of the machine that runs the test.
const NAMES: [&str; 2] =
    ["00000000000000000000000000000000-kmod", "11111111111111111111111111111111-nixos-system"];

const COMMAND_LINE: &str =
    "init=/nix/store/11111111111111111111111111111111-nixos-system/init root=fstab panic=3";

struct Scene {
    folder: tempfile::TempDir,
    request: Request,
    tools: Tools,
    kernel: Vec<u8>,
}

fn lock() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("debian.lock")
}

/// A store with two paths, and the kernel of the lock.
fn scene(packages: &Path) -> Scene {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let read = Lock::load(&lock()).unwrap();
    let tree = deb::unpack_all(&read.root, packages, &|path| {
        path.starts_with("boot/vmlinuz-") || path.starts_with("usr/bin/kmod")
    })
    .unwrap();
    write_folder(&tree, &at("store").join(NAMES[0])).unwrap();
    let vmlinuz = tree.iter().find(|(path, _)| path.starts_with("boot/vmlinuz-")).unwrap().0.to_owned();
    let kernel = tree.read(&vmlinuz).unwrap().to_vec();
    std::fs::write(at("kernel"), &kernel).unwrap();
    std::fs::write(at("initrd"), "stands for an initrd").unwrap();
    let system = at("store").join(NAMES[1]);
    std::fs::create_dir_all(&system).unwrap();
    std::os::unix::fs::symlink(format!("/nix/store/{}/usr/bin/kmod", NAMES[0]), system.join("init")).unwrap();
    let list: String = NAMES.iter().map(|name| format!("/nix/store/{name}\n")).collect();
    std::fs::write(at("store-paths"), list).unwrap();
    let request = Request {
        lock: lock(),
        packages: packages.into(),
        closure: at("store-paths"),
        store: at("store"),
        kernel: at("kernel"),
        initrd: at("initrd"),
        command_line: COMMAND_LINE.into(),
        version: "1.4.0".parse().unwrap(),
        compatible: "acme-box-2".into(),
        output: at("image"),
    };
    let tools = Tools::unpack(&read.tools, packages, &at("tools"), read.epoch).unwrap();
    Scene { folder, request, tools, kernel }
}

/// Each partition has the place, size and type of the layout, and slot A holds what was assembled.
fn check_disk(image: &Path, root_hash: &str) {
    let table = gpt::GptConfig::new().only_valid_headers(true).open(image.join("disk.raw")).unwrap();
    let mut disk = File::open(image.join("disk.raw")).unwrap();
    let contents = [None, Some("root.erofs"), Some("root.verity"), None, None, None];
    for (expected, content) in layout::partitions().iter().zip(contents) {
        let found = &table.partitions()[&expected.number];
        assert_eq!(found.first_lba * layout::SECTOR, expected.start);
        assert_eq!((found.last_lba + 1 - found.first_lba) * layout::SECTOR, expected.size);
        assert_eq!(found.part_type_guid.guid.to_string().to_lowercase(), expected.role.type_uuid());
        let Some(content) = content else { continue };
        let expected_bytes = std::fs::read(image.join(content)).unwrap();
        let mut bytes = vec![0; expected_bytes.len()];
        disk.seek(SeekFrom::Start(expected.start)).unwrap();
        disk.read_exact(&mut bytes).unwrap();
        assert!(bytes == expected_bytes, "{content} is not what lies on partition {}", expected.number);
    }
    let (root, tree) = layout::partition_uuids(root_hash).unwrap();
    assert_eq!(table.partitions()[&2].part_guid.to_string(), root);
    assert_eq!(table.partitions()[&3].part_guid.to_string(), tree);
    assert_eq!(table.partitions()[&6].name, Role::Data.label(None));
}

/// The kernel image boots this root: what it is made of, and how the root hash gets to the initrd and to the agent.
fn check_kernel_image(image: &Path, manifest: &Manifest, kernel: &[u8]) {
    let pe = std::fs::read(image.join("uki.efi")).unwrap();
    let section = |name: &str| uki::section(&pe, name).unwrap().unwrap();
    let command_line = format!("roothash={} {COMMAND_LINE}\0", manifest.root_hash);
    assert_eq!(String::from_utf8_lossy(section(".cmdline")), command_line);
    assert!(section(".linux") == kernel, "another kernel");
    assert_eq!(section(".initrd"), b"stands for an initrd");
    assert_eq!(section(".uname"), manifest.kernel.as_bytes());
    let os_release = String::from_utf8_lossy(section(".osrel")).into_owned();
    for line in ["IMAGE_VERSION=1.4.0", "CAIRN_COMPATIBLE=acme-box-2", "ID_LIKE=nixos"] {
        assert!(os_release.lines().any(|own| own.replace('"', "") == line), "no {line} in {os_release}");
    }
}

#[test]
fn a_closure_becomes_a_disk_of_our_layout_and_a_release_of_it() {
    let Some(packages) = std::env::var_os("CAIRN_TEST_PACKAGES").map(PathBuf::from) else {
        eprintln!(
            "not run: CAIRN_TEST_PACKAGES names no folder with the lock's packages; `./x test` sets it"
        );
        return;
    };
    let Scene { folder, request, tools, kernel } = scene(&packages);
    let manifest = closure::build(&request, &mut |_| {}).unwrap();
    let image = &request.output;
    let tree = verity::hash_tree(File::open(image.join("root.erofs")).unwrap()).unwrap();
    assert_eq!(tree.root_hash, manifest.root_hash);
    let held = verity::identify(&File::open(image.join("root.verity")).unwrap()).unwrap();
    assert_eq!(held.map(|(_, root_hash)| root_hash), Some(manifest.root_hash.clone()));
    check_disk(image, &manifest.root_hash);
    check_kernel_image(image, &manifest, &kernel);

    // The file system is sound, and holds the store and what NixOS mounts on.
    let (root, out) = (image.join("root.erofs"), folder.path().join("unpacked"));
    let extract = format!("--extract={}", out.display());
    tools.run("usr/bin/fsck.erofs", &[&extract, &root.display().to_string()]).unwrap();
    let init = std::fs::read_link(out.join("nix/store").join(NAMES[1]).join("init")).unwrap();
    assert_eq!(init, Path::new("/nix/store").join(NAMES[0]).join("usr/bin/kmod"));
    assert!(out.join(init.strip_prefix("/").unwrap()).is_file());
    for place in ["boot", "dev", "etc", "proc", "run", "sys", "tmp", "usr/bin", "var"] {
        assert!(out.join(place).is_dir(), "no /{place}");
    }

    let output = folder.path().join("release");
    let wanted = release::Request { image: image.clone(), output, level: 1, ..release::Request::default() };
    let made = release::make(&wanted, &mut |_| {}).unwrap();
    assert_eq!(Layout::open(&wanted.output).unwrap().release, made.release);
    assert_eq!(made.release.compatible, "acme-box-2");
}
