//! Why nothing is taken from a stick, in words for whoever plugged it in: cause and cure. Pure.

use std::{error::Error, iter};

use cairn_model::{NodeId, error::chain};
use cairn_trust::{
    attack::Attack, client::ClientError, fetch::FetchError, node::UpdateError, uptane::Refusal,
};

use crate::{
    blobs::BlobError,
    ledger::LedgerError,
    pull::PullError,
    source::{self, SourceError},
};

/// The name for a stick of another fleet, beside those of [`Attack`].
pub(crate) const WRONG_FLEET: &str = "wrong-fleet";

/// What else the words depend on.
#[derive(Debug)]
pub(super) struct Circumstances<'a> {
    /// This node.
    pub(super) node: &'a NodeId,
    /// The generation that runs; 0 for none.
    pub(super) applied: u64,
    /// The stick still can be read.
    pub(super) is_there: bool,
    /// The stick carries another fleet's first root.
    pub(super) other_fleet: bool,
    /// It was the hub itself that was believed last, not a stick.
    pub(super) hub_was_last: bool,
}

/// Why nothing was taken.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Refused {
    /// What it may be.
    pub(super) attack: Option<String>,
    /// Cause and cure.
    pub(super) text: String,
    /// It could not be read to the end, which says nothing about what is on it.
    pub(super) broken: bool,
    /// It is genuine, and the hub has said newer things while it was on its way: no cause for alarm.
    pub(super) overtaken: bool,
}

/// Longest text, in characters; what is quoted in it comes from the stick.
const MAX_CHARS: usize = 1500;

/// Fit for journal, console and hub.
pub(super) fn plain(text: &str) -> String {
    source::plain(text, MAX_CHARS)
}

/// Finds the words.
pub(super) fn refused(error: &PullError, seen: &Circumstances<'_>) -> Refused {
    if !seen.is_there || is_unreadable(error) {
        // Only what the system said: what is above it speaks of hubs and networks.
        let why = iter::successors(Some(error as &dyn Error), |&error| error.source()).last();
        let why = why.map_or_else(String::new, ToString::to_string);
        let text = format!(
            "the stick cannot be read to its end ({why}); plug it in again, and it goes on where it stopped. If it fails \
             again, export to another one"
        );
        return Refused { attack: None, text: plain(&text), broken: true, overtaken: false };
    }
    if !seen.other_fleet && seen.hub_was_last && is_older_export(error) {
        let text = "the stick is older than what this node has heard from its hub since: nothing is taken from it, and nothing is \
                    wrong with it; write it again with `cairn usb export` before its next journey";
        return Refused { attack: None, text: text.to_owned(), broken: false, overtaken: true };
    }
    let why = chain(error);
    let (attack, text) = if seen.other_fleet {
        let text = format!(
            "the stick is of another fleet ({why}); use one that the hub has written that this node belongs to, compare \
             with `cairn trust roots`"
        );
        (Some(WRONG_FLEET.to_owned()), text)
    } else {
        (error.attack(), of_this_fleet(error, why, seen))
    };
    Refused { attack, text: plain(&text), broken: false, overtaken: false }
}

/// Signed by the fleet for this node, and before what is trusted now. Only the timestamp may say so: what is older below a
/// timestamp that is not has been put together by somebody.
fn is_older_export(error: &PullError) -> bool {
    let PullError::Verify(UpdateError::Director(e) | UpdateError::Artifacts(e)) = error else { return false };
    matches!(e, ClientError::Refused { role, attack: Attack::Rollback, .. } if role == "timestamp")
}

/// Whether something on the stick was signed by this node's fleet, for all that nothing was taken.
pub(super) fn shows_fleet(error: &PullError) -> bool {
    match error {
        PullError::Verify(UpdateError::Director(e)) => is_signed(e),
        // The director's side was verified before any of these.
        PullError::Verify(UpdateError::Artifacts(_) | UpdateError::Refused(_))
        | PullError::Source(_)
        | PullError::Blob(_)
        | PullError::Assemble(_)
        | PullError::Unsigned { .. }
        | PullError::Endless { .. }
        | PullError::Ledger(_) => true,
        PullError::Verify(_) => false,
    }
}

