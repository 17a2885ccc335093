//! What maintainer scripts would have done, as data: name service, certificates, identity, links, mount points.

use anyhow::{Context, Result, ensure};
use cairn_ota::OsVersion;

use crate::glob;
use crate::preset;
use crate::tree::{Kind, Tree};
use crate::users::Users;

const DROP: &str = include_str!("../base/drop.list");
const TEST_KEEP: &str = include_str!("../base/test-keep.list");
const PRODUCTION_DROP: &str = include_str!("../base/production-drop.list");
const MASK: &str = include_str!("../base/mask.list");

/// Text files of the image's own.
const FILES: [(&str, &str); 3] = [
    ("etc/hosts", "127.0.0.1 localhost\n::1 localhost\n"),
    // The machine id is put over this file by cairn-init, or by systemd where the machine has no id of its own.
    ("etc/machine-id", ""),
    (
        "etc/nsswitch.conf",
        "passwd: files systemd\ngroup: files systemd\nshadow: files\ngshadow: files\n\
         hosts: resolve [!UNAVAIL=return] files myhostname dns\nservices: files\nprotocols: files\n",
    ),
];

const LINKS: [(&str, &str); 5] = [
    ("etc/mtab", "../proc/self/mounts"),
    ("etc/os-release", "../usr/lib/os-release"),
    ("etc/resolv.conf", "../run/systemd/resolve/stub-resolv.conf"),
    ("etc/systemd/system/default.target", "/usr/lib/systemd/system/multi-user.target"),
    ("usr/bin/sh", "dash"),
];

/// Mount points and the like. What services need of /var before it is mounted lies below the mount point too.
const FOLDERS: [(&str, u32); 15] = [
    ("boot", 0o755),
    ("dev", 0o755),
    ("etc", 0o755),
    ("mnt", 0o755),
    ("opt", 0o755),
    ("proc", 0o555),
    ("root", 0o700),
    ("run", 0o755),
    ("sys", 0o555),
    ("tmp", 0o1777),
    ("var", 0o755),
    ("var/cache", 0o755),
    ("var/lib", 0o755),
    ("var/log", 0o755),
    ("var/tmp", 0o1777),
];

/// Which paths of the packages go into an image.
#[derive(Debug)]
pub struct Selection {
    /// Pattern, and whether it keeps.
    rules: Vec<(&'static str, bool)>,
}

impl Selection {
    /// For a test image, or for production.
    pub fn new(test: bool) -> Self {
        let rule = |line: &'static str| match line.strip_prefix('!') {
            Some(pattern) => (pattern, true),
            None => (line, false),
        };
        let mut rules: Vec<_> = glob::lines(DROP).map(rule).collect();
        if test {
            rules.extend(glob::lines(TEST_KEEP).map(|pattern| (pattern, true)));
        } else {
            rules.extend(glob::lines(PRODUCTION_DROP).map(rule));
        }
        Self { rules }
    }

    /// Whether a path is kept: the last rule that matches decides.
    pub fn keeps(&self, path: &str) -> bool {
        self.rules
            .iter()
            .rev()
            .find(|(pattern, _)| glob::matches(pattern, path))
            .is_none_or(|(_, keep)| *keep)
    }
}

/// Everything but kernel modules and our own files.
pub fn finish(tree: &mut Tree, identity: &Identity, preset: &str) -> Result<Users> {
    for (path, mode) in FOLDERS {
        tree.folder(path, mode)?;
    }
    for (path, text) in FILES {
        tree.file(path, 0o644, text)?;
    }
    for (path, target) in LINKS {
        tree.link(path, target)?;
    }
    tree.file("etc/ssl/certs/ca-certificates.crt", 0o644, certificates(tree)?)?;
    tree.file("usr/lib/os-release", 0o644, identity.os_release()?)?;
    let users = Users::read(tree)?;
    users.write(tree)?;
    preset::enable_all(tree, preset)?;
    preset::mask_all(tree, MASK)?;
    drop_privileges(tree);
    Ok(users)
}

