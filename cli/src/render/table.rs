//! Columns of text, as wide as what is in them.

use jiff::Timestamp;

use super::{Row, text::clean};

/// The head of a column.
pub(crate) struct Column {
    title: &'static str,
    /// Only with `-o wide`.
    wide: bool,
}

impl Column {
    pub(crate) const fn always(title: &'static str) -> Self {
        Self { title, wide: false }
    }

    pub(crate) const fn wide(title: &'static str) -> Self {
        Self { title, wide: true }
    }
}

/// The space between two columns.
const GAP: &str = "   ";

pub(super) fn draw<T: Row>(items: &[T], wide: bool, now: Timestamp) -> String {
    let shown: Vec<usize> =
        (0..T::COLUMNS.len()).filter(|column| wide || !T::COLUMNS[*column].wide).collect();
    let head: Vec<String> = shown.iter().map(|column| T::COLUMNS[*column].title.to_owned()).collect();
    let mut lines = vec![head];
    for item in items {
        let cells = item.cells(now);
        lines.push(shown.iter().map(|column| cell(cells.get(*column))).collect());
    }
    lay_out(&lines)
}

/// What came from outside, on one line; a dash where there is nothing.
fn cell(text: Option<&String>) -> String {
    match text.map(|text| clean(text)) {
        Some(text) if !text.is_empty() => text,
        _ => "-".into(),
    }
}

/// Pads all columns but the last, so that no line ends in spaces.
pub(super) fn lay_out(lines: &[Vec<String>]) -> String {
    let columns = lines.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        lines.iter().filter_map(|line| line.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut out = String::new();
    for line in lines {
        for (column, cell) in line.iter().enumerate() {
            out.push_str(cell);
            if column + 1 < line.len() {
                out.extend(std::iter::repeat_n(' ', widths[column] - cell.chars().count()));
                out.push_str(GAP);
            }
        }
        out.push('\n');
    }
    out
}
