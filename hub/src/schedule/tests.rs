//! Tables and properties of the scheduler.

use proptest::prelude::*;

use super::*;

fn candidate(number: u8, labels: &[(&str, &str)], memory_mib: u64) -> Candidate {
    Candidate {
        id: NodeId::of_public_key(&[number; 32]),
        labels: labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
        facts: Facts {
            hostname: format!("host{number}"),
            arch: "amd64".to_owned(),
            cpus: 2,
            memory_bytes: memory_mib << 20,
            runtimes: vec!["oci".to_owned(), "wasm".to_owned()],
            ..Facts::default()
        },
    }
}

fn demands_of(name: &str, services: &str) -> Vec<Demand> {
    let app = App::parse("compose.yaml", &format!("services:\n{services}")).unwrap();
    demands(&name.parse().unwrap(), &app)
}

fn nodes_of(placement: &Placement, service: &str) -> Vec<NodeId> {
    placement.slots.iter().filter(|s| s.service.as_str() == service).map(|s| s.node.clone()).collect()
}

fn check(services: &str, candidates: &[Candidate], placed: usize, unplaced: u32, problem: &str) {
    let placement = schedule(&demands_of("app", services), candidates, &BTreeSet::new());
    assert_eq!(placement.slots.len(), placed, "{services}");
    let shortfall = placement.shortfalls.into_values().next().unwrap_or_default();
    assert_eq!(shortfall.unplaced, unplaced, "{services}: {shortfall:?}");
    assert!(shortfall.problems.join("\n").contains(problem), "{services}: {shortfall:?}");
    assert_eq!(problem.is_empty(), shortfall.problems.is_empty(), "{services}: {shortfall:?}");
}

#[test]
fn places_by_mode_constraint_port_and_resources() {
    let three =
        [candidate(1, &[("zone", "a")], 512), candidate(2, &[("zone", "b")], 512), candidate(3, &[], 128)];
    let service = |deploy: &str| format!("  web:\n    image: demo/web:1\n{deploy}");
    check(&service(""), &three, 1, 0, "");
    check(&service("    deploy: {replicas: 3}\n"), &three, 3, 0, "");
    check(&service("    deploy: {mode: global}\n"), &three, 3, 0, "");
    check(&service(""), &[], 0, 1, "there is no approved node");
    let zone = "    deploy: {mode: global, placement: {constraints: [node.labels.zone==b]}}\n";
    check(&service(zone), &three, 1, 0, "");
    check(
        &service(&zone.replace("==b", "==c")),
        &three,
        0,
        0,
        "no approved node matches node.labels.zone==c",
    );
    let replicated = "    deploy: {replicas: 2, placement: {constraints: [node.labels.zone==b]}}\n";
    check(&service(replicated), &three, 2, 0, "");
    let ports = "    ports: [\"8080:80\"]\n    deploy: {replicas: 4}\n";
    check(&service(ports), &three, 3, 1, "has port 8080/tcp taken by service web of app app");
    let memory = "    deploy: {replicas: 4, resources: {reservations: {memory: 300M}}}\n";
    check(&service(memory), &three, 2, 2, "lacks memory: 300 MiB are asked for");
    let most = "    deploy: {replicas: 4, placement: {max_replicas_per_node: 1}}\n";
    check(&service(most), &three, 3, 1, "3 nodes each holds max_replicas_per_node already");
}

#[test]
fn spreads_replicas_and_prefers_the_node_of_what_it_depends_on() {
    let nodes = [candidate(1, &[], 512), candidate(2, &[], 512)];
    let placement = schedule(
        &demands_of("app", "  web:\n    image: a:1\n    deploy: {replicas: 4}\n"),
        &nodes,
        &BTreeSet::new(),
    );
    for node in &nodes {
        assert_eq!(nodes_of(&placement, "web").iter().filter(|n| **n == node.id).count(), 2);
    }
    let app = "  db:\n    image: a:1\n  web:\n    image: a:1\n    depends_on: [db]\n";
    let placement = schedule(&demands_of("app", app), &nodes, &BTreeSet::new());
    assert_eq!(nodes_of(&placement, "db"), nodes_of(&placement, "web"));
}