/// All authorities in one file, as update-ca-certificates writes it.
fn certificates(tree: &Tree) -> Result<Vec<u8>> {
    let mut bundle = Vec::new();
    for (path, node) in tree.children("usr/share/ca-certificates") {
        if let (true, Kind::File(content)) = (path.ends_with(".crt"), &node.kind) {
            bundle.extend_from_slice(content);
        }
    }
    ensure!(
        !bundle.is_empty(),
        "the packages hold no certificate authorities; add ca-certificates to the lock"
    );
    Ok(bundle)
}

/// Nobody but root and services runs programs here: no file needs set-user-id.
fn drop_privileges(tree: &mut Tree) {
    tree.for_each_file(|node| node.mode &= 0o1777);
}

/// What an image is for that nothing else is said about.
pub const DEFAULT_COMPATIBLE: &str = "cairn-generic-amd64";

/// Refuses what the release document could not carry, or a line of os-release.
pub fn check_compatible(text: &str) -> Result<()> {
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '.' | '_' | '-');
    ensure!(
        (1..=64).contains(&text.len()) && text.chars().all(allowed),
        "'{text}' names no kind of machine; use 1 to 64 of a-z, 0-9, '.', '_' and '-', such as {DEFAULT_COMPATIBLE}"
    );
    Ok(())
}

/// Who the image says it is.
#[derive(Debug)]
pub struct Identity<'a> {
    /// Version of the image.
    pub version: &'a OsVersion,
    /// Which machines it is for: a node takes only releases with the same string.
    pub compatible: &'a str,
    /// Build time in Unix seconds.
    pub epoch: u64,
    /// Whether it is a test image.
    pub test: bool,
}

impl Identity<'_> {
    /// The text of os-release; the boot loader orders entries by its version.
    pub fn os_release(&self) -> Result<String> {
        let seconds = i64::try_from(self.epoch).context("the build time is out of range")?;
        let built = jiff::Timestamp::from_second(seconds).context("the build time is out of range")?;
        let Self { version, compatible, .. } = self;
        let variant = if self.test { "test" } else { "production" };
        Ok(format!(
            "ID=cairn\nID_LIKE=debian\nNAME=\"Cairn\"\nPRETTY_NAME=\"Cairn {version}\"\nVERSION_ID={version}\n\
             IMAGE_ID=cairn\nIMAGE_VERSION={version}\nBUILD_ID={built}\nVARIANT_ID={variant}\nDEFAULT_HOSTNAME=cairn\n\
             CAIRN_COMPATIBLE={compatible}\n"
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn production_images_have_no_way_to_inject_units_and_no_shell_of_comfort() {
        let generator = "usr/lib/systemd/system-generators/systemd-debug-generator";
        assert!(!Selection::new(false).keeps(generator));
        assert!(Selection::new(true).keeps(generator));
        assert!(!Selection::new(false).keeps("usr/bin/bash"));
        for path in
            ["usr/bin/su", "usr/lib/systemd/system-generators/systemd-getty-generator", "var/lib/dpkg/status"]
        {
            assert!(!Selection::new(true).keeps(path), "{path}");
        }
        assert!(Selection::new(false).keeps("usr/lib/systemd/systemd"));
    }

    #[test]
    fn os_release_names_version_time_and_machines() {
        let version = "1.2.3".parse().unwrap();
        let (compatible, epoch) = ("acme-box-2", 1_763_200_800);
        let text = Identity { version: &version, compatible, epoch, test: false }.os_release().unwrap();
        assert!(text.ends_with("\nCAIRN_COMPATIBLE=acme-box-2\n"), "{text}");
        assert!(
            text.contains("IMAGE_ID=cairn\nIMAGE_VERSION=1.2.3\nBUILD_ID=2025-11-15T10:00:00Z\n"),
            "{text}"
        );
    }
    #[test]
    fn only_plain_words_name_machines() {
        for good in [DEFAULT_COMPATIBLE, "a", "acme_box.v2"] {
            assert!(check_compatible(good).is_ok(), "{good}");
        }
        for bad in ["", "Acme", "a b", "a\nID=evil", "a/b", "é", &"a".repeat(65)] {
            assert!(check_compatible(bad).unwrap_err().to_string().contains("such as"), "{bad}");
        }
    }
}
