//! `cairn-hub init`: makes a data folder with everything in it, whole or not at all.

use std::{
    fmt::Write as _,
    net::{IpAddr, SocketAddr},
    os::unix::fs::{DirBuilderExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail};
use cairn_model::api::Role;

use crate::{
    clock, config,
    config::Fragment,
    service::tokens::new_access_token,
    sign,
    store::{Change, Store},
    tls,
};

/// The database below the data folder.
pub(crate) const DATABASE: &str = "hub.sqlite";

/// The first admin's token below the data folder.
const ADMIN_TOKEN: &str = "admin.token";

/// The keys that belong to operators: who has them decides what is genuine.
const OPERATOR_KEYS: [&str; 2] = ["root.pem", "artifacts-targets.pem"];

/// What to make.
#[derive(Debug)]
pub(crate) struct Plan {
    /// The data folder; must not exist, or be empty.
    pub(crate) data: PathBuf,
    /// Host names of the hub.
    pub(crate) names: Vec<String>,
    /// Addresses of the hub.
    pub(crate) addresses: Vec<IpAddr>,
    /// Where it shall listen.
    pub(crate) listen: Option<SocketAddr>,
    /// Where the operators' keys go, if not into the data folder.
    pub(crate) operator_keys: Option<PathBuf>,
}

/// Makes the data folder; returns what to tell people. All is made in a folder beside it and renamed last, so that a
/// power cut leaves nothing that looks like a hub.
pub(crate) async fn init(plan: &Plan) -> anyhow::Result<String> {
    refuse_to_overwrite(&plan.data)?;
    if let Some(keys) = &plan.operator_keys {
        for name in OPERATOR_KEYS {
            if keys.join(name).exists() {
                bail!("{} holds a {name} already; name an empty folder for this hub's keys", keys.display());
            }
        }
    }
    let parent = match plan.data.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    };
    std::fs::create_dir_all(&parent).with_context(|| format!("failed to make {}", parent.display()))?;
    let name = plan.data.file_name().context("--data names no folder")?.to_string_lossy().into_owned();
    let staging = parent.join(format!(".{name}.init"));
    if staging.exists() {
        // What a power cut left of an earlier init; nothing in it was ever used.
        std::fs::remove_dir_all(&staging)
            .with_context(|| format!("failed to clear {}", staging.display()))?;
    }
    make_folder(&staging)?;
    let token = fill(&staging, plan).await?;
    if let Some(keys) = &plan.operator_keys {
        move_operator_keys(&staging, keys)?;
    }
    sync_folder(&staging)?;
    std::fs::rename(&staging, &plan.data)
        .with_context(|| format!("failed to rename {} to {}", staging.display(), plan.data.display()))?;
    sync_folder(&parent)?;
    Ok(summary(plan, &token))
}

fn refuse_to_overwrite(data: &Path) -> anyhow::Result<()> {
    let empty = match std::fs::read_dir(data) {
        Ok(mut entries) => entries.next().is_none(),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => true,
        Err(e) => return Err(e).with_context(|| format!("failed to look into {}", data.display())),
    };
    if !empty {
        bail!(
            "{0} is not empty; init never overwrites: choose another folder, or `cairn-hub serve --data {0}` if it is \
             a hub's already",
            data.display()
        );
    }
    Ok(())
}

fn make_folder(path: &Path) -> anyhow::Result<()> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .and_then(|()| std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o700)))
        .with_context(|| format!("failed to make {}", path.display()))
}

fn sync_folder(path: &Path) -> anyhow::Result<()> {
    std::fs::File::open(path)
        .and_then(|folder| folder.sync_all())
        .with_context(|| format!("failed to sync {}", path.display()))
}

