//! The initrd's only program: loads the drivers it was given, finds the root by its hash, has the kernel verify every
//! block of it, and hands over to systemd. It must never run anything that is not covered by the root hash. Where the
//! root turns out damaged it has the boot loader take the other slot; on any other failure it reboots, so that the
//! loader's counter runs. In an initrd of somebody else's (NixOS's), `cairn-init attach` does no more than mount the root.

mod block;
mod check;
mod command_line;
mod credentials;
mod entry;
mod esp;
mod fall_over;
mod gpt;
mod hand_over;
mod kernel;
mod machine_id;
mod mapper;
mod pe;
mod provision;
mod record;
mod slot;
mod verity;

use std::convert::Infallible;
use std::fs;
use std::io::Write;
use std::time::Duration;

use nix::mount::{MsFlags, mount};
use nix::sys::reboot::{RebootMode, reboot};

use crate::fall_over::{Next, Trouble};
use crate::hand_over::NEW_ROOT;
use crate::slot::{Among, Slot};
use crate::verity::RootHash;

/// What is done to find and mount the root ends in this or in systemd.
pub(crate) type Outcome<T> = Result<T, String>;

/// Name of the verified device; systemd expects it where the command line names a root hash.
const MAPPED: &str = "root";

/// How long the root is looked for on disks whose drivers are loaded first: those show up at once.
const FIRST_PATIENCE: Duration = Duration::from_millis(300);

/// How long it is looked for on the other disks that a machine is built with, before anything that is plugged in counts:
/// loading a driver waits for the disks behind it, but for cards.
const BUILT_IN_PATIENCE: Duration = Duration::from_secs(10);

/// The same once USB has been loaded, so that all that is plugged in has shown up, and two of a kind are seen.
const PLUGGED_PATIENCE: Duration = Duration::from_secs(5);

/// How long it is looked for on any disk; USB disks may need long.
const PATIENCE: Duration = Duration::from_secs(30);

/// How long a message stays on the console before the reboot.
const PAUSE_BEFORE_REBOOT: Duration = Duration::from_secs(3);

/// The same for a message that a person must read and act on.
const PAUSE_FOR_HELP: Duration = Duration::from_secs(60);

/// Why the machine cannot go on.
enum Stop {
    /// A step failed that may work the next time, or in the other slot.
    Failed(String),
    /// The root cannot be booted.
    Trouble(Trouble, RootHash),
}

impl From<String> for Stop {
    fn from(why: String) -> Self {
        Self::Failed(why)
    }
}

fn main() {
    let stop = if is_service() {
        match attach() {
            Ok(()) => return,
            Err(stop) => stop,
        }
    } else {
        let Err(stop) = start();
        stop
    };
    let pause = match stop {
        Stop::Failed(why) => {
            log(&format!("{why}; rebooting"));
            PAUSE_BEFORE_REBOOT
        }
        Stop::Trouble(trouble, root_hash) => give_way(&trouble, &root_hash),
    };
    std::thread::sleep(pause);
    nix::unistd::sync();
    let _ = reboot(RebootMode::RB_AUTOBOOT);
}

/// Whether it was started as `cairn-init attach`. The kernel gives the words of its command line to its first program,
/// which must not be talked out of its checks by one.
fn is_service() -> bool {
    std::process::id() != 1 && std::env::args().nth(1).as_deref() == Some("attach")
}

/// One service of an initrd that has loaded the drivers already: mounts the verified root, for systemd to switch to.
/// UUIDs and labels in the partition table are those that were flashed, so no generator of systemd's finds an update.
fn attach() -> Result<(), Stop> {
    let root_hash = command_line::root_hash(&read("/proc/cmdline")?)?;
    let looked = look(&root_hash, BUILT_IN_PATIENCE + PLUGGED_PATIENCE);
    let slot = looked.and_then(|slot| slot.map_or_else(|| take_any(&root_hash), Ok));
    let slot = slot.map_err(|trouble| Stop::Trouble(trouble, root_hash))?;
    mount_sound(&slot, root_hash)?;
    Ok(hand_over::tell(&slot.disk)?)
}

/// Never returns but with the reason why the machine cannot start.
fn start() -> Result<Infallible, Stop> {
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
    let slot = find_slot(&root_hash).map_err(|trouble| Stop::Trouble(trouble, root_hash))?;
    mount_sound(&slot, root_hash)?;
    Ok(hand_over::run(&slot.disk, sealed.is_some())?)
}

