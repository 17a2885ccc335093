//! One node as a virtual machine: QEMU through OVMF, systemd-boot and the UKI, as on real hardware.

use std::{
    fs::{self, File},
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::json;

use crate::{
    accel::Accel,
    child,
    qmp::Qmp,
    shell::{Output, Shell},
    wait,
};

pub mod usb;

/// Firmware of Debian's `ovmf`.
const OVMF_CODE: &str = "/usr/share/OVMF/OVMF_CODE_4M.fd";
const OVMF_VARS: &str = "/usr/share/OVMF/OVMF_VARS_4M.fd";

/// The chipset without the controllers that nothing is plugged into: their drivers take a node a second to load.
const MACHINE: &str = "q35,sata=off,i8042=off,smbus=off";

/// Firmware to a root shell under TCG on a loaded machine takes a minute; this is a deadline, not a time.
pub const BOOT_DEADLINE: Duration = Duration::from_secs(300);

/// A node that has died says nothing: its journal is not waited for longer than this.
const JOURNAL_DEADLINE: Duration = Duration::from_secs(20);

/// How a node is made.
#[derive(Debug, Clone)]
pub struct VmConfig {
    /// The disk image that stays as it is: the node writes to an overlay.
    pub image: PathBuf,
    /// Size of the node's disk in GiB; the data partition grows into it.
    pub disk_gib: u32,
    /// Memory in MiB.
    pub memory_mib: u32,
    /// Becomes the machine id, so that a node is the same one after a reboot of QEMU.
    pub uuid: String,
    /// systemd credentials by name.
    pub credentials: Vec<(String, String)>,
    /// The node's TCP ports to reach from here.
    pub forward: Vec<u16>,
    /// What to run on.
    pub accel: Accel,
    /// Where to record every write and flush of the disk.
    pub record: Option<PathBuf>,
    /// Whether there is a network card at all.
    pub network: bool,
    /// What the machine's clock begins with, as QEMU takes it (`2030-01-31T12:00:00`); this machine's time where absent.
    pub clock: Option<String>,
}

/// A running node; dropped means killed.
#[derive(Debug)]
pub struct Vm {
    dir: PathBuf,
    qemu: Child,
    qmp: Qmp,
    shell: Shell,
    forwards: Vec<(u16, u16)>,
    config: VmConfig,
    answered: bool,
}

impl Vm {
    /// Boots a node with a fresh disk; all its files are in `dir`, the serial console's log among them.
    pub fn boot(dir: &Path, config: VmConfig) -> Result<Self> {
        fs::create_dir_all(dir).with_context(|| format!("failed to make {}", dir.display()))?;
        let image = fs::canonicalize(&config.image).with_context(|| {
            format!("no disk image at {}; make it with `./x image`", config.image.display())
        })?;
        run(Command::new("qemu-img")
            .args(["create", "-q", "-f", "qcow2", "-F", "raw", "-b"])
            .arg(&image)
            .arg(dir.join("disk.qcow2"))
            .arg(format!("{}G", config.disk_gib)))?;
        fs::copy(OVMF_VARS, dir.join("vars.fd"))
            .context("failed to copy the firmware's variables: is ovmf installed?")?;
        Self::start(dir, config)
    }

    fn start(dir: &Path, config: VmConfig) -> Result<Self> {
        for socket in ["qmp.sock", "shell.sock"] {
            fs::remove_file(dir.join(socket)).ok();
        }
        let forwards =
            config.forward.iter().map(|&port| Ok((port, free_port()?))).collect::<Result<Vec<_>>>()?;
        let mut command = command(dir, &config, &forwards)?;
        let log = File::create(dir.join("qemu.log"))?;
        let qemu = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .context("failed to start qemu-system-x86_64")?;
        let mut guard = Guard(Some(qemu));
        let connect = |what: &str| {
            wait::until(what, Duration::from_secs(30), || Qmp::connect(&dir.join("qmp.sock")).map(Some))
        };
        let qmp = connect("QEMU's control socket")
            .with_context(|| fs::read_to_string(dir.join("qemu.log")).unwrap_or_default())?;
        let shell = Shell::connect(&dir.join("shell.sock"))?;
        let Some(qemu) = guard.0.take() else { bail!("QEMU is gone") };
        Ok(Self { dir: dir.to_owned(), qemu, qmp, shell, forwards, config, answered: false })
    }

    /// The port on this machine's loopback that leads to the node's `port`.
    pub fn forwarded(&self, port: u16) -> Option<u16> {
        self.forwards.iter().find(|(node, _)| *node == port).map(|(_, host)| *host)
    }

    /// Runs a script as root on the node (test images only).
    pub fn run(&mut self, script: &str) -> Result<Output> {
        self.shell.run(script, Duration::from_secs(120))
    }

    /// Like [`Vm::run`], and an exit code other than 0 is an error.
    pub fn check(&mut self, script: &str) -> Result<String> {
        let output = self.run(script)?;
        ensure!(output.code == 0, "`{script}` ended with {}: {}", output.code, output.text);
        Ok(output.text)
    }

    /// Sends a script that the node will not survive: nobody waits for its end.
    pub fn send(&mut self, script: &str) -> Result<()> {
        self.answered = false;
        self.shell.send(script)
    }

    /// Waits until the node's shell answers.
    pub fn wait_booted(&mut self) -> Result<()> {
        self.shell.run("true", BOOT_DEADLINE).with_context(|| {
            format!("the node did not boot; the end of its console:\n{}", self.console_tail())
        })?;
        self.answered = true;
        Ok(())
    }

    /// Whether a shell answers at all within this time: none does on a production image.
    pub fn has_shell(&mut self, patience: Duration) -> bool {
        self.shell.run("true", patience).is_ok()
    }

    /// What the kernel calls this boot; it changes with each.
    pub fn boot_id(&mut self) -> Result<String> {
        Ok(self.check("cat /proc/sys/kernel/random/boot_id")?.trim().to_owned())
    }

    /// Waits until the node has restarted by itself and answers again.
    pub fn wait_rebooted(&mut self, before: &str) -> Result<()> {
        let short = Duration::from_secs(20);
        wait::until("the node to restart by itself", BOOT_DEADLINE, || {
            // What is sent while it goes down is lost with it: hence a short patience, and another question.
            let id = self.shell.run("cat /proc/sys/kernel/random/boot_id", short)?;
            Ok((id.code == 0 && !id.text.contains(before)).then_some(()))
        })
        .with_context(|| format!("the end of its console:\n{}", self.console_tail()))?;
        self.answered = true;
        Ok(())
    }

    /// Pulls the network cable, or plugs it in.
    pub fn set_link(&mut self, up: bool) -> Result<()> {
        self.qmp.execute("set_link", json!({ "name": "net0", "up": up })).map(|_| ())
    }

    /// Ends QEMU as its window's close button would: the node has no warning, but all that QEMU holds is written out.
    pub fn quit(mut self) -> Result<Off> {
        self.answered = false;
        self.qmp.execute("quit", json!({})).ok();
        self.qemu.wait().context("failed to wait for QEMU's end")?;
        Ok(Off { dir: self.dir.clone(), config: self.config.clone() })
    }

    /// Cuts the power and boots the same disk again.
    pub fn power_cycle(self) -> Result<Self> {
        let config = self.config.clone();
        self.power_cycle_as(config)
    }

    /// Like [`Vm::power_cycle`], with the machine's clock set to something else.
    pub fn power_cycle_at(self, clock: &str) -> Result<Self> {
        let config = VmConfig { clock: Some(clock.to_owned()), ..self.config.clone() };
        self.power_cycle_as(config)
    }

    /// Like [`Vm::power_cycle`], with other credentials.
    pub fn power_cycle_with(self, credentials: &[(&str, &str)]) -> Result<Self> {
        let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        let config = VmConfig { credentials: credentials.iter().map(owned).collect(), ..self.config.clone() };
        self.power_cycle_as(config)
    }

    fn power_cycle_as(mut self, config: VmConfig) -> Result<Self> {
        self.stop();
        self.answered = false;
        let dir = self.dir.clone();
        drop(self);
        Self::start(&dir, config)
    }

    /// What the node has said on its serial console since it was last started.
    pub fn console(&self) -> String {
        fs::read(self.dir.join("console.log"))
            .map(|b| String::from_utf8_lossy(&b).into_owned())
            .unwrap_or_default()
    }

    /// The last lines of [`Vm::console`].
    pub fn console_tail(&self) -> String {
        let console = self.console();
        let lines: Vec<_> = console.lines().collect();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }

    fn stop(&mut self) {
        self.qemu.kill().ok();
        self.qemu.wait().ok();
    }
}

/// A node that is switched off.
#[derive(Debug)]
pub struct Off {
    dir: PathBuf,
    config: VmConfig,
}

impl Off {
    /// Its disk.
    pub fn disk(&self) -> PathBuf {
        self.dir.join("disk.qcow2")
    }

    /// Switches it on, with every write and flush of its disk recorded in the file `log`.
    pub fn power_on_recorded(self, log: &Path) -> Result<Vm> {
        File::create(log).with_context(|| format!("failed to make {}", log.display()))?;
        Vm::start(&self.dir, VmConfig { record: Some(log.to_owned()), ..self.config })
    }
}

impl Drop for Vm {
    /// Keeps the node's journal beside its console log: a scenario that failed is understood by it.
    fn drop(&mut self) {
        if self.answered {
            let journal = self
                .shell
                .run("journalctl -b --no-pager -o short-monotonic | tail -n 2000", JOURNAL_DEADLINE);
            let text = journal.map_or_else(|error| format!("{error:#}"), |output| output.text);
            fs::write(self.dir.join("journal.log"), text).ok();
        }
        self.stop();
    }
}

/// Kills QEMU where the harness fails between its start and the first answer.
struct Guard(Option<Child>);

impl Drop for Guard {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            child.kill().ok();
            child.wait().ok();
        }
    }
}

