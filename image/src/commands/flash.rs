//! `cairn-image flash`.

use std::fs;
use std::io::{self, BufRead, IsTerminal, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use cairn_image::flash;
use cairn_image::flash::disks::{Disk, Host, decimal};
use cairn_image::flash::image::Image;
use cairn_image::flash::progress::{Meter, Step};
use cairn_image::flash::provision::{Provisioning, Sources};
use cairn_image::flash::target::{FileTarget, is_shared};
use clap::Args;

/// What `cairn-image flash` is told.
#[derive(Args)]
pub(crate) struct FlashArgs {
    /// List the disks of this machine, and do nothing.
    #[arg(long, exclusive = true)]
    list: bool,
    /// disk.raw or disk.raw.zst.
    #[arg(required_unless_present = "list")]
    image: Option<PathBuf>,
    /// The disk, such as /dev/sdb, or a plain file: a new one gets the image's size, an existing one keeps its own.
    #[arg(required_unless_present = "list")]
    target: Option<PathBuf>,
    /// Address of the hub that the node shall enrol with, such as https://hub:8443.
    #[arg(long, value_name = "URL")]
    hub: Option<String>,
    /// The hub's CA, in PEM.
    #[arg(long, value_name = "FILE", requires = "hub")]
    hub_ca: Option<PathBuf>,
    /// File with an enrolment token. It lies on the disk until the node is enrolled: use one that works once.
    #[arg(long, value_name = "FILE", requires = "hub")]
    token_file: Option<PathBuf>,
    /// Host name of the node.
    #[arg(long, value_name = "NAME")]
    hostname: Option<String>,
    /// A file for systemd-networkd, such as 10-lan.network; may be repeated.
    #[arg(long, value_name = "FILE")]
    network: Vec<PathBuf>,
    /// Do not ask.
    #[arg(long)]
    yes: bool,
}

/// Where an image goes.
enum Place {
    Disk(Shown),
    File,
}

/// A disk as it was shown and agreed to.
struct Shown {
    disk: Disk,
    /// The kernel's number for this medium in this device, which nothing gets twice; older kernels have none.
    sequence: String,
}

impl Shown {
    /// Looks at the device with this number; `path` is what was named.
    fn look(root: &Path, path: &Path, (major, minor): (u64, u64)) -> Result<Self> {
        let disk = Host::read(root)?.find(path, major, minor)?;
        let sequence = root.join(format!("sys/block/{}/diskseq", disk.name));
        let sequence = fs::read_to_string(sequence).map(|text| text.trim().to_owned()).unwrap_or_default();
        Ok(Self { disk, sequence })
    }

    /// Looks again, at the device that is open. Minutes have passed since: a stick may have been changed for another that
    /// has its name now, or been mounted.
    fn ensure_still(&self, root: &Path, path: &Path, number: (u64, u64), needed: u64) -> Result<()> {
        let now = Self::look(root, path, number)?;
        let what = |shown: &Self| {
            (shown.disk.name.clone(), shown.disk.model.clone(), shown.disk.size, shown.sequence.clone())
        };
        ensure!(
            what(&now) == what(self),
            "{} is no longer the disk that was shown ({}) but another ({}); nothing was written: \
             look at `cairn-image flash --list` and start again",
            path.display(),
            self.describe(),
            now.describe()
        );
        Ok(now.disk.check(needed)?)
    }

    fn describe(&self) -> String {
        let model = if self.disk.model.is_empty() { "a disk" } else { &self.disk.model };
        format!("{model} of {}", decimal(self.disk.size))
    }
}

/// Where this machine tells of itself.
const ROOT: &str = "/";

/// Lists, or checks, asks, writes and verifies.
pub(crate) fn run(args: FlashArgs) -> Result<()> {
    let root = Path::new(ROOT);
    if args.list {
        print!("{}", table(&Host::read(root)?.disks()?));
        return Ok(());
    }
    let (Some(image), Some(path)) = (args.image, args.target) else { bail!("name an image and a disk") };
    let sources = Sources {
        hub: args.hub,
        hub_ca: args.hub_ca,
        token: args.token_file,
        hostname: args.hostname,
        network: args.network,
    };
    let provisioning = Provisioning::read(&sources)?;
    let secret = sources.token.is_some();
    let place = place(&path, root)?;
    if let (Place::File, Ok(metadata)) = (&place, fs::metadata(&path)) {
        // Before the image is read: that takes a while.
        ensure_private(&path, secret && is_shared(metadata.mode()))?;
    }
    let mut screen = Screen::new();
    let inspected = Image::inspect(&image, &mut |done, total| screen.show(Step::Checking, done, total));
    screen.end();
    let mut image = inspected?;
    let size = image.table.size;
    println!("{}: Cairn {}, {}", image.path().display(), image.version, decimal(size));
    if let Place::Disk(shown) = &place {
        shown.disk.check(size)?;
    }
    provisioning.write(&mut image.esp)?;
    if !provisioning.is_empty() {
        println!("with {}", provisioning.names().collect::<Vec<_>>().join(", "));
    }
    if !args.yes {
        confirm(&path, &place)?;
    }
    let mut target = open(root, &path, &place, size, secret)?;
    let flashed = flash::flash(&image, &mut target, &mut |step, done, total| screen.show(step, done, total));
    screen.end();
    let flashed = flashed?;
    let (written, verified) = (decimal(flashed.written), decimal(flashed.verified));
    println!("{} holds Cairn {}: {written} written, {verified} read back", path.display(), image.version);
    Ok(())
}

/// Opens what is written to, and makes sure that it is what was agreed to.
fn open(root: &Path, path: &Path, place: &Place, size: u64, secret: bool) -> Result<FileTarget> {
    let failed =
        || format!("failed to open {} for writing; is it yours, and does nothing use it?", path.display());
    let target = match place {
        // The kernel refuses one that is in use by now.
        Place::Disk(shown) => {
            let target = FileTarget::device(path, shown.disk.size).with_context(failed)?;
            shown.ensure_still(root, path, target.device_number().with_context(failed)?, size)?;
            target
        }
        Place::File => {
            let target = FileTarget::file(path, size).with_context(failed)?;
            ensure_private(path, secret && target.is_shared().with_context(failed)?)?;
            target
        }
    };
    Ok(target)
}

fn ensure_private(path: &Path, exposed: bool) -> Result<()> {
    ensure!(
        !exposed,
        "{0} may be read by others than its owner, and the enrolment token would lie in it; `chmod 600 {0}` first",
        path.display()
    );
    Ok(())
}

/// Looks at what was named, without opening it.
fn place(path: &Path, root: &Path) -> Result<Place> {
    let metadata = match fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            ensure!(
                !path.starts_with("/dev"),
                "{} is not there; see `cairn-image flash --list`",
                path.display()
            );
            return Ok(Place::File);
        }
        metadata => metadata.with_context(|| format!("failed to look at {}", path.display()))?,
    };
    let kind = metadata.file_type();
    if kind.is_block_device() {
        let (major, minor) = (nix::sys::stat::major(metadata.rdev()), nix::sys::stat::minor(metadata.rdev()));
        let shown = Shown::look(root, path, (major, minor))?;
        // Before the image is read: that takes a while.
        shown.disk.check(0)?;
        return Ok(Place::Disk(shown));
    }
    ensure!(kind.is_file(), "{} is neither a disk nor a plain file; name one of these", path.display());
    Ok(Place::File)
}