/// Makes everything inside `data`; returns the admin's token.
async fn fill(data: &Path, plan: &Plan) -> anyhow::Result<String> {
    tls::init(data, &plan.names, &plan.addresses)?;
    sign::init(data)?;
    let fragment = Fragment {
        names: Some(plan.names.clone()),
        addresses: Some(plan.addresses.clone()),
        listen: plan.listen,
        ..Fragment::default()
    };
    tls::write(&data.join(config::FILE), toml::to_string(&fragment)?.as_bytes(), 0o600)?;
    let token = add_admin(data, "admin").await?;
    tls::write(&data.join(ADMIN_TOKEN), format!("{token}\n").as_bytes(), 0o600)?;
    Ok(token)
}

/// Adds an admin's token to the database in `data`: for init, and for whoever lost theirs and may write there.
pub(crate) async fn add_admin(data: &Path, name: &str) -> anyhow::Result<String> {
    let store = Store::open(&data.join(DATABASE)).await?;
    let (row, token) = new_access_token(name.to_owned(), Role::Admin, None);
    let mut tx = store.begin().await?;
    if tx.access_token_name_taken(name).await? {
        bail!("an access token named {name:?} exists; choose another name: the audit tells them apart by it");
    }
    tx.insert_access_token(&row).await?;
    let after = serde_json::json!({"name": name, "role": "admin"});
    let change = Change {
        actor: "cairn-hub",
        origin: "local",
        action: "access-token.create",
        subject: &row.id,
        before: None,
        after: Some(after),
    };
    tx.audit(clock::now_ms(), change).await?;
    tx.commit().await?;
    store.close().await;
    Ok(token)
}

fn move_operator_keys(staging: &Path, to: &Path) -> anyhow::Result<()> {
    make_folder(to)?;
    for name in OPERATOR_KEYS {
        let from = sign::keys_dir(staging).join(name);
        let bytes = std::fs::read(&from).with_context(|| format!("failed to read {}", from.display()))?;
        tls::write(&to.join(name), &bytes, 0o600)?;
        std::fs::remove_file(&from).with_context(|| format!("failed to remove {}", from.display()))?;
    }
    Ok(())
}

fn summary(plan: &Plan, token: &str) -> String {
    let data = plan.data.display();
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ = write!(
        text,
        "made a hub in {data} (only this user may look inside)\n\
         \x20 {data}/hub.toml              settings\n\
         \x20 {data}/hub.sqlite            nodes, apps, tokens, audit\n\
         \x20 {data}/ca.pem                the hub's CA: give it to nodes and tools (public)\n\
         \x20 {data}/tls/ca.key            signs the hub's own certificate\n\
         \x20 {data}/keys/                 signing keys of the director and artifacts repositories\n\
         \x20 {data}/tuf/                  the two repositories\n\
         \x20 {data}/admin.token           the first admin's token; it is:\n\n\
         {token}\n\n"
    );
    let _ = match &plan.operator_keys {
        Some(keys) => write!(
            text,
            "The operators' keys are in {0}, not in the data folder: {1}.\n\
             Keep them offline. The hub runs without them: what is pushed is given to nodes only after\n\
             `cairn artifact sign` with artifacts-targets.pem.\n",
            keys.display(),
            OPERATOR_KEYS.join(", "),
        ),
        None => write!(
            text,
            "Take offline as soon as this is more than a trial, for who has these keys decides what is genuine:\n\
             \x20 {data}/keys/root.pem                the root of both repositories\n\
             \x20 {data}/keys/artifacts-targets.pem   signs what may run at all\n\
             Move both to a medium that is kept apart (mv {data}/keys/root.pem {data}/keys/artifacts-targets.pem MEDIUM/)\n\
             and restart the hub. From then on `cairn artifact sign` with artifacts-targets.pem approves what was pushed.\n",
        ),
    };
    let _ = write!(
        text,
        "\nnext: cairn-hub serve --data {data}\n\
         then: cairn context add demo --hub https://{} --ca {data}/ca.pem --token-file {data}/admin.token\n",
        address(plan)
    );
    text
}

fn address(plan: &Plan) -> String {
    let host = plan.names.first().cloned().or_else(|| plan.addresses.first().map(ToString::to_string));
    let port = plan.listen.map_or(8443, |listen| listen.port());
    format!("{}:{port}", host.unwrap_or_default())
}
