//! `cairn artifact sign`: shows what an operator is about to call genuine, and signs that. The hub that proposes it is
//! not trusted: what is genuine already comes verified from the artifacts repository, under a root that was pinned.

use std::{fs, path::Path};

use cairn_model::{Digest, api::Artifact, error::chain, oci::MAX_MANIFEST_BYTES, release};
use cairn_trust::{
    client::{Client as Repository, Limits},
    clock::{Clock, Freshness},
    keys::KeyPair,
    sign::sign_file,
    store::{Store, StoreError},
};
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use crate::{
    args::{ArtifactSign, Format},
    client::Client,
    contents::{self, Manifest, ReleaseError},
    failure::{Failure, Kind},
    proposal::{self, Addition, Proposal},
    render::{self, Unveiled, release_block},
    screen::{self, Progress},
};

/// Largest root that is pinned, and largest metadata that is signed.
const MAX_ROOT_BYTES: usize = 512 << 10;
const MAX_TARGETS_BYTES: usize = 32 << 20;

pub(super) async fn run(client: &Client, args: ArtifactSign) -> Result<(), Failure> {
    let key = KeyPair::load(&args.key).map_err(|error| Failure::usage(chain(&error)))?;
    // A hub that only the environment names has no folder to remember its root in: it is pinned for this run.
    let scratch =
        tempfile::tempdir().map_err(|error| Failure::failed(format!("no temporary folder: {error}")))?;
    let folder = client.trust_folder().unwrap_or(scratch.path()).join("artifacts");
    let repository = verified(client, &folder, args.root.as_deref()).await?;
    require_role(&repository, &key, &args.key)?;

    let unsigned = match client.raw(&["api", "v1", "artifacts", "unsigned-targets"], MAX_TARGETS_BYTES).await
    {
        Ok(unsigned) => unsigned,
        // The hub has nothing to propose.
        Err(failure) if failure.kind == Kind::NotFound => {
            return screen::print("nothing to sign: all artifacts are signed\n");
        }
        Err(failure) => return Err(failure),
    };
    let proposal = judge(&repository, &unsigned)?;
    let renewal = proposal.added.is_empty();
    if renewal {
        screen::note(&format!(
            "nothing new: the signature on what is genuine already is renewed, in version {} of the targets, until {}",
            proposal.version, proposal.expires
        ));
    } else {
        show(&unveil(client, &proposal.added).await?)?;
        screen::note(&format!(
            "{} to be called genuine, in version {} of the targets, until {}",
            proposal.added.len(),
            proposal.version,
            proposal.expires
        ));
    }
    if args.dry_run {
        return Ok(());
    }
    if !args.yes && !screen::confirm("sign these?", "look at --dry-run, then use --yes")? {
        return Err(Failure::new(Kind::Failed, "not signed"));
    }
    let signed = sign_file(&unsigned, &[&key]).map_err(|error| Failure::failed(chain(&error)))?;
    let _: Vec<Artifact> = client.post_raw(&["artifacts", "signed-targets"], signed).await?;
    if renewal {
        return screen::print("signature renewed\n");
    }
    screen::print(&format!("{} signed\n", proposal.added.len()))
}

/// The artifacts repository as it is now, followed from the pinned root.
async fn verified(client: &Client, folder: &Path, root: Option<&Path>) -> Result<Repository, Failure> {
    let store = pinned(client, folder, root).await?;
    // Old metadata is no danger to a signer: what runs out is the nodes' concern, and must not keep him from signing.
    let freshness = Freshness { grace: SignedDuration::from_hours(24 * 3650) };
    let refused = |error: cairn_trust::client::ClientError| {
        let kind = if error.is_transport() { Kind::NoConnection } else { Kind::Refused };
        let attack = error.attack().map(|attack| format!(" (this looks like: {})", attack.name()));
        Failure::new(
            kind,
            format!(
                "the hub's artifacts repository can't be verified: {}{}",
                chain(&error),
                attack.unwrap_or_default()
            ),
        )
        .cure("sign nothing until you know why")
    };
    let mut repository = Repository::open(store, Limits::default(), freshness).map_err(refused)?;
    repository.refresh(&client.artifacts_repository()?, Clock::system_only()).await.map_err(refused)?;
    Ok(repository)
}

