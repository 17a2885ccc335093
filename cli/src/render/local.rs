//! How the daemon of this node stands (`cairn_model::local::LocalStatus`). The daemon may be of another version: what is
//! known is shown, what is not is left to `-o json`, which passes on what was said.

use std::fmt::Write as _;

use cairn_model::{
    media::{MediaState, MediaStatus},
    report::{OsStatus, WorkloadStatus},
};
use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;

use super::{
    Detail,
    app::{workload_head, workload_line},
    table::lay_out,
    text,
};

/// The answer of `GET /v1/status` on the daemon's socket.
#[derive(Debug, Serialize)]
#[serde(transparent)]
pub(crate) struct LocalStatus(pub(crate) Value);

/// What people read, and where it stands.
const KNOWN: &[(&str, &str)] = &[
    ("node", "Node"),
    ("link", "State"),
    ("fingerprint", "Fingerprint"),
    ("hub", "Hub"),
    ("last_contact", "Last contact"),
    ("generation", "Generation"),
    ("unsent_reports", "Unsent reports"),
    ("version", "Daemon"),
];

impl Detail for LocalStatus {
    fn detail(&self, _wide: bool, now: Timestamp) -> String {
        let mut lines = Vec::new();
        for (key, title) in KNOWN {
            let value = match &self.0[*key] {
                Value::Null => continue,
                Value::Bool(value) => text::yes_no(*value),
                Value::String(value) if *key == "last_contact" => text::age(value, now),
                Value::String(value) => text::clean(value),
                other => text::clean(&other.to_string()),
            };
            lines.push(vec![format!("{title}:"), value]);
        }
        let os = serde_json::from_value::<OsStatus>(self.0["os"].clone()).ok();
        let (os, detail) = os.as_ref().map(super::os::block).unwrap_or_default();
        lines.extend(os);
        let mut out = lay_out(&lines);
        for line in detail {
            let _ = writeln!(out, "  {line}");
        }
        if let Ok(media) = serde_json::from_value::<MediaStatus>(self.0["media"].clone()) {
            out.push_str(&stick(&media));
        }
        for problem in self.0["problems"].as_array().into_iter().flatten() {
            let _ = writeln!(out, "Problem: {}", text::clean(problem.as_str().unwrap_or_default()));
        }
        let workloads: Vec<WorkloadStatus> = self.0["workloads"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|workload| serde_json::from_value(workload.clone()).ok())
            .collect();
        if !workloads.is_empty() {
            let mut table = vec![workload_head()];
            table.extend(workloads.iter().map(workload_line));
            let _ = write!(out, "\n{}", lay_out(&table));
        }
        out
    }

    fn name(&self) -> String {
        self.0["node"].as_str().unwrap_or("-").to_owned()
    }
}

/// The stick that is plugged in, or was last.
fn stick(media: &MediaStatus) -> String {
    let far = match media.state {
        MediaState::Copying => {
            format!(" ({}%, {} of {})", media.percent(), text::size(media.copied), text::size(media.to_copy))
        }
        _ => String::new(),
    };
    let device = text::clean(&media.device);
    let mut out = format!("Stick {device}: {}{far}; {}\n", media.state.words(), media.may_be_pulled());
    for message in &media.messages {
        let _ = writeln!(out, "  {}", text::clean(message));
    }
    out
}
