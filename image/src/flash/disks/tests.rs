//! Against a folder that looks like /sys and /proc.

use super::*;

/// A machine with disks; mounts and swaps are given as the kernel would write them.
struct Machine(tempfile::TempDir);

impl Machine {
    fn new(mountinfo: &str, swaps: &str) -> Self {
        let machine = Self(tempfile::tempdir().unwrap());
        machine.write("proc/self/mountinfo", mountinfo);
        machine.write("proc/swaps", &format!("Filename Type Size Used Priority\n{swaps}"));
        machine.write("sys/block/.keep/size", "0");
        machine
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.0.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, format!("{text}\n")).unwrap();
    }

    fn disk(&self, name: &str, number: &str, sectors: u64) {
        let at = |path: &str| format!("sys/block/{name}/{path}");
        self.write(&at("dev"), number);
        self.write(&at("size"), &sectors.to_string());
        self.write(&at("queue/logical_block_size"), "512");
        self.write(&at("removable"), "1");
        self.write(&at("ro"), "0");
        self.write(&at("device/vendor"), "SanDisk ");
        self.write(&at("device/model"), "Ultra           ");
    }

    fn partition(&self, disk: &str, name: &str, number: &str) {
        self.write(&format!("sys/block/{disk}/{name}/partition"), "1");
        self.write(&format!("sys/block/{disk}/{name}/dev"), number);
    }

    fn hold(&self, folder: &str, holder: &str) {
        self.write(&format!("sys/block/{folder}/holders/{holder}/.keep"), "");
    }

    fn host(&self) -> Host {
        Host::read(self.0.path()).unwrap()
    }
}

const IMAGE: u64 = 1 << 30;

#[test]
fn disks_are_listed_with_model_size_and_what_uses_them() {
    let machine = Machine::new(
        "29 1 8:1 / / rw - ext4 /dev/sda1 rw\n36 29 8:18 / /mnt/my\\040stick rw,nosuid master:1 - vfat /dev/sdb2 rw",
        "",
    );
    machine.disk("sda", "8:0", 500_118_192);
    machine.partition("sda", "sda1", "8:1");
    machine.disk("sdb", "8:16", 62_333_952);
    machine.partition("sdb", "sdb1", "8:17");
    machine.partition("sdb", "sdb2", "8:18");
    machine.disk("sdc", "8:32", 0);
    machine.disk("mmcblk0", "179:0", 30_535_680);
    machine.disk("mmcblk0boot0", "179:8", 8192);
    for other in ["loop0", "ram0", "zram0", "sr0", "dm-0", "md127"] {
        machine.disk(other, "7:0", 100);
    }
    let disks = machine.host().disks().unwrap();
    let names: Vec<&str> = disks.iter().map(|disk| disk.name.as_str()).collect();
    assert_eq!(names, ["mmcblk0", "sda", "sdb"]);
    let stick = &disks[2];
    assert_eq!((stick.model.as_str(), stick.size, stick.removable), ("SanDisk Ultra", 31_914_983_424, true));
    assert_eq!(stick.uses(), "sdb2 is mounted on /mnt/my stick");
    assert!(!stick.is_system() && disks[1].is_system());
    assert_eq!(decimal(stick.size), "31.9 GB");
}