/// The store with its pinned root: the one that was named, else the one of last time, else the hub's, this once.
async fn pinned(client: &Client, folder: &Path, root: Option<&Path>) -> Result<Store, Failure> {
    let unusable = |error: StoreError| Failure::usage(chain(&error));
    if let Some(path) = root {
        let bytes = fs::read(path)
            .map_err(|error| Failure::usage(format!("cannot read {}: {error}", path.display())))?;
        return Store::init(folder, &bytes).map_err(unusable);
    }
    match Store::open(folder) {
        Ok(store) => Ok(store),
        Err(StoreError::Missing { .. }) if !folder.exists() => {
            let bytes = client.raw(&["tuf", "artifacts", "1.root.json"], MAX_ROOT_BYTES).await?;
            screen::note(&format!(
                "taking the hub's word for its artifacts root, this once: {}\n  check it with whoever made the hub, or \
                 name the file with --root",
                Digest::of(&bytes)
            ));
            Store::init(folder, &bytes).map_err(unusable)
        }
        Err(error) => Err(unusable(error)),
    }
}

/// Refuses a key whose signature would count for nothing, before anything is shown.
fn require_role(repository: &Repository, key: &KeyPair, file: &Path) -> Result<(), Failure> {
    let id = key.public().tuf_key_id();
    let counts = repository.root().role("targets").is_some_and(|role| role.keyids.contains(&id));
    if counts {
        return Ok(());
    }
    Err(Failure::refused(format!(
        "the key in {} is not an artifacts targets key of this hub's root",
        file.display()
    ))
    .cure("use the key that the root names; `cairn-hub init` wrote it as artifacts-targets.pem"))
}

fn judge(repository: &Repository, unsigned: &[u8]) -> Result<Proposal, Failure> {
    let bad =
        |error: serde_json::Error| Failure::refused(format!("what the hub wants signed is no JSON: {error}"));
    let unsigned: Value = serde_json::from_slice(unsigned).map_err(bad)?;
    let current =
        repository.targets().ok_or_else(|| Failure::refused("the artifacts repository has no targets"))?;
    let current = serde_json::to_value(current).map_err(bad)?;
    proposal::compare(&current, &unsigned["signed"], Timestamp::now())
        .map_err(|refusal| Failure::refused(refusal.to_string()).cure("sign nothing until you know why"))
}

/// Looks at what each digest stands for: the bytes decide, never the hub's word. What can't be seen is not signed, for a
/// stolen hub would show an OS release as something harmless.
async fn unveil(client: &Client, added: &[Addition]) -> Result<Vec<Unveiled>, Failure> {
    let mut progress = Progress::new();
    let mut unveiled = Vec::with_capacity(added.len());
    for (n, addition) in added.iter().enumerate() {
        progress.line(&format!(
            "[{}/{}] {}",
            n + 1,
            added.len(),
            render::text::short_digest(&addition.digest)
        ));
        unveiled.push(look_at(client, addition).await.map_err(|failure| {
            let cause = format!("{} can't be looked at: {}", addition.digest, failure.cause);
            let refused = matches!(failure.kind, Kind::Refused | Kind::NotFound);
            let kind = if refused { Kind::Refused } else { failure.kind };
            Failure { kind, cause, ..failure }.cure("sign nothing until you know why")
        })?);
    }
    Ok(unveiled)
}

async fn look_at(client: &Client, addition: &Addition) -> Result<Unveiled, Failure> {
    let refused = |error: ReleaseError| Failure::refused(error.to_string());
    let repository = addition.repository();
    let repository = repository.as_deref();
    let bytes = client.manifest(repository, &addition.digest, MAX_MANIFEST_BYTES).await?;
    if bytes.len() as u64 != addition.length {
        return Err(Failure::refused(format!(
            "it has {} bytes, and the hub wants {} signed",
            bytes.len(),
            addition.length
        )));
    }
    let manifest = Manifest::parse(&bytes).map_err(refused)?;
    let kind = manifest.kind();
    let release = match kind {
        contents::Kind::Release => {
            let config = manifest.release_config().map_err(refused)?;
            let bytes = client.blob(repository, &config.digest, release::MAX_BYTES as u64).await?;
            Some(manifest.release(&bytes).map_err(refused)?)
        }
        _ => None,
    };
    Ok(Unveiled {
        digest: addition.digest.clone(),
        name: addition.name.clone(),
        kind: kind.word().to_owned(),
        length: addition.length,
        release,
    })
}

/// The table of all, then each OS release in full.
fn show(unveiled: &[Unveiled]) -> Result<(), Failure> {
    let mut text = render::list(Format::Table, unveiled, Timestamp::now())?;
    for one in unveiled {
        if let Some(release) = &one.release {
            text.push_str(&release_block(&one.digest, release));
        }
    }
    screen::print(&text)
}
