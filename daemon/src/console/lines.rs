//! The lines themselves: pure, from what was shown and what holds now.

use std::fs;

use cairn_model::{
    local::{LinkState, LocalStatus},
    media::{MediaState, MediaStatus},
    report::{OsMethod, OsState, OsStatus},
};

/// Longest line: what it quotes may be long.
const MAX_LINE: usize = 400;

/// Percent between two lines about one transfer.
const STEP: u8 = 10;

/// What the console tells of the machine itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Machine {
    /// The OS's name in os-release.
    pub(super) os: String,
    pub(super) hostname: String,
    pub(super) id: String,
}

impl Machine {
    /// This machine's; what cannot be read is shown as unknown.
    pub(super) fn of_this() -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let or_unknown = |text: &str| if text.is_empty() { "unknown".to_owned() } else { text.to_owned() };
        let release = read("/usr/lib/os-release");
        let name = release.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
        Self {
            os: or_unknown(name.unwrap_or_default().trim_matches('"')),
            hostname: or_unknown(read("/proc/sys/kernel/hostname").trim()),
            id: or_unknown(read("/etc/machine-id").trim()),
        }
    }
}

/// What was shown last, topic by topic.
#[derive(Debug, Default)]
pub(super) struct Screen {
    machine: String,
    link: String,
    os: String,
    stick: String,
    /// What was said about the stick: its device, and its messages so far.
    said: (String, Vec<String>),
}

impl Screen {
    /// The lines that are new.
    pub(super) fn show(&mut self, machine: &Machine, status: &LocalStatus) -> Vec<String> {
        let slot = status.os.as_ref().map(|os| format!(", slot {}", os.slot.as_str()));
        let mut lines = self.head(machine, &slot.unwrap_or_default());
        lines.extend(changed(&mut self.link, link(status)));
        let os = status.os.as_ref().map(os).unwrap_or_default();
        lines.extend(changed(&mut self.os, os));
        lines.extend(status.media.iter().flat_map(|media| self.stick(media)));
        lines.iter().map(|line| clean(line)).collect()
    }

    /// The lines for a node agent that does not answer, of which `reason` tells.
    pub(super) fn silence(&mut self, machine: &Machine, reason: &str) -> Vec<String> {
        let mut lines = if self.machine.is_empty() { self.head(machine, "") } else { Vec::new() };
        let text = format!("node agent: {reason}; it starts again by itself, the workloads run on");
        lines.extend(changed(&mut self.link, text));
        lines.iter().map(|line| clean(line)).collect()
    }

    /// Its messages come first: the last line says whether it may be pulled.
    fn stick(&mut self, media: &MediaStatus) -> Vec<String> {
        let MediaStatus { device, messages, .. } = media;
        // Another stick, or the same one again.
        let goes_on = self.said.0 == *device && messages.starts_with(&self.said.1);
        let fresh = messages.iter().skip(if goes_on { self.said.1.len() } else { 0 });
        let mut lines: Vec<String> = fresh.map(|message| format!("stick {device}: {message}")).collect();
        self.said = (device.clone(), messages.clone());
        lines.extend(changed(&mut self.stick, stick(media)));
        lines
    }

    fn head(&mut self, Machine { os, hostname, id }: &Machine, slot: &str) -> Vec<String> {
        let text = format!("{hostname}: {os}{slot}, machine id {id}");
        match changed(&mut self.machine, text) {
            Some(text) => vec![text, "This console takes no input; use the hub.".to_owned()],
            None => Vec::new(),
        }
    }
}

/// The text, where it is another than before.
fn changed(shown: &mut String, now: String) -> Option<String> {
    if *shown == now {
        return None;
    }
    shown.clone_from(&now);
    Some(now).filter(|now| !now.is_empty())
}

/// What others named must not move the cursor, or look like a line of ours.
fn clean(line: &str) -> String {
    line.chars().map(|c| if c.is_control() { ' ' } else { c }).take(MAX_LINE).collect()
}

fn link(status: &LocalStatus) -> String {
    let LocalStatus { node, fingerprint, .. } = status;
    let Some(hub) = status.hub.as_deref() else {
        let what = match status.link {
            LinkState::Unconfigured => "none is configured",
            LinkState::Enrolling | LinkState::Pending => "none, this node asks by stick to be taken in",
            LinkState::Online | LinkState::Offline => "none, this node is a member by stick",
        };
        return format!("hub: {what}; this is node {node} (fingerprint {fingerprint})");
    };
    match status.link {
        LinkState::Unconfigured => format!("hub: {hub} is not used; this is node {node}"),
        LinkState::Enrolling => format!("hub: asking {hub} to be taken in"),
        LinkState::Pending => {
            format!("hub: {hub} waits for an operator: cairn node approve {node} (fingerprint {fingerprint})")
        }
        LinkState::Online => format!("hub: {hub} answers; this is node {node}"),
        LinkState::Offline => format!("hub: {hub} does not answer; what runs goes on"),
    }
}

/// In steps, as a transfer.
fn stick(media: &MediaStatus) -> String {
    let percent = media.percent() / STEP * STEP;
    let far = matches!(media.state, MediaState::Copying | MediaState::WritingOs) && media.to_copy > 0;
    let far = if far { format!(": {percent} %") } else { String::new() };
    format!("stick {}: {}{far}; {}", media.device, media.state.words(), media.may_be_pulled())
}

fn os(os: &OsStatus) -> String {
    let target = os.target.as_ref().map_or_else(|| "a release".to_owned(), ToString::to_string);
    let slot = os.slot.other().as_str();
    let why = os.detail.as_deref().map(|detail| format!(": {detail}")).unwrap_or_default();
    match os.state {
        OsState::Idle => String::new(),
        OsState::Fetching => format!(
            "update: writing {target} to slot {slot}{}; power may be cut at any time",
            transfer(os).unwrap_or_default()
        ),
        OsState::Written => format!("update: {target} stands in slot {slot} and is verified"),
        OsState::Armed => format!("update: {target} runs after the next restart{why}"),
        OsState::Trying => format!("update: {target} is on trial{why}"),
        OsState::Good => format!("update: {} is kept", os.version),
        OsState::RolledBack => format!("update: {target} did not do, {} runs again{why}", os.version),
        OsState::Refused => format!("update: {target} is refused{why}"),
        OsState::Failed => format!("update: {target} could not be written{why}; it is tried again"),
    }
}

/// How far: in steps, so that a transfer is a dozen lines.
fn transfer(os: &OsStatus) -> Option<String> {
    let progress = os.progress.as_ref()?;
    let percent = progress.percent() / STEP * STEP;
    let way = match progress.method {
        OsMethod::Patch => "patch",
        OsMethod::Chunks => "chunks",
    };
    let whole = u128::from(progress.to_fetch) * 100 / u128::from(progress.full.max(1));
    Some(format!(" ({way}, {whole} % of a full download): {percent} %"))
}
