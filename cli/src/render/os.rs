//! OS releases, and how the OS of nodes stands.

use std::fmt::Write as _;

use cairn_model::{
    Release,
    api::{OsNode, OsRelease},
    desired::RebootPolicy,
    report::{OsMethod, OsProgress, OsState, OsStatus},
};
use jiff::Timestamp;

use super::{Column, Detail, Row, table::lay_out, text};
use crate::os_outlook::{NodeOutlook, Outlook, full_size};

/// Longest detail in a table, in characters: `cairn node show` has all of it, in lines.
const MAX_DETAIL: usize = 100;

impl Row for OsRelease {
    const COLUMNS: &'static [Column] = &[
        Column::always("VERSION"),
        Column::always("COMPATIBLE"),
        Column::always("ARCH"),
        Column::always("SIZE"),
        Column::always("SIGNED"),
        Column::always("DESIRED"),
        Column::always("RUNNING"),
        Column::always("PUSHED"),
        Column::wide("PATCHES FROM"),
        Column::wide("DIGEST"),
    ];

    fn cells(&self, now: Timestamp) -> Vec<String> {
        let release = &self.release;
        let patches: Vec<_> = release.patches.iter().map(|patch| patch.from.as_str()).collect();
        vec![
            release.version.to_string(),
            release.compatible.clone(),
            release.arch.clone(),
            text::size(full_size(release)),
            text::yes_no(self.signed),
            self.desired.to_string(),
            self.running.to_string(),
            text::age(&self.pushed_at, now),
            patches.join(","),
            self.digest.to_string(),
        ]
    }

    fn name(&self) -> String {
        self.digest.to_string()
    }
}

impl Detail for OsRelease {
    fn detail(&self, wide: bool, now: Timestamp) -> String {
        let release = &self.release;
        let signed =
            if self.signed { "yes" } else { "no; nodes take it after `cairn artifact sign --key FILE`" };
        let mut lines = identity(release);
        lines.extend([
            pair("Digest", self.digest.to_string()),
            pair("Signed", signed.into()),
            pair("Built", built(release, now)),
            pair("Pushed", text::age(&self.pushed_at, now)),
            pair("Nodes", format!("desired on {}, running on {}", self.desired, self.running)),
            pair(
                "Download",
                format!("{} where a node has nothing of it yet", text::size(full_size(release))),
            ),
            pair(
                "Writes",
                format!("{} root, {} kernel", text::size(release.root.size), text::size(release.uki.size)),
            ),
        ]);
        if wide {
            lines.extend([
                pair("Root hash", release.verity.root_hash.clone()),
                pair("Root", release.root.digest.to_string()),
                pair("Kernel", release.uki.digest.to_string()),
            ]);
        }
        let mut out = lay_out(&lines);
        if !release.patches.is_empty() {
            let mut table = vec![["PATCH FROM", "SIZE", "MEMORY"].map(String::from).to_vec()];
            table.extend(release.patches.iter().map(|patch| {
                vec![patch.from.to_string(), text::size(patch.blob.size), text::size(patch.memory)]
            }));
            let _ = write!(out, "\n{}", lay_out(&table));
        }
        changelog(&mut out, release);
        out
    }

    fn name(&self) -> String {
        self.digest.to_string()
    }
}

fn pair(title: &str, value: String) -> Vec<String> {
    vec![format!("{title}:"), value]
}

/// What an operator must know before a signature, and everybody else may.
pub(super) fn identity(release: &Release) -> Vec<Vec<String>> {
    let from = match &release.min_version {
        Some(min) => format!("{min} or newer"),
        None => "any version".into(),
    };
    let layouts = release.data_layout;
    let data = if layouts.min == layouts.max {
        format!("layout {}", layouts.max)
    } else {
        format!(
            "layout {} to {}; kept, it changes the partition to {}",
            layouts.min, layouts.max, layouts.max
        )
    };
    vec![
        pair("Version", release.version.to_string()),
        pair("Name", text::clean(&release.name)),
        pair("For", format!("{} ({})", release.compatible, release.arch)),
        pair("Follows", from),
        pair("Data", data),
        pair("Health command", health_command(&release.health_command)),
    ]
}