/// Asks for the name of what will be lost; a file that is not there yet loses nothing.
fn confirm(path: &Path, place: &Place) -> Result<()> {
    let (name, what) = match place {
        Place::Disk(shown) => (shown.disk.name.clone(), shown.describe()),
        Place::File => {
            let Ok(metadata) = fs::metadata(path) else { return Ok(()) };
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            (name, format!("a file of {}", decimal(metadata.len())))
        }
    };
    eprint!("This erases everything on {}, {what}. Type '{name}' to go on: ", path.display());
    io::stderr().flush()?;
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer).context("failed to read the answer")?;
    ensure!(answer.trim() == name, "not confirmed, so nothing was written; type '{name}', or give --yes");
    Ok(())
}

/// The disks for a person.
fn table(disks: &[Disk]) -> String {
    if disks.is_empty() {
        return "this machine shows no disks\n".into();
    }
    let mut text = format!("{:<16} {:>10}  {:<28} {}\n", "DISK", "SIZE", "MODEL", "USED BY");
    for disk in disks {
        let mut notes = Vec::new();
        if disk.is_system() {
            notes.push("THIS SYSTEM".to_owned());
        }
        if disk.read_only {
            notes.push("read-only".to_owned());
        }
        if !disk.uses.is_empty() {
            notes.push(disk.uses());
        }
        let model = if disk.removable { format!("{} (removable)", disk.model) } else { disk.model.clone() };
        let (name, size) = (format!("/dev/{}", disk.name), decimal(disk.size));
        let notes = if notes.is_empty() { "-".to_owned() } else { notes.join(": ") };
        text += &format!("{name:<16} {size:>10}  {:<28} {notes}\n", model.trim());
    }
    text
}

