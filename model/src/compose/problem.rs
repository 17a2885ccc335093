//! What is wrong with a Compose file, and where.

use std::fmt;

/// Most problems that are told of one file: enough to mend it, and a bound on what garbage can cause.
pub(super) const MAX_PROBLEMS: usize = 100;

/// One thing that is wrong with a Compose file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// Where in the document: `services.web.ports[0]`; empty for the whole.
    pub key: String,
    /// What is wrong.
    pub cause: String,
    /// What to do about it.
    pub cure: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: ", self.line, self.column)?;
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        write!(f, "{}; {}", self.cause, self.cure)
    }
}

/// Everything that is wrong with a Compose file, by place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problems {
    /// The file's name.
    pub file: String,
    /// Never empty; sorted by line and column.
    pub list: Vec<Problem>,
}

impl Problems {
    /// One line each: `file:line:column: key: cause; cure`.
    pub fn lines(&self) -> impl Iterator<Item = String> {
        self.list.iter().map(|problem| format!("{}:{problem}", self.file))
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, line) in self.lines().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            f.write_str(&line)?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}
