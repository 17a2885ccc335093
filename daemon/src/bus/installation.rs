//! An installation as RAUC's tools see it, whoever asked for it: a state machine without I/O. It takes what the OS task
//! publishes and what the bus was asked for, and gives properties and signals.

use cairn_model::report::{OsMethod, OsState, OsStatus};

/// The properties of `de.pengutronix.rauc.Installer`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct View {
    /// Something is being installed.
    pub(super) installing: bool,
    /// Why the latest installation failed; empty while one runs and after one that did not fail.
    pub(super) last_error: String,
    /// Percentage, message, depth of nesting.
    pub(super) progress: (i32, String, i32),
    /// What kind of machine this is.
    pub(super) compatible: String,
    /// The version that runs.
    pub(super) version: String,
    /// The slot that runs, by its boot name.
    pub(super) boot_slot: String,
}

/// What is told on the bus, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    /// Property.
    Compatible,
    /// Property.
    SystemVersion,
    /// Property.
    BootSlot,
    /// Property.
    Progress,
    /// Property.
    LastError,
    /// Property. Before `Completed`: who starts the next installation on that signal finds no other one running.
    Operation,
    /// Signal, with 0 for success.
    Completed(i32),
}

/// What differs, as it is told: a beginning before its progress, an end after it.
pub(super) fn changes(before: &View, after: &View, completed: Option<i32>) -> Vec<Change> {
    let begins = after.installing && !before.installing;
    let ends = before.installing && !after.installing;
    [
        (before.compatible != after.compatible, Change::Compatible),
        (before.version != after.version, Change::SystemVersion),
        (before.boot_slot != after.boot_slot, Change::BootSlot),
        (begins, Change::Operation),
        (before.progress != after.progress, Change::Progress),
        (before.last_error != after.last_error, Change::LastError),
        (ends, Change::Operation),
    ]
    .into_iter()
    .filter_map(|(differs, change)| differs.then_some(change))
    .chain(completed.map(Change::Completed))
    .collect()
}

/// The latest installation.
#[derive(Debug, Default)]
pub(super) struct Installation {
    pub(super) view: View,
    /// Somebody on the bus waits for its end, which is the OS task's answer to them.
    asked: bool,
}

impl Installation {
    /// Somebody asks for one.
    pub(super) fn begin(&mut self) -> Result<(), String> {
        if self.view.installing {
            let doing = &self.view.progress.1;
            return Err(format!(
                "already processing a different method ({doing}); ask again after Completed"
            ));
        }
        self.asked = true;
        self.start();
        Ok(())
    }

    /// The OS task published; gives the code of the signal `Completed` where that ends an installation that nobody on
    /// the bus asked for.
    pub(super) fn observe(&mut self, os: &OsStatus) -> Option<i32> {
        self.view.compatible.clone_from(&os.compatible);
        self.view.version = os.version.to_string();
        self.view.boot_slot = os.slot.as_str().to_owned();
        if matches!(os.state, OsState::Fetching | OsState::Written) {
            if !self.view.installing {
                self.start();
            }
            self.view.progress = progress(os);
            return None;
        }
        if !self.view.installing || self.asked {
            return None;
        }
        let failed = matches!(os.state, OsState::Failed | OsState::Refused);
        let reason = || os.detail.clone().unwrap_or_else(|| "the node does not say why".to_owned());
        Some(self.end(if failed { Err(reason()) } else { Ok(()) }))
    }

    /// It ended; gives the code of the signal `Completed`.
    pub(super) fn end(&mut self, result: Result<(), String>) -> i32 {
        self.asked = false;
        self.view.installing = false;
        let (message, code) = match result {
            Ok(()) => ("Installing done.", 0),
            Err(reason) => {
                self.view.last_error = reason;
                ("Installing failed.", 1)
            }
        };
        self.view.progress = (100, message.to_owned(), 1);
        code
    }

    fn start(&mut self) {
        self.view.installing = true;
        self.view.last_error.clear();
        self.view.progress = (0, "Installing".to_owned(), 1);
    }
}

/// Percent of the whole: what is written counts for 95, the rest is the last look and the boot entry.
fn progress(os: &OsStatus) -> (i32, String, i32) {
    let what =
        os.target.as_ref().map_or_else(|| "the release".to_owned(), |version| format!("release {version}"));
    let slot = os.slot.other().as_str();
    let (percent, message) = match (os.state, &os.progress) {
        (OsState::Fetching, Some(progress)) => {
            let way = match progress.method {
                OsMethod::Patch => "as a patch",
                OsMethod::Chunks => "as chunks",
            };
            (i32::from(progress.percent()) * 95 / 100, format!("Writing {what} to slot {slot} {way}"))
        }
        (OsState::Fetching, None) => (0, format!("Checking {what}")),
        _ => (95, format!("Arming {what} in slot {slot}")),
    };
    (percent, message, 1)
}

