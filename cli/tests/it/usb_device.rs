//! Block devices: used where they are mounted, else mounted for the command alone, as root.

use std::{
    fs::{self, File},
    os::unix::fs::{FileExt as _, MetadataExt as _},
    path::Path,
    process::Command,
};

use cairn_model::Digest;
use nix::unistd::geteuid;
use serde_json::Value;
use tempfile::{NamedTempFile, TempDir};

use crate::{
    real::{Node, RealHub},
    run::{Ran, User},
};

const EXT4: &[&str] = &["mkfs.ext4", "-q"];
/// Of the disks here, and of each of their partitions.
const DISK_BYTES: u64 = 64 << 20;
const PARTITION_SECTORS: u64 = 40_960;

/// A block device that is a file, and goes with it.
struct Disk {
    device: String,
    image: NamedTempFile,
}

impl Disk {
    /// An empty one; `None` where this isn't root, who alone has block devices.
    fn new() -> Option<Self> {
        if !geteuid().is_root() {
            eprintln!("only root has block devices to try: run these tests as root");
            return None;
        }
        let image = NamedTempFile::new().unwrap();
        image.as_file().set_len(DISK_BYTES).unwrap();
        let device = run(&["losetup", "-f", "--show", image.path().to_str().unwrap()]);
        Some(Self { device: device.trim().to_owned(), image })
    }

    fn formatted(mkfs: &[&str]) -> Option<Self> {
        let disk = Self::new()?;
        run(&[mkfs, &[disk.device.as_str()]].concat());
        Some(disk)
    }

    /// The `n`th partition, told to the kernel without a table, which not every kernel reads.
    fn partition(&self, n: u64) -> String {
        let start = 2048 + (n - 1) * PARTITION_SECTORS;
        run(&["addpart", &self.device, &n.to_string(), &start.to_string(), &PARTITION_SECTORS.to_string()]);
        format!("{}p{n}", self.device)
    }

    /// As by its switch. It is attached anew: what `blockdev` sets would stay when the disk is gone.
    fn write_protect(&mut self) {
        run(&["losetup", "-d", &self.device]);
        let device = run(&["losetup", "-f", "--show", "-r", self.image.path().to_str().unwrap()]);
        self.device = device.trim().to_owned();
    }

    fn mounted(&self) -> Mounted {
        let folder = tempfile::tempdir().unwrap();
        run(&["mount", &self.device, folder.path().to_str().unwrap()]);
        Mounted(folder)
    }

    fn digest(&self) -> Digest {
        self.image.as_file().sync_all().unwrap();
        Digest::of(&fs::read(self.image.path()).unwrap())
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // They outlive the file otherwise.
        for n in [1, 2].into_iter().filter(|n| Path::new(&format!("{}p{n}", self.device)).exists()) {
            let _ = Command::new("delpart").args([&self.device, &n.to_string()]).status();
        }
        let _ = Command::new("losetup").args(["-d", &self.device]).status();
    }
}

/// Where a test has mounted a disk.
struct Mounted(TempDir);

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0.path()).status();
    }
}

#[track_caller]
fn run(args: &[&str]) -> String {
    let output = Command::new(args[0]).args(&args[1..]).output().unwrap_or_else(|e| panic!("{args:?}: {e}"));
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn export(hub: &RealHub, place: &str) -> Ran {
    hub.run(&["usb", "export", place, "--node", "edge1", "--yes"])
}

fn hub_with_a_node() -> (RealHub, Node) {
    let hub = RealHub::start();
    let edge = hub.member("edge1");
    hub.deploy("web", b"a layer");
    (hub, edge)
}

#[test]
fn a_device_that_nobody_mounted_is_mounted_for_the_command_alone() {
    let Some(disk) = Disk::formatted(EXT4) else { return };
    let (hub, edge) = hub_with_a_node();
    let free = format!("{} is unmounted: it can be pulled", disk.device);
    let ran = hub.run(&["usb", "export", &disk.device, "--node", "edge1", "--dry-run"]);
    assert!(ran.err.contains(&free), "{ran:?}");
    let to = format!("{}\n", disk.device);
    assert!(ran.ok().lines().any(|line| line.starts_with("To ") && format!("{line}\n").ends_with(&to)));
    assert_eq!(fs::read_dir(disk.mounted().0.path()).unwrap().count(), 1, "lost+found alone");
    // A mistake after it was mounted leaves nothing behind either.
    let ran = hub.run(&["usb", "export", &disk.device, "--node", "nobody", "--yes"]).fails(3, &["nobody"]);
    assert!(ran.err.contains(&free), "{ran:?}");
    let ran = export(&hub, &disk.device);
    assert!(ran.err.contains(&free) && !ran.err.contains("umount "), "{ran:?}");
    ran.ok();
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains("/run/cairn-usb") && !mounts.contains(&format!("{} ", disk.device)), "{mounts}");
    {
        let mounted = disk.mounted();
        assert!(mounted.0.path().join("cairn-bundle.json").exists());
        edge.report(mounted.0.path(), 1);
    }
    // Neither a verification nor an import writes one byte to it.
    let before = disk.digest();
    let ran = User::new().run(&["usb", "verify", &disk.device]);
    assert!(ran.err.contains(&free), "{ran:?}");
    ran.ok();
    for known in [0, 1] {
        let answer = hub.run(&["usb", "import", &disk.device, "-o", "json"]).ok();
        let answer: Value = serde_json::from_str(&answer).unwrap();
        assert_eq!(answer["nodes"][0]["known"], known, "{answer}");
    }
    assert_eq!(disk.digest(), before);
}