/// Every argument in quotes, with whatever is not plain text escaped: it is run as root, and what is shown here is what
/// runs.
fn health_command(command: &[String]) -> String {
    if command.is_empty() {
        return "none".into();
    }
    command.iter().map(|argument| format!("{argument:?}")).collect::<Vec<_>>().join(" ")
}

fn built(release: &Release, now: Timestamp) -> String {
    match Timestamp::from_second(release.built) {
        Ok(time) => text::age(&time.to_string(), now),
        Err(_) => "-".into(),
    }
}

pub(super) fn changelog(out: &mut String, release: &Release) {
    if release.changelog.trim().is_empty() {
        return;
    }
    out.push_str("\nChangelog:\n");
    for line in text::clean_lines(release.changelog.trim_end()).lines() {
        let _ = writeln!(out, "  {line}");
    }
}

impl Row for OsNode {
    const COLUMNS: &'static [Column] = &[
        Column::always("NODE"),
        Column::always("HOSTNAME"),
        Column::always("RUNS"),
        Column::always("SLOT"),
        Column::wide("OTHER SLOT"),
        Column::always("DESIRED"),
        Column::always("STATE"),
        Column::always("PROGRESS"),
        Column::wide("METHOD"),
        Column::wide("RESTARTS"),
        Column::always("DETAIL"),
    ];

    fn cells(&self, _now: Timestamp) -> Vec<String> {
        let status = self.status.as_ref();
        let of_status = |tell: &dyn Fn(&OsStatus) -> String| status.map_or_else(String::new, tell);
        // What the hub holds back comes before what the node said: it has not heard of it.
        let detail = match self.problems.first() {
            Some(problem) => problem.clone(),
            None => of_status(&|status| status.detail.clone().unwrap_or_default()),
        };
        vec![
            self.node.to_string(),
            self.hostname.clone(),
            of_status(&|status| status.version.to_string()),
            of_status(&|status| status.slot.as_str().into()),
            of_status(&|status| status.other.as_ref().map(ToString::to_string).unwrap_or_default()),
            self.desired.as_ref().map(|desired| desired.version.to_string()).unwrap_or_default(),
            state(self),
            of_status(&progress),
            of_status(&|status| status.progress.map(|p| method(p.method).to_owned()).unwrap_or_default()),
            self.desired.as_ref().map(|desired| restarts(&desired.reboot)).unwrap_or_default(),
            shorten(&detail),
        ]
    }

    fn name(&self) -> String {
        self.node.to_string()
    }
}

/// The state that the node reported; `waiting` where it has not taken up yet what is desired.
fn state(node: &OsNode) -> String {
    let word = match (&node.status, &node.desired) {
        (None, _) => "not reported",
        (Some(status), Some(desired))
            if status.version != desired.version && status.release.as_ref() != Some(&desired.release) =>
        {
            "waiting"
        }
        (Some(status), _) => state_word(status.state),
    };
    if node.online { word.into() } else { format!("{word}, offline") }
}

pub(super) fn state_word(state: OsState) -> &'static str {
    match state {
        OsState::Idle => "idle",
        OsState::Fetching => "fetching",
        OsState::Written => "written",
        OsState::Armed => "armed",
        OsState::Trying => "trying",
        OsState::Good => "good",
        OsState::RolledBack => "rolled back",
        OsState::Refused => "refused",
        OsState::Failed => "failed",
    }
}

fn method(method: OsMethod) -> &'static str {
    match method {
        OsMethod::Patch => "patch",
        OsMethod::Chunks => "chunks",
    }
}

/// When a node restarts into a new OS.
pub(crate) fn restarts(policy: &RebootPolicy) -> String {
    match policy {
        RebootPolicy::AtOnce => "at once".into(),
        RebootPolicy::Manual => "on `cairn os apply`".into(),
        RebootPolicy::Window { windows, time_zone } => {
            format!("within {} ({})", text::clean(&windows.join(" or ")), text::clean(time_zone))
        }
    }
}

