//! The initrd's only program: loads the drivers it was given, finds the root by its hash, has the kernel verify every
//! block of it, and hands over to systemd. It must never run anything that is not covered by the root hash; on any
//! failure it reboots, so that the boot loader's counter can fall back to the other slot.

mod block;
mod command_line;
mod credentials;
mod gpt;
mod kernel;
mod machine_id;
mod mapper;
mod verity;

use std::ffi::CString;
use std::fs;
use std::io::Write;
use std::path::Path;
use std::time::Duration;

use nix::mount::{MsFlags, mount};
use nix::sys::reboot::{RebootMode, reboot};
use nix::unistd::{chdir, chroot, execve};

/// What is done to find and mount the root ends in this or in systemd.
pub(crate) type Outcome<T> = Result<T, String>;

/// Where the new root is put together.
const NEW_ROOT: &str = "/sysroot";

/// Name of the verified device; systemd expects it where the command line names a root hash.
const MAPPED: &str = "root";

/// The program that takes over.
const SYSTEMD: &str = "/usr/lib/systemd/systemd";

/// Where systemd looks for credentials of the whole system.
const CREDENTIALS: &str = "/run/credentials/@system";

/// How long the root is looked for on disks whose drivers are loaded first: those show up at once.
const FIRST_PATIENCE: Duration = Duration::from_millis(300);

/// How long it is looked for on all others; USB disks may need long.
const PATIENCE: Duration = Duration::from_secs(30);

/// How long a message stays on the console before the reboot.
const PAUSE_BEFORE_REBOOT: Duration = Duration::from_secs(3);

fn main() {
    let Err(why) = start();
    log(&format!("{why}; rebooting"));
    std::thread::sleep(PAUSE_BEFORE_REBOOT);
    nix::unistd::sync();
    let _ = reboot(RebootMode::RB_AUTOBOOT);
}

/// Never returns but with the reason why the machine cannot start.
fn start() -> Outcome<std::convert::Infallible> {
    mount_at("devtmpfs", "/dev", "devtmpfs", MsFlags::MS_NOSUID, "mode=0755")?;
    mount_at("proc", "/proc", "proc", MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC | MsFlags::MS_NODEV, "")?;
    mount_at("sysfs", "/sys", "sysfs", MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC | MsFlags::MS_NODEV, "")?;
    let actual = read("/proc/cmdline")?;
    // Only production images carry the command line that they expect.
    let sealed = fs::read_to_string("/cmdline").ok();
    if let Some(expected) = &sealed {
        command_line::ensure_unchanged(expected, &actual)?;
    }
    let root_hash = command_line::root_hash(&actual)?;
    let list = fs::read_to_string("/modules.list").unwrap_or_default();
    let (first, later) = list.split_once("--\n").unwrap_or((&list, ""));
    load_modules(first);
    let slot = block::find_slot(&root_hash, FIRST_PATIENCE).or_else(|| {
        load_modules(later);
        block::find_slot(&root_hash, PATIENCE)
    });
    mount_root(
        &root_hash,
        slot.ok_or_else(|| format!("no disk holds the root with hash {}", root_hash.as_str()))?,
    )?;
    hand_over(sealed.is_some())
}

/// A message in the kernel's log, which is on the console.
pub(crate) fn log(text: &str) {
    if let Ok(mut log) = fs::OpenOptions::new().write(true).open("/dev/kmsg") {
        // One write is one record.
        let _ = log.write_all(format!("<5>cairn-init: {text}\n").as_bytes());
    }
}

fn read(path: &str) -> Outcome<String> {
    fs::read_to_string(path).map_err(|error| format!("failed to read {path}: {error}"))
}

fn mount_at(source: &str, target: &str, kind: &str, flags: MsFlags, data: &str) -> Outcome<()> {
    let _ = fs::create_dir_all(target);
    mount(Some(source), target, Some(kind), flags, Some(data))
        .map_err(|error| format!("failed to mount {kind} on {target}: {error}"))
}

