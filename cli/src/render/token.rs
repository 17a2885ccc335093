//! Enrolment tokens.

use cairn_model::api::Token;
use jiff::Timestamp;

use super::{Column, Row, text};

impl Row for Token {
    const COLUMNS: &'static [Column] = &[
        Column::always("ID"),
        Column::always("EXPIRES"),
        Column::always("USED"),
        Column::always("REUSABLE"),
        Column::always("AUTO-APPROVE"),
        Column::always("LABELS"),
        Column::always("DESCRIPTION"),
        Column::wide("CREATED"),
    ];

    fn cells(&self, now: Timestamp) -> Vec<String> {
        vec![
            self.id.clone(),
            text::age(&self.expires_at, now),
            self.used.to_string(),
            text::yes_no(self.reusable),
            text::yes_no(self.auto_approve),
            text::labels(&self.labels),
            self.description.clone(),
            text::age(&self.created_at, now),
        ]
    }

    fn name(&self) -> String {
        self.id.clone()
    }
}
