//! Ed25519 key pairs, how they lie on disk, and the names that others know them by.

use std::{
    fmt,
    io::{self, Read},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};
use base64::{Engine, engine::general_purpose};
use cairn_model::id::NodeId;
use sha2::{Digest, Sha256};

use crate::durable;

/// A PEM file of one Ed25519 key is some 120 bytes; what is larger than this is no key.
const MAX_FILE_BYTES: u64 = 4096;
const PEM_BEGIN: &str = "-----BEGIN PRIVATE KEY-----";
const PEM_END: &str = "-----END PRIVATE KEY-----";

/// Why a key could not be made, read or kept.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// The cryptographic library refused; in practice, no randomness.
    #[error("failed to make an Ed25519 key; check that the kernel's random number generator works")]
    Generate,
    /// The text is not the PEM form of a PKCS#8 Ed25519 key.
    #[error(
        "not a PKCS#8 Ed25519 private key in PEM; make one with cairn or with `openssl genpkey -algorithm ed25519`"
    )]
    Malformed,
    /// A public key that is not 32 bytes.
    #[error("not an Ed25519 public key; expected 32 bytes, base64url without padding")]
    MalformedPublic,
    /// The key file could be read by others.
    #[error(
        "key file {path} may be read by others (mode {mode:o}); make a new key if that machine is shared, else chmod 600 it"
    )]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// There is no such file.
    #[error("key file {path} does not exist; restore it from where it is kept, or make a new key")]
    Absent {
        /// The file.
        path: PathBuf,
    },
    /// Another key lies where this one was to be saved.
    #[error("{path} holds another key already; move it away first")]
    Occupied {
        /// The file.
        path: PathBuf,
    },
    /// A key file that is there but holds no key.
    #[error(
        "key file {path} holds no usable key; restore it from where it is kept, or remove it and make a new one"
    )]
    Unusable {
        /// The file.
        path: PathBuf,
        /// What is wrong with its content.
        #[source]
        source: Box<KeyError>,
    },
    /// Reading or writing failed.
    #[error("failed to {action} key file {path}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// The public half of an Ed25519 key: 32 raw bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct PublicKey([u8; 32]);

impl PublicKey {
    /// Takes 32 raw bytes.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Reads the form that travels in an enrolment request: base64url without padding.
    pub fn from_base64url(text: &str) -> Result<Self, KeyError> {
        if text.len() > 64 {
            return Err(KeyError::MalformedPublic);
        }
        let bytes = general_purpose::URL_SAFE_NO_PAD.decode(text).map_err(|_| KeyError::MalformedPublic)?;
        Ok(Self(bytes.try_into().map_err(|_| KeyError::MalformedPublic)?))
    }

    /// The form that travels in an enrolment request: base64url without padding.
    pub fn to_base64url(&self) -> String {
        general_purpose::URL_SAFE_NO_PAD.encode(self.0)
    }

    /// The raw bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The id of the node that holds the private half.
    pub fn node_id(&self) -> NodeId {
        NodeId::of_public_key(&self.0)
    }

    /// The id of this key in TUF metadata: SHA-256 of the canonical JSON of the key object, as securesystemslib and
    /// tough compute it.
    pub fn tuf_key_id(&self) -> String {
        // Canonical JSON of a fixed object with sorted keys and nothing to escape: spelled out, so that the verify-only
        // build needs no encoder.
        let object = format!(
            r#"{{"keytype":"ed25519","keyval":{{"public":"{}"}},"scheme":"ed25519"}}"#,
            hex::encode(self.0)
        );
        hex::encode(Sha256::digest(object))
    }

    /// Whether `signature` over `message` was made by the private half.
    pub fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        UnparsedPublicKey::new(&ED25519, self.0).verify(message, signature).is_ok()
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({})", self.to_base64url())
    }
}

/// SHA-256 in groups of four hex digits: for people to compare.
pub fn fingerprint(bytes: &[u8]) -> String {
    grouped(&Sha256::digest(bytes))
}

/// The fingerprint of the two first roots, by which people, or a pin in a node's configuration, know a fleet.
pub fn roots_fingerprint(director_root: &[u8], artifacts_root: &[u8]) -> String {
    grouped(&Sha256::new().chain_update(director_root).chain_update(artifacts_root).finalize())
}

fn grouped(hash: &[u8]) -> String {
    hash.chunks(2).map(hex::encode).collect::<Vec<_>>().join(" ")
}

/// An Ed25519 key pair. Never shows its private half in `Debug`.
pub struct KeyPair {
    pair: Ed25519KeyPair,
    public: PublicKey,
}

impl KeyPair {
    /// Makes a new key.
    pub fn generate() -> Result<Self, KeyError> {
        Self::wrap(Ed25519KeyPair::generate().map_err(|_| KeyError::Generate)?)
    }

    fn wrap(pair: Ed25519KeyPair) -> Result<Self, KeyError> {
        let public = pair.public_key().as_ref().try_into().map_err(|_| KeyError::Malformed)?;
        Ok(Self { pair, public: PublicKey(public) })
    }

    /// Reads a PKCS#8 private key in PEM.
    pub fn from_pem(pem: &str) -> Result<Self, KeyError> {
        let body = pem.trim().strip_prefix(PEM_BEGIN).and_then(|rest| rest.strip_suffix(PEM_END));
        let body: String = body.ok_or(KeyError::Malformed)?.split_ascii_whitespace().collect();
        let der = general_purpose::STANDARD.decode(body).map_err(|_| KeyError::Malformed)?;
        Self::wrap(Ed25519KeyPair::from_pkcs8(&der).map_err(|_| KeyError::Malformed)?)
    }

