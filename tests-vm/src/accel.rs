//! Which accelerator QEMU can really use here: KVM only where a guest was seen to run on it.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};

/// A boot sector that tells QEMU's `isa-debug-exit` device 0x10 and halts: `mov al,0x10; out 0xf4,al; hlt`.
const PROBE_CODE: [u8; 5] = [0xb0, 0x10, 0xe6, 0xf4, 0xf4];

/// What QEMU exits with when the guest wrote 0x10 to the debug port: `(value << 1) | 1`.
const PROBE_EXIT: i32 = 0x21;

/// A machine on which KVM works runs the firmware and one sector in well under a second.
const PROBE_DEADLINE: Duration = Duration::from_secs(10);

/// An accelerator of QEMU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accel {
    /// The CPU's own virtualisation.
    Kvm,
    /// Emulation: works everywhere, some twenty times slower.
    Tcg,
}

impl Accel {
    /// QEMU's arguments for it. One CPU: under TCG a second one costs time and now and then a boot. One of AMD's: on an
    /// Intel of that age Linux keeps its page tables apart from a program's (Meltdown), and what TCG knows of addresses
    /// is forgotten with each system call, which is a sixth of a boot.
    pub fn args(self) -> [&'static str; 6] {
        match self {
            Accel::Kvm => ["-accel", "kvm", "-cpu", "host", "-smp", "2"],
            Accel::Tcg => ["-accel", "tcg", "-cpu", "Nehalem,vendor=AuthenticAMD", "-smp", "1"],
        }
    }
}

/// Finds out by running a guest of one sector. `/dev/kvm` that can be opened proves nothing: there are machines where
/// the first instruction never ends. `dir` is for the sector and for the verdict, which is kept for later calls.
pub fn probe(dir: &Path) -> Result<Accel> {
    if !Path::new("/dev/kvm").exists() {
        return Ok(Accel::Tcg);
    }
    let verdict_file = dir.join("accel");
    match fs::read_to_string(&verdict_file).as_deref() {
        Ok("kvm") => return Ok(Accel::Kvm),
        Ok("tcg") => return Ok(Accel::Tcg),
        _ => {}
    }
    let mut sector = [0_u8; 512];
    sector[..PROBE_CODE.len()].copy_from_slice(&PROBE_CODE);
    sector[510..].copy_from_slice(&[0x55, 0xaa]);
    let path = dir.join("kvm-probe.img");
    fs::write(&path, sector).with_context(|| format!("failed to write {}", path.display()))?;
    let accel = if runs_on_kvm(&path)? { Accel::Kvm } else { Accel::Tcg };
    fs::write(&verdict_file, if accel == Accel::Kvm { "kvm" } else { "tcg" })?;
    Ok(accel)
}

fn runs_on_kvm(sector: &Path) -> Result<bool> {
    let mut qemu = Command::new("qemu-system-x86_64")
        .args(["-accel", "kvm", "-machine", "pc", "-m", "64", "-display", "none", "-nodefaults"])
        .args(["-device", "isa-debug-exit,iobase=0xf4,iosize=0x01", "-drive"])
        .arg(format!("if=ide,format=raw,readonly=on,file={}", sector.display()))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .context("failed to start qemu-system-x86_64")?;
    let start = Instant::now();
    while start.elapsed() < PROBE_DEADLINE {
        if let Some(status) = qemu.try_wait()? {
            return Ok(status.code() == Some(PROBE_EXIT));
        }
        thread::sleep(Duration::from_millis(50));
    }
    // A process that hangs inside the kernel may not even die at once: it is told to, and not waited for.
    qemu.kill().ok();
    Ok(false)
}