/// A driver that does not load may be one that this machine does not need.
fn load_modules(list: &str) {
    for path in list.lines().filter(|line| !line.is_empty()) {
        match fs::File::open(path).and_then(|file| kernel::insert_module(&file)) {
            Ok(()) => {}
            Err(error) if error.raw_os_error() == Some(libc::EEXIST) => {}
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => {}
            Err(error) => log(&format!("failed to load {path}: {error}")),
        }
    }
}

fn mount_root(root_hash: &verity::RootHash, (data, tree): block::Slot) -> Outcome<()> {
    let superblock = verity::Superblock::read(&tree)?;
    let device = mapper::open_verified(MAPPED, &data, &tree, root_hash, &superblock)?;
    mount(Some(device.as_str()), NEW_ROOT, Some("erofs"), MsFlags::MS_RDONLY, None::<&str>)
        .map_err(|error| format!("failed to mount the verified root: {error}"))?;
    log(&format!("verified root is on {data}"));
    Ok(())
}

/// Moves all into the new root and becomes systemd.
fn hand_over(sealed: bool) -> Outcome<std::convert::Infallible> {
    let run = format!("{NEW_ROOT}/run");
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount_at("tmpfs", &run, "tmpfs", flags, "mode=0755,size=20%,nr_inodes=800k")?;
    if let Err(why) = provide_machine_id() {
        log(&why);
    }
    let mut environment = Vec::new();
    if sealed {
        import_credentials()?;
        environment.push(c_string(&format!("CREDENTIALS_DIRECTORY={CREDENTIALS}"))?);
    }
    for folder in ["/dev", "/proc", "/sys"] {
        mount(
            Some(folder),
            format!("{NEW_ROOT}{folder}").as_str(),
            None::<&str>,
            MsFlags::MS_MOVE,
            None::<&str>,
        )
        .map_err(|error| format!("failed to move {folder}: {error}"))?;
    }
    // The initrd's memory is given back only when its files are gone.
    for path in ["/init", "/modules.list", "/cmdline"] {
        let _ = fs::remove_file(path);
    }
    let _ = fs::remove_dir_all("/m");
    let step =
        |what: &'static str| move |error: nix::Error| format!("failed to {what} the new root: {error}");
    chdir(NEW_ROOT).map_err(step("enter"))?;
    mount(Some("."), "/", None::<&str>, MsFlags::MS_MOVE, None::<&str>).map_err(step("move"))?;
    chroot(".").map_err(step("change into"))?;
    chdir("/").map_err(step("enter"))?;
    let program = c_string(SYSTEMD)?;
    execve(&program, &[&program], &environment).map_err(|error| format!("failed to start {SYSTEMD}: {error}"))
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

/// Of all that firmware or hypervisor pass in, only `cairn.*` gets into a sealed system: systemd would also accept
/// whole units, udev rules and kernel parameters.
fn import_credentials() -> Outcome<()> {
    let folder = format!("{NEW_ROOT}{CREDENTIALS}");
    fs::create_dir_all(&folder).map_err(|error| format!("failed to create {folder}: {error}"))?;
    set_private(Path::new(&folder), 0o700)?;
    let table = fs::read("/sys/firmware/dmi/tables/DMI").unwrap_or_default();
    for (name, value) in credentials::from_smbios(&table) {
        let path = format!("{folder}/{name}");
        fs::write(&path, value).map_err(|error| format!("failed to write {path}: {error}"))?;
        set_private(Path::new(&path), 0o400)?;
    }
    Ok(())
}

fn set_private(path: &Path, mode: u32) -> Outcome<()> {
    let mode = std::os::unix::fs::PermissionsExt::from_mode(mode);
    fs::set_permissions(path, mode).map_err(|error| format!("failed to protect {}: {error}", path.display()))
}
