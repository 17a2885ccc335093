//! The daemon's configuration: fragments, all optional → merged → validated [`Settings`]. Nothing starts before all of
//! it is valid.
//!
//! `etc/cairn/cairnd.toml` comes first, then the drop-ins `etc/cairn/cairnd.toml.d/*.toml` and
//! `run/cairn/cairnd.toml.d/*.toml` by file name; of two drop-ins with the same name, that in `etc` wins (systemd's
//! precedence). Credentials of the unit (`cairn.hub`, `cairn.hub-ca`, `cairn.enroll-token`) win over all files.

use std::{
    collections::BTreeMap,
    fmt, fs,
    net::Ipv4Addr,
    path::{Path, PathBuf},
};

use serde::Deserialize;
use url::Url;

use crate::media;

/// Largest file that is read as configuration or credential: more is a mistake, not a configuration.
const MAX_FILE_BYTES: u64 = 256 << 10;

/// Every key that may be set, by table: what an unknown key is compared with.
const KNOWN: &[(&str, &[&str])] = &[
    ("node", &["state_dir", "run_dir", "labels"]),
    ("hub", &["url", "ca_file", "token_file"]),
    ("trust", &["roots_sha256"]),
    ("runtime", &["supervisor", "oci", "wasm", "journalctl", "prepare_memory_mib"]),
    ("network", &["range"]),
    ("volumes", &["bind_prefixes"]),
    ("os", &["health_command"]),
    ("media", &["led"]),
    ("log", &["level"]),
];

/// Why a configuration is refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A file cannot be read.
    #[error("failed to read {path}; check that it exists and that cairnd may read it")]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A file is larger than any configuration.
    #[error("{path} is larger than {MAX_FILE_BYTES} bytes; it is no configuration")]
    TooLarge {
        /// Which.
        path: PathBuf,
    },
    /// A file is not TOML.
    #[error("failed to parse {path} as TOML; correct the line that is named")]
    Syntax {
        /// Which.
        path: PathBuf,
        /// Where and why.
        #[source]
        source: Box<toml::de::Error>,
    },
    /// A key is not known.
    #[error("{path}: unknown key {key:?}; {hint}")]
    UnknownKey {
        /// In which file.
        path: PathBuf,
        /// The key, with its table.
        key: String,
        /// The nearest known one, or all of them.
        hint: String,
    },
    /// A value has the wrong type.
    #[error("a value has the wrong type; correct it")]
    Type(#[source] Box<toml::de::Error>),
    /// A value is of the right type but cannot work.
    #[error("{key}: {cause}; {cure}")]
    Value {
        /// The key, with its table.
        key: &'static str,
        /// What is wrong with it.
        cause: String,
        /// What to do.
        cure: &'static str,
    },
}

/// Everything that the daemon is told from outside, validated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Below which folder the configuration was read: `/` on a node.
    pub root: PathBuf,
    /// What must outlive a reboot: keys, ledger, blobs, layers, volumes.
    pub state_dir: PathBuf,
    /// What must not: the socket and what the runtimes are told.
    pub run_dir: PathBuf,
    /// Labels that the node brings itself.
    pub labels: BTreeMap<String, String>,
    /// The hub to belong to, where one is configured.
    pub hub: Option<HubSettings>,
    /// SHA-256 of the director's first root followed by the artifacts repository's, as `cairn trust roots` shows it: 64
    /// hex digits. A fleet with other roots is refused at enrolment.
    pub roots_sha256: Option<String>,
    /// Who supervises workloads.
    pub supervisor: SupervisorKind,
    /// The runtimes.
    pub runtimes: Runtimes,
    /// The first address of the /16 that replicas get their addresses from.
    pub network_base: Ipv4Addr,
    /// Folders of the node that an app may bind-mount from.
    pub bind_prefixes: Vec<PathBuf>,
    /// Command that must end with 0 before a new OS is kept, as an argument list; none where empty.
    pub os_health_command: Vec<String>,
    /// What there is for USB sticks.
    pub media: media::Settings,
    /// What to log: a level, or `target=level` pairs with commas between.
    pub log: String,
}

/// How to reach the hub, before and after enrolment.
#[derive(Clone, PartialEq, Eq)]
pub struct HubSettings {
    /// `https://…`, without a path.
    pub url: Url,
    /// The CA to trust, PEM; absent where the enrolled node has it in its ledger.
    pub ca_pem: Option<String>,
    /// Where the enrolment token is.
    pub token: Option<TokenFile>,
}

impl fmt::Debug for HubSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HubSettings")
            .field("url", &self.url.as_str())
            .field("token", &self.token)
            .finish_non_exhaustive()
    }
}

