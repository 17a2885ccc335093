//! Which release a node gets when an operator asks for one, and why it does not: pure.

use cairn_model::{
    Digest, MaintenanceWindow, OsVersion,
    desired::{OsHealth, RebootPolicy},
    report::{OsState, OsStatus},
};
use jiff::tz::TimeZoneDatabase;

use crate::store::{NodeRow, ReleaseRow};

/// Most windows that a node reads.
const MAX_WINDOWS: usize = 32;
/// Longest window and longest name of a time zone that it reads, in bytes.
const MAX_TEXT: usize = 64;
/// Longest that a new OS may take to show that it is well, in seconds.
const MAX_DEADLINE: u32 = 86_400;

/// A release as an operator names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// The one of this digest.
    Digest(Digest),
    /// Whichever of this version is for the node.
    Version(OsVersion),
}

/// Why a node does not get what was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Misfit {
    /// More than one release could be meant.
    Ambiguous(String),
    /// Anything else: cause and cure.
    Refused(String),
}

impl Wanted {
    /// Reads a version or a digest; the error says what is wrong.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        if text.starts_with("sha256:") {
            return text
                .parse()
                .map(Self::Digest)
                .map_err(|e: cairn_model::IdError| format!("{e}; see `cairn os ls`"));
        }
        let version = text.parse().map(Self::Version);
        version.map_err(|e: cairn_model::os_version::VersionError| e.to_string())
    }

    /// Whether `row` may be meant.
    pub(crate) fn names(&self, row: &ReleaseRow) -> bool {
        match self {
            Self::Digest(digest) => row.digest == *digest,
            Self::Version(version) => row.release.version == *version,
        }
    }
}

/// The one of `offers`, which are not empty, for `node`.
pub(crate) fn choose<'a>(
    offers: &[&'a ReleaseRow],
    node: &NodeRow,
    allow_downgrade: bool,
    is_signed: impl Fn(&Digest) -> bool,
) -> Result<&'a ReleaseRow, Misfit> {
    let refuse = |text: String| Err(Misfit::Refused(text));
    let Some(os) = node.status.as_ref().and_then(|status| status.os.as_ref()) else {
        return refuse(
            "it has not said which OS it runs; wait for its next report, or flash it with an appliance image"
                .to_owned(),
        );
    };
    let row = pick(offers, node, os)?;
    let release = &row.release;
    if !is_signed(&row.digest) {
        return refuse(format!(
            "release {} ({}) is not signed by an operator, the node would refuse it; run `cairn artifact sign`",
            release.version, row.digest
        ));
    }
    if release.version < os.version && !allow_downgrade {
        return refuse(format!(
            "release {} is older than {}, which it runs; allow it with --allow-downgrade if that is meant",
            release.version, os.version
        ));
    }
    if let Some(least) = release.min_version.as_ref().filter(|least| os.version < **least) {
        return refuse(format!(
            "it runs {}, but release {} can be reached from {least} on; set one between them first",
            os.version, release.version
        ));
    }
    Ok(row)
}

fn pick<'a>(offers: &[&'a ReleaseRow], node: &NodeRow, os: &OsStatus) -> Result<&'a ReleaseRow, Misfit> {
    let fits =
        |row: &&&ReleaseRow| row.release.compatible == os.compatible && row.release.arch == node.facts.arch;
    let fitting: Vec<&'a ReleaseRow> = offers.iter().filter(fits).copied().collect();
    match fitting.as_slice() {
        [one] => Ok(one),
        [] => {
            let machine = |compatible: &str, arch: &str| {
                let compatible: String = compatible.chars().take(64).collect();
                format!("{compatible:?} on {arch}")
            };
            let mut others: Vec<String> =
                offers.iter().map(|row| machine(&row.release.compatible, &row.release.arch)).collect();
            others.sort();
            others.dedup();
            let own = machine(&os.compatible, &node.facts.arch);
            Err(Misfit::Refused(format!(
                "it is a {own}, the release is for {}; name a release that was built for it (`cairn os ls`)",
                others.join(", ")
            )))
        }
        several => {
            let digests: Vec<&str> = several.iter().map(|row| row.digest.as_str()).collect();
            Err(Misfit::Ambiguous(format!(
                "several releases of that version are for it; name one by its digest: {}",
                digests.join(", ")
            )))
        }
    }
}

/// Whether `node` says that it runs this release.
pub(crate) fn runs(node: &NodeRow, row: &ReleaseRow) -> bool {
    let Some(os) = node.status.as_ref().and_then(|status| status.os.as_ref()) else { return false };
    let same = os.version == row.release.version
        && os.compatible == row.release.compatible
        && node.facts.arch == row.release.arch;
    // After an update the node knows the very release; else its version has to do.
    let known = os.release.as_ref().filter(|_| matches!(os.state, OsState::Good | OsState::Trying));
    same && known.is_none_or(|digest| *digest == row.digest)
}

/// Refuses policies that no node could follow; the error says cause and cure.
pub(crate) fn check_policies(reboot: &RebootPolicy, health: &OsHealth) -> Result<(), String> {
    if !(1..=MAX_DEADLINE).contains(&health.deadline_seconds) {
        return Err(format!(
            "a deadline of {} seconds is not within 1 to {MAX_DEADLINE}; set another",
            health.deadline_seconds
        ));
    }
    let RebootPolicy::Window { windows, time_zone } = reboot else { return Ok(()) };
    if !(1..=MAX_WINDOWS).contains(&windows.len()) {
        return Err(format!("{} maintenance windows; give 1 to {MAX_WINDOWS}", windows.len()));
    }
    for window in windows {
        window.parse::<MaintenanceWindow>().map_err(|e| e.to_string())?;
        if window.len() > MAX_TEXT {
            return Err(format!("a maintenance window has over {MAX_TEXT} bytes; write its days shorter"));
        }
    }
    // The nodes' own: the same version of the database is in their program.
    let known = time_zone.len() <= MAX_TEXT && TimeZoneDatabase::bundled().get(time_zone).is_ok();
    if !known {
        let cut: String = time_zone.chars().take(MAX_TEXT).collect();
        return Err(format!("{cut:?} is no time zone; give its IANA name, such as Europe/Berlin or UTC"));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
