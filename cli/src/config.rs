//! The contexts: which hubs this user talks to. A folder with `config.toml`, the CAs and the tokens; the folder is 0700
//! and each file 0600.

use std::{
    collections::BTreeMap,
    env, fs,
    io::{ErrorKind, Read as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use crate::failure::Failure;

/// Longest file that we read as configuration, CA bundle or token. A CA bundle of all public CAs is some 220 KB.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// An access token. It prints as nothing, so that no message can hold it.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Secret(String);

impl Secret {
    /// The token in `text`: one line of visible ASCII, as a header can carry it.
    pub(crate) fn parse(text: &str, place: &str) -> Result<Self, Failure> {
        let token = text.trim();
        if token.is_empty() {
            return Err(Failure::usage(format!("no access token in {place}: it is empty")));
        }
        if !token.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(Failure::usage(format!("{place} does not hold an access token alone"))
                .cure("put the token on one line, without a name before it"));
        }
        Ok(Self(token.into()))
    }

    pub(crate) fn expose(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// `config.toml`.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Config {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) current: Option<String>,
    #[serde(default)]
    pub(crate) contexts: BTreeMap<String, Context>,
}

/// One hub.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Context {
    pub(crate) hub: String,
}

/// The folder that holds the contexts.
#[derive(Debug, Clone)]
pub(crate) struct Store {
    folder: PathBuf,
}

impl Store {
    /// `$CAIRN_CONFIG_HOME`, else `$XDG_CONFIG_HOME/cairn`, else `~/.config/cairn`.
    pub(crate) fn of_user() -> Result<Self, Failure> {
        if let Some(folder) = env::var_os("CAIRN_CONFIG_HOME").filter(|value| !value.is_empty()) {
            return Ok(Self { folder: folder.into() });
        }
        let absolute =
            |name| env::var_os(name).map(PathBuf::from).filter(|path: &PathBuf| path.is_absolute());
        let base = absolute("XDG_CONFIG_HOME").or_else(|| absolute("HOME").map(|home| home.join(".config")));
        let base = base.ok_or_else(|| {
            Failure::usage("no place for the configuration: neither XDG_CONFIG_HOME nor HOME is set")
                .cure("set XDG_CONFIG_HOME, or give CAIRN_HUB, CAIRN_CA and CAIRN_TOKEN_FILE")
        })?;
        Ok(Self { folder: base.join("cairn") })
    }

    pub(crate) fn config_path(&self) -> PathBuf {
        self.folder.join("config.toml")
    }

    pub(crate) fn token_path(&self, name: &str) -> PathBuf {
        self.folder.join("tokens").join(name)
    }

    pub(crate) fn ca_path(&self, name: &str) -> PathBuf {
        self.folder.join("ca").join(format!("{name}.pem"))
    }

    /// What a signer has trusted of a hub's artifacts repository so far.
    pub(crate) fn trust_path(&self, name: &str) -> PathBuf {
        self.folder.join("trust").join(name)
    }

    /// The configuration; an empty one where there is none yet.
    pub(crate) fn load(&self) -> Result<Config, Failure> {
        let path = self.config_path();
        let Some(text) = read_if_there(&path)? else { return Ok(Config::default()) };
        toml::from_str(&text).map_err(|error| {
            Failure::usage(format!("{} is not readable: {}", path.display(), error.message()))
                .cure("mend it, or remove it and run `cairn context add` again")
        })
    }

    pub(crate) fn save(&self, config: &Config) -> Result<(), Failure> {
        let text = toml::to_string(config)
            .map_err(|error| Failure::failed(format!("cannot write the configuration: {error}")))?;
        write_private(&self.config_path(), text.as_bytes())
    }

    pub(crate) fn write_token(&self, name: &str, token: &Secret) -> Result<(), Failure> {
        write_private(&self.token_path(name), format!("{}\n", token.expose()).as_bytes())
    }

    pub(crate) fn write_ca(&self, name: &str, pem: &str) -> Result<(), Failure> {
        write_private(&self.ca_path(name), pem.as_bytes())
    }

    /// Takes token, CA and trusted metadata of a context away.
    pub(crate) fn forget(&self, name: &str) -> Result<(), Failure> {
        for path in [self.token_path(name), self.ca_path(name)] {
            gone(&path, fs::remove_file(&path))?;
        }
        self.forget_trust(name)
    }

    /// Takes what was trusted of a hub away: it is another hub now.
    pub(crate) fn forget_trust(&self, name: &str) -> Result<(), Failure> {
        let path = self.trust_path(name);
        gone(&path, fs::remove_dir_all(&path))
    }

    /// The token of a context. One that others can read is no secret any more, and is refused.
    pub(crate) fn read_token(&self, name: &str) -> Result<Secret, Failure> {
        let path = self.token_path(name);
        let shown = path.display().to_string();
        let gone = || {
            Failure::usage(format!("the access token of context {name} is gone: no file {shown}"))
                .cure(format!("cairn context add {name} --replace …"))
        };
        let mode = fs::metadata(&path).map_err(|_| gone())?.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(Failure::usage(format!(
                "others can read the access token in {shown} (mode {mode:04o})"
            ))
            .cure(format!("chmod 600 {shown}; if others may have read it, make a new token")));
        }
        Secret::parse(&read_if_there(&path)?.ok_or_else(gone)?, &shown)
    }
}

fn gone(path: &Path, removed: std::io::Result<()>) -> Result<(), Failure> {
    match removed {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(Failure::failed(format!("cannot remove {}: {error}", path.display())))
        }
        _ => Ok(()),
    }
}

/// The text of a file that the user named.
pub(crate) fn read_text(path: &Path, what: &str) -> Result<String, Failure> {
    read_if_there(path)?
        .ok_or_else(|| Failure::usage(format!("cannot read the {what}: there is no file {}", path.display())))
}

fn read_if_there(path: &Path) -> Result<Option<String>, Failure> {
    let fail = |error: std::io::Error| Failure::usage(format!("cannot read {}: {error}", path.display()));
    let file = match fs::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(fail(error)),
    };
    let mut text = String::new();
    file.take(MAX_FILE_BYTES + 1).read_to_string(&mut text).map_err(fail)?;
    if text.len() as u64 > MAX_FILE_BYTES {
        return Err(Failure::usage(format!("{} is larger than {MAX_FILE_BYTES} bytes", path.display())));
    }
    Ok(Some(text))
}

/// Writes a file that only its owner can read, whole or not at all.
fn write_private(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    let fail = |error: std::io::Error| Failure::failed(format!("cannot write {}: {error}", path.display()));
    let folder = path.parent().unwrap_or(Path::new("."));
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(fail)?;
    // The temporary file is made 0600, and renamed in when it is on disk.
    let mut file = tempfile::NamedTempFile::new_in(folder).map_err(fail)?;
    file.write_all(bytes).and_then(|()| file.as_file().sync_all()).map_err(fail)?;
    file.persist(path).map_err(|error| fail(error.error))?;
    Ok(())
}
