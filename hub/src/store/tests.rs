//! What a database of an older hub becomes.

use std::borrow::Cow;

use cairn_model::{NodeId, media::Freshness};

use super::*;

/// How many migrations there were while there were no sticks.
const BEFORE_STICKS: usize = 2;

#[tokio::test]
async fn nodes_of_an_older_hub_are_connected_and_were_heard_of_by_network() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("hub.sqlite");
    let options = SqliteConnectOptions::new().filename(&path).create_if_missing(true);
    let pool = SqlitePoolOptions::new().max_connections(1).connect_with(options).await.unwrap();
    let mut older = sqlx::migrate!("./migrations");
    older.migrations = Cow::Owned(older.migrations[..BEFORE_STICKS].to_vec());
    older.run(&pool).await.unwrap();
    let (seen, never) = (NodeId::of_public_key(&[1; 32]), NodeId::of_public_key(&[2; 32]));
    for (id, last_seen) in [(&seen, Some(7)), (&never, None)] {
        sqlx::query(
            "INSERT INTO node (id, public_key, state, labels, facts, enrolled_at, last_seen, acknowledged, status,
                               generation, published, desired, needs)
             VALUES ($1, '', 'approved', '{}', $2, 1, $3, 5, NULL, 0, 0, NULL, '[]')",
        )
        .bind(id.as_str())
        .bind(to_json(&cairn_model::Facts::default()))
        .bind(last_seen)
        .execute(&pool)
        .await
        .unwrap();
    }
    pool.close().await;

    let store = Store::open(&path).await.unwrap();
    let row = store.node(&seen).await.unwrap().unwrap();
    assert_eq!(
        (row.heard_by, row.freshness, row.acknowledged),
        (Some(Way::Network), Freshness::Connected, 5)
    );
    assert_eq!(store.node(&never).await.unwrap().unwrap().heard_by, None);

    // A stick that came after the last poll is not overwritten by it; a later poll counts.
    let mut tx = store.begin().await.unwrap();
    tx.heard_by_stick(&seen, 100, 50).await.unwrap();
    tx.commit().await.unwrap();
    let stick = Some(Way::Stick { reported_at: Some(50) });
    for (at, expected) in [(99, (stick, Some(100))), (101, (Some(Way::Network), Some(101)))] {
        store.save_last_seen(&[(seen.clone(), at)]).await.unwrap();
        let row = store.node(&seen).await.unwrap().unwrap();
        assert_eq!((row.heard_by, row.last_seen), expected, "{at}");
    }
}
