//! The way out of the initrd: what the new system is given, and the switch to it.

use std::convert::Infallible;
use std::ffi::CString;
use std::fs;
use std::path::Path;

use nix::mount::{MsFlags, mount};
use nix::unistd::{chdir, chroot, execve};

use crate::block::Disk;
use crate::{Outcome, credentials, log, machine_id, mount_at, provision};

/// Where the new root is put together.
pub(crate) const NEW_ROOT: &str = "/sysroot";

/// The program that takes over.
const SYSTEMD: &str = "/usr/lib/systemd/systemd";

/// Where systemd looks for credentials of the whole system.
const CREDENTIALS: &str = "/run/credentials/@system";

/// From where systemd takes credentials into that folder.
const INITRD_CREDENTIALS: &str = "/run/credentials/@initrd";

/// Where systemd-networkd looks for what holds until the next start.
const NETWORKS: &str = "/run/systemd/network";

/// What systemd's EFI stub hands over, and within it what is the same for all kernel images.
const STUB: &str = "/.extra";
const STUB_CREDENTIALS: &str = "/.extra/global_credentials";

/// Moves all into the new root and becomes systemd. The root lies on `disk`.
pub(crate) fn run(disk: &Disk, sealed: bool) -> Outcome<Infallible> {
    let run = format!("{NEW_ROOT}/run");
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount_at("tmpfs", &run, "tmpfs", flags, "mode=0755,size=20%,nr_inodes=800k")?;
    if let Err(why) = provide_machine_id() {
        log(&why);
    }
    name_own_partitions(NEW_ROOT, disk)?;
    pass_on_provision(NEW_ROOT, sealed)?;
    let mut environment = Vec::new();
    if sealed {
        environment.push(c_string(&format!("CREDENTIALS_DIRECTORY={CREDENTIALS}"))?);
    }
    for folder in ["/dev", "/proc", "/sys"] {
        let target = format!("{NEW_ROOT}{folder}");
        mount(Some(folder), target.as_str(), None::<&str>, MsFlags::MS_MOVE, None::<&str>)
            .map_err(|error| format!("failed to move {folder}: {error}"))?;
    }
    // The initrd's memory is given back only when its files are gone.
    for path in ["/init", "/modules.list", "/cmdline"] {
        let _ = fs::remove_file(path);
    }
    for path in ["/m", STUB] {
        let _ = fs::remove_dir_all(path);
    }
    let step =
        |what: &'static str| move |error: nix::Error| format!("failed to {what} the new root: {error}");
    chdir(NEW_ROOT).map_err(step("enter"))?;
    mount(Some("."), "/", None::<&str>, MsFlags::MS_MOVE, None::<&str>).map_err(step("move"))?;
    chroot(".").map_err(step("change into"))?;
    chdir("/").map_err(step("enter"))?;
    let program = c_string(SYSTEMD)?;
    execve(&program, &[&program], &environment).map_err(|error| format!("failed to start {SYSTEMD}: {error}"))
}

/// What the new system is given by an initrd that moves its own /run there. The machine's id is left to systemd, which
/// takes the same one where the command line says `systemd.machine_id=firmware`.
pub(crate) fn tell(disk: &Disk) -> Outcome<()> {
    name_own_partitions("", disk)?;
    pass_on_provision("", false)
}

fn c_string(text: &str) -> Outcome<CString> {
    CString::new(text).map_err(|_| format!("'{text}' holds a NUL"))
}

/// Puts the machine's own id over the image's empty file; without one, systemd makes up an id at every boot.
fn provide_machine_id() -> Outcome<()> {
    let Some(id) = fs::read_to_string("/sys/class/dmi/id/product_uuid")
        .ok()
        .and_then(|uuid| machine_id::from_uuid(&uuid))
    else {
        return Err("the firmware gives this machine no UUID: its machine id changes at every boot".into());
    };
    let (file, target) = (format!("{NEW_ROOT}/run/machine-id"), format!("{NEW_ROOT}/etc/machine-id"));
    fs::write(&file, format!("{id}\n")).map_err(|error| format!("failed to write {file}: {error}"))?;
    let bind =
        |flags: MsFlags| mount(Some(file.as_str()), target.as_str(), None::<&str>, flags, None::<&str>);
    bind(MsFlags::MS_BIND)
        .and_then(|()| bind(MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY))
        .map_err(|error| format!("failed to bind {target}: {error}"))
}

