//! A node acts only where director and artifacts repository agree.

use cairn_model::id::Digest;
use cairn_trust::{
    node::{Update, UpdateError},
    uptane::{Refusal, claim},
};

use crate::{
    fleet::{Hub, Member, desired_state, entry},
    repository::today,
};

fn settled() -> (Hub, Member) {
    let hub = Hub::new();
    let member = Member::of(&hub);
    let app = hub.push(b"app");
    hub.deploy(&member.id, 1, &[app]);
    (hub, member)
}

#[tokio::test]
async fn a_node_gets_what_both_repositories_agree_on() {
    let (hub, mut member) = settled();
    let Update::Verified(bundle) = member.update(&hub, 0).await.unwrap() else { panic!("nothing new") };
    assert_eq!((bundle.generation, bundle.desired_state.generation), (1, 1));
    let artifact = &bundle.artifacts[&Digest::of(b"app")];
    assert_eq!((artifact.length, artifact.name.as_deref()), (3, Some("web:1")));
    assert_eq!(artifact.media_type.as_deref(), Some("application/test"));
    // Until it is applied it comes again; then it is quiet.
    assert!(matches!(member.update(&hub, 0).await.unwrap(), Update::Verified(_)));
    assert!(matches!(member.update(&hub, 1).await.unwrap(), Update::Unchanged));
    let second = hub.push(b"second");
    hub.deploy(&member.id, 2, &[second]);
    let Update::Verified(bundle) = member.update(&hub, 1).await.unwrap() else { panic!("nothing new") };
    assert!(!bundle.artifacts.contains_key(&Digest::of(b"app")));
}

#[tokio::test]
async fn a_stolen_hub_cannot_make_a_node_run_what_no_operator_signed() {
    let (hub, mut member) = settled();
    // The thief has every key but the operators'. The director's signature alone is worth nothing.
    hub.deploy(&member.id, 2, &[entry(b"evil")]);
    let error = member.update(&hub, 1).await.unwrap_err();
    assert!(matches!(error, UpdateError::Refused(Refusal::NotGenuine { .. })), "{error:?}");
    assert_eq!(error.attack().unwrap().name(), "arbitrary-software");
    // Nor can it hide the artifact from the targets while the document uses it.
    let state = serde_json::to_vec(&desired_state(&member.id, 3, &[entry(b"evil")])).unwrap();
    hub.director.publish(&hub.keys, &member.id, 3, &state, &[], today()).unwrap();
    assert_eq!(member.refused(&hub, 1).await, "arbitrary-software");
    // The same for an OS.
    let evil = Digest::of(b"evil OS");
    let os = serde_json::json!({ "release": evil, "version": "9" });
    let mut state = serde_json::to_value(desired_state(&member.id, 4, &[])).unwrap();
    state["os"] = os;
    hub.director.publish(&hub.keys, &member.id, 4, state.to_string().as_bytes(), &[], today()).unwrap();
    let error = member.update(&hub, 1).await.unwrap_err();
    assert!(
        matches!(&error, UpdateError::Refused(Refusal::Unlisted { digest }) if *digest == evil),
        "{error:?}"
    );
    // Nor sign artifacts targets with the keys that it has.
    let unsigned = hub.artifacts.unsigned_targets(&[entry(b"evil")], today()).unwrap();
    let online = [&hub.keys.director_targets, &hub.keys.artifacts_snapshot, &hub.keys.artifacts_timestamp];
    let signed = cairn_trust::sign::sign_file(&unsigned, &online).unwrap();
    assert!(hub.artifacts.accept_targets(&hub.keys, &signed, today()).is_err());
}

#[tokio::test]
async fn rejects_disagreement_on_length() {
    let (hub, mut member) = settled();
    let mut wrong = entry(b"app");
    wrong.length += 1;
    hub.deploy(&member.id, 2, &[wrong]);
    assert_eq!(member.refused(&hub, 1).await, "mix-and-match");
}

#[tokio::test]
async fn rejects_the_bundle_of_another_node_and_is_not_locked_out_by_it() {
    let (hub, mut member) = settled();
    let other = Member::of(&hub).id;
    let app = hub.push(b"app");
    for generation in 1..=9 {
        hub.deploy(&other, generation, std::slice::from_ref(&app));
    }
    // Well signed by the same keys, and newer in each version: as a relay could serve it.
    let (director, artifacts) = hub.serve(&other);
    let clock = crate::repository::at(today());
    let error = member.verifier.update(&director, &artifacts, clock, 0).await.unwrap_err();
    assert_eq!(error.attack().unwrap().name(), "wrong-node");
    assert!(matches!(member.update(&hub, 0).await.unwrap(), Update::Verified(_)));
}

