//! Whatever bytes come from outside, nothing panics and nothing is believed.

use std::sync::LazyLock;

use cairn_model::id::NodeId;
use cairn_trust::{
    envelope::{claimed_node, verify_enroll, verify_node_token, verify_report},
    keys::{KeyPair, PublicKey},
    sign::{RootChange, next_root, sign_file},
    store::Store,
    target::TargetInfo,
    uptane::{Claim, read_desired_state},
};
use proptest::prelude::*;
use serde_json::Value;

use crate::repository::{Repository, at, day, today};

static RUNTIME: LazyLock<tokio::runtime::Runtime> =
    LazyLock::new(|| tokio::runtime::Builder::new_current_thread().build().unwrap());

/// Bytes of a well-signed file, broken in a few places: closer to the parsers' edges than noise is.
fn damaged(file: Vec<u8>, cuts: &[(prop::sample::Index, u8)]) -> Vec<u8> {
    let mut file = file;
    for (index, byte) in cuts {
        let index = index.index(file.len());
        file[index] = *byte;
    }
    file
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn random_text_is_no_envelope_and_no_key(text in "\\PC{0,200}|[A-Za-z0-9_-]{0,80}\\.[A-Za-z0-9_-]{0,80}\\.[A-Za-z0-9_-]{0,90}") {
        let public = PublicKey::from_bytes([3; 32]);
        prop_assert!(verify_report(&text, &public).is_err());
        prop_assert!(verify_enroll(&text).is_err());
        prop_assert!(verify_node_token(&text, &public, today()).is_err());
        let _ = claimed_node(&text);
        prop_assert!(KeyPair::from_pem(&text).is_err());
        let _ = PublicKey::from_base64url(&text);
    }

    #[test]
    fn random_pem_bodies_are_no_key(body in "[A-Za-z0-9+/=\n]{0,200}") {
        let pem = format!("-----BEGIN PRIVATE KEY-----\n{body}\n-----END PRIVATE KEY-----\n");
        prop_assert!(KeyPair::from_pem(&pem).is_err());
    }

    #[test]
    fn random_bytes_in_the_place_of_any_file_are_refused(
        which in 0_usize..4, bytes in prop::collection::vec(any::<u8>(), 0..300),
    ) {
        let mut repository = Repository::new();
        let file = ["2.root.json", "timestamp.json", "1.snapshot.json", "1.targets.json"][which];
        repository.source.put(file, bytes);
        let mut node = repository.client();
        prop_assert!(RUNTIME.block_on(node.refresh(&repository)).is_err());
    }

    #[test]
    fn a_signed_file_with_a_few_broken_bytes_is_refused_or_means_the_same(
        which in 0_usize..3, cuts in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let mut repository = Repository::new();
        let file = ["timestamp.json", "1.snapshot.json", "1.targets.json"][which];
        let whole = repository.source.files[file].clone();
        let broken = damaged(whole.clone(), &cuts);
        let same = serde_json::from_slice::<Value>(&broken).ok() == serde_json::from_slice(&whole).ok();
        repository.source.put(file, broken);
        let mut node = repository.client();
        let refreshed = RUNTIME.block_on(node.refresh(&repository));
        prop_assert!(same || refreshed.is_err());
    }

    #[test]
    fn a_store_with_random_bytes_never_opens(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("trusted.state"), bytes).unwrap();
        prop_assert!(Store::open(folder.path()).is_err());
        prop_assert!(Store::init(folder.path(), b"root").is_err());
    }

    #[test]
    fn random_bytes_are_no_desired_state_and_nothing_to_sign(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let node: NodeId = "n-0123456789abcdef".parse().unwrap();
        let hash = cairn_model::id::Digest::of(&bytes).hex().to_owned();
        let hashes = [("sha256".to_owned(), hash)].into();
        let desired_state = TargetInfo { length: bytes.len() as u64, hashes, custom: Value::Null };
        let claim = Claim { generation: 1, desired_state, artifacts: Default::default() };
        prop_assert!(read_desired_state(&claim, &node, &bytes).is_err());
        prop_assert!(sign_file(&bytes, &[]).is_err());
        prop_assert!(next_root(&bytes, &RootChange::default(), day(1)).is_err());
    }
}

#[test]
fn metadata_nested_without_end_is_refused() {
    for open in ["[", "{\"a\":"] {
        let mut repository = Repository::new();
        let bomb = open.repeat((16 << 10) / open.len());
        repository.source.put("timestamp.json", bomb.clone());
        let mut node = repository.client();
        assert!(RUNTIME.block_on(node.client.refresh(&repository.source, at(today()))).is_err());
        assert!(sign_file(bomb.as_bytes(), &[]).is_err());
    }
}