/// One line that is written over on a terminal; elsewhere a line for every tenth.
struct Screen {
    meter: Meter,
    begun: Instant,
    terminal: bool,
    shown: Option<(Step, u64)>,
}

impl Screen {
    fn new() -> Self {
        let terminal = io::stderr().is_terminal();
        Self { meter: Meter::default(), begun: Instant::now(), terminal, shown: None }
    }

    fn show(&mut self, step: Step, done: u64, total: u64) {
        let line = self.meter.line(step, done, total, self.begun.elapsed());
        let tenth = (u128::from(done) * 10).checked_div(u128::from(total)).unwrap_or(10) as u64;
        if self.terminal {
            if self.shown.is_some_and(|(shown, _)| shown != step) {
                eprintln!();
            }
            eprint!("\r\x1b[K{line}");
        } else if self.shown != Some((step, tenth)) {
            eprintln!("{line}");
        }
        self.shown = Some((step, tenth));
    }

    fn end(&mut self) {
        if self.terminal && self.shown.take().is_some() {
            eprintln!();
        }
    }
}

#[cfg(test)]
mod tests {
    use cairn_image::flash::disks::Use;

    use super::*;

    #[test]
    fn the_list_shows_what_a_disk_is_and_who_uses_it() {
        let stick = Disk {
            name: "sdb".into(),
            model: "SanDisk Ultra".into(),
            size: 31_914_983_424,
            sector: 512,
            removable: true,
            read_only: true,
            uses: Vec::new(),
        };
        let uses = vec![Use::Mounted("nvme0n1p2".into(), "/".into())];
        let own = Disk {
            name: "nvme0n1".into(),
            model: String::new(),
            removable: false,
            read_only: false,
            uses,
            ..stick.clone()
        };
        let text = table(&[own, stick]);
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[1].starts_with("/dev/nvme0n1        31.9 GB"), "{text}");
        assert!(lines[1].ends_with("THIS SYSTEM: nvme0n1p2 is mounted on /"), "{text}");
        assert!(lines[2].contains("SanDisk Ultra (removable)") && lines[2].ends_with("read-only"), "{text}");
        assert!(table(&[]).contains("no disks"));
    }

    #[test]
    fn only_disks_and_files_are_places() {
        let root = Path::new("/a file needs no look at the disks");
        let folder = tempfile::tempdir().unwrap();
        assert!(matches!(place(&folder.path().join("new"), root).unwrap(), Place::File));
        let refused = |path: &Path| place(path, root).err().unwrap().to_string();
        assert!(refused(folder.path()).contains("neither a disk nor"));
        assert!(refused(Path::new("/dev/null")).contains("neither a disk nor"));
        assert!(refused(Path::new("/dev/no-such-disk")).contains("--list"), "no file is made in /dev");
    }

    /// A machine with one stick, 8:16, as /sys and /proc show it.
    fn machine() -> tempfile::TempDir {
        let machine = tempfile::tempdir().unwrap();
        let attributes = [
            ("dev", "8:16"),
            ("size", "8388608"),
            ("queue/logical_block_size", "512"),
            ("ro", "0"),
            ("device/model", "Ultra"),
            ("diskseq", "41"),
            ("sdb1/partition", "1"),
            ("sdb1/dev", "8:17"),
        ];
        for (name, value) in attributes {
            set(&machine, &format!("sys/block/sdb/{name}"), value);
        }
        set(&machine, "proc/self/mountinfo", "");
        machine
    }

    fn set(machine: &tempfile::TempDir, path: &str, value: &str) {
        let path = machine.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, format!("{value}\n")).unwrap();
    }

    #[test]
    fn a_disk_that_is_not_what_was_shown_is_not_written_to() {
        let named = Path::new("/dev/sdb");
        let table: [(&str, &str, &[&str]); 8] = [
            (
                "sys/block/sdb/diskseq",
                "42",
                &["no longer the disk that was shown (Ultra of 4.2 GB)", "--list"],
            ),
            (
                "sys/block/sdb/device/model",
                "Extreme",
                &["but another (Extreme of 4.2 GB)", "nothing was written"],
            ),
            ("sys/block/sdb/size", "8388600", &["no longer the disk"]),
            ("sys/block/sdb/ro", "1", &["read-only"]),
            ("proc/self/mountinfo", "36 29 8:17 / /mnt rw - vfat /dev/sdb1 rw", &["sdb1 is mounted on /mnt"]),
            ("proc/swaps", "Filename\n/dev/sdb1 partition 1 0 -2", &["sdb1 is swap"]),
            ("sys/block/sdb/holders/dm-0/.keep", "", &["part of dm-0"]),
            ("sys/block/sdb/dev", "8:32", &["no disk of this machine"]),
        ];
        for (path, value, expected) in table {
            let machine = machine();
            let shown = Shown::look(machine.path(), named, (8, 16)).unwrap();
            let still = || shown.ensure_still(machine.path(), named, (8, 16), 1 << 30);
            still().unwrap();
            set(&machine, path, value);
            let said = still().unwrap_err().to_string();
            assert!(expected.iter().all(|part| said.contains(part)), "{path}: {said}");
        }
    }

    #[test]
    fn the_name_of_a_disk_that_leads_elsewhere_by_now_is_noticed() {
        let machine = machine();
        let named = Path::new("/dev/disk/by-id/stick");
        let shown = Shown::look(machine.path(), named, (8, 16)).unwrap();
        for (name, value) in [("dev", "8:32"), ("size", "8388608"), ("queue/logical_block_size", "512")] {
            set(&machine, &format!("sys/block/sdc/{name}"), value);
        }
        let said = shown.ensure_still(machine.path(), named, (8, 32), 0).unwrap_err().to_string();
        assert!(said.contains("no longer the disk"), "{said}");
        let said = shown.ensure_still(machine.path(), named, (8, 17), 0).unwrap_err().to_string();
        assert!(said.contains("is a partition"), "{said}");
    }

    #[test]
    fn a_token_does_not_go_into_a_file_that_others_may_read() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("disk");
        open(Path::new(ROOT), &path, &Place::File, 4096, true).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        let said = open(Path::new(ROOT), &path, &Place::File, 4096, true).unwrap_err().to_string();
        assert!(said.contains("chmod 600") && said.contains("token"), "{said}");
        open(Path::new(ROOT), &path, &Place::File, 4096, false).unwrap();
    }
}
