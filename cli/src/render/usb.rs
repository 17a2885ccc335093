//! Sticks: what an export writes, what a verification found, what an import brought.

use std::fmt::Write as _;

use cairn_model::{
    enroll::EnrollState,
    media::{Freshness, MediaImported, MediaPlan, Receipt},
};
use jiff::Timestamp;

use super::{table::lay_out, text};
use crate::bundle::{
    plan::{self, Export},
    verify::Verdict,
};

/// How long metadata holds, in words.
pub(crate) fn freshness(freshness: Freshness) -> String {
    match freshness {
        Freshness::Connected => "a week".into(),
        Freshness::Days(1) => "1 day".into(),
        Freshness::Days(days) => format!("{days} days"),
        Freshness::Unlimited => "for ever".into(),
    }
}

/// What is about to be written.
pub(crate) fn summary(wanted: &MediaPlan, export: &Export, place: &str) -> String {
    let mut table = vec![["NODE", "HOSTNAME", "GENERATION", "HOLDS", "STATE"].map(str::to_owned).to_vec()];
    for node in &wanted.nodes {
        let state = match (node.state, node.generation) {
            (EnrollState::Pending, _) => "waits for approval: gets nothing",
            (EnrollState::Approved, 0) => "nothing is desired of it yet",
            (EnrollState::Approved, _) => "member",
        };
        table.push(vec![
            node.node.to_string(),
            text::clean(&node.hostname),
            node.generation.to_string(),
            freshness(node.freshness),
            state.into(),
        ]);
    }
    let mut out = lay_out(&table);
    let manifests = wanted.blobs.iter().filter(|blob| blob.media_type.is_some()).count();
    let amount = |count: usize, bytes: u64| format!("{count} blobs, {}", text::size(bytes));
    let mut lines = vec![
        vec!["To".to_owned(), text::clean(place)],
        vec![
            "Artifacts".to_owned(),
            format!("{manifests}, in {}", amount(wanted.blobs.len(), plan::bytes(&wanted.blobs))),
        ],
        vec!["To write".to_owned(), amount(export.write.len(), export.to_write)],
    ];
    if !export.there.is_empty() {
        lines.push(vec!["There already".to_owned(), amount(export.there.len(), plan::bytes(&export.there))]);
    }
    if export.damaged > 0 {
        lines.push(vec![
            "Damaged".to_owned(),
            format!("{} of them on the stick, written anew", export.damaged),
        ]);
    }
    if !export.left_out.is_empty() {
        let amount = amount(export.left_out.len(), plan::bytes(&export.left_out));
        lines.push(vec!["Left out".to_owned(), format!("{amount}: the earlier stick brought them")]);
    }
    if !export.superseded.is_empty() {
        let amount = amount(export.superseded.len(), plan::bytes(&export.superseded));
        lines.push(vec!["To remove".to_owned(), format!("{amount}: of an earlier export, needed no more")]);
    }
    for node in &export.gone {
        let host = text::clean(&node.hostname);
        lines.push(vec!["No longer for".to_owned(), format!("{} ({host})", node.node)]);
    }
    let _ = write!(out, "\n{}", lay_out(&lines));
    out
}

/// What is good, until when.
pub(crate) fn verdict(verdict: &Verdict, receipt: &Receipt, now: Timestamp) -> String {
    let mut table = vec![["NODE", "HOSTNAME", "GENERATION", "GOOD UNTIL"].map(str::to_owned).to_vec()];
    for node in &verdict.nodes {
        let (generation, until) = match (node.generation, node.until) {
            _ if node.pending => ("-".into(), "waits for approval".into()),
            (Some(generation), Some(until)) => (generation.to_string(), until_when(until, now)),
            _ => ("-".into(), "refused".into()),
        };
        table.push(vec![node.node.to_string(), text::clean(&node.hostname), generation, until]);
    }
    let mut out = lay_out(&table);
    let written = text::age(&receipt.written_at, now);
    let _ = write!(
        out,
        "\n{} blobs, {}, read back; written {} from {}",
        verdict.blobs,
        text::size(verdict.bytes),
        text::clean(&written),
        text::clean(&receipt.hub)
    );
    if verdict.left_out > 0 {
        let _ = write!(out, "; {} more must have come by an earlier stick", verdict.left_out);
    }
    out.push('\n');
    if let Some(until) = verdict.until().filter(|_| verdict.faults.is_empty()) {
        let _ = writeln!(out, "good until {}", until_when(until, now));
    }
    out
}

fn until_when(until: Timestamp, now: Timestamp) -> String {
    let day = until.strftime("%Y-%m-%d %H:%M UTC");
    format!("{day} ({})", text::age(&until.to_string(), now))
}

/// What came from nodes.
pub(crate) fn imported(answer: &MediaImported, now: Timestamp) -> String {
    let mut out = String::new();
    if !answer.nodes.is_empty() {
        // Most fleets never give up a report: the column is there when one did.
        let has_given_up = answer.nodes.iter().any(|node| node.given_up > 0);
        let given_up = has_given_up.then(|| "GIVEN UP".to_owned());
        let mut heads = ["NODE", "HOSTNAME", "NEW", "KNOWN"].map(str::to_owned).to_vec();
        heads.extend(given_up);
        heads.push("HUB HAS ALL UP TO".into());
        let mut table = vec![heads];
        for node in &answer.nodes {
            let mut row = vec![
                node.node.to_string(),
                text::clean(&node.hostname),
                node.stored.to_string(),
                node.known.to_string(),
            ];
            row.extend(has_given_up.then(|| node.given_up.to_string()));
            row.push(node.acknowledged.to_string());
            table.push(row);
        }
        out.push_str(&lay_out(&table));
    }
    if !answer.enrolled.is_empty() {
        if !out.is_empty() {
            out.push('\n');
        }
        let mut table =
            vec![["NODE", "HOSTNAME", "ASKED", "STATE", "FINGERPRINT"].map(str::to_owned).to_vec()];
        for node in &answer.enrolled {
            let state = match node.state {
                EnrollState::Pending => "pending",
                EnrollState::Approved => "member",
            };
            table.push(vec![
                node.id.to_string(),
                text::clean(&node.facts.hostname),
                text::age(&node.enrolled_at, now),
                state.into(),
                text::clean(&node.fingerprint),
            ]);
        }
        out.push_str(&lay_out(&table));
    }
    out
}
