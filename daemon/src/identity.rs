//! Who this node is: its key, made once; its boot; what it says of itself.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    time::UNIX_EPOCH,
};

use cairn_model::{BootId, Facts, facts};
use cairn_trust::keys::{self, KeyError, KeyPair, PublicKey};
use jiff::Timestamp;
use nix::sys::{statvfs::statvfs, utsname::uname};

use crate::{assemble::node_arch, config::Settings};

/// Where the kernel tells which boot this is.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// Where the node's key is.
pub fn key_path(state_dir: &Path) -> PathBuf {
    state_dir.join("keys/node.pem")
}

/// The node's key; made the first time, 0600, on the disk before it is used.
pub fn load_key(state_dir: &Path) -> Result<KeyPair, KeyError> {
    KeyPair::load_or_generate(&key_path(state_dir))
}

/// SHA-256 of the public key, hex in groups of four: for people to compare.
pub fn fingerprint(public: &PublicKey) -> String {
    keys::fingerprint(public.as_bytes())
}

/// Which boot this is.
pub fn boot_id() -> io::Result<BootId> {
    let text = fs::read_to_string(BOOT_ID)?.trim().replace('-', "");
    text.parse().map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))
}

/// When the OS was built, as systemd itself tells it (systemd-timesyncd(8), `clock-epoch`): the clock cannot be earlier.
pub fn os_build_time() -> Option<Timestamp> {
    let modified = ["/usr/lib/clock-epoch", "/usr/lib/os-release"]
        .iter()
        .find_map(|path| fs::metadata(path).ok()?.modified().ok())?;
    let seconds = modified.duration_since(UNIX_EPOCH).ok()?.as_secs();
    Timestamp::from_second(i64::try_from(seconds).ok()?).ok()
}

/// What the node says of itself.
pub fn facts(settings: &Settings) -> Facts {
    let os_release = os_release();
    let field =
        |names: [&str; 2]| names.iter().find_map(|name| os_release.get(*name).cloned()).unwrap_or_default();
    let uname = uname().ok();
    let text = |value: Option<&std::ffi::OsStr>| value.unwrap_or_default().to_string_lossy().into_owned();
    let runtimes = [("oci", &settings.runtimes.oci), ("wasm", &settings.runtimes.wasm)];
    Facts {
        schema: facts::SCHEMA,
        hostname: text(uname.as_ref().map(nix::sys::utsname::UtsName::nodename)),
        arch: node_arch().to_owned(),
        kernel: text(uname.as_ref().map(nix::sys::utsname::UtsName::release)),
        os: field(["IMAGE_ID", "ID"]),
        os_version: field(["IMAGE_VERSION", "VERSION_ID"]),
        daemon_version: env!("CARGO_PKG_VERSION").to_owned(),
        cpus: std::thread::available_parallelism().map_or(1, |n| u32::try_from(n.get()).unwrap_or(u32::MAX)),
        memory_bytes: memory_bytes(),
        data_bytes: statvfs(&settings.state_dir).map_or(0, |s| s.blocks() * s.fragment_size()),
        runtimes: runtimes
            .iter()
            .filter(|(_, path)| path.exists())
            .map(|(name, _)| (*name).to_owned())
            .collect(),
        labels: settings.labels.clone(),
    }
}

fn os_release() -> BTreeMap<String, String> {
    let text = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let pairs = text.lines().filter_map(|line| line.split_once('='));
    pairs.map(|(name, value)| (name.to_owned(), value.trim_matches(['"', '\'']).to_owned())).collect()
}

fn memory_bytes() -> u64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kib = line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or(0) << 10
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_is_made_once_and_private() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let first = load_key(dir.path()).unwrap().public().node_id();
        assert_eq!(load_key(dir.path()).unwrap().public().node_id(), first);
        let mode = fs::metadata(key_path(dir.path())).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_fingerprint_is_sixteen_groups_of_four() {
        let dir = tempfile::tempdir().unwrap();
        let text = fingerprint(&load_key(dir.path()).unwrap().public());
        assert_eq!(text.split(' ').count(), 16);
        assert!(text.split(' ').all(|group| group.len() == 4));
    }

    #[test]
    fn this_machine_has_a_boot_and_memory() {
        assert!(boot_id().is_ok());
        assert!(memory_bytes() > 0);
    }
}
