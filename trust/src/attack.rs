//! The attacks that a refusal may mean, by the names that the TUF and Uptane papers give them.

use std::fmt;

/// What an attacker would have been doing, had this been one. A refusal names it; a broken hub or a wrong clock can
/// look the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Attack {
    /// Something older than what was trusted before.
    Rollback,
    /// Something expired: the newest is being withheld, or the clock is wrong.
    Freeze,
    /// Files that do not belong together.
    MixAndMatch,
    /// Signed by the wrong keys or by too few.
    Forgery,
    /// More bytes than may be.
    EndlessData,
    /// Fewer bytes a second than may be.
    SlowRetrieval,
    /// Not of the form that it must have.
    Malformed,
    /// Metadata of another repository, under keys that both share.
    WrongRepository,
    /// Meant for another node.
    WrongNode,
    /// Named by the director, but not genuine by the artifacts repository.
    ArbitrarySoftware,
    /// Bytes that are not those that were signed.
    Tampering,
}

impl Attack {
    /// A stable name, as in events.
    pub fn name(self) -> &'static str {
        match self {
            Self::Rollback => "rollback",
            Self::Freeze => "freeze",
            Self::MixAndMatch => "mix-and-match",
            Self::Forgery => "forgery",
            Self::EndlessData => "endless-data",
            Self::SlowRetrieval => "slow-retrieval",
            Self::Malformed => "malformed",
            Self::WrongRepository => "wrong-repository",
            Self::WrongNode => "wrong-node",
            Self::ArbitrarySoftware => "arbitrary-software",
            Self::Tampering => "tampering",
        }
    }

    /// What sigstore-tuf's refusal means.
    pub(crate) fn of(error: &sigstore_tuf::Error) -> Self {
        use sigstore_tuf::Error as E;
        match error {
            E::Rollback { .. } | E::BadRootVersion { .. } | E::EqualVersion { .. } => Self::Rollback,
            E::Expired { .. } => Self::Freeze,
            E::IntegrityMismatch(_) => Self::MixAndMatch,
            E::UnusableKey { .. }
            | E::UnsupportedScheme { .. }
            | E::UnknownRole(_)
            | E::DuplicateSignature { .. }
            | E::ThresholdNotMet { .. }
            | E::Crypto(_) => Self::Forgery,
            // The enum is open: what is new to us is at least not of the form we know.
            _ => Self::Malformed,
        }
    }
}

impl fmt::Display for Attack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