#[test]
fn a_device_is_used_where_it_is_mounted() {
    let Some(disk) = Disk::formatted(EXT4) else { return };
    let (hub, _edge) = hub_with_a_node();
    let mounted = disk.mounted();
    let ran = export(&hub, &disk.device);
    let unmount = format!("unmount it before you pull it: umount {}", mounted.0.path().display());
    assert!(ran.err.contains(&unmount) && !ran.err.contains("no mount point"), "{ran:?}");
    ran.ok();
    assert!(mounted.0.path().join("cairn-bundle.json").exists());
    hub.run(&["usb", "verify", &disk.device]).ok();
}

#[test]
fn of_a_disk_the_only_partition_with_a_file_system_is_taken() {
    let Some(disk) = Disk::new() else { return };
    let (hub, _edge) = hub_with_a_node();
    let first = disk.partition(1);
    export(&hub, &disk.device).fails(4, &[&first, "no file system", "mkfs.vfat -n CAIRN"]);
    let second = disk.partition(2);
    export(&hub, &disk.device).fails(4, &["no partition of", &first, "(nothing)", &second, "mkfs.vfat"]);
    run(&[EXT4, &[&second]].concat());
    let ran = export(&hub, &disk.device);
    assert!(ran.err.contains(&format!("{second} is unmounted")), "{ran:?}");
    ran.ok();
    hub.run(&["usb", "verify", &second]).ok();
    // Which of two is meant can't be known.
    run(&[EXT4, &[&first]].concat());
    for args in [&["export", &disk.device, "--node", "edge1", "--yes"][..], &["verify", &disk.device]] {
        hub.run(&[&["usb"], args].concat())
            .fails(2, &["several partitions", &format!("{first} (ext4), {second} (ext4)"), "name the one"]);
    }
    export(&hub, &first).ok();
}

#[test]
fn rejects_what_is_no_file_system_with_the_command_that_makes_one() {
    let Some(disk) = Disk::new() else { return };
    let (hub, _edge) = hub_with_a_node();
    let make = format!("mkfs.vfat -I -n CAIRN {}", disk.device);
    export(&hub, &disk.device).fails(4, &["no file system is on it", "nothing on it is needed", &make]);
    run(&["mkswap", &disk.device]);
    export(&hub, &disk.device).fails(4, &["but swap", &make]);
    // Whoever looks for something on it is not told to erase it.
    let ran = hub.run(&["usb", "import", &disk.device]).fails(4, &["but swap", "lsblk -f"]);
    assert!(!ran.err.contains("mkfs"), "{ran:?}");
    run(&["dd", "if=/dev/zero", &format!("of={}", disk.device), "bs=1M", "count=1", "status=none"]);
    run(&["mkfs.vfat", "-I", "-n", "CAIRN", &disk.device]);
    let kernel = fs::read_to_string("/proc/filesystems").unwrap();
    let ran = export(&hub, &disk.device);
    match kernel.lines().any(|line| line.trim() == "vfat") || ran.code == 0 {
        true => assert!(hub.run(&["usb", "verify", &disk.device]).ok().contains("edge1")),
        false => drop(ran.fails(1, &["cannot mount", "vfat", "if this kernel does not know"])),
    }
}

#[test]
fn rejects_a_write_protected_device_before_anything_is_asked() {
    let Some(mut disk) = Disk::formatted(EXT4) else { return };
    let (hub, _edge) = hub_with_a_node();
    export(&hub, &disk.device).ok();
    disk.write_protect();
    hub.run(&["usb", "export", &disk.device, "--node", "edge1"])
        .fails(1, &["is write-protected", "move the switch"]);
    hub.run(&["usb", "verify", &disk.device]).ok();
}

#[test]
fn rejects_an_export_to_what_this_system_runs_from() {
    let (hub, _edge) = hub_with_a_node();
    for folder in ["/", "/usr"] {
        export(&hub, folder).fails(4, &["the system's own", "name the folder"]);
    }
    let number = fs::metadata("/").unwrap().dev();
    let (major, minor) = (nix::sys::stat::major(number), nix::sys::stat::minor(number));
    let Ok(device) = fs::read_to_string(format!("/sys/dev/block/{major}:{minor}/uevent")) else {
        eprintln!("/ is on no block device here: that part is not tried");
        return;
    };
    let name = device.lines().find_map(|line| line.strip_prefix("DEVNAME=")).unwrap();
    let device = format!("/dev/{name}");
    assert!(Path::new(&device).exists(), "{device}");
    export(&hub, &device).fails(4, &["the system's own"]);
}

#[test]
fn rejects_a_device_that_is_not_mounted_where_this_is_not_root() {
    let Some(disk) = Disk::formatted(EXT4) else { return };
    let (hub, _edge) = hub_with_a_node();
    // In a user namespace that maps nobody this is not root, and may still read what is root's.
    let args = ["usb", "export", &disk.device, "--node", "edge1", "--yes"];
    let mut command = Command::new("unshare");
    command.args(["--user", env!("CARGO_BIN_EXE_cairn")]).args(args);
    command.env("XDG_CONFIG_HOME", hub.user.path("config"));
    let output = command.output().unwrap();
    let err = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{err}");
    for says in ["is not mounted", "as root", "udisksctl mount", "mount -o nosuid,nodev,noexec", "lsblk"] {
        assert!(err.contains(says), "{says}: {err}");
    }
}

#[test]
fn a_file_system_that_is_damaged_is_said_with_the_cure() {
    let Some(disk) = Disk::formatted(EXT4) else { return };
    let (hub, _edge) = hub_with_a_node();
    let image = File::options().write(true).open(&disk.device).unwrap();
    // The block groups' table, behind the superblock that still says ext4.
    image.write_all_at(&[0xff; 6144], 2048).unwrap();
    drop(image);
    export(&hub, &disk.device).fails(1, &["cannot mount", "fsck"]);
}