/// The disk. cache=writeback as on hardware: what was not flushed is lost only if the host dies with QEMU.
fn disk(file: &str, record: Option<&Path>) -> Vec<String> {
    let Some(log) = record else {
        return vec!["-drive".to_owned(), format!("if=virtio,format=qcow2,cache=writeback,file={file}")];
    };
    [
        "-blockdev",
        &format!("driver=file,node-name=log,filename={}", log.display()),
        "-blockdev",
        &format!("driver=qcow2,node-name=disk,file.driver=file,file.filename={file}"),
        "-blockdev",
        "driver=blklogwrites,node-name=recorded,file=disk,log=log,log-sector-size=512,log-super-update-interval=512",
        "-device",
        // The firmware remembers where the disk was, and this is another place. Requests that QEMU has merged may have as
        // many parts as pwritev(2) takes; the recorder adds one, and the write is missing in the log.
        "virtio-blk-pci,drive=recorded,bootindex=0,request-merging=off",
    ]
    .map(str::to_owned)
    .to_vec()
}

fn command(dir: &Path, config: &VmConfig, forwards: &[(u16, u16)]) -> Result<Command> {
    let path = |name: &str| dir.join(name).display().to_string();
    let mut command = child::command("qemu-system-x86_64");
    command
        .args(config.accel.args())
        .args(["-machine", MACHINE, "-m", &config.memory_mib.to_string(), "-display", "none", "-nodefaults"])
        .args(["-serial", &format!("file:{}", path("console.log"))])
        .args(["-qmp", &format!("unix:{},server=on,wait=off", path("qmp.sock"))])
        .args(["-drive", &format!("if=pflash,format=raw,readonly=on,file={OVMF_CODE}")])
        .args(["-drive", &format!("if=pflash,format=raw,file={}", path("vars.fd"))])
        .args(disk(&path("disk.qcow2"), config.record.as_deref()))
        .args(["-device", "virtio-rng-pci", "-device", "virtio-serial"])
        .args(["-chardev", &format!("socket,path={},server=on,wait=off,id=shell", path("shell.sock"))])
        .args(["-device", "virtserialport,chardev=shell,name=cairn.shell"])
        .args(["-smbios", &format!("type=1,uuid={}", config.uuid)]);
    if config.network {
        let mut netdev = "user,id=net0".to_owned();
        for (node, host) in forwards {
            netdev.push_str(&format!(",hostfwd=tcp:127.0.0.1:{host}-:{node}"));
        }
        command.args(["-netdev", &netdev, "-device", "virtio-net-pci,netdev=net0"]);
    }
    // The last device of all, so that the others stay where the firmware remembers them.
    command.args(usb::CONTROLLER);
    if let Some(clock) = &config.clock {
        command.args(["-rtc", &format!("base={clock}")]);
    }
    // By file, not by value: an argument list is readable by every user of this machine.
    for (name, value) in &config.credentials {
        let file = dir.join(format!("credential-{name}"));
        write_private(&file, &format!("io.systemd.credential.binary:{name}={}", STANDARD.encode(value)))?;
        command.args(["-smbios", &format!("type=11,path={}", file.display())]);
    }
    Ok(command)
}

/// Writes a file that only this user may read: it holds a secret.
pub fn write_private(path: &Path, text: &str) -> Result<()> {
    use std::{io::Write, os::unix::fs::OpenOptionsExt};
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
        .with_context(|| format!("failed to write {}", path.display()))?;
    Ok(file.write_all(text.as_bytes())?)
}

/// A TCP port of the loopback that nothing listens on now.
pub fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0").context("no free port on the loopback")?.local_addr()?.port())
}

/// Runs a command to its end; what it said is in the error.
pub fn run(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("failed to start {:?}", command.get_program()))?;
    if !output.status.success() {
        bail!(
            "{:?} ended with {}: {}{}",
            command.get_program(),
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
