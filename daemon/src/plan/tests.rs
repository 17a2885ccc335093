//! The planner: a table of single looks, and properties over whole lives in a simulated supervisor.

use proptest::prelude::*;

use super::*;

fn digest(n: u8) -> Digest {
    Digest::of(&[n])
}

fn wanted(spec: u8, restart: Restart) -> Wanted {
    Wanted { spec: digest(spec), image: digest(100), restart, after: vec![], ports: BTreeSet::new() }
}

fn observed(spec: u8, phase: Phase) -> Observed {
    Observed { spec: Some(digest(spec)), phase, health: Health::None, restarts: 0, ports: BTreeSet::new() }
}

#[derive(Debug, Default)]
struct World {
    wanted: BTreeMap<String, Wanted>,
    observed: BTreeMap<String, Observed>,
    ready: BTreeSet<Digest>,
    history: BTreeMap<String, History>,
    now_ms: u64,
}

impl World {
    fn ready() -> Self {
        Self { ready: BTreeSet::from([digest(100)]), ..Self::default() }
    }
    fn wants(mut self, unit: &str, wanted: Wanted) -> Self {
        self.wanted.insert(unit.to_owned(), wanted);
        self
    }
    fn sees(mut self, unit: &str, observed: Observed) -> Self {
        self.observed.insert(unit.to_owned(), observed);
        self
    }
    fn plan(&self) -> Plan {
        plan(Input {
            wanted: &self.wanted,
            observed: &self.observed,
            ready: &self.ready,
            history: &self.history,
            now_ms: self.now_ms,
        })
    }
}

fn stop(unit: &str, why: StopReason) -> Step {
    Step::Stop { unit: unit.to_owned(), why }
}
fn clear(unit: &str) -> Step {
    Step::Clear { unit: unit.to_owned() }
}
fn start(unit: &str) -> Step {
    Step::Start { unit: unit.to_owned() }
}

#[test]
fn single_looks() {
    use Phase::{Completed, Failed, Running, Starting, Stopping};
    let on_failure = |max| Restart::OnFailure { max };
    let mut unhealthy = observed(1, Running);
    unhealthy.health = Health::Unhealthy;
    let mut twice = observed(1, Failed);
    twice.restarts = 2;
    let w = || World::ready();
    let always = || wanted(1, Restart::Always);
    for (case, world, expected) in [
        ("nothing", w(), vec![]),
        ("absent", w().wants("a", always()), vec![start("a")]),
        ("running", w().wants("a", always()).sees("a", observed(1, Running)), vec![]),
        ("not wanted", w().sees("a", observed(1, Running)), vec![stop("a", StopReason::NotWanted)]),
        ("not wanted, stopping", w().sees("a", observed(1, Stopping)), vec![]),
        ("not wanted, ended", w().sees("a", observed(1, Failed)), vec![clear("a")]),
        (
            "changed",
            w().wants("a", always()).sees("a", observed(2, Running)),
            vec![stop("a", StopReason::Changed)],
        ),
        (
            "changed while starting",
            w().wants("a", always()).sees("a", observed(2, Starting)),
            vec![stop("a", StopReason::Changed)],
        ),
        (
            "unhealthy",
            w().wants("a", always()).sees("a", unhealthy.clone()),
            vec![stop("a", StopReason::Unhealthy)],
        ),
        ("unhealthy, never restarted", w().wants("a", wanted(1, Restart::No)).sees("a", unhealthy), vec![]),
        ("completed", w().wants("a", wanted(1, Restart::No)).sees("a", observed(1, Completed)), vec![]),
        (
            "completed, on failure",
            w().wants("a", wanted(1, on_failure(None))).sees("a", observed(1, Completed)),
            vec![],
        ),
        ("completed, always", w().wants("a", always()).sees("a", observed(1, Completed)), vec![clear("a")]),
        (
            "failed, never restarted",
            w().wants("a", wanted(1, Restart::No)).sees("a", observed(1, Failed)),
            vec![],
        ),
        (
            "failed, on failure",
            w().wants("a", wanted(1, on_failure(None))).sees("a", observed(1, Failed)),
            vec![clear("a")],
        ),
        ("failed, limit reached", w().wants("a", wanted(1, on_failure(Some(2)))).sees("a", twice), vec![]),
        (
            "what goes comes first",
            w().wants("b", always()).sees("z", observed(1, Running)),
            vec![stop("z", StopReason::NotWanted), start("b")],
        ),
    ] {
        assert_eq!(world.plan().steps, expected, "{case}");
    }
}

