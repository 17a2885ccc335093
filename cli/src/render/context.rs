//! Contexts.

use jiff::Timestamp;
use serde::Serialize;

use super::{Column, Row};

/// A context, without its secret.
#[derive(Debug, Serialize)]
pub(crate) struct ContextRow {
    pub(crate) name: String,
    pub(crate) hub: String,
    pub(crate) current: bool,
}

impl Row for ContextRow {
    const COLUMNS: &'static [Column] =
        &[Column::always("CURRENT"), Column::always("NAME"), Column::always("HUB")];

    fn cells(&self, _now: Timestamp) -> Vec<String> {
        vec![if self.current { "*" } else { "" }.into(), self.name.clone(), self.hub.clone()]
    }

    fn name(&self) -> String {
        self.name.clone()
    }
}
