//! `cairn-image flash`.

use std::fs;
use std::io::{self, BufRead, IsTerminal, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use cairn_image::flash;
use cairn_image::flash::disks::{Disk, DiskError, Host, decimal};
use cairn_image::flash::image::Image;
use cairn_image::flash::progress::{Meter, Step};
use cairn_image::flash::provision::{Provisioning, Sources};
use cairn_image::flash::target::FileTarget;
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
    Disk(Disk),
    File,
}

/// Lists, or checks, asks, writes and verifies.
pub(crate) fn run(args: FlashArgs) -> Result<()> {
    let host = || Host::read(Path::new("/"));
    if args.list {
        print!("{}", table(&host()?.disks()?));
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
    let place = place(&path, host)?;
    let mut screen = Screen::new();
    let inspected = Image::inspect(&image, &mut |done, total| screen.show(Step::Checking, done, total));
    screen.end();
    let mut image = inspected?;
    let size = image.table.size;
    println!("{}: Cairn {}, {}", image.path().display(), image.version, decimal(size));
    if let Place::Disk(disk) = &place {
        disk.check(size)?;
    }
    provisioning.write(&mut image.esp)?;
    if !provisioning.is_empty() {
        println!("with {}", provisioning.names().collect::<Vec<_>>().join(", "));
    }
    if !args.yes {
        confirm(&path, &place)?;
    }
    let failed =
        || format!("failed to open {} for writing; is it yours, and does nothing use it?", path.display());
    let mut target = match &place {
        // What changed since the disk was looked at, the kernel knows: it refuses one that is in use.
        Place::Disk(disk) => FileTarget::device(&path, disk.size).with_context(failed)?,
        Place::File => FileTarget::file(&path, size).with_context(failed)?,
    };
    let flashed = flash::flash(&image, &mut target, &mut |step, done, total| screen.show(step, done, total));
    screen.end();
    let flashed = flashed?;
    let (written, verified) = (decimal(flashed.written), decimal(flashed.verified));
    println!("{} holds Cairn {}: {written} written, {verified} read back", path.display(), image.version);
    Ok(())
}

/// Looks at what was named, without opening it.
fn place(path: &Path, host: impl Fn() -> Result<Host, DiskError>) -> Result<Place> {
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
        let disk = host()?.find(path, major, minor)?;
        // Before the image is read: that takes a while.
        disk.check(0)?;
        return Ok(Place::Disk(disk));
    }
    ensure!(kind.is_file(), "{} is neither a disk nor a plain file; name one of these", path.display());
    Ok(Place::File)
}

/// Asks for the name of what will be lost; a file that is not there yet loses nothing.
fn confirm(path: &Path, place: &Place) -> Result<()> {
    let (name, what) = match place {
        Place::Disk(disk) => {
            let model = if disk.model.is_empty() { "a disk" } else { &disk.model };
            (disk.name.clone(), format!("{model} of {}", decimal(disk.size)))
        }
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
        let host = || -> Result<Host, _> { panic!("a file needs no look at the disks") };
        let folder = tempfile::tempdir().unwrap();
        assert!(matches!(place(&folder.path().join("new"), host).unwrap(), Place::File));
        let refused = |path: &Path| place(path, host).err().unwrap().to_string();
        assert!(refused(folder.path()).contains("neither a disk nor"));
        assert!(refused(Path::new("/dev/null")).contains("neither a disk nor"));
        assert!(refused(Path::new("/dev/no-such-disk")).contains("--list"), "no file is made in /dev");
    }
}
