//! Random ids and secrets, and what is kept of a secret: its hash.

use aws_lc_rs::rand;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use sha2::{Digest as _, Sha256};

fn random(bytes: &mut [u8]) {
    // aws-lc's generator fails only where the kernel gives no randomness at all: nothing that is made then is safe.
    if rand::fill(bytes).is_err() {
        std::process::abort();
    }
}

/// A public id: `bytes` random bytes in hex.
pub(crate) fn random_hex(bytes: usize) -> String {
    let mut raw = vec![0; bytes];
    random(&mut raw);
    hex::encode(raw)
}

/// A secret of 256 bits, with a prefix that tells people and scanners what leaked.
pub(crate) fn random_secret(prefix: &str) -> String {
    let mut raw = [0; 32];
    random(&mut raw);
    format!("{prefix}_{}", URL_SAFE_NO_PAD.encode(raw))
}

/// What is kept of a secret. Secrets are 256 random bits, so that a plain hash cannot be searched.
pub(crate) fn hash(secret: &str) -> String {
    hex::encode(Sha256::digest(secret))
}