/// `62 % 1.2 MB/s, 97 % saved` on the way; what it came to afterwards.
pub(super) fn progress(status: &OsStatus) -> String {
    let Some(progress) = status.progress else { return String::new() };
    let saved = match saved(&progress) {
        Some(percent) => format!(", {percent} % saved"),
        None => String::new(),
    };
    match status.state {
        OsState::Fetching => {
            let written = percent(progress.written, progress.total);
            format!("{written} % {}/s{saved}", text::size(progress.rate))
        }
        OsState::Failed => format!("{} %{saved}", percent(progress.written, progress.total)),
        OsState::Written | OsState::Armed | OsState::Trying | OsState::Good | OsState::RolledBack => {
            format!("{} fetched{saved}", text::size(progress.fetched))
        }
        OsState::Idle | OsState::Refused => String::new(),
    }
}

/// Rounded down: 100 is all of it.
fn percent(part: u64, whole: u64) -> u64 {
    if whole == 0 {
        return 0;
    }
    u64::try_from(u128::from(part.min(whole)) * 100 / u128::from(whole)).unwrap_or(0)
}

/// What delta spares, rounded down; nothing where there was nothing to fetch.
fn saved(progress: &OsProgress) -> Option<u64> {
    let OsProgress { to_fetch, full, .. } = *progress;
    (full > 0).then(|| percent(full.saturating_sub(to_fetch), full))
}

fn shorten(detail: &str) -> String {
    let plain = text::clean(detail);
    if plain.chars().count() <= MAX_DETAIL {
        return plain;
    }
    plain.chars().take(MAX_DETAIL - 1).chain(['…']).collect()
}

/// The OS of one node, in lines of title and value; then the detail, which may be several lines.
pub(super) fn block(status: &OsStatus) -> (Vec<Vec<String>>, Vec<String>) {
    let OsStatus { version, compatible, slot, other, state, target, detail, .. } = status;
    let other = other.as_ref().map_or_else(|| "nothing that can be booted".into(), ToString::to_string);
    let state = match target.as_ref().filter(|target| *target != version || *state == OsState::Trying) {
        Some(target) => format!("{} {target}", state_word(*state)),
        None => state_word(*state).to_owned(),
    };
    let mut lines = vec![
        pair("OS", format!("{version} in slot {} ({})", slot.as_str(), text::clean(compatible))),
        pair("Other slot", other),
        pair("OS update", state),
    ];
    let progress = progress(status);
    if !progress.is_empty() {
        lines.push(pair("Progress", progress));
    }
    let detail = detail.as_deref().unwrap_or_default();
    (lines, text::clean_lines(detail.trim_end()).lines().map(str::to_owned).collect())
}

impl Row for NodeOutlook {
    const COLUMNS: &'static [Column] = &[
        Column::always("NODE"),
        Column::always("HOSTNAME"),
        Column::always("RUNS"),
        Column::always("ONLINE"),
        Column::always("OUTLOOK"),
    ];

    fn cells(&self, _now: Timestamp) -> Vec<String> {
        vec![
            self.node.to_string(),
            self.hostname.clone(),
            self.runs.as_ref().map(ToString::to_string).unwrap_or_default(),
            text::yes_no(self.online),
            match &self.outlook {
                Outlook::Runs => "runs it already".into(),
                Outlook::Installs { method: OsMethod::Patch, bytes, full } => {
                    format!("fetches a patch of {} instead of {}", text::size(*bytes), text::size(*full))
                }
                Outlook::Installs { method: OsMethod::Chunks, bytes, .. } => {
                    format!("fetches the chunks that it lacks, at most {}", text::size(*bytes))
                }
                Outlook::Refuses { cause, cure } => format!("refuses: {cause}; {cure}"),
            },
        ]
    }

    fn name(&self) -> String {
        self.node.to_string()
    }
}

#[cfg(test)]
mod tests;
