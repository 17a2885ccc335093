//! Nodes whose clocks are wrong.

use cairn_trust::clock::{Clock, SIGNED_AT};
use jiff::Timestamp;

use crate::repository::{Repository, at, day, today};

/// A repository whose timestamp says when it was signed, as our hub's does.
fn signed_today() -> Repository {
    let mut repository = Repository::new();
    repository.role("timestamp").body[SIGNED_AT] = today().to_string().into();
    repository.publish();
    repository
}

fn broken(os_build: Timestamp) -> Clock {
    Clock { system: Timestamp::UNIX_EPOCH, os_build: Some(os_build) }
}

#[tokio::test]
async fn a_clock_ten_years_ahead_and_back_recovers_by_itself() {
    let mut repository = signed_today();
    let mut node = repository.client();
    node.refresh(&repository).await.unwrap();
    let error = node.client.refresh(&repository.source, at(day(3650))).await.unwrap_err();
    assert_eq!(error.attack().unwrap().name(), "freeze");
    node.reopen();
    node.refresh(&repository).await.unwrap();
    repository.bump();
    repository.publish();
    node.refresh(&repository).await.unwrap();
}

#[tokio::test]
async fn a_clock_at_1970_works_and_is_not_made_to_take_what_had_expired() {
    let mut repository = signed_today();
    let mut node = repository.client();
    node.client.refresh(&repository.source, broken(day(-30))).await.unwrap();
    assert_eq!(node.client.last_good(), Some(today()));
    // Time goes on by what the hub signs. Targets from before are refused though the clock still says 1970.
    repository.bump();
    repository.role("timestamp").body[SIGNED_AT] = day(10).to_string().into();
    repository.role("timestamp").expires = day(17);
    repository.role("snapshot").expires = day(17);
    repository.publish();
    let error = node.client.refresh(&repository.source, broken(day(-30))).await.unwrap_err();
    assert_eq!(error.attack().unwrap().name(), "freeze");
    node.reopen();
    repository.bump();
    repository.role("targets").expires = day(17);
    repository.publish();
    node.client.refresh(&repository.source, broken(day(-30))).await.unwrap();
    assert_eq!(broken(day(-30)).believed(node.client.last_good()), day(10));
}

#[tokio::test]
async fn a_hub_whose_clock_was_ten_years_ahead_is_believed_again_when_it_signs_anew() {
    let mut repository = signed_today();
    let mut node = repository.client();
    let later = day(3600);
    repository.role("timestamp").body[SIGNED_AT] = later.to_string().into();
    for name in ["timestamp", "snapshot", "targets"] {
        repository.role(name).expires = day(3607);
    }
    repository.publish();
    node.refresh(&repository).await.unwrap();
    assert_eq!(node.client.last_good(), Some(later));
    node.reopen();
    repository.bump();
    repository.role("timestamp").body[SIGNED_AT] = today().to_string().into();
    for name in ["timestamp", "snapshot", "targets"] {
        repository.role(name).expires = day(7);
    }
    repository.publish();
    node.refresh(&repository).await.unwrap();
    assert_eq!(node.client.last_good(), Some(today()));
}

#[tokio::test]
async fn the_time_at_which_the_os_was_built_is_a_floor() {
    let repository = signed_today();
    let mut node = repository.client();
    let error = node.client.refresh(&repository.source, broken(day(8))).await.unwrap_err();
    assert_eq!(error.attack().unwrap().name(), "freeze");
}
