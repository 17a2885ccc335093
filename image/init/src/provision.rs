//! What a machine is told before its first start: credentials that the hypervisor passes in SMBIOS strings, and those
//! that flashing put on the ESP, which systemd's EFI stub hands over in a folder of the initrd. Only `cairn.*` is taken:
//! systemd would also accept whole units, udev rules and kernel parameters.

use std::fs::{self, File};
use std::io::Read;
use std::path::Path;

/// A name and a value.
pub(crate) type Credential = (String, Vec<u8>);

/// Longest name of a credential.
const MAX_NAME: usize = 64;

/// Most credentials that are taken from one source.
pub(crate) const MAX_COUNT: usize = 32;

/// Largest credential from the ESP.
const MAX_SIZE: u64 = 64 * 1024;

/// Most network files, and the largest.
const MAX_NETWORKS: usize = 16;
const MAX_NETWORK_SIZE: usize = 16 * 1024;

/// A name that this machine asks for, and the one that systemd knows.
const HOSTNAME: (&str, &str) = ("cairn.hostname", "system.hostname");

/// Begins the name of what becomes a file for systemd-networkd.
const NETWORK: &str = "cairn.network.";

/// What gets into the new system.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Provision {
    /// Credentials of the system.
    pub(crate) credentials: Vec<Credential>,
    /// Names and contents of network files.
    pub(crate) networks: Vec<Credential>,
}

/// Whether a credential is ours; the name is safe as a file name.
pub(crate) fn is_ours(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '.';
    let rest = name.strip_prefix("cairn.").filter(|rest| rest.chars().all(plain));
    name.len() <= MAX_NAME && rest.is_some() && !name.ends_with('.')
}

/// Credentials in the folder that the EFI stub makes of `/loader/credentials` on the ESP.
pub(crate) fn from_esp(folder: &Path) -> Vec<Credential> {
    let Ok(files) = fs::read_dir(folder) else { return Vec::new() };
    let credential = |path: &Path| -> Option<Credential> {
        // Firmware may give back a name on FAT in another case.
        let file = path.file_name()?.to_str()?.to_ascii_lowercase();
        let name = file.strip_suffix(".cred").filter(|name| is_ours(name))?;
        let mut value = Vec::new();
        File::open(path).ok()?.take(MAX_SIZE + 1).read_to_end(&mut value).ok()?;
        (value.len() as u64 <= MAX_SIZE).then(|| (name.to_owned(), value))
    };
    let mut found: Vec<Credential> =
        files.filter_map(|file| credential(&file.ok()?.path())).take(MAX_COUNT).collect();
    found.sort();
    found.dedup_by(|one, other| one.0 == other.0);
    found
}

/// Puts both sources together; SMBIOS wins. systemd reads SMBIOS itself where the system is not `sealed`: there only what
/// it would not find is passed on.
pub(crate) fn combine(smbios: Vec<Credential>, esp: Vec<Credential>, sealed: bool) -> Provision {
    let mut provision = Provision::default();
    let known: Vec<String> = smbios.iter().map(|(name, _)| name.clone()).collect();
    let esp = esp.into_iter().filter(|(name, _)| !known.contains(name));
    let all = smbios.into_iter().map(|one| (one, sealed)).chain(esp.map(|one| (one, true)));
    for ((name, value), pass_on) in all {
        if let Some(file) = name.strip_prefix(NETWORK) {
            let fits = value.len() <= MAX_NETWORK_SIZE && provision.networks.len() < MAX_NETWORKS;
            if is_network_file(file) && fits {
                provision.networks.push((file.to_owned(), value));
            }
        } else if name == HOSTNAME.0 {
            provision.credentials.push((HOSTNAME.1.to_owned(), value));
        } else if pass_on {
            provision.credentials.push((name, value));
        }
    }
    provision
}

