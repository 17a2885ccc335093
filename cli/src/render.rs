//! From what the hub said to what is printed. Tables for people (`table`, one file a noun) and JSON for programs
//! (`structured`) are apart: a column may change, a field may not.

mod access_token;
mod app;
mod artifact;
mod context;
mod event;
pub(crate) mod local;
mod node;
pub(crate) mod os;
mod proposal;
mod structured;
mod table;
pub(crate) mod text;
mod token;
pub(crate) mod usb;

use jiff::Timestamp;
use serde::Serialize;

use crate::{args::Format, failure::Failure};

pub(crate) use context::ContextRow;
pub(crate) use event::AuditEntry;
pub(crate) use proposal::{Unveiled, release_block};
pub(crate) use table::Column;

/// What can be a line of a table.
pub(crate) trait Row: Serialize {
    const COLUMNS: &'static [Column];
    /// One text a column.
    fn cells(&self, now: Timestamp) -> Vec<String>;
    /// What `-o name` prints.
    fn name(&self) -> String;
}

/// What can be shown alone.
pub(crate) trait Detail: Serialize {
    /// For people, in lines.
    fn detail(&self, wide: bool, now: Timestamp) -> String;
    /// What `-o name` prints.
    fn name(&self) -> String;
}

/// Many of a kind.
pub(crate) fn list<T: Row>(format: Format, items: &[T], now: Timestamp) -> Result<String, Failure> {
    match format {
        Format::Table => Ok(table::draw(items, false, now)),
        Format::Wide => Ok(table::draw(items, true, now)),
        Format::Json => structured::json(&items),
        Format::Yaml => structured::yaml(&items),
        Format::Name => Ok(items.iter().map(|item| item.name() + "\n").collect()),
    }
}

/// One of a kind.
pub(crate) fn one<T: Detail>(format: Format, item: &T, now: Timestamp) -> Result<String, Failure> {
    match format {
        Format::Table => Ok(item.detail(false, now)),
        Format::Wide => Ok(item.detail(true, now)),
        Format::Json => structured::json(item),
        Format::Yaml => structured::yaml(item),
        Format::Name => Ok(item.name() + "\n"),
    }
}

/// A document that has no table: JSON, or YAML where that is asked for.
pub(crate) fn document(format: Format, value: &impl Serialize) -> Result<String, Failure> {
    match format {
        Format::Yaml => structured::yaml(value),
        Format::Table | Format::Wide | Format::Json | Format::Name => structured::json(value),
    }
}