#[test]
fn keeps_what_runs_until_its_successor_can_start() {
    let mut world =
        World::default().wants("a", wanted(2, Restart::Always)).sees("a", observed(1, Phase::Running));
    assert_eq!(world.plan().steps, [Step::Prepare { image: digest(100) }]);
    world.ready.insert(digest(100));
    assert_eq!(world.plan().steps, [stop("a", StopReason::Changed)]);
}

#[test]
fn waits_for_what_it_depends_on() {
    let depends = |condition| {
        let mut dependent = wanted(1, Restart::Always);
        dependent.after = vec![Dependency { unit: "db".into(), condition }];
        World::ready().wants("web", dependent).wants("db", wanted(1, Restart::Always))
    };
    let starts_web = |world: World| world.plan().steps.contains(&start("web"));
    assert!(!starts_web(depends(Condition::Started)));
    assert!(!starts_web(depends(Condition::Started).sees("db", observed(1, Phase::Starting))));
    assert!(starts_web(depends(Condition::Started).sees("db", observed(1, Phase::Running))));
    assert!(
        !starts_web(depends(Condition::Started).sees("db", observed(9, Phase::Running))),
        "the old one is not it"
    );
    let mut db = observed(1, Phase::Running);
    db.health = Health::Starting;
    assert!(!starts_web(depends(Condition::Healthy).sees("db", db.clone())));
    db.health = Health::Healthy;
    assert!(starts_web(depends(Condition::Healthy).sees("db", db)));
    assert!(!starts_web(depends(Condition::Completed).sees("db", observed(1, Phase::Running))));
    assert!(starts_web(depends(Condition::Completed).sees("db", observed(1, Phase::Completed))));
    let mut elsewhere = depends(Condition::Healthy);
    elsewhere.wanted.remove("db");
    assert!(starts_web(elsewhere), "a dependency on another node cannot be seen");
}

#[test]
fn waits_until_a_leaving_unit_has_let_go_of_the_port() {
    let port = BTreeSet::from([("tcp".to_owned(), 80)]);
    let mut new = wanted(1, Restart::Always);
    new.ports = port.clone();
    let mut old = observed(1, Phase::Stopping);
    old.ports = port;
    let mut world = World::ready().wants("new", new).sees("old", old);
    assert_eq!(world.plan().steps, []);
    assert_eq!(world.plan().waiting["new"], Waiting::Port(("tcp".into(), 80)));
    world.observed.clear();
    assert_eq!(world.plan().steps, [start("new")]);
}

#[test]
fn backs_off_and_says_when_to_look_again() {
    let mut world = World::ready().wants("a", wanted(1, Restart::Always));
    world.now_ms = 10_000;
    world.history.insert("a".into(), History { failures: 3, failed_at_ms: 9_000 });
    assert_eq!(
        world.plan(),
        Plan {
            steps: vec![],
            waiting: BTreeMap::from([("a".into(), Waiting::BackOff { until_ms: 13_000 })]),
            look_again_ms: Some(13_000),
        }
    );
    world.now_ms = 13_000;
    assert_eq!(world.plan().steps, [start("a")]);
    let endless = History { failures: u32::MAX, failed_at_ms: 0 };
    assert_eq!(endless.not_before_ms(), BACKOFF_LAST_MS);
}

fn arb_phase() -> impl Strategy<Value = Phase> {
    prop::sample::select(vec![
        Phase::Starting,
        Phase::Running,
        Phase::Stopping,
        Phase::Completed,
        Phase::Failed,
    ])
}

fn arb_restart() -> impl Strategy<Value = Restart> {
    prop::sample::select(vec![
        Restart::No,
        Restart::Always,
        Restart::OnFailure { max: None },
        Restart::OnFailure { max: Some(2) },
    ])
}

