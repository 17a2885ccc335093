//! Label selectors of queries: `zone=berlin,kind!=test`.

use std::collections::BTreeMap;

use crate::error::{Error, Kind, Result};

/// All terms must hold; none selects everything.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Selector(Vec<Term>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Term {
    key: String,
    equal: bool,
    value: String,
}

impl Selector {
    /// Reads `key=value`, `key==value`, `key!=value`, joined by commas.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let terms = text.split(',').filter(|term| !term.is_empty()).map(Term::parse);
        terms.collect::<Result<Vec<_>>>().map(Self)
    }

    /// Whether `labels` satisfy it. A label that is not there differs from every value.
    pub(crate) fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        self.0.iter().all(|term| (labels.get(&term.key) == Some(&term.value)) == term.equal)
    }
}

impl Term {
    fn parse(text: &str) -> Result<Self> {
        let (key, equal, value) = if let Some((key, value)) = text.split_once("!=") {
            (key, false, value)
        } else if let Some((key, value)) = text.split_once('=') {
            (key, true, value.strip_prefix('=').unwrap_or(value))
        } else {
            let text: String = text.chars().take(80).collect();
            let text = format!("selector term {text:?} has neither = nor !=; write key=value or key!=value");
            return Err(Error::new(Kind::Malformed, text));
        };
        Ok(Self { key: key.trim().to_owned(), equal, value: value.trim().to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selects_by_all_terms() {
        let labels = [("zone".to_owned(), "a".to_owned())].into();
        for (text, expected) in [
            ("", true),
            ("zone=a", true),
            ("zone==a", true),
            ("zone!=a", false),
            ("zone=a,x=1", false),
            ("x!=1", true),
        ] {
            assert_eq!(Selector::parse(text).unwrap().matches(&labels), expected, "{text}");
        }
        assert!(Selector::parse("zone").is_err());
    }
}