/// Whether a repository was refused after the signature on its timestamp was verified: for its age, or for what lies below.
pub(super) fn is_signed(error: &ClientError) -> bool {
    match error {
        ClientError::Refused { role, attack: Attack::Rollback, .. } => role != "root",
        ClientError::Refused { role, .. } | ClientError::Expired { role, .. } if role == "root" => false,
        ClientError::Expired { .. } | ClientError::Tampered { .. } | ClientError::TooManyRoles { .. } => true,
        ClientError::Refused { role, .. } => role != "timestamp",
        ClientError::Absent { path } => path != "timestamp.json",
        _ => false,
    }
}

fn of_this_fleet(error: &PullError, why: String, seen: &Circumstances<'_>) -> String {
    let attack = match error {
        PullError::Verify(e) => e.attack(),
        _ => None,
    };
    match (error, attack) {
        (PullError::Verify(UpdateError::Director(ClientError::Absent { path })), _)
            if path == "timestamp.json" =>
        {
            format!(
                "the stick has nothing for this node, {}; write it again with `cairn usb export --node {}`",
                seen.node, seen.node
            )
        }
        (PullError::Verify(UpdateError::Director(ClientError::WrongNode { .. })), _)
        | (PullError::Verify(UpdateError::Refused(Refusal::WrongNode { .. })), _) => {
            format!("the stick has another node's bundle in the place of this node's ({why}); write it again")
        }
        (PullError::Ledger(LedgerError::Older { .. }), _) | (_, Some(Attack::Rollback)) => format!(
            "the stick is older than what this node has taken already (generation {}): {why}. Write it again, and throw away \
             what older ones there are",
            seen.applied
        ),
        // Since when, and by which clock, the words say themselves.
        (_, Some(Attack::Freeze)) => format!(
            "what is on the stick has expired: {why}. How long a node's sticks hold is set with `cairn node freshness`"
        ),
        (_, Some(Attack::Forgery | Attack::WrongRepository)) => format!(
            "the stick is not signed by this node's fleet, or was changed ({why}); use one that the hub has written that this \
             node belongs to"
        ),
        (PullError::Verify(UpdateError::Director(ClientError::Absent { path })), _)
        | (PullError::Verify(UpdateError::Artifacts(ClientError::Absent { path })), _) => {
            format!(
                "the stick is not complete, {path} is missing; write it again, and let it end before you pull it"
            )
        }
        (PullError::Source(e) | PullError::Blob(BlobError::Source(e)), _) => of_content(e, &why),
        (PullError::Blob(BlobError::Size { .. }), _) => {
            format!("the stick was changed or is damaged ({why}); write it again, or another one")
        }
        (PullError::Verify(_), Some(_)) => {
            format!("the stick was changed or is damaged ({why}); write it again, or another one")
        }
        // The node's own disk, or what was signed makes no sense: the words say so themselves.
        (PullError::Verify(_) | PullError::Blob(_) | PullError::Ledger(_), _)
        | (PullError::Assemble(_) | PullError::Unsigned { .. } | PullError::Endless { .. }, _) => {
            format!("the stick's bundle is not taken: {why}")
        }
    }
}

fn of_content(error: &SourceError, why: &str) -> String {
    match error {
        SourceError::Absent { .. } => format!("the stick is not complete: {why}"),
        _ => format!("the stick was changed or is damaged ({why}); write it again, or another one"),
    }
}