/// Up to six units named a to f; a unit depends only on earlier names, so that there is no cycle.
fn arb_wanted() -> impl Strategy<Value = BTreeMap<String, Wanted>> {
    let one = (0u8..3, arb_restart(), prop::collection::vec(0usize..6, 0..2), prop::option::of(0u16..2));
    prop::collection::btree_map(0usize..6, one, 0..6).prop_map(|units| {
        let name = |i: usize| char::from(b'a' + u8::try_from(i).unwrap_or(0)).to_string();
        let has_port: BTreeSet<u16> = BTreeSet::new();
        let mut taken = has_port;
        let mut out = BTreeMap::new();
        for (i, (spec, restart, after, port)) in units {
            let after = after.into_iter().filter(|d| *d < i);
            let after = after.map(|d| Dependency { unit: name(d), condition: Condition::Started }).collect();
            let ports =
                port.filter(|p| taken.insert(*p)).map(|p| ("tcp".to_owned(), p)).into_iter().collect();
            out.insert(
                name(i),
                Wanted { spec: digest(spec), image: digest(100 + spec), restart, after, ports },
            );
        }
        out
    })
}

fn arb_observed() -> impl Strategy<Value = BTreeMap<String, Observed>> {
    let unit = prop::sample::select(vec!["a", "b", "c", "d", "e", "f", "g"]).prop_map(str::to_owned);
    let health =
        prop::sample::select(vec![Health::None, Health::Starting, Health::Healthy, Health::Unhealthy]);
    let one = (prop::option::of(0u8..3), arb_phase(), health, 0u32..4).prop_map(
        |(spec, phase, health, restarts)| Observed {
            spec: spec.map(digest),
            phase,
            health,
            restarts,
            ports: BTreeSet::new(),
        },
    );
    prop::collection::btree_map(unit, one, 0..7)
}

fn arb_world() -> impl Strategy<Value = World> {
    (arb_wanted(), arb_observed(), 0u64..100_000).prop_map(|(wanted, observed, now_ms)| World {
        wanted,
        observed,
        ready: BTreeSet::from([digest(100), digest(101)]),
        history: BTreeMap::new(),
        now_ms,
    })
}

/// A supervisor in which everything that is asked for succeeds at once.
fn carry_out(world: &mut World, plan: &Plan) {
    for step in &plan.steps {
        match step {
            Step::Stop { unit, .. } | Step::Clear { unit } => drop(world.observed.remove(unit)),
            Step::Prepare { image } => drop(world.ready.insert(image.clone())),
            Step::Start { unit } => {
                let wanted = &world.wanted[unit];
                let mut started = observed(0, Phase::Running);
                started.spec = Some(wanted.spec.clone());
                started.ports = wanted.ports.clone();
                world.observed.insert(unit.clone(), started);
            }
        }
    }
    for unit in world.observed.values_mut() {
        if unit.phase == Phase::Starting {
            unit.phase = Phase::Running;
        }
    }
    world.observed.retain(|_, unit| unit.phase != Phase::Stopping);
}

proptest! {
    #[test]
    fn two_runs_on_the_same_input_give_the_same_plan(world in arb_world()) {
        prop_assert_eq!(world.plan(), world.plan());
    }

    #[test]
    fn every_world_converges_and_the_plan_of_a_converged_node_is_empty(mut world in arb_world()) {
        for _ in 0..24 {
            let plan = world.plan();
            carry_out(&mut world, &plan);
        }
        let plan = world.plan();
        prop_assert_eq!(&plan.steps, &Vec::new());
        for unit in world.observed.keys() {
            prop_assert!(world.wanted.contains_key(unit), "{} is left over", unit);
        }
    }

    #[test]
    fn starts_only_what_is_wanted_absent_and_ready(world in arb_world()) {
        for step in world.plan().steps {
            if let Step::Start { unit } = step {
                prop_assert!(world.wanted.contains_key(&unit));
                prop_assert!(!world.observed.contains_key(&unit), "remove before add");
                prop_assert!(world.ready.contains(&world.wanted[&unit].image));
            }
        }
    }

    #[test]
    fn leaves_alone_what_runs_as_wanted(world in arb_world()) {
        for step in world.plan().steps {
            let (Step::Stop { unit, .. } | Step::Clear { unit }) = step else { continue };
            let (Some(wanted), seen) = (world.wanted.get(&unit), &world.observed[&unit]) else { continue };
            let same = seen.spec.as_ref() == Some(&wanted.spec);
            let fine = matches!(seen.phase, Phase::Running | Phase::Starting) && seen.health != Health::Unhealthy;
            prop_assert!(!(same && fine), "{} was disturbed", unit);
        }
    }
}
