//! `cairn artifact`: what the hub holds for nodes to run.

use std::path::Path;

use cairn_model::api::Artifact;
use serde_json::json;

use crate::{
    args::{ArtifactPush, ArtifactVerb, Format},
    client::{Client, registry::Content},
    failure::Failure,
    oci_layout, render, screen, wasm_artifact,
};

pub(super) async fn run(
    connect: &impl Fn() -> Result<Client, Failure>,
    verb: ArtifactVerb,
) -> Result<(), Failure> {
    match verb {
        ArtifactVerb::Ls(output) => {
            let artifacts: Vec<Artifact> = connect()?.get(&["artifacts"], &[]).await?;
            super::show_list(output.output, &artifacts, "no artifact; push one with `cairn artifact push`")
        }
        ArtifactVerb::Push(args) => push(connect, args).await,
        ArtifactVerb::Sign(args) => super::artifact_sign::run(&connect()?, args).await,
    }
}

async fn push(connect: &impl Fn() -> Result<Client, Failure>, args: ArtifactPush) -> Result<(), Failure> {
    let content = read(&args.path, args.image.as_deref())?;
    let Some(top) = content.manifests.last().map(|manifest| manifest.digest.clone()) else {
        return Err(Failure::refused(format!("{} holds nothing to push", args.path.display())));
    };
    let client = connect()?;
    client.push(&args.reference, content).await?;
    let name = format!("{}:{}", args.reference.repository, args.reference.tag);
    match args.output.output {
        Format::Name => screen::print(&format!("{top}\n"))?,
        format @ (Format::Json | Format::Yaml) => {
            screen::print(&render::document(format, &json!({ "name": name, "digest": top }))?)?;
        }
        Format::Table | Format::Wide => screen::print(&format!("{name} is {top}\n"))?,
    }
    // Whether nodes accept it depends on who holds the key. A viewer of the list only gets a hint, never a failure.
    let artifacts: Vec<Artifact> = client.get(&["artifacts"], &[]).await.unwrap_or_default();
    if artifacts.iter().any(|artifact| artifact.digest == top && !artifact.signed) {
        screen::note("not signed yet: nodes accept it after `cairn artifact sign --key FILE`");
    }
    Ok(())
}

fn read(path: &Path, image: Option<&str>) -> Result<Content, Failure> {
    if path.is_dir() {
        return oci_layout::read(path, image);
    }
    if image.is_some() {
        return Err(Failure::usage("--image chooses in an OCI image layout, which is a folder"));
    }
    wasm_artifact::read(path)
}
