//! Why a command did not do what was asked: exit code, cause, cure. The table of exit codes is here and nowhere else.

/// The exit codes, as `cairn --help` prints them.
pub(crate) const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  failed for another reason
  2  the command line or the configuration is wrong
  3  not found
  4  refused: the hub, or a check of our own, does not accept what was given
  5  no connection to the hub or the daemon
  6  denied: no token, or one that is not allowed to do this
  7  not done in time

Environment (over the current context, not over --context):
  CAIRN_HUB         URL of the hub; then CAIRN_CA and a token come from the environment too
  CAIRN_CA          file with the hub's CA certificates (PEM)
  CAIRN_TOKEN       access token; better is
  CAIRN_TOKEN_FILE  file that holds the access token
  CAIRN_CONFIG_HOME folder of the contexts; else $XDG_CONFIG_HOME/cairn, else ~/.config/cairn";

/// How a command ends; the number is the exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Failed = 1,
    Usage = 2,
    NotFound = 3,
    Refused = 4,
    NoConnection = 5,
    Denied = 6,
    Timeout = 7,
}

/// Why a command ended without success.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) kind: Kind,
    /// What went wrong, with what; never a secret.
    pub(crate) cause: String,
    /// What to do next; empty where the cause says it.
    pub(crate) cure: String,
    /// Each on a line of its own: what a hub found in a Compose file.
    pub(crate) problems: Vec<String>,
}

impl Failure {
    pub(crate) fn new(kind: Kind, cause: impl Into<String>) -> Self {
        Self { kind, cause: cause.into(), cure: String::new(), problems: Vec::new() }
    }

    pub(crate) fn failed(cause: impl Into<String>) -> Self {
        Self::new(Kind::Failed, cause)
    }

    pub(crate) fn usage(cause: impl Into<String>) -> Self {
        Self::new(Kind::Usage, cause)
    }

    pub(crate) fn not_found(cause: impl Into<String>) -> Self {
        Self::new(Kind::NotFound, cause)
    }

    pub(crate) fn refused(cause: impl Into<String>) -> Self {
        Self::new(Kind::Refused, cause)
    }

    pub(crate) fn timeout(cause: impl Into<String>) -> Self {
        Self::new(Kind::Timeout, cause)
    }

    pub(crate) fn cure(mut self, cure: impl Into<String>) -> Self {
        self.cure = cure.into();
        self
    }

    pub(crate) fn problems(mut self, problems: Vec<String>) -> Self {
        self.problems = problems;
        self
    }
}
