//! Access tokens.

use cairn_model::api::{AccessToken, Role};
use jiff::Timestamp;

use super::{Column, Row, text};

impl Row for AccessToken {
    const COLUMNS: &'static [Column] = &[
        Column::always("ID"),
        Column::always("NAME"),
        Column::always("ROLE"),
        Column::always("EXPIRES"),
        Column::wide("CREATED"),
    ];

    fn cells(&self, now: Timestamp) -> Vec<String> {
        let role = match self.role {
            Role::Viewer => "viewer",
            Role::Operator => "operator",
            Role::Admin => "admin",
        };
        vec![
            self.id.clone(),
            self.name.clone(),
            role.into(),
            self.expires_at.as_deref().map_or_else(|| "never".into(), |time| text::age(time, now)),
            text::age(&self.created_at, now),
        ]
    }

    fn name(&self) -> String {
        self.id.clone()
    }
}