fn is_unreadable(error: &PullError) -> bool {
    match error {
        PullError::Verify(e) => e.is_transport(),
        PullError::Source(e) | PullError::Blob(BlobError::Source(e)) => {
            matches!(e, SourceError::Media { .. } | SourceError::Fetch(FetchError::Transport { .. }))
        }
        PullError::Blob(_)
        | PullError::Assemble(_)
        | PullError::Unsigned { .. }
        | PullError::Endless { .. }
        | PullError::Ledger(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use cairn_model::Digest;

    use super::*;

    #[test]
    fn what_is_quoted_from_a_stick_moves_no_terminal_and_fills_no_log() {
        let text = plain(&format!("a\u{1b}[2Jb\r\n{}", "x".repeat(9000)));
        assert!(text.starts_with("a [2Jb  xx") && text.len() == MAX_CHARS, "{text}");
    }

    fn transport() -> FetchError {
        let source = io::Error::from_raw_os_error(5);
        FetchError::Transport { path: "timestamp.json".to_owned(), source: Box::new(source) }
    }

    #[test]
    fn every_refusal_has_a_cure_and_speaks_of_sticks() {
        let node = NodeId::of_public_key(&[7; 32]);
        // That the hub was heard last excuses none of these.
        let seen = || Circumstances {
            node: &node,
            applied: 7,
            is_there: true,
            other_fleet: false,
            hub_was_last: true,
        };
        let digest = Digest::of(b"x");
        let absent = |path: &str| ClientError::Absent { path: path.to_owned() };
        let director = |e| PullError::Verify(UpdateError::Director(e));
        let artifacts = |e| PullError::Verify(UpdateError::Artifacts(e));
        let io = || SourceError::Media { what: "blob".to_owned(), cause: "input/output error".to_owned() };
        let damaged = || SourceError::Damaged { what: "x".to_owned(), cause: "3 bytes".to_owned() };
        let cases = [
            (director(absent("timestamp.json")), None, "cairn usb export --node n-"),
            (director(absent("3.snapshot.json")), None, "3.snapshot.json is missing; write it again"),
            (artifacts(absent("timestamp.json")), None, "timestamp.json is missing; write it again"),
            (
                director(ClientError::WrongNode { found: "n-1".to_owned() }),
                Some("wrong-node"),
                "another node's",
            ),
            (
                director(ClientError::WrongRepository),
                Some("wrong-repository"),
                "not signed by this node's fleet",
            ),
            (
                director(ClientError::Tampered { name: "t".to_owned() }),
                Some("tampering"),
                "changed or is damaged",
            ),
            (
                PullError::Verify(Refusal::OlderGeneration { offered: 5, applied: 7 }.into()),
                Some("rollback"),
                "older than what this node has taken already (generation 7)",
            ),
            (
                PullError::Ledger(LedgerError::Older { offered: 5, applied: 7 }),
                None,
                "older than what this node",
            ),
            (PullError::Source(damaged()), None, "changed or is damaged"),
            (
                PullError::Blob(SourceError::Corrupt { digest: digest.clone() }.into()),
                Some("arbitrary-software"),
                "changed or is damaged",
            ),
            (PullError::Blob(SourceError::Absent { digest: digest.clone() }.into()), None, "--since"),
            (PullError::Unsigned { digest }, Some("arbitrary-software"), "Deploy the app again"),
        ];
        for (error, attack, words) in cases {
            let refused = refused(&error, &seen());
            assert_eq!(refused.attack.as_deref(), attack, "{refused:?}");
            assert!(refused.text.contains(words) && !refused.broken, "{words}: {refused:?}");
            let torn = super::refused(&error, &Circumstances { is_there: false, ..seen() });
            assert!(torn.broken && torn.text.contains("plug it in again"), "{torn:?}");
        }
        for error in [director(ClientError::Fetch(transport())), PullError::Source(io())] {
            let refused = refused(&error, &seen());
            assert!(refused.broken && refused.text.contains("plug it in again"), "{refused:?}");
            assert!(!refused.text.contains("network"), "a stick has none: {refused:?}");
        }
        let foreign = Circumstances { other_fleet: true, ..seen() };
        let refused = refused(&director(ClientError::WrongRepository), &foreign);
        assert_eq!(refused.attack.as_deref(), Some(WRONG_FLEET), "{refused:?}");
    }
}
