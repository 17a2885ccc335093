//! A node whose hub is not as it should be: it says so, goes on, and comes back by itself.

use cairn_model::local::LinkState;

use super::hub::{Hub, Mood, Node, running, says};

#[test]
fn a_hub_that_is_down_slow_senseless_or_endless_stops_nothing_and_is_found_again() {
    let hub = Hub::start("token");
    let mut node = Node::new(&hub, "token");
    node.start();
    let id = node.status().node;
    hub.publish(&id, &[("api", "1")]);
    node.until("the workload runs", |status| running(status) == 1 && status.link == LinkState::Online);
    let processes = node.runs();
    let cases: [(Mood, LinkState, &[&str]); 4] = [
        (Mood::Down, LinkState::Offline, &["cannot be reached", "check the network"]),
        // From here on it is there, and what it says, or does not, is not believed.
        (Mood::Hangs, LinkState::Online, &["too slowly", "another try follows"]),
        (Mood::Garbage, LinkState::Online, &["the hub's bundle is refused", "timestamp.json"]),
        (Mood::Endless, LinkState::Online, &["endless"]),
    ];
    for (mood, link, words) in cases {
        hub.becomes(mood);
        let status = node.until(&format!("{mood:?} is said"), |s| says(s, words) && s.link == link);
        assert_eq!((status.generation, running(&status)), (1, 1), "{mood:?}: {status:?}");
        let journal = node.journal();
        assert!(words.iter().all(|word| journal.contains(word)), "{mood:?}: {journal}");
        assert!(!journal.contains('\u{7}'), "what a hub says moves no terminal");
        node.still_runs(&processes);
    }
    hub.becomes(Mood::Well);
    hub.publish(&id, &[("api", "1"), ("more", "2")]);
    let status = node.until("all is well again", |status| {
        running(status) == 2 && status.problems.is_empty() && status.link == LinkState::Online
    });
    assert_eq!(status.generation, 2);
    assert_eq!(node.runs()[..1], processes, "what ran all the time still does");
    node.until("what happened meanwhile is reported", |status| status.unsent_reports == 0);
    assert!(hub.told().iter().any(|reason| reason == "bundle-refused"), "{:?}", hub.told());
}

#[test]
fn a_token_that_was_refused_is_replaced_without_a_restart() {
    let hub = Hub::start("the right one");
    let mut node = Node::new(&hub, "an old one");
    node.start();
    let status = node.until("the refusal is said", |s| says(s, &["the token has expired", "make a new one"]));
    assert_eq!(status.link, LinkState::Enrolling);
    node.has_token("");
    node.until("an empty file is said", |s| says(s, &["is empty", "cairn token create"]));
    assert!(node.journal().contains("make a new one"));
    node.has_token("the right one\n");
    hub.publish(&status.node, &[("api", "1")]);
    node.until("it is a member and runs what it shall", |s| running(s) == 1 && s.problems.is_empty());
}
