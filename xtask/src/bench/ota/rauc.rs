//! `rauc install` as the distribution ships it: a plain bundle of the same root and kernel image into the same slot, its
//! service on a private session bus, which is how it runs where the machine's PID 1 is not systemd.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};

use super::install::{Installed, Slot};
use crate::process;

/// Runs service and client; tells milliseconds and the service's peak memory. The bus runs without the variable that
/// rauc asks for the kind of bus, so it is set inside.
const SCRIPT: &str = r#"
export DBUS_STARTER_BUS_TYPE=session
rauc --conf="$1" service --override-boot-slot=A & service=$!
trap 'kill $service' EXIT
until rauc --conf="$1" status >/dev/null 2>&1; do kill -0 $service; sleep 0.1; done
start=$(date +%s%N)
rauc --conf="$1" install "$2" >&2
end=$(date +%s%N)
echo "millis $(( (end - start) / 1000000 ))"
grep VmHWM "/proc/$service/status"
"#;

/// A bundle and the configuration of a machine that takes it.
pub(super) struct Bundle {
    config: PathBuf,
    bundle: PathBuf,
}

impl Bundle {
    /// Makes them, with a certificate of their own.
    pub(super) fn make(dir: &Path, image: &Path, slot: &Slot) -> Result<Self> {
        let content = dir.join("content");
        fs::remove_dir_all(dir).ok();
        fs::create_dir_all(&content)?;
        fs::create_dir_all(dir.join("mnt"))?;
        let (certificate, key) = (dir.join("cert.pem"), dir.join("key.pem"));
        let mut openssl = Command::new("openssl");
        openssl.args([
            "req",
            "-x509",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-days",
            "3650",
            "-subj",
            "/CN=bench",
        ]);
        process::quiet("bench-ota", openssl.arg("-keyout").arg(&key).arg("-out").arg(&certificate))?;
        for (from, to) in [("root.erofs", "root.img"), ("uki.efi", "kernel.img")] {
            fs::copy(image.join(from), content.join(to)).with_context(|| format!("failed to copy {from}"))?;
        }
        fs::write(
            content.join("manifest.raucm"),
            "[update]\ncompatible=bench\nversion=1\n\n[bundle]\nformat=plain\n\n[image.root]\nfilename=root.img\n\n\
             [image.kernel]\nfilename=kernel.img\n",
        )?;
        let config = dir.join("system.conf");
        fs::write(
            &config,
            format!(
                "[system]\ncompatible=bench\nbootloader=noop\nmountprefix={dir}/mnt\nstatusfile={dir}/status\n\n\
                 [keyring]\npath={certificate}\n\n[slot.root.0]\ndevice=/dev/null\ntype=raw\nbootname=A\n\n\
                 [slot.root.1]\ndevice={root}\ntype=raw\nbootname=B\n\n\
                 [slot.kernel.1]\ndevice={kernel}\ntype=raw\nparent=root.1\n",
                dir = dir.display(),
                certificate = certificate.display(),
                root = slot.root().display(),
                kernel = slot.kernel().display(),
            ),
        )?;
        let bundle = dir.join("bundle.raucb");
        let mut make = Command::new("rauc");
        make.arg("bundle").arg("--cert").arg(&certificate).arg("--key").arg(&key);
        make.arg("--mksquashfs-args=-comp zstd").arg(&content).arg(&bundle);
        process::step("making a bundle for rauc", "bench-ota-rauc", &mut make)?;
        Ok(Self { config, bundle })
    }

    /// Installs it once.
    pub(super) fn install(&self) -> Result<Installed> {
        let mut command = Command::new("dbus-run-session");
        command.args(["--", "sh", "-euc", SCRIPT, "sh"]).arg(&self.config).arg(&self.bundle);
        let text = process::output(&mut command)?;
        let number = |key: &str| -> Result<f64> {
            let line = text.lines().find_map(|line| line.strip_prefix(key));
            let figure = line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok());
            figure.with_context(|| format!("no {key} in: {text}"))
        };
        Ok(Installed {
            fetched: fs::metadata(&self.bundle)?.len(),
            millis: number("millis ")?,
            peak_kib: number("VmHWM:")?,
        })
    }
}
