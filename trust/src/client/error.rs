//! Why a repository could not be followed.

use jiff::Timestamp;

use crate::{attack::Attack, clock::SET_THE_CLOCK, fetch::FetchError, store::StoreError};

/// Why a repository could not be followed, or a target not be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// The trusted state on disk cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A file could not be had.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// The source lacks a file that it must have.
    #[error("the source has no {path}; its copy of the repository is incomplete")]
    Absent {
        /// The file.
        path: String,
    },
    /// Metadata is not to be trusted.
    #[error(
        "refused {role} metadata ({attack}); what was trusted before stays in force, look into the source"
    )]
    Refused {
        /// The role.
        role: String,
        /// What an attacker would have been doing.
        attack: Attack,
        /// What exactly is wrong.
        #[source]
        source: sigstore_tuf::Error,
    },
    /// Metadata is genuine, but too old.
    #[error(
        "refused {role} metadata (freeze): it expired at {expires:.0}, and by this machine it is {believed:.0}; if that \
         is right, get newer metadata from the hub (by stick: export it again), else {SET_THE_CLOCK}"
    )]
    Expired {
        /// The role.
        role: String,
        /// Until when it was to be taken for new.
        expires: Timestamp,
        /// What time it is believed to be.
        believed: Timestamp,
    },
    /// A root of another repository was offered.
    #[error(
        "refused root metadata (wrong-repository): it was signed for another repository; look into the source"
    )]
    WrongRepository,
    /// Metadata of another node's director was offered.
    #[error(
        "refused timestamp metadata (wrong-node): it was signed for {found}; the source serves another node's bundle"
    )]
    WrongNode {
        /// The node that it names.
        found: String,
    },
    /// More rotations than one refresh follows.
    #[error(
        "followed {limit} root rotations without reaching the newest; the next refresh goes on from there"
    )]
    TooManyRoots {
        /// The most that one refresh follows.
        limit: u32,
    },
    /// Not all roles have been verified yet.
    #[error("the repository has not been verified completely yet; refresh it first")]
    Incomplete,
    /// A search visited too many roles.
    #[error("the search for {name:?} visited {limit} roles; the repository delegates too deeply")]
    TooManyRoles {
        /// The target.
        name: String,
        /// The most roles that a search visits.
        limit: usize,
    },
    /// A target's bytes are not what was signed.
    #[error("{name:?} is not what was signed (tampering); nothing of it was kept, look into the source")]
    Tampered {
        /// The target.
        name: String,
    },
}

impl ClientError {
    /// Wraps the verdict of the verification core on `role`.
    pub(crate) fn refused(role: impl Into<String>) -> impl Fn(sigstore_tuf::Error) -> Self {
        let role = role.into();
        move |source| Self::Refused { role: role.clone(), attack: Attack::of(&source), source }
    }

    /// Says since when and by which clock, where it is for its age that metadata is refused.
    pub(crate) fn by_clock(self, believed: Timestamp) -> Self {
        match self {
            Self::Refused { role, source: sigstore_tuf::Error::Expired { expires, .. }, .. } => {
                Self::Expired { role, expires, believed }
            }
            other => other,
        }
    }

    /// The attack that this refusal may mean; `None` where nothing hints at one.
    pub fn attack(&self) -> Option<Attack> {
        match self {
            Self::Refused { attack, .. } => Some(*attack),
            Self::Expired { .. } => Some(Attack::Freeze),
            Self::WrongRepository => Some(Attack::WrongRepository),
            Self::WrongNode { .. } => Some(Attack::WrongNode),
            Self::Tampered { .. } => Some(Attack::Tampering),
            Self::Fetch(FetchError::TooLarge { .. }) => Some(Attack::EndlessData),
            Self::Fetch(FetchError::TooSlow { .. }) => Some(Attack::SlowRetrieval),
            Self::TooManyRoles { .. } | Self::Fetch(FetchError::NotAFile { .. }) => Some(Attack::Malformed),
            Self::Store(_)
            | Self::Fetch(_)
            | Self::Absent { .. }
            | Self::TooManyRoots { .. }
            | Self::Incomplete => None,
        }
    }

    /// Whether the source was only not reached: worth another try, no cause for alarm.
    pub fn is_transport(&self) -> bool {
        matches!(self, Self::Fetch(FetchError::Transport { .. } | FetchError::Status { .. }))
    }
}
