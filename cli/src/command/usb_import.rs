//! `cairn usb import`: what nodes have put on a stick, sent to the hub in pieces. Nothing is removed from the stick: a node
//! does that, once an export has told it what the hub has.

use std::collections::BTreeMap;

use cairn_model::{
    NodeId,
    enroll::EnrollState,
    media::{MAX_IMPORT_ENROLMENTS, MAX_IMPORT_REPORTS, MediaImport, MediaImported, MediaImportedNode},
};
use cairn_trust::fetch::Folder;
use jiff::Timestamp;
use reqwest::Method;

use crate::{
    args::Format,
    bundle::{
        outbox::{self, Letter},
        place::Place,
        stick::Stick,
    },
    client::Client,
    failure::Failure,
    render, screen,
    screen::Progress,
};

/// So much is sent at once: well below what the hub takes, and little enough for a slow link.
const BATCH_BYTES: usize = 4 << 20;
/// And so many reports: each is verified within one question.
const BATCH_REPORTS: usize = if MAX_IMPORT_REPORTS < 2_000 { MAX_IMPORT_REPORTS } else { 2_000 };

pub(super) async fn run(
    connect: &impl Fn() -> Result<Client, Failure>,
    place: &Place,
    accept_gap: bool,
    format: Format,
) -> Result<(), Failure> {
    let stick = Stick::at(place)?;
    let found = outbox::look(&stick);
    let client = connect()?;
    let mut import = Import { client, accept_gap, total: Imported::default(), faults: found.faults };
    let folder = stick.reader().map_err(stick.failed("open", ""))?;
    import.send_all(&folder, &found.letters).await?;
    import.show(format, found.letters.is_empty())
}

/// The sum of the hub's answers.
#[derive(Default)]
struct Imported {
    nodes: BTreeMap<NodeId, MediaImportedNode>,
    enrolled: BTreeMap<NodeId, cairn_model::api::Node>,
    refused: Vec<String>,
}

impl Imported {
    /// Whether the hub has taken anything new out of a node's folder.
    fn has_new_of(&self, folder: &str) -> bool {
        let node = folder.rsplit('/').next().and_then(|id| id.parse::<NodeId>().ok());
        node.and_then(|node| self.nodes.get(&node)).is_some_and(|node| node.stored > 0)
    }

    fn add(&mut self, answer: MediaImported) {
        for node in answer.nodes {
            match self.nodes.get_mut(&node.node) {
                Some(sum) => {
                    sum.stored += node.stored;
                    sum.known += node.known;
                    sum.given_up += node.given_up;
                    sum.acknowledged = sum.acknowledged.max(node.acknowledged);
                }
                None => drop(self.nodes.insert(node.node.clone(), node)),
            }
        }
        self.enrolled.extend(answer.enrolled.into_iter().map(|node| (node.id.clone(), node)));
        for line in answer.refused {
            if !self.refused.contains(&line) {
                self.refused.push(line);
            }
        }
    }
}

struct Import {
    client: Client,
    accept_gap: bool,
    total: Imported,
    /// Of the stick.
    faults: Vec<String>,
}

impl Import {
    async fn send_all(&mut self, folder: &Folder, letters: &[Letter]) -> Result<(), Failure> {
        let mut progress = Progress::new();
        let (mut batch, mut bytes) = (MediaImport::default(), 0);
        let mut of_node = "";
        for (n, letter) in letters.iter().enumerate() {
            progress.line(&format!("sending {} of {}", n + 1, letters.len()));
            let text = match outbox::read(folder, letter) {
                Ok(Some(text)) => text,
                Ok(None) => continue,
                Err(fault) => {
                    self.faults.push(fault);
                    continue;
                }
            };
            // One gap of a node is given up, before all that is new of it: not one that lies where two batches meet.
            let folder = letter.path.rsplit_once('/').map_or("", |(folder, _)| folder);
            let is_next = self.accept_gap && !letter.is_enrolment && folder != of_node;
            let full = is_next
                || bytes + text.len() > BATCH_BYTES
                || batch.reports.len() >= BATCH_REPORTS
                || batch.enrolments.len() >= MAX_IMPORT_ENROLMENTS;
            if full && bytes > 0 {
                self.send(std::mem::take(&mut batch)).await?;
                bytes = 0;
            }
            if !letter.is_enrolment {
                of_node = folder;
                batch.accept_gaps = self.accept_gap && !self.total.has_new_of(folder);
            }
            bytes += text.len();
            if letter.is_enrolment { &mut batch.enrolments } else { &mut batch.reports }.push(text);
        }
        if bytes > 0 {
            self.send(batch).await?;
        }
        Ok(())
    }

    async fn send(&mut self, batch: MediaImport) -> Result<(), Failure> {
        let answer = self.client.send(Method::POST, &["usb", "import"], &batch).await.map_err(|failure| {
            let cure = match failure.cure.as_str() {
                "" => String::new(),
                cure => format!("{cure}; "),
            };
            failure.cure(format!("{cure}import again: what the hub has is not stored twice"))
        })?;
        self.total.add(answer);
        Ok(())
    }

    fn show(self, format: Format, is_empty: bool) -> Result<(), Failure> {
        let Self { total, faults, .. } = self;
        let answer = MediaImported {
            nodes: total.nodes.into_values().collect(),
            enrolled: total.enrolled.into_values().collect(),
            refused: total.refused.into_iter().chain(faults).collect(),
        };
        match format {
            Format::Json | Format::Yaml => screen::print(&render::document(format, &answer)?)?,
            Format::Name => {
                let mut ids: Vec<&NodeId> = answer.nodes.iter().map(|node| &node.node).collect();
                ids.extend(answer.enrolled.iter().map(|node| &node.id));
                ids.sort();
                ids.dedup();
                screen::print(&ids.into_iter().map(|id| format!("{id}\n")).collect::<String>())?;
            }
            Format::Table | Format::Wide => {
                screen::print(&render::usb::imported(&answer, Timestamp::now()))?;
                if is_empty {
                    screen::note("no node has written to this stick");
                }
                for step in next_steps(&answer) {
                    screen::note(&step);
                }
            }
        }
        if answer.refused.is_empty() {
            return Ok(());
        }
        let count = answer.refused.len();
        Err(Failure::refused(format!("{count} not taken, each named above; all else is in the hub"))
            .problems(answer.refused))
    }
}

/// What to do now.
fn next_steps(answer: &MediaImported) -> Vec<String> {
    let mut steps = Vec::new();
    let waiting: Vec<&str> = answer
        .enrolled
        .iter()
        .filter(|node| node.state == EnrollState::Pending)
        .map(|node| node.id.as_str())
        .collect();
    if !waiting.is_empty() {
        steps.push(format!(
            "compare each fingerprint with what the node's console shows, then let it in: cairn node approve {}",
            waiting.join(" ")
        ));
    }
    if !waiting.is_empty() || answer.enrolled.iter().any(|node| node.state == EnrollState::Approved) {
        steps.push("bring it what it needs: cairn usb export DIR|DEVICE --node NODE".into());
    }
    for node in answer.nodes.iter().filter(|node| node.given_up > 0) {
        steps.push(format!(
            "{} missing reports of {} ({}) are given up, which `cairn audit ls` shows: the hub goes on after them",
            node.given_up,
            node.node,
            render::text::clean(&node.hostname)
        ));
    }
    if !answer.nodes.is_empty() {
        steps.push(
            "the nodes keep their reports until the next export for them tells what the hub has: cairn usb export DIR|DEVICE …"
                .into(),
        );
    }
    steps
}
