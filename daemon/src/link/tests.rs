//! The link: what an answer of the hub counts for, and sticks, which are read by the real pull from real bundles.

use cairn_model::Digest;

use super::*;
use crate::pull::PullError;

mod refused;
mod sticks;
mod torn;

/// A node without a hub.
fn config(dir: &std::path::Path, key: &Arc<KeyPair>) -> Config {
    Config {
        hub: None,
        roots_sha256: None,
        trust_dir: dir.join("trust"),
        layers_dir: dir.join("layers"),
        key: key.clone(),
        facts: Facts::default(),
        clock: Clocked { floor: None },
    }
}

/// A member that has not heard of its hub yet.
async fn task(dir: &std::path::Path) -> Task {
    let key = Arc::new(KeyPair::generate().unwrap());
    let config = config(dir, &key);
    let status = LinkStatus::new(LinkState::Offline);
    Task {
        config,
        node: key.public().node_id(),
        ledger: Ledger::open(&dir.join("ledger.sqlite")).await.unwrap(),
        blobs: Blobs::new(dir),
        reporter: Reporter::channel().0,
        status: watch::channel(status).0,
        hub: watch::channel(None).0,
        desired: watch::channel(None).0,
        pace: Pace::default(),
    }
}

#[tokio::test]
async fn an_answer_that_is_refused_is_heard_and_not_believed() {
    let dir = tempfile::tempdir().unwrap();
    let task = task(dir.path()).await;
    task.explain(&PullError::Endless { generation: 1 }).await;
    let status = task.status.borrow().clone();
    assert!(status.last_contact.is_some() && status.refusal.is_some(), "{status:?}");
    assert_eq!(status.verified, None);
    task.believed(-7);
    let status = task.status.borrow().clone();
    assert!(status.verified.is_some());
    assert_eq!(status.skew_seconds, -7);
}
