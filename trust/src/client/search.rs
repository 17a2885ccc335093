//! Finds a target: pre-order, depth-first, loading a delegated role only when the search comes to it, so that a bad
//! role can block no targets but those that are delegated to it.

use std::collections::BTreeSet;

use sigstore_tuf::DelegatedRole;
use tracing::debug;

use super::{Changes, Client, ClientError, required};
use crate::{
    clock::Clock,
    fetch::{Fetch, encode_segment},
    target::TargetInfo,
};

/// A delegated role to visit, and the role through which the search came to it.
struct Step {
    role: String,
    delegator: String,
}

impl Client {
    /// What the repository says of the target `name`; `None` where no role that may speak of it lists it.
    pub async fn find(
        &mut self,
        fetch: &dyn Fetch,
        name: &str,
        clock: Clock,
    ) -> Result<Option<TargetInfo>, ClientError> {
        let by_clock = |error: ClientError| error.by_clock(clock.believed(self.last_good()));
        self.check_fresh(self.deadline(clock)).map_err(by_clock)?;
        let mut changes = Changes::new();
        let found = self.search(fetch, name, clock, &mut changes).await;
        self.keep(&changes)?;
        found.map_err(|error| error.by_clock(clock.believed(self.last_good())))
    }

    async fn search(
        &mut self,
        fetch: &dyn Fetch,
        name: &str,
        clock: Clock,
        changes: &mut Changes,
    ) -> Result<Option<TargetInfo>, ClientError> {
        let mut todo = vec![Step { role: "targets".into(), delegator: "root".into() }];
        let mut visited = BTreeSet::new();
        while let Some(step) = todo.pop() {
            if visited.contains(&step.role) {
                continue;
            }
            if visited.len() >= self.limits.roles {
                return Err(ClientError::TooManyRoles { name: name.into(), limit: self.limits.roles });
            }
            if step.role != "targets" && !self.ensure_role(fetch, &step, clock, changes).await? {
                continue;
            }
            visited.insert(step.role.clone());
            let Some(targets) = self.set.targets_role(&step.role) else { continue };
            if let Some(found) = targets.target(name) {
                return Ok(Some(found.into()));
            }
            let roles = targets.delegations.as_ref().map_or(&[][..], |delegations| &delegations.roles);
            let (children, terminated) = children(&step.role, roles, name)?;
            if terminated {
                todo.clear();
            }
            // The first child is to be visited next, so it goes onto the stack last.
            todo.extend(children.into_iter().rev());
        }
        Ok(None)
    }

    /// Loads a delegated role, from disk or from the source. False where the snapshot knows no such role.
    async fn ensure_role(
        &mut self,
        fetch: &dyn Fetch,
        step: &Step,
        clock: Clock,
        changes: &mut Changes,
    ) -> Result<bool, ClientError> {
        let Step { role, delegator } = step;
        let refused = ClientError::refused(role.as_str());
        let now = self.deadline(clock);
        if self.set.targets_role(role).is_some() {
            // Known, but perhaps by another delegator with other keys.
            self.set.verify_delegated_targets(role, delegator, now).map_err(refused)?;
            return Ok(true);
        }
        let pinned = self.set.snapshot().is_some_and(|s| s.meta.contains_key(&format!("{role}.json")));
        if !pinned {
            debug!(role, "the snapshot does not pin this role; it is passed over");
            return Ok(false);
        }
        let file = format!("{}.json", encode_segment(role));
        if let Some(bytes) = self.store.file(&file)
            && self.set.update_delegated_targets(bytes, role, delegator, now).is_ok()
        {
            return Ok(true);
        }
        let bytes = self.fetch_role(fetch, role).await?;
        self.set.update_delegated_targets(&bytes, role, delegator, now).map_err(refused)?;
        changes.push((file, bytes));
        Ok(true)
    }

    /// Fetches a target that [`Client::find`] has found, whole, into memory: for small ones. `prefix` leads from the
    /// base of `fetch` to the targets (`targets/`, or nothing). For large ones take [`TargetInfo::path`] and stream.
    pub async fn download(
        &self,
        fetch: &dyn Fetch,
        prefix: &str,
        name: &str,
        target: &TargetInfo,
    ) -> Result<Vec<u8>, ClientError> {
        let tampered = || ClientError::Tampered { name: name.to_owned() };
        let path = target.path(name, self.root().consistent_snapshot).ok_or_else(tampered)?;
        let bytes = required(fetch, &format!("{prefix}{path}"), target.length).await?;
        if target.matches(&bytes) { Ok(bytes) } else { Err(tampered()) }
    }
}

/// The delegations of `role` that may speak of `name`, in order, and whether the last of them ends the search.
fn children(role: &str, delegations: &[DelegatedRole], name: &str) -> Result<(Vec<Step>, bool), ClientError> {
    let mut children = Vec::new();
    for child in delegations {
        if matches!(child.name.as_str(), "root" | "timestamp" | "snapshot" | "targets") {
            debug!(
                role,
                child = child.name,
                "a delegation must not take a top-level role's name; it is passed over"
            );
            continue;
        }
        if child.matches_path(name).map_err(ClientError::refused(role))? {
            children.push(Step { role: child.name.clone(), delegator: role.to_owned() });
            if child.terminating {
                return Ok((children, true));
            }
        }
    }
    Ok((children, false))
}
