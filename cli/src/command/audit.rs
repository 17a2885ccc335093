//! `cairn audit`: who changed what.

use cairn_model::api::AuditRow;

use crate::{args::AuditVerb, client::Client, failure::Failure, render::AuditEntry};

pub(super) async fn run(client: &Client, verb: AuditVerb) -> Result<(), Failure> {
    let AuditVerb::Ls { limit, output } = verb;
    let rows: Vec<AuditRow> = client.get(&["audit"], &[("limit", &limit.to_string())]).await?;
    let rows: Vec<AuditEntry> = rows.into_iter().map(AuditEntry).collect();
    super::show_list(output.output, &rows, "nothing has been changed yet")
}
