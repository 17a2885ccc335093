//! Discovery on made-up `/proc` and `/sys`.

use std::fs;
use std::os::unix::fs::symlink;

use cairn_model::report::Slot;

use super::*;
use crate::{gpt, layout};

const HASH: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";

/// An appliance whose disk is `vda` and whose root lies on the given partitions.
fn appliance(below: [u32; 2]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    let write = |path: &str, text: &str| {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    };
    write("etc/os-release", "ID=cairn\nIMAGE_VERSION=1.2\nCAIRN_COMPATIBLE=\"cairn-generic-amd64\"\n");
    write("proc/cmdline", &format!("ro roothash={HASH} quiet\n"));
    write("proc/sys/kernel/random/boot_id", "11111111-2222\n");
    write(
        "proc/self/mountinfo",
        "1 0 0:1 / / rw - rootfs rootfs rw\n\
         20 1 254:0 / / ro,relatime shared:1 - erofs /dev/mapper/root ro\n\
         30 20 0:40 / /boot rw - autofs systemd-1 rw\n\
         31 30 252:1 / /boot rw,relatime - vfat /dev/vda1 rw\n",
    );
    let disk = "sys/devices/pci0/virtio0/block/vda";
    write(&format!("{disk}/queue/logical_block_size"), "512\n");
    let mut table = Vec::new();
    for partition in layout::partitions() {
        let at = format!("{disk}/vda{}", partition.number);
        write(&format!("{at}/partition"), &format!("{}\n", partition.number));
        write(&format!("{at}/size"), &format!("{}\n", partition.size / 512));
        write(&format!("{at}/dev"), &format!("252:{}\n", partition.number));
        table.push((partition.role.type_uuid(), partition.size / 512));
    }
    fs::create_dir_all(root.join("dev")).unwrap();
    fs::write(root.join("dev/vda"), gpt::tests::disk(&table)).unwrap();
    let slaves = root.join("sys/devices/virtual/block/dm-0/slaves");
    fs::create_dir_all(&slaves).unwrap();
    for number in below {
        let name = format!("vda{number}");
        symlink(format!("../../../../pci0/virtio0/block/vda/{name}"), slaves.join(&name)).unwrap();
    }
    fs::create_dir_all(root.join("sys/dev/block")).unwrap();
    symlink("../../devices/virtual/block/dm-0", root.join("sys/dev/block/254:0")).unwrap();
    folder
}

fn edit(folder: &tempfile::TempDir, path: &str, from: &str, to: &str) {
    let path = folder.path().join(path);
    let text = fs::read_to_string(&path).unwrap();
    assert!(text.contains(from), "{text}");
    fs::write(path, text.replace(from, to)).unwrap();
}

#[test]
fn the_running_slot_is_the_one_below_the_root() {
    for (below, slot) in [([2, 3], Slot::A), ([4, 5], Slot::B)] {
        let folder = appliance(below);
        let machine = Machine::discover(folder.path()).unwrap();
        assert_eq!(machine.running, slot);
        assert_eq!(machine.version().as_str(), "1.2");
        assert_eq!(machine.compatible(), "cairn-generic-amd64");
        assert_eq!(machine.root_hash(), HASH);
        assert_eq!(machine.boot_id, "11111111-2222");
        assert_eq!(machine.esp, folder.path().join("boot"));
        assert_eq!(machine.devices(Slot::A).tree, folder.path().join("dev/vda3"));
        assert_eq!(machine.devices(Slot::B).root, folder.path().join("dev/vda4"));
        assert_eq!(machine.verified, Some(folder.path().join("dev/dm-0")));
    }
}

#[test]
fn a_machine_that_is_no_appliance_is_told_from_a_broken_one() {
    let cases = [
        ("etc/os-release", "CAIRN_COMPATIBLE", "OTHER"),
        ("proc/cmdline", "roothash", "root"),
        ("proc/self/mountinfo", "254:0", "8:1"),
        ("proc/self/mountinfo", "254:0", "../../x"),
    ];
    for (path, from, to) in cases {
        let folder = appliance([2, 3]);
        edit(&folder, path, from, to);
        let found = Machine::discover(folder.path());
        assert!(matches!(found, Err(MachineError::NotAnAppliance { .. })), "{path}: {found:?}");
    }
    for below in [[2, 5], [1, 2], [4, 6]] {
        let found = Machine::discover(appliance(below).path());
        assert!(matches!(found, Err(MachineError::NotAnAppliance { .. })), "{below:?}: {found:?}");
    }
    let empty = tempfile::tempdir().unwrap();
    assert!(matches!(Machine::discover(empty.path()), Err(MachineError::NotAnAppliance { .. })));
}

