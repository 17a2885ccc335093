//! What all documents have in common: bounded in size, of a schema that we know, and sound beyond their types.

use serde::{
    Deserialize,
    de::{DeserializeOwned, Error as _},
};

use crate::id::{NodeId, ServiceName};

/// Why bytes are not the document that they were taken for.
#[derive(Debug, thiserror::Error)]
pub enum DocumentError {
    /// More bytes than such a document may have.
    #[error("the {what} has {bytes} bytes, more than the {max} that are read; make it smaller")]
    TooLarge {
        /// Which document.
        what: &'static str,
        /// Its size.
        bytes: usize,
        /// The limit.
        max: usize,
    },
    /// Not JSON, or not with the fields of its schema.
    #[error("the {what} is malformed; check that sender and receiver are of the same version")]
    Malformed {
        /// Which document.
        what: &'static str,
        /// At which place.
        #[source]
        source: serde_json::Error,
    },
    /// Of a schema that came after this program, or never was.
    #[error("the {what} has schema {found}, but this program knows 1 to {known}; update this program")]
    Schema {
        /// Which document.
        what: &'static str,
        /// The number in it.
        found: u64,
        /// The newest that is known.
        known: u32,
    },
    /// A replica index twice.
    #[error("the desired state has replica {index} of {service} twice; the hub that made it is broken")]
    ReplicaTwice {
        /// Of which service.
        service: ServiceName,
        /// Which one.
        index: u32,
    },
    /// A command id twice, or one that is empty or longer than 128 bytes.
    #[error(
        "the desired state has a command with the bad or repeated id {id:?}; the hub that made it is broken"
    )]
    CommandId {
        /// The id.
        id: String,
    },
    /// A pause of no time at all: a busy loop.
    #[error("the desired state's policy has {key}: 0; set it to at least 1")]
    Pause {
        /// Which.
        key: &'static str,
    },
    /// An OS policy that cannot be followed.
    #[error("the desired state's {cause}; set it with `cairn os set`")]
    Os {
        /// Which part, and why.
        cause: &'static str,
    },
    /// A release that cannot be what it says.
    #[error("the release is unsound: {cause}; make it again with `cairn-image release`")]
    Release {
        /// Which part, and why.
        cause: &'static str,
    },
    /// Reports count from one.
    #[error("the report of {node} has sequence 0; they count from 1")]
    Sequence {
        /// Whose.
        node: NodeId,
    },
}

#[derive(Deserialize)]
struct Head {
    schema: u64,
}

/// The document `what` in `bytes`, if there are at most `max` of them and it has a schema from 1 to `known`. Nesting is
/// bounded by serde_json (128).
pub(crate) fn parse<T: DeserializeOwned>(
    what: &'static str,
    bytes: &[u8],
    max: usize,
    known: u32,
) -> Result<T, DocumentError> {
    if bytes.len() > max {
        return Err(DocumentError::TooLarge { what, bytes: bytes.len(), max });
    }
    let malformed = |source| DocumentError::Malformed { what, source: cut(source) };
    // The number first: a newer document has fields that would be refused for the wrong reason.
    let head: Head = serde_json::from_slice(bytes).map_err(malformed)?;
    if head.schema == 0 || head.schema > known.into() {
        return Err(DocumentError::Schema { what, found: head.schema, known });
    }
    serde_json::from_slice(bytes).map_err(malformed)
}

/// Longest text of serde_json's that is passed on, in characters.
const MAX_TEXT: usize = 300;

/// serde_json quotes a value or a field that it does not know in full, and that may be most of the document: the text goes
/// to logs, which the sender must not fill.
fn cut(error: serde_json::Error) -> serde_json::Error {
    let text = error.to_string();
    if text.chars().count() <= MAX_TEXT {
        return error;
    }
    let (line, column) = (error.line(), error.column());
    let beginning: String = text.chars().take(MAX_TEXT).collect();
    serde_json::Error::custom(format!("{beginning}… at line {line} column {column}"))
}

#[cfg(test)]
mod tests {
    use std::error::Error;

    #[test]
    fn what_the_sender_wrote_is_cut_before_it_is_quoted() {
        // Found by fuzzing: an error as long as the document.
        let long = "é".repeat(5000);
        for document in [format!("{{\"schema\": \"{long}\"}}"), format!("{{\"schema\": 1, \"{long}\": 1}}")] {
            let error = crate::Release::parse(document.as_bytes()).unwrap_err();
            let source = error.source().unwrap().to_string();
            assert!(source.len() < 800 && source.contains("… at line 1 column "), "{source}");
        }
        let short = crate::Release::parse(b"{\"schema\": 1, \"x\": 1}").unwrap_err();
        assert!(short.source().unwrap().to_string().contains("unknown field `x`"));
    }
}