/// Mounts a root that is not known to be damaged.
fn mount_sound(slot: &Slot, root_hash: RootHash) -> Result<(), Stop> {
    if let Some(block) = count_and_check(slot, &root_hash)? {
        let damaged = Trouble::Damaged { disk: slot.disk.clone(), root: slot.root.clone(), block };
        return Err(Stop::Trouble(damaged, root_hash));
    }
    Ok(mount_root(slot, &root_hash)?)
}

/// The parts of the list of modules, each needed later than the one before.
fn modules(part: usize) -> String {
    let list = fs::read_to_string("/modules.list").unwrap_or_default();
    list.split("--\n").nth(part).unwrap_or_default().to_owned()
}

fn find_slot(root_hash: &RootHash) -> Result<Slot, Trouble> {
    for (part, patience) in [FIRST_PATIENCE, BUILT_IN_PATIENCE, PLUGGED_PATIENCE].into_iter().enumerate() {
        load_modules(&modules(part));
        if let Some(slot) = look(root_hash, patience)? {
            return Ok(slot);
        }
    }
    take_any(root_hash)
}

/// The slot on a disk that is built in.
fn look(root_hash: &RootHash, patience: Duration) -> Result<Option<Slot>, Trouble> {
    slot::find(root_hash, Among::BuiltIn, patience).map_err(Trouble::Alike)
}

/// The slot on any disk, once all have had their time.
fn take_any(root_hash: &RootHash) -> Result<Slot, Trouble> {
    let slot = slot::find(root_hash, Among::All, PATIENCE).map_err(Trouble::Alike)?;
    let slot = slot.ok_or(Trouble::Missing)?;
    if slot.disk.is_pluggable() {
        log(&format!("no disk that is built in holds the system: it is taken from {}", slot.disk.name()));
    }
    Ok(slot)
}

/// Counts this start on the disk before anything can go wrong. Where the last one never became a complete boot, all of
/// the root is read: a bad block is the only thing that condemns a slot, a power cut never does. Without a record the
/// start goes on as well: it only helps to find damage sooner.
fn count_and_check(slot: &Slot, root_hash: &RootHash) -> Outcome<Option<u64>> {
    let before = record::read(&slot.tree, root_hash).unwrap_or_else(|error| {
        log(&format!("failed to read the boot record on {}: {error}", slot.tree));
        record::BootRecord::default()
    });
    let write = |record| {
        if let Err(error) = record::write(&slot.tree, root_hash, record) {
            log(&format!("failed to write the boot record on {}: {error}", slot.tree));
        }
    };
    let now = before.started();
    write(now);
    if !before.needs_check() {
        return Ok(None);
    }
    let bad = check::first_bad_block(slot, root_hash)?;
    match bad {
        Some(block) => write(now.corrupt(block)),
        None if now.is_corrupt() => write(now.sound()),
        None => {}
    }
    Ok(bad)
}

/// Has the boot loader take another slot, or says that there is none; returns how long to wait before the reboot.
fn give_way(trouble: &Trouble, root_hash: &RootHash) -> Duration {
    load_modules(&modules(3));
    match fall_over::run(trouble, root_hash) {
        Next::OtherEntry(why) => {
            log(&format!("{why}; rebooting into the other system"));
            PAUSE_BEFORE_REBOOT
        }
        Next::Nothing(advice) => {
            for line in advice.lines().filter(|line| !line.is_empty()) {
                log(line);
            }
            // The kernel's own messages may be kept off the console; this is seen in any case.
            if let Ok(mut console) = fs::OpenOptions::new().write(true).open("/dev/console") {
                let _ = console.write_all(advice.as_bytes());
            }
            PAUSE_FOR_HELP
        }
    }
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

pub(crate) fn mount_at(source: &str, target: &str, kind: &str, flags: MsFlags, data: &str) -> Outcome<()> {
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

fn mount_root(slot: &Slot, root_hash: &RootHash) -> Outcome<()> {
    let device = mapper::open_verified(MAPPED, slot, root_hash, mapper::Reaction::Restart)?;
    let _ = fs::create_dir_all(NEW_ROOT);
    mount(Some(device.as_str()), NEW_ROOT, Some("erofs"), MsFlags::MS_RDONLY, None::<&str>)
        .map_err(|error| format!("failed to mount the verified root: {error}"))?;
    log(&format!("verified root is on {}", slot.root));
    Ok(())
}
