//! The health gate: whether the OS that is being tried is kept. Pure; [`super::trial`] gathers what it decides on.

use std::{collections::BTreeSet, time::Duration};

use cairn_model::desired::OsHealth;

use crate::link::LinkStatus;

/// For so long everything must hold without a break: a workload that ends as soon as it has started runs in between.
pub(super) const STEADY: Duration = Duration::from_secs(5);

/// For so long where a workload counts that nothing checks: it may end later, again and again.
pub(super) const UNCHECKED: Duration = Duration::from_secs(30);

/// What is asked of the hub.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Contact {
    /// It has answered: before the restart no more came of it either.
    Answered,
    /// What it says is verified and stored: without that no further update would ever come.
    Verified,
}

/// What is asked of the hub, or why nothing is, for whoever reads the status. The signed policy decides: a node is without
/// a network where its hub says so, whatever its configuration names. Only one that knows no hub at all has none to ask.
pub(super) fn asked_of_hub(
    policy: &OsHealth,
    was_verified: bool,
    has_hub: bool,
) -> Result<Contact, &'static str> {
    match (policy.hub, has_hub) {
        (false, _) => Err("; the hub is not asked, by the policy for this node"),
        (true, false) => Err("; the hub is not asked, because none is configured"),
        (true, true) if was_verified => Ok(Contact::Verified),
        (true, true) => Ok(Contact::Answered),
    }
}

impl Contact {
    /// What is missing of it.
    pub(super) fn missing(self, link: &LinkStatus) -> Option<String> {
        let refusal = || link.refusal.as_ref().map_or_else(String::new, |why| format!(": {why}"));
        match self {
            _ if link.last_contact.is_none() => Some(
                "the hub has not answered since the restart; let the node reach it, or, where it has no network, say so with \
                 `cairn os set --no-hub-check`"
                    .to_owned(),
            ),
            Self::Verified if link.verified.is_none() => Some(format!(
                "the hub has answered, and what it says was not verified since the restart as it was before{}",
                refusal()
            )),
            Self::Answered | Self::Verified => None,
        }
    }
}

/// What a command said last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Answer {
    /// It has not ended yet.
    None,
    /// It ended with 0.
    Passed,
    /// How it ended otherwise, with the last lines of its output.
    Failed(String),
}

/// A command that must end with 0.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Command {
    /// Whose it is: `the release's health command`.
    pub(super) whose: &'static str,
    /// What it said last.
    pub(super) answer: Answer,
}

/// What is decided on.
#[derive(Debug, Clone)]
pub(super) struct Seen<'a> {
    /// Units that were well before the restart, and how each stands now.
    pub(super) workloads: Vec<Workload<'a>>,
    /// What is missing of the hub; `None` where nothing is.
    pub(super) hub: Option<String>,
    /// The commands that must pass.
    pub(super) commands: &'a [Command],
    /// Since when all of it has held, up to now.
    pub(super) steady: Duration,
    /// For so long it must hold.
    pub(super) must_hold: Duration,
    /// Since the trial began.
    pub(super) elapsed: Duration,
    /// When it ends.
    pub(super) deadline: Duration,
}

/// One workload that was well before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Workload<'a> {
    /// Its unit.
    pub(super) unit: &'a str,
    /// Where it is not well now: how it stands.
    pub(super) ill: Option<String>,
}

/// What comes of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Not all of it holds yet, or not for long enough: what is missing, in words.
    Wait(String),
    /// The OS stays.
    Keep,
    /// The OS goes: what did not hold in time.
    Reject(String),
}

/// Everything that does not hold now.
pub(super) fn missing(seen: &Seen<'_>) -> Vec<String> {
    let ill = seen.workloads.iter().filter_map(|w| {
        let how = w.ill.as_ref()?;
        Some(format!("workload {} ran well before the update and does not now: {how}", w.unit))
    });
    let commands = seen.commands.iter().filter_map(|command| match &command.answer {
        Answer::Passed => None,
        Answer::None => Some(format!("{} has not ended", command.whose)),
        Answer::Failed(how) => Some(format!("{} fails: {how}", command.whose)),
    });
    ill.chain(seen.hub.clone()).chain(commands).collect()
}

/// Decides.
pub(super) fn judge(seen: &Seen<'_>) -> Verdict {
    let missing = missing(seen);
    if missing.is_empty() {
        // What holds at the deadline holds: no more is asked of it then.
        return match seen.steady >= seen.must_hold || seen.elapsed >= seen.deadline {
            true => Verdict::Keep,
            false => Verdict::Wait("all checks hold; it is kept if they still do in a moment".to_owned()),
        };
    }
    let seconds = seen.deadline.as_secs();
    if seen.elapsed >= seen.deadline {
        return Verdict::Reject(format!("within {seconds} s: {}", missing.join("; ")));
    }
    let left = seen.deadline.saturating_sub(seen.elapsed).as_secs().next_multiple_of(10);
    Verdict::Wait(format!("must hold within {left} s: {}", missing.join("; ")))
}

