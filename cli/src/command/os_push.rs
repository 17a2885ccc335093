//! `cairn os push`: an OS release into the hub, after all of it was checked here.

use std::path::Path;

use cairn_model::{Digest, OsVersion, Release, api::OsRelease};
use serde_json::json;

use super::os::{releases, same_version};
use crate::{
    args::Format,
    client::{
        Client,
        registry::{Content, Source},
    },
    contents::{Manifest, ReleaseError},
    failure::{Failure, Kind},
    oci_layout,
    reference::Reference,
    render, screen,
};

pub(super) async fn run(
    connect: &impl Fn() -> Result<Client, Failure>,
    layout: &Path,
    format: Format,
) -> Result<(), Failure> {
    let content = oci_layout::read(layout, None).map_err(|failure| match failure.kind {
        Kind::Usage => failure.cure("name the folder that `cairn-image release` made"),
        _ => failure,
    })?;
    let (digest, release) = check(&content).map_err(|failure| Failure {
        cause: format!("{} can't be pushed as an OS release: {}", layout.display(), failure.cause),
        ..failure
    })?;
    let to = reference(&release)?;
    let client = connect()?;
    if let Some(other) = same_version(&releases(&client).await?, &digest, &release) {
        return Err(Failure::refused(format!(
            "the hub has another release {} for {} already: {}",
            release.version, release.compatible, other.digest
        ))
        .cure("build this one with a version of its own: nodes and boot entries tell releases apart by it"));
    }
    client.push(&to, content).await?;
    let name = format!("{}:{}", to.repository, to.tag);
    match format {
        Format::Name => screen::print(&format!("{digest}\n"))?,
        Format::Json | Format::Yaml => {
            let pushed = json!({ "name": name, "digest": digest, "version": release.version,
                "compatible": release.compatible });
            screen::print(&render::document(format, &pushed)?)?;
        }
        Format::Table | Format::Wide => {
            screen::print(&format!("{} for {} is {digest} ({name})\n", release.version, release.compatible))?;
        }
    }
    // A hub that holds the artifacts key has signed it by now. Who may not list releases gets no hint, never a failure.
    let known = releases(&client).await.unwrap_or_default();
    for hint in next_steps(known.iter().find(|known| known.digest == digest), &release.version) {
        screen::note(&hint);
    }
    Ok(())
}

/// What to do with what was pushed.
fn next_steps(known: Option<&OsRelease>, version: &OsVersion) -> Vec<String> {
    let sign = "not signed yet: nodes take it after `cairn artifact sign --key FILE`";
    let set = format!("make nodes run it: `cairn os set {version} --node NODE` (or --selector, --all)");
    let unsigned = known.is_some_and(|known| !known.signed);
    unsigned.then(|| sign.to_owned()).into_iter().chain([set]).collect()
}

/// The release that `content` is; its blobs were checked against their digests already.
fn check(content: &Content) -> Result<(Digest, Release), Failure> {
    let refused = |error: ReleaseError| {
        Failure::refused(error.to_string()).cure("name the folder that `cairn-image release` made")
    };
    let [manifest] = content.manifests.as_slice() else {
        return Err(refused(ReleaseError::AnotherKind("index".into())));
    };
    let parsed = Manifest::parse(&manifest.bytes).map_err(refused)?;
    let config = parsed.release_config().map_err(refused)?;
    let blob = content.blobs.iter().find(|blob| blob.digest == config.digest);
    let bytes = match blob.map(|blob| &blob.source) {
        Some(Source::File(path)) => oci_layout::bounded(path)?,
        Some(Source::Memory(bytes)) => bytes.to_vec(),
        None => return Err(refused(ReleaseError::NoConfig)),
    };
    let release = parsed.release(&bytes).map_err(refused)?;
    Ok((manifest.digest.clone(), release))
}

/// `os/<compatible>:<version>`. A tag has no `~`.
fn reference(release: &Release) -> Result<Reference, Failure> {
    let tag = release.version.as_str().replace('~', "_");
    format!("os/{}:{tag}", release.compatible).parse().map_err(|_| {
        Failure::new(
            Kind::Refused,
            format!("'{}' can't be the name of a repository", release.compatible),
        )
        .cure("build with a --compatible of lower-case letters and digits with single . _ or - between them")
    })
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::contents::tests::release_json;

    fn release(change: impl FnOnce(&mut Value)) -> Release {
        let mut release = release_json();
        change(&mut release);
        Release::parse(release.to_string().as_bytes()).unwrap()
    }

    #[test]
    fn the_repository_is_the_machine_and_the_tag_the_version() {
        let check = |compatible: &str, version: &str| {
            let release = release(|release| {
                release["compatible"] = json!(compatible);
                release["version"] = json!(version);
            });
            reference(&release).map(|to| format!("{}:{}", to.repository, to.tag)).map_err(|f| f.kind)
        };
        assert_eq!(check("cairn-x.y", "1.2.0"), Ok("os/cairn-x.y:1.2.0".into()));
        assert_eq!(check("x", "1.2.0~rc1-4"), Ok("os/x:1.2.0_rc1-4".into()));
        assert_eq!(check("x..y", "1"), Err(Kind::Refused));
        assert_eq!(check("-x", "1"), Err(Kind::Refused));
    }
}