#[test]
fn refuses_a_disk_that_is_not_laid_out_as_ours() {
    let disk = "sys/devices/pci0/virtio0/block/vda";
    let layout_error = |folder: &tempfile::TempDir, needle: &str| match Machine::discover(folder.path()) {
        Err(error @ MachineError::Layout { .. }) => {
            let text = error.to_string();
            assert!(text.contains(needle) && text.contains("flash"), "{text}");
        }
        other => panic!("{other:?}"),
    };
    let folder = appliance([2, 3]);
    fs::write(folder.path().join("dev/vda"), vec![0; 1 << 20]).unwrap();
    layout_error(&folder, "no sound partition table");

    let folder = appliance([2, 3]);
    let foreign: Vec<(&str, u64)> = layout::partitions()
        .iter()
        .map(|p| (if p.number == 4 { layout::Role::Data } else { p.role }.type_uuid(), p.size / 512))
        .collect();
    fs::write(folder.path().join("dev/vda"), gpt::tests::disk(&foreign)).unwrap();
    layout_error(&folder, "partition 4 has type");
    fs::write(folder.path().join("dev/vda"), gpt::tests::disk(&foreign[..3])).unwrap();
    layout_error(&folder, "no partition 4");

    let folder = appliance([2, 3]);
    edit(&folder, &format!("{disk}/vda4/size"), "524288", "524287");
    layout_error(&folder, "by the table");
}

#[test]
fn the_grown_data_partition_is_no_other_layout() {
    let folder = appliance([2, 3]);
    fs::write(folder.path().join("sys/devices/pci0/virtio0/block/vda/vda6/size"), "99999999\n").unwrap();
    Machine::discover(folder.path()).unwrap();
}

#[test]
fn refuses_without_the_esp_of_its_own_disk() {
    let cases = [
        ("31 30 252:1 / /boot rw,relatime - vfat /dev/vda1 rw\n", "", "automount"),
        ("252:1", "8:1", "another disk"),
        ("vfat", "ext4", "no FAT"),
        ("/boot", "/efi", "nothing is"),
    ];
    for (from, to, needle) in cases {
        let folder = appliance([2, 3]);
        edit(&folder, "proc/self/mountinfo", from, to);
        match Machine::discover(folder.path()) {
            Err(error @ MachineError::Esp { .. }) => assert!(error.to_string().contains(needle), "{error}"),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn refuses_an_os_release_without_a_version() {
    for to in ["IMAGE_VERSION=v1", "IMAGE_VERSION=", "X=1"] {
        let folder = appliance([2, 3]);
        edit(&folder, "etc/os-release", "IMAGE_VERSION=1.2", to);
        assert!(matches!(Machine::discover(folder.path()), Err(MachineError::Version(_))), "{to}");
    }
}

#[test]
fn the_verified_device_is_read_to_its_end() {
    let folder = appliance([2, 3]);
    let machine = Machine::discover(folder.path()).unwrap();
    assert!(matches!(machine.scan(), Err(ScanError::Open { .. })), "it is not there");
    // More than is read at once, and no multiple of that.
    fs::write(folder.path().join("dev/dm-0"), vec![1; (1 << 20) + 4096]).unwrap();
    machine.scan().unwrap();
    // What a block that cannot be read looks like.
    fs::remove_file(folder.path().join("dev/dm-0")).unwrap();
    fs::create_dir(folder.path().join("dev/dm-0")).unwrap();
    assert!(machine.scan().is_err());
}

proptest::proptest! {
    // Each case makes a disk of 4 MiB.
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(32))]

    #[test]
    fn any_text_of_the_kernels_is_read_without_panic(mounts in ".{0,200}", line in ".{0,100}") {
        let folder = appliance([2, 3]);
        fs::write(folder.path().join("proc/self/mountinfo"), mounts).unwrap();
        let _ = Machine::discover(folder.path());
        fs::write(folder.path().join("proc/cmdline"), &line).unwrap();
        let _ = Machine::discover(folder.path());
    }
}
