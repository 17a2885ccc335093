//! Counters, and the Prometheus text that they are served as.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use cairn_model::report::{OsState, OsStatus};

use crate::{
    error::{Error, Kind, Result},
    service::Hub,
    store::{NodeRow, NodeState},
};

/// Most versions that have a time series of their own.
const OS_VERSIONS: usize = 20;

/// What is counted since the start.
#[derive(Default)]
pub(crate) struct Metrics {
    by_class: [AtomicU64; 6],
    microseconds: AtomicU64,
    reports: AtomicU64,
    stick_reports: AtomicU64,
    exports: AtomicU64,
    connections: AtomicU64,
    // Held while the text is made: it reads the whole fleet, for anybody who asks.
    scraping: tokio::sync::Mutex<()>,
}

impl Metrics {
    /// Counts an answer with `status` that took `time`.
    pub(crate) fn count_request(&self, status: u16, time: Duration) {
        let class = usize::from(status / 100).min(self.by_class.len() - 1);
        self.by_class[class].fetch_add(1, Ordering::Relaxed);
        let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        self.microseconds.fetch_add(micros, Ordering::Relaxed);
    }

    /// Counts stored reports.
    pub(crate) fn count_reports(&self, count: u64) {
        self.reports.fetch_add(count, Ordering::Relaxed);
    }

    /// Counts those of them that came by stick.
    pub(crate) fn count_stick_reports(&self, count: u64) {
        self.stick_reports.fetch_add(count, Ordering::Relaxed);
    }

    /// Counts nodes whose metadata was signed for a stick.
    pub(crate) fn count_exports(&self, count: u64) {
        self.exports.fetch_add(count, Ordering::Relaxed);
    }

    /// Counts a connection.
    pub(crate) fn count_connection(&self) {
        self.connections.fetch_add(1, Ordering::Relaxed);
    }
}

struct Text(String);

impl Text {
    fn head(&mut self, name: &str, kind: &str, help: &str) {
        // Writing to a String cannot fail.
        let _ = write!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
    }

    fn value(&mut self, name: &str, labels: &str, value: impl std::fmt::Display) {
        let _ = writeln!(self.0, "{name}{labels} {value}");
    }

    fn single(&mut self, name: &str, kind: &str, help: &str, value: impl std::fmt::Display) {
        self.head(name, kind, help);
        self.value(name, "", value);
    }
}

impl Text {
    /// Counts of members by the OS they run and where its update stands. Versions come from nodes: all but the most
    /// frequent are counted as one.
    fn os_nodes(&mut self, nodes: &[NodeRow]) {
        let members = nodes.iter().filter(|node| node.state == NodeState::Approved);
        let statuses: Vec<&OsStatus> = members.filter_map(|n| n.status.as_ref()?.os.as_ref()).collect();
        let mut by_version: BTreeMap<&str, usize> = BTreeMap::new();
        for os in &statuses {
            *by_version.entry(os.version.as_str()).or_default() += 1;
        }
        let mut frequent: Vec<(&str, usize)> = by_version.into_iter().collect();
        frequent.sort_by_key(|(version, count)| (Reverse(*count), *version));
        let named: BTreeSet<&str> =
            frequent.into_iter().take(OS_VERSIONS).map(|(version, _)| version).collect();
        let mut counts: BTreeMap<(&str, &str), usize> = BTreeMap::new();
        for os in statuses {
            let version = named.get(os.version.as_str()).copied().unwrap_or("other");
            *counts.entry((version, state_name(os.state))).or_default() += 1;
        }
        self.head("cairn_hub_nodes_os", "gauge", "Members by OS version and state of its update.");
        for ((version, state), count) in counts {
            let labels = format!("{{version=\"{version}\",state=\"{state}\"}}");
            self.value("cairn_hub_nodes_os", &labels, count);
        }
    }
}

/// As in the API.
fn state_name(state: OsState) -> &'static str {
    match state {
        OsState::Idle => "idle",
        OsState::Fetching => "fetching",
        OsState::Written => "written",
        OsState::Armed => "armed",
        OsState::Trying => "trying",
        OsState::Good => "good",
        OsState::RolledBack => "rolled-back",
        OsState::Refused => "refused",
        OsState::Failed => "failed",
    }
}

impl Hub {
    /// Everything worth watching, as Prometheus reads it.
    pub(crate) async fn metrics_text(&self) -> Result<String> {
        let Ok(_only) = self.metrics.scraping.try_lock() else {
            return Err(Error::new(Kind::Busy, "another scrape is under way; scrape again when it is over"));
        };
        let mut text = Text(String::new());
        let nodes = self.store.nodes().await?;
        text.head("cairn_hub_nodes", "gauge", "Nodes by state.");
        for state in [NodeState::Pending, NodeState::Approved] {
            let count = nodes.iter().filter(|node| node.state == state).count();
            text.value("cairn_hub_nodes", &format!("{{state=\"{}\"}}", state.as_str()), count);
        }
        text.os_nodes(&nodes);
        let behind = nodes
            .iter()
            .filter(|n| n.state == NodeState::Approved)
            .filter(|n| n.status.as_ref().map_or(0, |s| s.generation) < n.generation)
            .count();
        text.single(
            "cairn_hub_nodes_behind",
            "gauge",
            "Members that did not report their newest generation yet.",
            behind,
        );
        let waiting = self.fleet.waiting();
        text.single("cairn_hub_nodes_waiting", "gauge", "Nodes that hold a long poll.", waiting);
        let apps = self.store.latest_versions().await?.len();
        text.single("cairn_hub_apps", "gauge", "Deployed apps.", apps);
        let placed = self.store.placements().await?.len();
        text.single("cairn_hub_replicas_placed", "gauge", "Replicas that have a place.", placed);
        let (blobs, bytes) = self.store.blob_totals().await?;
        text.single("cairn_hub_blobs", "gauge", "Blobs in the registry.", blobs);
        text.single("cairn_hub_blob_bytes", "gauge", "Bytes of all blobs.", bytes);
        text.single("cairn_hub_uploads", "gauge", "Uploads under way.", self.registry.uploads.count());
        let metrics = &self.metrics;
        text.head("cairn_hub_requests_total", "counter", "Answers by class of status.");
        for (class, count) in metrics.by_class.iter().enumerate().skip(1) {
            let labels = format!("{{class=\"{class}xx\"}}");
            text.value("cairn_hub_requests_total", &labels, count.load(Ordering::Relaxed));
        }
        let micros = metrics.microseconds.load(Ordering::Relaxed);
        let seconds = Duration::from_micros(micros).as_secs_f64();
        text.single("cairn_hub_request_seconds_total", "counter", "Time spent until answers began.", seconds);
        let reports = metrics.reports.load(Ordering::Relaxed);
        text.single("cairn_hub_reports_total", "counter", "Reports stored.", reports);
        let by_stick = metrics.stick_reports.load(Ordering::Relaxed);
        text.single(
            "cairn_hub_usb_reports_total",
            "counter",
            "Of these, those that came by stick.",
            by_stick,
        );
        let exports = metrics.exports.load(Ordering::Relaxed);
        let help = "Nodes' metadata signed for a stick.";
        text.single("cairn_hub_usb_exports_total", "counter", help, exports);
        let connections = metrics.connections.load(Ordering::Relaxed);
        text.single("cairn_hub_connections_total", "counter", "Connections accepted.", connections);
        Ok(text.0)
    }
}