#[test]
fn refuses_what_is_in_use_in_any_way() {
    let mountinfo = "29 1 0:30 / / rw - overlay overlay rw\n\
        31 29 0:52 / /data rw - btrfs /dev/sdb1 rw\n\
        32 29 254:0 / /srv rw - ext4 /dev/mapper/vault rw\n\
        33 29 254:3 / /usr ro - erofs /dev/mapper/root ro";
    let machine = Machine::new(mountinfo, "/dev/sdd1 partition 1 0 -2\n/dev/dm-2 partition 1 0 -3");
    for (index, disk) in ["sda", "sdb", "sdc", "sdd", "sde", "sdf", "sdg"].into_iter().enumerate() {
        machine.disk(disk, &format!("8:{}", index * 16), 4 << 21);
        machine.partition(disk, &format!("{disk}1"), &format!("8:{}", index * 16 + 1));
    }
    for (index, name) in [(0, "vault"), (1, "unused"), (2, "swap"), (3, "root")] {
        machine.write(&format!("sys/block/dm-{index}/dev"), &format!("254:{index}"));
        machine.write(&format!("sys/block/dm-{index}/dm/name"), name);
    }
    // sdc1 → dm-1 → dm-0, which is mounted; a disk that is held as a whole; swap upon a mapping; the system's own.
    machine.hold("sdc/sdc1", "dm-1");
    machine.hold("dm-1", "dm-0");
    machine.hold("sde", "dm-1");
    machine.hold("sdf/sdf1", "dm-2");
    machine.hold("sdg/sdg1", "dm-3");
    let table: [(&str, &[&str]); 6] = [
        ("sdb", &["sdb1 is mounted on /data", "unmount"]),
        ("sdc", &["sdc1 is part of dm-1", "dm-1 is part of dm-0", "dm-0 is mounted on /srv"]),
        ("sdd", &["sdd1 is swap"]),
        ("sde", &["sde is part of dm-1"]),
        ("sdf", &["sdf1 is part of dm-2", "dm-2 is swap"]),
        ("sdg", &["the disk that this system runs from", "mounted on /usr", "another"]),
    ];
    let host = machine.host();
    let disks = host.disks().unwrap();
    let refusal = |name: &str| {
        let disk = disks.iter().find(|disk| disk.name == name).unwrap();
        disk.check(IMAGE).err().map(|refusal| refusal.to_string())
    };
    for (name, expected) in table {
        let said = refusal(name).unwrap();
        for part in expected {
            assert!(said.contains(part), "{name}: {said}");
        }
    }
    assert_eq!(refusal("sda"), None);
}

#[test]
fn refuses_disks_that_cannot_hold_an_image() {
    let machine = Machine::new("", "");
    machine.disk("sda", "8:0", 4 << 21);
    let good = machine.host().disks().unwrap().remove(0);
    assert_eq!(good.check(IMAGE), Ok(()));
    assert_eq!(good.check(good.size), Ok(()));
    let table = [
        (Disk { size: IMAGE - 512, ..good.clone() }, "too small: it has 1.0 GB, and the image needs 1.0 GB"),
        (Disk { size: 0, ..good.clone() }, "no medium"),
        (Disk { read_only: true, ..good.clone() }, "read-only"),
        (Disk { sector: 4096, ..good.clone() }, "sectors of 4096 bytes"),
    ];
    for (disk, expected) in table {
        let said = disk.check(IMAGE).unwrap_err().to_string();
        assert!(said.contains(expected) && said.contains("/dev/sda"), "{said}");
    }
}

#[test]
fn finds_the_disk_and_names_it_when_a_part_was_given() {
    let machine = Machine::new("", "");
    machine.disk("sda", "8:0", 100);
    machine.partition("sda", "sda1", "8:1");
    machine.disk("dm-0", "254:0", 100);
    machine.disk("loop3", "7:3", 100);
    let host = machine.host();
    let find = |major, minor| host.find(Path::new("/dev/x"), major, minor);
    assert_eq!(find(8, 0).unwrap().name, "sda");
    assert_eq!(find(7, 3).unwrap().name, "loop3", "a loop device is not listed, but may be named");
    let table = [((8, 1), "name the disk that it is on: /dev/sda"), ((254, 0), "LVM"), ((9, 9), "no disk")];
    for ((major, minor), expected) in table {
        let said = find(major, minor).unwrap_err().to_string();
        assert!(said.contains(expected), "{said}");
    }
}

#[test]
fn without_a_list_of_mounts_nothing_is_said_to_be_free() {
    let folder = tempfile::tempdir().unwrap();
    let error = Host::read(folder.path()).unwrap_err().to_string();
    assert!(error.contains("mountinfo") && error.contains("/proc"), "{error}");
    let machine = Machine::new("garbage\n\n1 2 3\n - - -", "");
    fs::remove_file(machine.0.path().join("proc/swaps")).unwrap();
    assert!(machine.host().disks().unwrap().is_empty(), "a kernel without swap is no error");
}
