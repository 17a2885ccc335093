//! The one place that knows apt: where this machine's mirror is, and how to let apt solve a package list for another
//! suite in folders of its own, without touching the machine's state.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;

use crate::lock::{Archive, Lock, Package};

/// The only architecture so far.
const ARCH: &str = "amd64";

/// Keyrings of package debian-archive-keyring, by Debian 12's and by Debian 13's name.
const KEYRINGS: [&str; 2] =
    ["/usr/share/keyrings/debian-archive-keyring.gpg", "/usr/share/keyrings/debian-archive-keyring.pgp"];

/// What an image is made of, before it is solved.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// Packages of the root.
    root: Vec<String>,
    /// Packages that the build runs.
    tools: Vec<String>,
    /// Dependencies that only maintainer scripts or an initramfs would need.
    exclude: Vec<String>,
}

impl Request {
    /// The list at `path`, or the built-in one.
    pub fn load(path: Option<&Path>) -> Result<Self> {
        let text = match path {
            Some(path) => std::fs::read_to_string(path)
                .with_context(|| format!("failed to read package list {}", path.display()))?,
            None => include_str!("../base/packages.toml").to_owned(),
        };
        let request: Self =
            toml::from_str(&text).context("package list is malformed; it holds root, tools, exclude")?;
        let plain = |name: &String| {
            name.starts_with(|c: char| c.is_ascii_alphanumeric())
                && name.chars().all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c))
        };
        for name in request.root.iter().chain(&request.tools).chain(&request.exclude) {
            ensure!(plain(name), "package list holds '{name}', which is no package name; correct the list");
        }
        Ok(request)
    }
}

/// Base addresses of Debian's archives, as this machine reaches them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mirror {
    debian: String,
    security: String,
}

impl Mirror {
    /// From CAIRN_DEBIAN_MIRROR (and CAIRN_DEBIAN_SECURITY_MIRROR) or from the machine's own apt sources.
    pub fn of_this_machine() -> Result<Self> {
        let from_environment = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
        let mut addresses: Vec<String> = Vec::new();
        addresses.extend(from_environment("CAIRN_DEBIAN_MIRROR"));
        addresses.extend(from_environment("CAIRN_DEBIAN_SECURITY_MIRROR"));
        if addresses.is_empty() {
            addresses = read_sources(Path::new("/etc/apt"))?;
        }
        Self::choose(&addresses).context(
            "no Debian mirror found in /etc/apt/sources.list or sources.list.d; name one in CAIRN_DEBIAN_MIRROR",
        )
    }

    /// The first archive whose address ends in `debian`, and the first that ends in `debian-security`.
    fn choose(addresses: &[String]) -> Option<Self> {
        let ends = |suffix: &str| {
            addresses.iter().map(|a| a.trim_end_matches('/')).find(|a| a.ends_with(suffix)).map(str::to_owned)
        };
        let debian = ends("debian")?;
        let security = ends("debian-security").unwrap_or_else(|| format!("{debian}-security"));
        Some(Self { debian, security })
    }

    /// Both archives' addresses, by the names that a lock uses.
    pub fn to_json(&self) -> String {
        serde_json::json!({ "debian": self.debian, "security": self.security }).to_string()
    }

    /// Address of a package.
    pub fn address(&self, package: &Package) -> String {
        let base = match package.archive {
            Archive::Debian => &self.debian,
            Archive::Security => &self.security,
        };
        format!("{base}/{}", package.path)
    }

    /// Archive and pool path of an address that apt printed.
    fn locate(&self, address: &str) -> Option<(Archive, String)> {
        let below = |base: &str| address.strip_prefix(base)?.strip_prefix('/').map(str::to_owned);
        let security = || below(&self.security).map(|path| (Archive::Security, path));
        security().or_else(|| below(&self.debian).map(|path| (Archive::Debian, path)))
    }
}

/// Addresses in one-line and deb822 source files.
fn read_sources(folder: &Path) -> Result<Vec<String>> {
    let mut files = vec![folder.join("sources.list")];
    if let Ok(entries) = std::fs::read_dir(folder.join("sources.list.d")) {
        files.extend(entries.filter_map(Result::ok).map(|entry| entry.path()));
    }
    files.sort();
    let mut addresses = Vec::new();
    for file in files {
        let Some(extension) = file.extension().and_then(|e| e.to_str()) else { continue };
        if !file.is_file() || !matches!(extension, "list" | "sources") {
            continue;
        }
        let text =
            std::fs::read_to_string(&file).with_context(|| format!("failed to read {}", file.display()))?;
        addresses.extend(if extension == "list" { one_line_sources(&text) } else { deb822_sources(&text) });
    }
    Ok(addresses)
}