/// The units of `expected` that count: what is not wanted here any more was removed by an operator meanwhile.
pub(super) fn counting<'a>(expected: &'a [String], wanted: &BTreeSet<&str>) -> Vec<&'a str> {
    expected.iter().map(String::as_str).filter(|unit| wanted.contains(unit)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEADLINE: Duration = Duration::from_secs(600);

    fn command(answer: Answer) -> Vec<Command> {
        vec![Command { whose: "the release's health command", answer }]
    }

    fn workloads(ill: &[(&'static str, Option<&str>)]) -> Vec<Workload<'static>> {
        ill.iter().map(|(unit, ill)| Workload { unit, ill: ill.map(str::to_owned) }).collect()
    }

    /// One row: what is seen, after how many seconds, and the verdict's first letter with a part of its text.
    fn check(
        what: &str,
        seen: (Vec<Workload<'static>>, Option<bool>, Vec<Command>),
        at: (u64, u64),
        expected: (char, &str),
    ) {
        let (workloads, hub, commands) = seen;
        let (elapsed, steady) = (Duration::from_secs(at.0), Duration::from_secs(at.1));
        let hub = (hub == Some(false)).then(|| "the hub has not answered".to_owned());
        let must_hold = STEADY;
        let seen =
            Seen { workloads, hub, commands: &commands, steady, must_hold, elapsed, deadline: DEADLINE };
        let verdict = judge(&seen);
        let (letter, text) = match &verdict {
            Verdict::Wait(text) => ('w', text.as_str()),
            Verdict::Keep => ('k', ""),
            Verdict::Reject(text) => ('r', text.as_str()),
        };
        assert!(letter == expected.0 && text.contains(expected.1), "{what}: {verdict:?}");
    }

    #[test]
    fn everything_must_hold_and_go_on_to_hold() {
        let well = || workloads(&[("cairn-a-b-0", None)]);
        let ill = || workloads(&[("cairn-a-b-0", None), ("cairn-a-c-0", Some("unhealthy"))]);
        let passed = || command(Answer::Passed);
        let failed = || command(Answer::Failed("exit code 3: no route".to_owned()));
        let missing = "cairn-a-c-0 ran well before the update and does not now: unhealthy";
        check("nothing is asked for", (vec![], None, vec![]), (5, 5), ('k', ""));
        check("all well", (well(), Some(true), passed()), (20, 5), ('k', ""));
        check("all well, but only just", (well(), Some(true), passed()), (20, 4), ('w', "in a moment"));
        check("all well at the last moment", (well(), Some(true), passed()), (600, 0), ('k', ""));
        check("a workload is ill", (ill(), None, vec![]), (20, 0), ('w', missing));
        check("a workload stays ill", (ill(), None, vec![]), (600, 0), ('r', missing));
        check("no hub yet", (well(), Some(false), vec![]), (20, 0), ('w', "hub has not answered"));
        check("no hub", (well(), Some(false), vec![]), (601, 0), ('r', "hub has not answered"));
        check("no hub is needed", (well(), None, vec![]), (20, 5), ('k', ""));
        check("the command runs", (well(), None, command(Answer::None)), (20, 0), ('w', "has not ended"));
        check("the command hangs", (well(), None, command(Answer::None)), (600, 0), ('r', "has not ended"));
        check("the command fails", (well(), None, failed()), (20, 0), ('w', "no route"));
        check(
            "the command goes on to fail",
            (well(), None, failed()),
            (600, 0),
            ('r', "exit code 3: no route"),
        );
    }

    #[test]
    fn an_answer_will_only_do_where_no_more_came_before() {
        let mut link = LinkStatus::new(cairn_model::local::LinkState::Online);
        for contact in [Contact::Answered, Contact::Verified] {
            assert!(contact.missing(&link).unwrap().contains("has not answered"));
        }
        link.last_contact = Some(jiff::Timestamp::now());
        link.refusal = Some("the store is broken".to_owned());
        assert_eq!(Contact::Answered.missing(&link), None);
        let missing = Contact::Verified.missing(&link).unwrap();
        assert!(missing.contains("not verified") && missing.contains("the store is broken"), "{missing}");
        link.verified = Some(tokio::time::Instant::now());
        assert_eq!(Contact::Verified.missing(&link), None);
    }

    #[test]
    fn who_has_no_network_is_the_signed_policys_to_say() {
        let policy = |hub| OsHealth { deadline_seconds: 60, hub };
        assert_eq!(asked_of_hub(&policy(true), true, true), Ok(Contact::Verified));
        assert_eq!(asked_of_hub(&policy(true), false, true), Ok(Contact::Answered));
        for (was_verified, has_hub) in [(true, true), (false, true), (false, false)] {
            let why = asked_of_hub(&policy(false), was_verified, has_hub).unwrap_err();
            assert!(why.contains("policy"), "{why}");
        }
        assert!(asked_of_hub(&policy(true), false, false).unwrap_err().contains("none is configured"));
    }

    #[test]
    fn every_reason_is_told() {
        let seen = Seen {
            workloads: workloads(&[("u", Some("exited with code 1"))]),
            hub: Some("the hub is missed".to_owned()),
            commands: &command(Answer::Failed("x".to_owned())),
            steady: Duration::ZERO,
            must_hold: STEADY,
            elapsed: DEADLINE,
            deadline: DEADLINE,
        };
        let Verdict::Reject(text) = judge(&seen) else { panic!("it is rejected") };
        for part in ["within 600 s", "exited with code 1", "hub", "health command fails: x"] {
            assert!(text.contains(part), "{part}: {text}");
        }
    }

    #[test]
    fn what_is_not_wanted_any_more_does_not_count() {
        let expected = ["a".to_owned(), "b".to_owned()];
        assert_eq!(counting(&expected, &BTreeSet::from(["b", "c"])), ["b"]);
    }
}