/// `<name>.network` or `<name>.netdev`.
fn is_network_file(file: &str) -> bool {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let Some((name, "network" | "netdev")) = file.split_once('.') else { return false };
    (1..=40).contains(&name.len()) && name.chars().all(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn credentials(names: &[(&str, &str)]) -> Vec<Credential> {
        names.iter().map(|(name, value)| ((*name).to_owned(), value.as_bytes().to_vec())).collect()
    }

    #[test]
    fn rejects_credentials_that_systemd_itself_would_act_on() {
        let bad = [
            "systemd.extra-unit.evil.service",
            "tmpfiles.extra",
            "passwd.plaintext-password.root",
            "cairn./../../etc/x",
            "cairn...",
            "cairn",
            "Cairn.hub",
            "cairn.hub\0",
        ];
        for name in bad {
            assert!(!is_ours(name), "{name}");
        }
        assert!(!is_ours(&format!("cairn.{}", "x".repeat(59))));
        assert!(is_ours("cairn.hub-ca"));
    }

    #[test]
    fn the_esp_gives_what_is_ours_and_of_sane_size() {
        let folder = tempfile::tempdir().unwrap();
        let big = vec![0; MAX_SIZE as usize + 1];
        let files: [(&str, &[u8]); 7] = [
            ("cairn.hub.cred", b"https://h"),
            ("CAIRN.HUB-CA.CRED", b"ca"),
            ("cairn.big.cred", &big),
            ("cairn.full.cred", &big[1..]),
            ("tmpfiles.extra.cred", b"f /x"),
            ("cairn.hub", b"no suffix"),
            (".cred", b""),
        ];
        for (name, content) in files {
            fs::write(folder.path().join(name), content).unwrap();
        }
        fs::create_dir(folder.path().join("cairn.folder.cred")).unwrap();
        let names: Vec<String> = from_esp(folder.path()).into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["cairn.full", "cairn.hub", "cairn.hub-ca"]);
        assert_eq!(from_esp(&folder.path().join("gone")), []);
    }

    #[test]
    fn smbios_wins_over_the_esp() {
        let smbios = credentials(&[("cairn.hub", "from smbios")]);
        let esp = credentials(&[("cairn.hub", "from esp"), ("cairn.enroll-token", "t")]);
        let both = combine(smbios.clone(), esp.clone(), true).credentials;
        assert_eq!(both, credentials(&[("cairn.hub", "from smbios"), ("cairn.enroll-token", "t")]));
        let open = combine(smbios, esp, false).credentials;
        assert_eq!(open, credentials(&[("cairn.enroll-token", "t")]), "systemd reads SMBIOS itself");
    }

    #[test]
    fn host_name_and_network_files_go_to_where_systemd_reads_them() {
        for sealed in [true, false] {
            let told = [
                ("cairn.hostname", "edge-1"),
                ("cairn.network.10-static.network", "[Match]"),
                ("cairn.network.br0.netdev", "[NetDev]"),
                ("cairn.network.evil.link", "x"),
                ("cairn.network..network", "x"),
                ("cairn.network.a.b.network", "x"),
                ("cairn.network.x.network.d", "x"),
            ];
            let provision = combine(credentials(&told), Vec::new(), sealed);
            assert_eq!(provision.credentials, credentials(&[("system.hostname", "edge-1")]));
            let expected = [("10-static.network", "[Match]"), ("br0.netdev", "[NetDev]")];
            assert_eq!(provision.networks, credentials(&expected));
        }
    }

    #[test]
    fn network_files_are_bounded_in_number_and_size() {
        let many: Vec<Credential> =
            (0..MAX_COUNT).map(|n| (format!("cairn.network.n{n}.network"), Vec::new())).collect();
        assert_eq!(combine(Vec::new(), many, true).networks.len(), MAX_NETWORKS);
        let big = vec![("cairn.network.a.network".to_owned(), vec![0; MAX_NETWORK_SIZE + 1])];
        assert_eq!(combine(Vec::new(), big, true), Provision::default());
    }
}