/// Names the partitions of the disk that was booted, for fstab. A stick with another Cairn on it has partitions with the
/// same labels: by label, the wrong ones could be mounted, and updated.
fn name_own_partitions(root: &str, disk: &Disk) -> Outcome<()> {
    let folder = format!("{root}/run/udev/rules.d");
    fs::create_dir_all(&folder).map_err(|error| format!("failed to create {folder}: {error}"))?;
    let file = format!("{folder}/61-cairn-boot-disk.rules");
    fs::write(&file, udev_rule(disk)).map_err(|error| format!("failed to write {file}: {error}"))
}

/// Runs after the rules that read a partition's label.
fn udev_rule(disk: &Disk) -> String {
    format!(
        "SUBSYSTEM==\"block\", ENV{{DEVTYPE}}==\"partition\", KERNELS==\"{}\", \
         ENV{{ID_PART_ENTRY_NAME}}==\"ESP|cairn-data\", SYMLINK+=\"disk/by-boot-disk/$env{{ID_PART_ENTRY_NAME}}\"\n",
        disk.name()
    )
}

/// Puts what the machine is told to where systemd finds it.
fn pass_on_provision(root: &str, sealed: bool) -> Outcome<()> {
    let table = fs::read("/sys/firmware/dmi/tables/DMI").unwrap_or_default();
    let smbios = credentials::from_smbios(&table);
    let told = provision::combine(smbios, provision::from_esp(Path::new(STUB_CREDENTIALS)), sealed);
    if sealed || !told.credentials.is_empty() {
        let folder = if sealed { CREDENTIALS } else { INITRD_CREDENTIALS };
        write_all(&format!("{root}{folder}"), 0o700, &told.credentials, 0o400)?;
    }
    if !told.networks.is_empty() {
        write_all(&format!("{root}{NETWORKS}"), 0o755, &told.networks, 0o644)?;
    }
    Ok(())
}

/// Writes files to a folder of the new system.
fn write_all(folder: &str, mode: u32, files: &[provision::Credential], file_mode: u32) -> Outcome<()> {
    fs::create_dir_all(folder).map_err(|error| format!("failed to create {folder}: {error}"))?;
    set_mode(folder, mode)?;
    for (name, value) in files {
        let path = format!("{folder}/{name}");
        fs::write(&path, value).map_err(|error| format!("failed to write {path}: {error}"))?;
        set_mode(&path, file_mode)?;
    }
    Ok(())
}

fn set_mode(path: &str, mode: u32) -> Outcome<()> {
    let mode = std::os::unix::fs::PermissionsExt::from_mode(mode);
    fs::set_permissions(path, mode).map_err(|error| format!("failed to protect {path}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partitions_are_named_in_the_run_of_the_root_that_is_asked_for() {
        let root = tempfile::tempdir().unwrap();
        name_own_partitions(&root.path().display().to_string(), &Disk::named("sda")).unwrap();
        let rule = fs::read_to_string(root.path().join("run/udev/rules.d/61-cairn-boot-disk.rules")).unwrap();
        assert_eq!(rule, udev_rule(&Disk::named("sda")));
    }

    #[test]
    fn only_partitions_of_the_booted_disk_get_its_names() {
        let expected = "SUBSYSTEM==\"block\", ENV{DEVTYPE}==\"partition\", KERNELS==\"nvme0n1\", \
            ENV{ID_PART_ENTRY_NAME}==\"ESP|cairn-data\", SYMLINK+=\"disk/by-boot-disk/$env{ID_PART_ENTRY_NAME}\"\n";
        assert_eq!(udev_rule(&Disk::named("nvme0n1")), expected);
    }
}