    /// The PKCS#8 version 1 form, which every tool reads.
    pub(crate) fn to_pkcs8(&self) -> Result<Vec<u8>, KeyError> {
        Ok(self.pair.to_pkcs8v1().map_err(|_| KeyError::Malformed)?.as_ref().to_vec())
    }

    /// The PKCS#8 private key in PEM.
    pub fn to_pem(&self) -> Result<String, KeyError> {
        Ok(format!("{PEM_BEGIN}\n{}\n{PEM_END}\n", general_purpose::STANDARD.encode(self.to_pkcs8()?)))
    }

    /// Saves the key, mode 0600, whole or not at all. Saving the same key again is nothing; another key is never
    /// overwritten.
    pub fn save(&self, path: &Path) -> Result<(), KeyError> {
        match Self::load(path) {
            Ok(there) if there.public == self.public => return Ok(()),
            Ok(_) => return Err(KeyError::Occupied { path: path.to_owned() }),
            Err(KeyError::Absent { .. }) => {}
            Err(other) => return Err(other),
        }
        let io = |action| move |source| KeyError::Io { action, path: path.to_owned(), source };
        if let Some(folder) = path.parent().filter(|p| !p.as_os_str().is_empty()) {
            durable::create_folder(folder, 0o700).map_err(io("make the folder of"))?;
        }
        durable::write(path, self.to_pem()?.as_bytes(), durable::PRIVATE).map_err(io("write"))
    }

    /// Loads a key; one that group or others may read is refused.
    pub fn load(path: &Path) -> Result<Self, KeyError> {
        let io = |source: io::Error| match source.kind() {
            io::ErrorKind::NotFound => KeyError::Absent { path: path.to_owned() },
            _ => KeyError::Io { action: "read", path: path.to_owned(), source },
        };
        let file = std::fs::File::open(path).map_err(io)?;
        // The mode is asked of the file that was opened, so that no one can swap it between the two.
        let mode = file.metadata().map_err(io)?.permissions().mode() & 0o7777;
        if mode & 0o077 != 0 {
            return Err(KeyError::Exposed { path: path.to_owned(), mode });
        }
        let unusable = |source| KeyError::Unusable { path: path.to_owned(), source: Box::new(source) };
        let mut bytes = Vec::new();
        file.take(MAX_FILE_BYTES).read_to_end(&mut bytes).map_err(io)?;
        let text = std::str::from_utf8(&bytes).map_err(|_| unusable(KeyError::Malformed))?;
        Self::from_pem(text).map_err(unusable)
    }

    /// Loads the key, or makes and saves one where there is none. A damaged or exposed file is an error, never
    /// replaced.
    pub fn load_or_generate(path: &Path) -> Result<Self, KeyError> {
        match Self::load(path) {
            Err(KeyError::Absent { .. }) => {
                let key = Self::generate()?;
                key.save(path)?;
                Ok(key)
            }
            loaded => loaded,
        }
    }

    /// The public half.
    pub fn public(&self) -> PublicKey {
        self.public
    }

    /// Signs `message`.
    pub fn sign(&self, message: &[u8]) -> Vec<u8> {
        self.pair.sign(message).as_ref().to_vec()
    }
}

impl fmt::Debug for KeyPair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyPair").field("public", &self.public).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_survive_the_disk_and_are_private_on_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys/node.pem");
        let key = KeyPair::load_or_generate(&path).unwrap();
        assert_eq!(KeyPair::load(&path).unwrap().public(), key.public());
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(std::fs::metadata(path.parent().unwrap()).unwrap().permissions().mode() & 0o777, 0o700);
        key.save(&path).unwrap();
        assert!(matches!(KeyPair::generate().unwrap().save(&path), Err(KeyError::Occupied { .. })));
        assert!(!format!("{key:?}").contains(&key.to_pem().unwrap()[40..60]));
    }

    #[test]
    fn rejects_a_key_file_that_others_may_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("node.pem");
        KeyPair::generate().unwrap().save(&path).unwrap();
        for mode in [0o640, 0o604, 0o644, 0o620] {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            assert!(matches!(KeyPair::load(&path), Err(KeyError::Exposed { .. })), "{mode:o}");
        }
    }

    #[test]
    fn a_torn_key_file_is_an_error_and_is_not_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("node.pem");
        KeyPair::generate().unwrap().save(&path).unwrap();
        let whole = std::fs::read(&path).unwrap();
        for keep in [0, 10, whole.len() - 30] {
            std::fs::write(&path, &whole[..keep]).unwrap();
            assert!(matches!(KeyPair::load_or_generate(&path), Err(KeyError::Unusable { .. })), "{keep}");
        }
    }

    #[test]
    fn fingerprints_are_for_people_to_compare() {
        let abc = "ba78 16bf 8f01 cfea 4141 40de 5dae 2223 b003 61a3 9617 7a9c b410 ff61 f200 15ad";
        assert_eq!(fingerprint(b"abc"), abc);
        assert_eq!(roots_fingerprint(b"a", b"bc"), abc);
        assert_ne!(roots_fingerprint(b"bc", b"a"), abc);
    }

    #[test]
    fn public_keys_round_trip_and_garbage_is_refused() {
        let public = KeyPair::generate().unwrap().public();
        assert_eq!(PublicKey::from_base64url(&public.to_base64url()).unwrap(), public);
        for bad in ["", "AA", "!!!!", &"A".repeat(43).replace('A', "_").repeat(2)] {
            assert!(PublicKey::from_base64url(bad).is_err(), "{bad}");
        }
    }
}