#[test]
fn who_has_the_port_keeps_it() {
    let nodes = [candidate(1, &[], 512)];
    let web = "  web:\n    image: a:1\n    ports: [\"80:80\"]\n";
    let old = schedule(&demands_of("zebra", web), &nodes, &BTreeSet::new());
    let mut both = demands_of("ant", web);
    both.extend(demands_of("zebra", web));
    let new = schedule(&both, &nodes, &old.slots);
    assert_eq!(new.slots, old.slots);
    assert!(
        new.shortfalls[&"ant".parse().unwrap()].problems[0].contains("taken by service web of app zebra")
    );
}

fn any_services() -> impl Strategy<Value = Vec<(u32, bool, bool, u64)>> {
    prop::collection::vec((0u32..5, any::<bool>(), any::<bool>(), 0u64..300), 1..6)
}

fn build(services: &[(u32, bool, bool, u64)]) -> Vec<Demand> {
    let text: String = services
        .iter()
        .enumerate()
        .map(|(i, (replicas, global, port, memory))| {
            let mode = if *global { "mode: global".to_owned() } else { format!("replicas: {replicas}") };
            let ports = if *port { format!("    ports: [\"{}:80\"]\n", 8000 + i) } else { String::new() };
            format!(
                "  s{i}:\n    image: a:1\n{ports}    deploy: {{{mode}, resources: {{reservations: {{memory: {}M}}}}}}\n",
                memory + 1
            )
        })
        .collect();
    demands_of("app", &text)
}

proptest! {
    #[test]
    fn a_second_look_moves_nothing(services in any_services(), nodes in 0u8..6) {
        let demands = build(&services);
        let fleet: Vec<_> = (0..nodes).map(|n| candidate(n, &[], 512)).collect();
        let first = schedule(&demands, &fleet, &BTreeSet::new());
        prop_assert_eq!(&schedule(&demands, &fleet, &first.slots), &first);
    }

    #[test]
    fn a_new_node_moves_nothing_and_a_lost_one_only_its_own(services in any_services(), nodes in 1u8..6) {
        let demands = build(&services);
        let mut fleet: Vec<_> = (0..nodes).map(|n| candidate(n, &[], 512)).collect();
        let first = schedule(&demands, &fleet, &BTreeSet::new());
        fleet.push(candidate(200, &[], 512));
        let grown = schedule(&demands, &fleet, &first.slots);
        prop_assert!(first.slots.is_subset(&grown.slots));
        let lost = fleet.remove(0).id;
        let shrunk = schedule(&demands, &fleet, &grown.slots);
        let stayed: BTreeSet<Slot> = grown.slots.iter().filter(|s| s.node != lost).cloned().collect();
        prop_assert!(stayed.is_subset(&shrunk.slots));
        prop_assert!(shrunk.slots.iter().all(|s| s.node != lost));
    }

    #[test]
    fn no_node_is_given_more_than_it_has(services in any_services(), nodes in 0u8..6) {
        let demands = build(&services);
        let fleet: Vec<_> = (0..nodes).map(|n| candidate(n, &[], 512)).collect();
        let placement = schedule(&demands, &fleet, &BTreeSet::new());
        for node in &fleet {
            let memory: u64 = placement.slots.iter().filter(|s| s.node == node.id)
                .map(|s| demands.iter().find(|d| d.service == s.service).unwrap().memory_bytes).sum();
            prop_assert!(memory <= node.facts.memory_bytes);
        }
        let mut seen = BTreeSet::new();
        for slot in &placement.slots {
            prop_assert!(seen.insert((slot.service.clone(), slot.replica, slot.node.clone())));
        }
    }
}