/// The file with the enrolment token: the configured one, or the unit's credential. It is read at every try and never kept,
/// so that a token that is wrong or has expired is replaced without a restart, and a member needs none any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenFile(PathBuf);

impl TokenFile {
    /// The token in `path`.
    pub fn new(path: PathBuf) -> Self {
        Self(path)
    }

    /// The token as it is now.
    ///
    /// # Errors
    /// If the file cannot be read, is larger than any token's, or is empty.
    pub fn read(&self) -> Result<String, ConfigError> {
        let token = read_bounded(&self.0)?.trim().to_owned();
        if token.is_empty() {
            return Err(ConfigError::Value {
                key: "hub.token_file",
                cause: format!("{} is empty", self.0.display()),
                cure: "write into it what `cairn token create` printed",
            });
        }
        Ok(token)
    }
}

/// Where the programs are that the daemon runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Runtimes {
    /// `cairn-oci`.
    pub oci: PathBuf,
    /// `cairn-wasm`.
    pub wasm: PathBuf,
    /// `journalctl`.
    pub journalctl: PathBuf,
    /// Memory limit of the unit that a job which precompiles runs in, in bytes. A layer is unpacked by a child of the daemon,
    /// within the daemon's own sandbox, which needs little memory and has no limit of its own.
    pub prepare_memory_bytes: u64,
}

/// Who supervises workloads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SupervisorKind {
    /// Transient units: workloads outlive the daemon. The only choice on an appliance.
    Systemd,
    /// Plain child processes that end with the daemon: for developers' machines and tests.
    Processes,
}

#[derive(Debug, Default, Deserialize)]
struct Raw {
    #[serde(default)]
    node: RawNode,
    #[serde(default)]
    hub: RawHub,
    #[serde(default)]
    trust: RawTrust,
    #[serde(default)]
    runtime: RawRuntime,
    #[serde(default)]
    network: RawNetwork,
    #[serde(default)]
    volumes: RawVolumes,
    #[serde(default)]
    os: RawOs,
    #[serde(default)]
    media: RawMedia,
    #[serde(default)]
    log: RawLog,
}

#[derive(Debug, Default, Deserialize)]
struct RawNode {
    state_dir: Option<PathBuf>,
    run_dir: Option<PathBuf>,
    #[serde(default)]
    labels: BTreeMap<String, String>,
}

#[derive(Debug, Default, Deserialize)]
struct RawHub {
    url: Option<String>,
    ca_file: Option<PathBuf>,
    token_file: Option<PathBuf>,
}