#[test]
fn a_bundle_for_another_node_is_refused_by_its_targets_as_well() {
    let targets = |node: &str| {
        let hashes = serde_json::json!({ "sha256": "00" });
        let custom = serde_json::json!({ "node": node, "generation": 1 });
        let target = serde_json::json!({ "length": 1, "hashes": hashes, "custom": custom });
        serde_json::from_value(serde_json::json!({
            "_type": "targets", "spec_version": "1.0.31", "version": 1, "expires": "2030-01-01T00:00:00Z",
            "targets": { "desired-state.json": target },
        }))
        .unwrap()
    };
    let node = "n-0123456789abcdef".parse().unwrap();
    assert!(claim(&targets("n-0123456789abcdef"), &node, 1).is_ok());
    let refusal = claim(&targets("n-0123456789abcdee"), &node, 1).unwrap_err();
    assert!(matches!(refusal, Refusal::WrongNode { .. }));
    assert!(refusal.to_string().contains("wrong-node"));
}

#[tokio::test]
async fn rejects_a_generation_older_than_the_applied_one() {
    let (hub, mut member) = settled();
    member.update(&hub, 0).await.unwrap();
    let app = hub.push(b"app");
    hub.deploy(&member.id, 4, std::slice::from_ref(&app));
    member.update(&hub, 1).await.unwrap();
    hub.deploy(&member.id, 3, &[app]);
    let error = member.update(&hub, 4).await.unwrap_err();
    assert!(matches!(error, UpdateError::Refused(Refusal::OlderGeneration { offered: 3, applied: 4 })));
    assert_eq!(error.attack().unwrap().name(), "rollback");
}

#[tokio::test]
async fn rejects_a_document_that_contradicts_what_was_signed_about_it() {
    let (hub, mut member) = settled();
    let other = Member::of(&hub).id;
    for (node, generation) in [(other, 2), (member.id.clone(), 7)] {
        let state = serde_json::to_vec(&desired_state(&node, generation, &[])).unwrap();
        hub.director.publish(&hub.keys, &member.id, 2, &state, &[], today()).unwrap();
        assert_eq!(member.refused(&hub, 1).await, "mix-and-match");
    }
    for garbage in [&b"{}"[..], b"", b"[[[[", br#"{"schema":1,"surprise":2}"#] {
        hub.director.publish(&hub.keys, &member.id, 2, garbage, &[], today()).unwrap();
        assert_eq!(member.refused(&hub, 1).await, "malformed");
    }
}

#[tokio::test]
async fn rejects_a_tampered_document() {
    let (hub, mut member) = settled();
    let (mut director, artifacts) = hub.serve(&member.id);
    let name = director.files.keys().find(|name| name.ends_with("desired-state.json")).unwrap().clone();
    director.files.get_mut(&name).unwrap()[0] ^= 1;
    let clock = crate::repository::at(today());
    let error = member.verifier.update(&director, &artifacts, clock, 0).await.unwrap_err();
    assert_eq!(error.attack().unwrap().name(), "tampering");
}

#[tokio::test]
async fn an_idle_poll_is_two_requests_and_under_four_kilobytes() {
    let (hub, mut member) = settled();
    member.update(&hub, 0).await.unwrap();
    let (director, artifacts) = hub.serve(&member.id);
    let clock = crate::repository::at(today());
    let update = member.verifier.update(&director, &artifacts, clock, 1).await.unwrap();
    assert!(matches!(update, Update::Unchanged));
    let (director, artifacts) = (director.take_log(), artifacts.take_log());
    assert_eq!((director.len(), artifacts.len()), (1, 1), "{director:?} {artifacts:?}");
    assert_eq!((director[0].0.as_str(), artifacts[0].0.as_str()), ("timestamp.json", "timestamp.json"));
    assert!(
        director[0].1 + artifacts[0].1 < 2048,
        "leaves the other half to headers: {director:?} {artifacts:?}"
    );
}

#[tokio::test]
async fn a_refused_generation_leaves_the_next_good_one_welcome() {
    let (hub, mut member) = settled();
    hub.deploy(&member.id, 2, &[entry(b"evil")]);
    assert_eq!(member.refused(&hub, 1).await, "arbitrary-software");
    // The operators sign it after all: the same bundle is now complete.
    hub.push(b"evil");
    assert!(matches!(member.update(&hub, 1).await.unwrap(), Update::Verified(_)));
}

#[test]
fn an_update_can_run_in_a_task_of_its_own() {
    fn is_send<T: Send>(_: &T) {}
    let (hub, mut member) = settled();
    let (director, artifacts) = hub.serve(&member.id);
    is_send(&member.verifier.update(&director, &artifacts, crate::repository::at(today()), 0));
}