/// `deb [options] ADDRESS SUITE COMPONENT…`
fn one_line_sources(text: &str) -> Vec<String> {
    let address = |line: &str| {
        let rest = line.trim().strip_prefix("deb ")?.trim_start();
        let rest = if rest.starts_with('[') { rest.split_once(']')?.1 } else { rest };
        rest.split_whitespace().next().map(str::to_owned)
    };
    text.lines().filter_map(address).collect()
}

/// Stanzas with `URIs:`; disabled ones are skipped.
fn deb822_sources(text: &str) -> Vec<String> {
    let field = |stanza: &str, name: &str| {
        stanza
            .lines()
            .find_map(|line| line.strip_prefix(name)?.trim_start().strip_prefix(':').map(str::to_owned))
    };
    let mut addresses = Vec::new();
    for stanza in text.split("\n\n") {
        if field(stanza, "Enabled").is_some_and(|value| value.trim() == "no") {
            continue;
        }
        let uris = field(stanza, "URIs").unwrap_or_default();
        addresses.extend(uris.split_whitespace().map(str::to_owned));
    }
    addresses
}

/// Solves both package lists for `suite` and pins the result.
pub fn solve(suite: &str, request: &Request) -> Result<Lock> {
    let plain = suite.chars().all(|c| c.is_ascii_lowercase() || c == '-');
    ensure!(plain && !suite.is_empty(), "'{suite}' is no Debian suite; try trixie");
    let mirror = Mirror::of_this_machine()?;
    let apt = PrivateApt::new(suite, &mirror)?;
    apt.run(&["update", "-qq"])
        .context("failed to read the mirror's package index; is the mirror reachable?")?;
    let root = apt.packages(&request.root, &request.exclude, &mirror)?;
    let tools = apt.packages(&request.tools, &request.exclude, &mirror)?;
    Ok(Lock::new(suite, ARCH, apt.newest_index()?, root, tools))
}

/// apt with folders of its own: the machine's sources, lists and status are neither read nor changed.
struct PrivateApt {
    folder: tempfile::TempDir,
}

impl PrivateApt {
    fn new(suite: &str, mirror: &Mirror) -> Result<Self> {
        let keyring = KEYRINGS
            .iter()
            .find(|path| Path::new(path).exists())
            .context("Debian's archive keyring is missing; install package debian-archive-keyring")?;
        let folder = tempfile::tempdir().context("failed to make a temporary folder")?;
        for name in ["etc/sources.list.d", "etc/preferences.d", "lists/partial", "cache/archives/partial"] {
            std::fs::create_dir_all(folder.path().join(name)).context("failed to prepare apt's folders")?;
        }
        let line = |address: &str, suite: &str| {
            format!("deb [signed-by={keyring} arch={ARCH}] {address} {suite} main\n")
        };
        let sources = [
            line(&mirror.debian, suite),
            line(&mirror.debian, &format!("{suite}-updates")),
            line(&mirror.security, &format!("{suite}-security")),
        ];
        std::fs::write(folder.path().join("etc/sources.list"), sources.concat())?;
        std::fs::write(folder.path().join("status"), "")?;
        Ok(Self { folder })
    }

