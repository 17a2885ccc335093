//! Installs into a slot on loop devices: by our writer, in a process of its own, and by `dd`.

use std::{
    collections::HashMap,
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Instant,
};

use anyhow::{Context, Result, ensure};

use crate::process;

/// Sizes of a slot's partitions in MiB, as the appliance has them.
const ROOT_MIB: u64 = 256;
const TREE_MIB: u64 = 8;

/// How a release gets into the slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// By the patch from what runs.
    Patch,
    /// By the chunks that what runs does not have.
    Chunks,
    /// By chunks, on a machine where nothing runs that could help.
    Nothing,
}

impl Way {
    /// For people.
    pub(super) const fn title(self) -> &'static str {
        match self {
            Self::Patch => "our patch",
            Self::Chunks => "our chunks",
            Self::Nothing => "all our chunks, from nothing",
        }
    }

    const fn argument(self) -> &'static str {
        match self {
            Self::Patch => "patch",
            Self::Chunks => "chunks",
            Self::Nothing => "nothing",
        }
    }
}

/// What one install took.
#[derive(Debug)]
pub(super) struct Installed {
    /// Bytes that came from outside.
    pub(super) fetched: u64,
    /// Milliseconds.
    pub(super) millis: f64,
    /// Most memory, in KiB.
    pub(super) peak_kib: f64,
}

impl Installed {
    /// What was fetched, in MB.
    pub(super) fn megabytes(&self) -> f64 {
        self.fetched as f64 / 1e6
    }
}

/// A slot: `root` and `tree` are loop devices over files of this machine's disk, `uki` is a file beside them.
pub(super) struct Slot {
    dir: PathBuf,
    root: Loop,
    tree: Loop,
    kernel: Loop,
    program: PathBuf,
}

impl Slot {
    pub(super) fn new(dir: &Path) -> Result<Self> {
        let mut build = Command::new("cargo");
        build.args(["build", "--quiet", "--locked", "--package", "cairn-ota", "--example", "install"]);
        process::quiet("bench-ota-example", &mut build)?;
        fs::remove_dir_all(dir).ok();
        fs::create_dir_all(dir)?;
        let device = |name: &str, mib: u64| -> Result<Loop> {
            let device = Loop::new(&dir.join(format!("{name}.img")), mib)?;
            symlink(&device.0, dir.join(name))?;
            Ok(device)
        };
        let program = crate::target().join("debug/examples/install");
        let (root, tree) = (device("root", ROOT_MIB)?, device("tree", TREE_MIB)?);
        Ok(Self { dir: dir.to_owned(), root, tree, kernel: device("kernel", 32)?, program })
    }

    /// The device of the root.
    pub(super) fn root(&self) -> &Path {
        &self.root.0
    }

    /// A device for a tool that writes the kernel image to one.
    pub(super) fn kernel(&self) -> &Path {
        &self.kernel.0
    }

    /// As a slot is that never held anything: zeros, and on the disk.
    pub(super) fn blank(&self) -> Result<()> {
        for (device, mib) in [(&self.root, ROOT_MIB), (&self.tree, TREE_MIB)] {
            copy(Path::new("/dev/zero"), &device.0, &["bs=1M", &format!("count={mib}")])?;
        }
        fs::remove_file(self.dir.join("uki")).ok();
        fs::remove_dir_all(self.dir.join("scratch")).ok();
        process::output(&mut Command::new("sync")).map(drop)
    }

    /// The same bytes, by a tool that looks at none of them; milliseconds.
    pub(super) fn dd(&self, image: &Path) -> Result<f64> {
        let start = Instant::now();
        copy(&image.join("root.erofs"), &self.root.0, &["bs=1M"])?;
        copy(&image.join("root.verity"), &self.tree.0, &["bs=1M"])?;
        copy(&image.join("uki.efi"), &self.dir.join("uki"), &["bs=1M"])?;
        Ok(start.elapsed().as_secs_f64() * 1000.0)
    }

    /// Our writer, to the end.
    pub(super) fn install(&self, release: &Path, running: &Path, way: Way) -> Result<Installed> {
        let text = process::output(&mut self.command(release, running, way))?;
        let figures = figures(&text);
        let number =
            |key: &str| figures.get(key).and_then(|value| value.parse::<f64>().ok()).unwrap_or_default();
        let expected = if way == Way::Patch { "patch" } else { "chunks" };
        ensure!(figures.get("method") == Some(&expected), "it was not installed by {expected}: {text}");
        Ok(Installed {
            fetched: number("fetched") as u64,
            millis: number("millis"),
            peak_kib: number("peak-kib"),
        })
    }

    /// Our writer, killed once it has fetched so many bytes; how many it fetched.
    pub(super) fn install_until(&self, release: &Path, running: &Path, way: Way, bytes: u64) -> Result<u64> {
        let output = self
            .command(release, running, way)
            .arg(bytes.to_string())
            .stderr(Stdio::null())
            .output()
            .context("failed to start our writer")?;
        ensure!(
            !output.status.success(),
            "our writer was to be killed at {bytes} bytes, and came to its end"
        );
        let text = String::from_utf8_lossy(&output.stdout);
        let fetched = figures(&text).get("fetched").and_then(|value| value.parse().ok());
        fetched.with_context(|| format!("our writer says: {text}"))
    }

    fn command(&self, release: &Path, running: &Path, way: Way) -> Command {
        let mut command = Command::new(&self.program);
        command.arg(release).arg(running).arg(&self.dir).arg(way.argument());
        command
    }
}

/// `name value` on each line.
fn figures(text: &str) -> HashMap<&str, &str> {
    text.lines().filter_map(|line| line.split_once(' ')).collect()
}

fn copy(from: &Path, to: &Path, how: &[&str]) -> Result<()> {
    let mut command = Command::new("dd");
    command.arg(format!("if={}", from.display())).arg(format!("of={}", to.display()));
    process::output(command.args(how).args(["conv=fsync,notrunc", "status=none"])).map(drop)
}

/// A loop device over a file of this machine's disk, which has all its blocks.
struct Loop(PathBuf);

impl Loop {
    fn new(file: &Path, mib: u64) -> Result<Self> {
        copy(Path::new("/dev/zero"), file, &["bs=1M", &format!("count={mib}")])?;
        let device = process::output(Command::new("losetup").args(["--find", "--show"]).arg(file))
            .context("failed to make a loop device: are you root, and is there one left?")?;
        Ok(Self(PathBuf::from(device.trim())))
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        if let Err(error) = process::output(Command::new("losetup").arg("--detach").arg(&self.0)) {
            eprintln!("  {error:#}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::figures;

    #[test]
    fn reads_figures() {
        let read = figures("method patch\nfetched 12\n");
        assert_eq!((read["method"], read["fetched"]), ("patch", "12"));
    }
}