#[derive(Debug, Default, Deserialize)]
struct RawTrust {
    roots_sha256: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
struct RawRuntime {
    supervisor: Option<SupervisorKind>,
    oci: Option<PathBuf>,
    wasm: Option<PathBuf>,
    journalctl: Option<PathBuf>,
    prepare_memory_mib: Option<u64>,
}

#[derive(Debug, Default, Deserialize)]
struct RawNetwork {
    range: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
struct RawVolumes {
    #[serde(default)]
    bind_prefixes: Vec<PathBuf>,
}

#[derive(Debug, Default, Deserialize)]
struct RawOs {
    #[serde(default)]
    health_command: Vec<String>,
}

#[derive(Debug, Default, Deserialize)]
struct RawMedia {
    led: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
struct RawLog {
    level: Option<String>,
}

impl Settings {
    /// Reads every fragment below `root` (`/` on a node) and the credentials in `credentials`, where there are some.
    pub fn load(root: &Path, credentials: Option<&Path>) -> Result<Self, ConfigError> {
        let mut merged = toml::Table::new();
        for path in fragments(root)? {
            let text = read_bounded(&path)?;
            let table: toml::Table = text
                .parse()
                .map_err(|source| ConfigError::Syntax { path: path.clone(), source: Box::new(source) })?;
            refuse_unknown_keys(&path, &table)?;
            merge(&mut merged, table);
        }
        let raw = Raw::deserialize(toml::Value::Table(merged)).map_err(|e| ConfigError::Type(Box::new(e)))?;
        validate(root, raw, credentials)
    }
}

/// The files that exist, in the order in which later ones win.
fn fragments(root: &Path) -> Result<Vec<PathBuf>, ConfigError> {
    let mut found = Vec::new();
    let main = root.join("etc/cairn/cairnd.toml");
    if main.exists() {
        found.push(main);
    }
    let mut drop_ins = BTreeMap::new();
    for dir in ["run/cairn/cairnd.toml.d", "etc/cairn/cairnd.toml.d"] {
        let dir = root.join(dir);
        let entries = match fs::read_dir(&dir) {
            Ok(entries) => entries,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => continue,
            Err(source) => return Err(ConfigError::Read { path: dir, source }),
        };
        for entry in entries {
            let path = entry.map_err(|source| ConfigError::Read { path: dir.clone(), source })?.path();
            if path.extension().is_some_and(|e| e == "toml") {
                drop_ins.insert(path.file_name().map(ToOwned::to_owned), path);
            }
        }
    }
    found.extend(drop_ins.into_values());
    Ok(found)
}

fn read_bounded(path: &Path) -> Result<String, ConfigError> {
    let at = |source| ConfigError::Read { path: path.to_owned(), source };
    if fs::metadata(path).map_err(at)?.len() > MAX_FILE_BYTES {
        return Err(ConfigError::TooLarge { path: path.to_owned() });
    }
    fs::read_to_string(path).map_err(at)
}

fn merge(into: &mut toml::Table, from: toml::Table) {
    for (key, value) in from {
        match (into.get_mut(&key), value) {
            (Some(toml::Value::Table(old)), toml::Value::Table(new)) => merge(old, new),
            (_, value) => {
                into.insert(key, value);
            }
        }
    }
}

fn refuse_unknown_keys(path: &Path, table: &toml::Table) -> Result<(), ConfigError> {
    let unknown = |key: String, hint: String| ConfigError::UnknownKey { path: path.to_owned(), key, hint };
    for (name, value) in table {
        let Some((_, keys)) = KNOWN.iter().find(|(known, _)| known == name) else {
            let tables = KNOWN.iter().map(|(known, _)| *known);
            return Err(unknown(name.clone(), hint(name, tables)));
        };
        for key in value.as_table().into_iter().flat_map(toml::Table::keys) {
            if !keys.contains(&key.as_str()) {
                return Err(unknown(format!("{name}.{key}"), hint(key, keys.iter().copied())));
            }
        }
    }
    Ok(())
}

fn hint<'a>(key: &str, known: impl Iterator<Item = &'a str> + Clone) -> String {
    let nearest = known.clone().map(|k| (distance(key, k), k)).min();
    match nearest {
        Some((d, k)) if d <= 3 => format!("did you mean {k:?}?"),
        _ => format!("known are {}", known.collect::<Vec<_>>().join(", ")),
    }
}

/// Levenshtein's edit distance; the inputs are short keys.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, cb) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(ca != *cb);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

fn validate(root: &Path, raw: Raw, credentials: Option<&Path>) -> Result<Settings, ConfigError> {
    let or = |path: Option<PathBuf>, default: &str| path.unwrap_or_else(|| default.into());
    let state_dir = absolute("node.state_dir", or(raw.node.state_dir, "/var/lib/cairn"))?;
    let run_dir = absolute("node.run_dir", or(raw.node.run_dir, "/run/cairn"))?;
    let runtimes = Runtimes {
        oci: absolute("runtime.oci", or(raw.runtime.oci, "/usr/libexec/cairn/cairn-oci"))?,
        wasm: absolute("runtime.wasm", or(raw.runtime.wasm, "/usr/libexec/cairn/cairn-wasm"))?,
        journalctl: absolute("runtime.journalctl", or(raw.runtime.journalctl, "/usr/bin/journalctl"))?,
        prepare_memory_bytes: raw.runtime.prepare_memory_mib.unwrap_or(384) << 20,
    };
    let mut bind_prefixes = Vec::new();
    for prefix in raw.volumes.bind_prefixes {
        bind_prefixes.push(absolute("volumes.bind_prefixes", prefix)?);
    }
    Ok(Settings {
        root: root.to_owned(),
        os_health_command: health_command(raw.os.health_command)?,
        state_dir,
        run_dir,
        labels: raw.node.labels,
        hub: hub(raw.hub, credentials)?,
        roots_sha256: roots_sha256(raw.trust, credentials)?,
        supervisor: raw.runtime.supervisor.unwrap_or(SupervisorKind::Systemd),
        runtimes,
        network_base: network_base(raw.network.range.as_deref().unwrap_or("10.89.0.0/16"))?,
        bind_prefixes,
        media: media::Settings::new(raw.media.led).map_err(|cause| ConfigError::Value {
            key: "media.led",
            cause,
            cure: "write the name of a folder below /sys/class/leds",
        })?,
        log: raw.log.level.unwrap_or_else(|| "info".to_owned()),
    })
}

/// The program by its whole path, so that nobody wonders which one is meant; the rest is its own.
fn health_command(argv: Vec<String>) -> Result<Vec<String>, ConfigError> {
    let refuse = |cause: &str| ConfigError::Value {
        key: "os.health_command",
        cause: cause.to_owned(),
        cure: "write a list such as ['/usr/bin/my-check', '--quick']",
    };
    if argv.first().is_some_and(|program| !program.starts_with('/')) {
        return Err(refuse("its program is not an absolute path"));
    }
    if argv.iter().any(|argument| argument.contains('\0')) {
        return Err(refuse("an argument holds a NUL"));
    }
    Ok(argv)
}

fn absolute(key: &'static str, path: PathBuf) -> Result<PathBuf, ConfigError> {
    if path.is_absolute() && !path.components().any(|c| c == std::path::Component::ParentDir) {
        return Ok(path);
    }
    Err(ConfigError::Value {
        key,
        cause: format!("{path:?} is not an absolute path without .."),
        cure: "write the whole path from /",
    })
}

fn network_base(range: &str) -> Result<Ipv4Addr, ConfigError> {
    let base = range.strip_suffix("/16").and_then(|base| base.parse::<Ipv4Addr>().ok());
    match base {
        Some(base) if base.octets()[2..] == [0, 0] && base.is_private() => Ok(base),
        _ => Err(ConfigError::Value {
            key: "network.range",
            cause: format!("{range:?} is not a private /16"),
            cure: "write one such as 10.89.0.0/16",
        }),
    }
}

/// What systemd hands over under `name`; empty counts as absent.
fn credential(credentials: Option<&Path>, name: &str) -> Result<Option<String>, ConfigError> {
    let found = credential_file(credentials, name)?;
    Ok(found.map(|(_, text)| text))
}

/// The same, with the file that it is in.
fn credential_file(credentials: Option<&Path>, name: &str) -> Result<Option<(PathBuf, String)>, ConfigError> {
    let Some(path) = credentials.map(|dir| dir.join(name)).filter(|path| path.exists()) else {
        return Ok(None);
    };
    let text = read_bounded(&path)?.trim().to_owned();
    Ok(Some((path, text)).filter(|(_, text)| !text.is_empty()))
}

fn roots_sha256(raw: RawTrust, credentials: Option<&Path>) -> Result<Option<String>, ConfigError> {
    let Some(text) = credential(credentials, "cairn.roots-sha256")?.or(raw.roots_sha256) else {
        return Ok(None);
    };
    // People copy it as it is shown, in groups of four.
    let digits: String = text.chars().filter(|c| !c.is_whitespace()).collect();
    let digits = digits.to_ascii_lowercase();
    if digits.len() != 64 || !digits.bytes().all(|c| c.is_ascii_hexdigit()) {
        return Err(ConfigError::Value {
            key: "trust.roots_sha256",
            cause: format!("{text:?} is not 64 hex digits"),
            cure: "write what `cairn trust roots` shows",
        });
    }
    Ok(Some(digits))
}

fn hub(raw: RawHub, credentials: Option<&Path>) -> Result<Option<HubSettings>, ConfigError> {
    let credential = |name: &str| credential(credentials, name);
    let file = |path: Option<PathBuf>| -> Result<Option<String>, ConfigError> {
        path.map(|path| Ok(read_bounded(&path)?.trim().to_owned())).transpose()
    };
    let Some(url) = credential("cairn.hub")?.or(raw.url) else { return Ok(None) };
    let ca_pem = match credential("cairn.hub-ca")? {
        Some(pem) => Some(pem),
        None => file(raw.ca_file)?,
    };
    let token = match credential_file(credentials, "cairn.enroll-token")? {
        Some((path, _)) => Some(TokenFile(path)),
        None => raw.token_file.map(TokenFile),
    };
    if ca_pem.as_deref().is_some_and(|pem| !pem.contains("-----BEGIN CERTIFICATE-----")) {
        return Err(ConfigError::Value {
            key: "hub.ca_file",
            cause: "it holds no PEM certificate".to_owned(),
            cure: "give the ca.pem that `cairn-hub init` made",
        });
    }
    Ok(Some(HubSettings { url: hub_url(&url)?, ca_pem, token }))
}

fn hub_url(text: &str) -> Result<Url, ConfigError> {
    let refuse = |cause: String| ConfigError::Value {
        key: "hub.url",
        cause,
        cure: "write https://host:port, as `cairn-hub init` printed it",
    };
    let url = Url::parse(text).map_err(|e| refuse(format!("{text:?} is not a URL: {e}")))?;
    if url.scheme() != "https" || !url.has_host() || url.path() != "/" || url.query().is_some() {
        return Err(refuse(format!("{text:?} is not an https address without a path")));
    }
    Ok(url)
}

#[cfg(test)]
mod tests;