    fn run(&self, arguments: &[&str]) -> Result<String> {
        let at = |name: &str| self.folder.path().join(name).display().to_string();
        let options = [
            format!("Dir::Etc={}", at("etc")),
            format!("Dir::Etc::SourceList={}", at("etc/sources.list")),
            format!("Dir::Etc::SourceParts={}", at("etc/sources.list.d")),
            format!("Dir::State={}", at("")),
            format!("Dir::State::Lists={}", at("lists")),
            format!("Dir::State::status={}", at("status")),
            format!("Dir::Cache={}", at("cache")),
            format!("APT::Architecture={ARCH}"),
            format!("APT::Architectures={ARCH}"),
            "Acquire::Languages=none".into(),
            "Acquire::ForceHash=SHA256".into(),
            "Acquire::Retries=3".into(),
            "APT::Install-Recommends=false".into(),
            "APT::Sandbox::User=".into(),
        ];
        let mut command = Command::new("apt-get");
        command.env("LC_ALL", "C").args(options.iter().flat_map(|option| ["-o", option])).args(arguments);
        let output = command.output().context("failed to run apt-get; `lock` needs a Debian machine")?;
        if !output.status.success() {
            bail!("apt-get {}: {}", arguments[0], String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// What apt would install for `names`, without what is excluded.
    fn packages(&self, names: &[String], exclude: &[String], mirror: &Mirror) -> Result<Vec<Package>> {
        let mut arguments = vec!["install", "--print-uris", "-qq", "-y"];
        arguments.extend(names.iter().map(String::as_str));
        let printed = self.run(&arguments)?;
        let mut packages = Vec::new();
        for line in printed.lines().filter(|line| line.starts_with('\'')) {
            let package = parse_uri_line(line, mirror).with_context(|| format!("apt printed '{line}'"))?;
            if !exclude.contains(&package.name) {
                packages.push(package);
            }
        }
        Ok(packages)
    }

    /// The newest `Date:` of the fetched indexes.
    fn newest_index(&self) -> Result<u64> {
        let mut newest = 0;
        for entry in std::fs::read_dir(self.folder.path().join("lists"))? {
            let path: PathBuf = entry?.path();
            if path.to_string_lossy().ends_with("Release") {
                let text = std::fs::read_to_string(&path)?;
                newest = newest.max(text.lines().find_map(release_date).unwrap_or(0));
            }
        }
        ensure!(newest > 0, "the mirror's index names no date; choose another mirror");
        Ok(newest)
    }
}

/// Unix seconds of a `Date: Sat, 15 Nov 2025 10:00:00 UTC` line.
fn release_date(line: &str) -> Option<u64> {
    let text = line.strip_prefix("Date: ")?.trim().replace("UTC", "+0000");
    let date = jiff::fmt::rfc2822::parse(&text).ok()?;
    u64::try_from(date.timestamp().as_second()).ok()
}

/// `'ADDRESS' name_version_arch.deb SIZE SHA256:HEX`
fn parse_uri_line(line: &str, mirror: &Mirror) -> Result<Package> {
    let mut fields = line.split_whitespace();
    let mut next = |what: &str| fields.next().with_context(|| format!("no {what}"));
    let address = next("address")?.trim_matches('\'').to_owned();
    let file = next("file name")?;
    let size = next("size")?.parse().context("size is no number")?;
    let sha256 = next("hash")?.strip_prefix("SHA256:").context("hash is not SHA-256")?.to_owned();
    let (archive, path) = mirror.locate(&address).context("address is not on the mirror")?;
    let mut parts = file.strip_suffix(".deb").context("not a .deb")?.split('_');
    let (Some(name), Some(version), Some(arch), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        bail!("file name is not name_version_arch");
    };
    let version = version.replace("%3a", ":");
    Ok(Package { name: name.into(), version, arch: arch.into(), archive, path, size, sha256 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_of_both_formats_are_read() {
        let list = "# c\ndeb http://m/debian trixie main\ndeb [arch=amd64 signed-by=/k] http://m/debian-security x main\n\
                    deb-src http://m/src trixie main\n";
        assert_eq!(one_line_sources(list), ["http://m/debian", "http://m/debian-security"]);
        let deb822 = "Types: deb\n# URIs: http://no\nURIs: http://m/debian/\nSuites: a\n\nEnabled: no\nURIs: http://off/debian\n\n\
                      URIs: http://m/debian-security\n";
        assert_eq!(deb822_sources(deb822), ["http://m/debian/", "http://m/debian-security"]);
    }

    #[test]
    fn the_mirror_is_the_first_debian_and_security_follows_from_it() {
        let mirror = Mirror::choose(&["http://x/other".into(), "http://m/debian/".into()]).unwrap();
        assert_eq!(mirror.security, "http://m/debian-security");
        assert_eq!(Mirror::choose(&["http://x/other".into()]), None);
    }

    #[test]
    fn what_apt_prints_is_pinned_without_the_host() {
        let mirror = Mirror::choose(&["http://m/debian".into()]).unwrap();
        let sha = "a".repeat(64);
        let line = format!(
            "'http://m/debian-security/pool/updates/x/a%2bb_2.deb' a_1%3a2~3_amd64.deb 7 SHA256:{sha}"
        );
        let package = parse_uri_line(&line, &mirror).unwrap();
        assert_eq!((package.name.as_str(), package.version.as_str(), package.size), ("a", "1:2~3", 7));
        assert_eq!(
            (package.archive, package.path.as_str()),
            (Archive::Security, "pool/updates/x/a%2bb_2.deb")
        );
        assert!(parse_uri_line(&line.replace("SHA256", "MD5Sum"), &mirror).is_err());
        assert!(parse_uri_line(&line.replace("http://m", "http://elsewhere"), &mirror).is_err());
    }

    #[test]
    fn release_dates_are_read() {
        assert_eq!(release_date("Date: Sat, 15 Nov 2025 10:00:00 UTC"), Some(1_763_200_800));
        assert_eq!(release_date("Suite: x"), None);
    }
}