#[cfg(test)]
mod tests {
    use cairn_model::report::OsProgress;

    use super::*;
    use crate::fixtures::os_status;

    fn os(state: OsState, written: Option<u64>, detail: Option<&str>) -> OsStatus {
        OsStatus {
            target: Some("0.2.0".parse().unwrap()),
            progress: written.map(|written| OsProgress {
                method: OsMethod::Patch,
                written,
                total: 200,
                fetched: 1,
                to_fetch: 2,
                full: 3,
                rate: 4,
            }),
            detail: detail.map(str::to_owned),
            ..os_status(state)
        }
    }

    /// What is told of a step, and the view after it.
    fn step(
        installation: &mut Installation,
        act: impl FnOnce(&mut Installation) -> Option<i32>,
    ) -> Vec<Change> {
        let before = installation.view.clone();
        let completed = act(installation);
        changes(&before, &installation.view, completed)
    }

    #[test]
    fn one_installation_at_a_time_whoever_asked_for_the_first() {
        let mut installation = Installation::default();
        installation.begin().unwrap();
        assert!(installation.begin().unwrap_err().contains("already processing"));
        let mut installation = Installation::default();
        installation.observe(&os(OsState::Fetching, None, None));
        let refusal = installation.begin().unwrap_err();
        assert!(
            refusal.contains("Checking release 0.2.0") && refusal.contains("after Completed"),
            "{refusal}"
        );
    }

    #[test]
    fn an_installation_that_the_hub_wants_is_told_from_begin_to_end() {
        let mut installation = Installation::default();
        let told = step(&mut installation, |i| i.observe(&os(OsState::Idle, None, None)));
        assert_eq!(told, [Change::Compatible, Change::SystemVersion, Change::BootSlot]);
        let told = step(&mut installation, |i| i.observe(&os(OsState::Fetching, None, None)));
        assert_eq!(told, [Change::Operation, Change::Progress]);
        let told = step(&mut installation, |i| i.observe(&os(OsState::Fetching, Some(100), None)));
        assert_eq!(told, [Change::Progress]);
        let expected = (47, "Writing release 0.2.0 to slot b as a patch".to_owned(), 1);
        assert_eq!(installation.view.progress, expected);
        // Less than a percent more is nothing to tell.
        assert_eq!(step(&mut installation, |i| i.observe(&os(OsState::Fetching, Some(101), None))), []);
        let told = step(&mut installation, |i| i.observe(&os(OsState::Written, None, None)));
        assert_eq!((told.as_slice(), installation.view.progress.0), ([Change::Progress].as_slice(), 95));
        let told = step(&mut installation, |i| i.observe(&os(OsState::Armed, None, None)));
        assert_eq!(told, [Change::Progress, Change::Operation, Change::Completed(0)]);
        assert_eq!(installation.view.progress, (100, "Installing done.".to_owned(), 1));
        assert_eq!(step(&mut installation, |i| i.observe(&os(OsState::Armed, None, None))), []);
    }

    #[test]
    fn a_failure_has_its_reason_until_the_next_begin() {
        let mut installation = Installation::default();
        installation.observe(&os(OsState::Fetching, Some(3), None));
        let failed = os(OsState::Failed, None, Some("the hub cannot be reached; check the network"));
        let told = step(&mut installation, |i| i.observe(&failed));
        assert_eq!(told, [Change::Progress, Change::LastError, Change::Operation, Change::Completed(1)]);
        assert!(installation.view.last_error.contains("check the network"));
        let told = step(&mut installation, |i| i.begin().err().map(|_| 9));
        assert_eq!(told, [Change::Operation, Change::Progress, Change::LastError]);
        assert_eq!(installation.view.last_error, "");
    }

    #[test]
    fn one_that_was_asked_for_ends_by_its_answer_alone() {
        let mut installation = Installation::default();
        installation.begin().unwrap();
        // What is published while the request is on its way is of an earlier one.
        assert_eq!(installation.observe(&os(OsState::Refused, None, Some("an old refusal"))), None);
        assert!(installation.view.installing && installation.view.last_error.is_empty());
        assert_eq!(installation.observe(&os(OsState::Fetching, Some(200), None)), None);
        assert_eq!(installation.view.progress.0, 95);
        assert_eq!(installation.observe(&os(OsState::Armed, None, None)), None);
        let told = step(&mut installation, |i| Some(i.end(Ok(()))));
        assert_eq!(told, [Change::Progress, Change::Operation, Change::Completed(0)]);
        installation.begin().unwrap();
        let told = step(&mut installation, |i| Some(i.end(Err("not genuine".to_owned()))));
        assert_eq!(told, [Change::Progress, Change::LastError, Change::Operation, Change::Completed(1)]);
    }
}
