//! The client under test of tuf-conformance: speaks its command line, over the same client and store as cairnd.

use std::{path::PathBuf, process::ExitCode};

use anyhow::{Context, bail};
use cairn_trust::{
    client::{Client, Limits},
    clock::{Clock, Freshness},
    fetch::HttpFetch,
    store::Store,
};
use clap::{Parser, Subcommand};
use url::Url;

/// Follows one TUF repository.
#[derive(Debug, Parser)]
struct Arguments {
    /// Where trusted metadata lies.
    #[arg(long)]
    metadata_dir: PathBuf,
    /// Base URL of the metadata.
    #[arg(long)]
    metadata_url: Option<Url>,
    /// A target to download; may be repeated.
    #[arg(long)]
    target_name: Vec<String>,
    /// Base URL of the targets.
    #[arg(long)]
    target_base_url: Option<Url>,
    /// Where downloaded targets go.
    #[arg(long)]
    target_dir: Option<PathBuf>,
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Pins a root.
    Init {
        /// The root.
        root: PathBuf,
    },
    /// Updates the trusted metadata.
    Refresh,
    /// Updates, then downloads targets.
    Download,
}

fn main() -> ExitCode {
    // A second provider that some dependency brings must not decide which one TLS uses.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let result = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("failed to start the runtime")
        .and_then(|runtime| runtime.block_on(run(&Arguments::parse())));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("cairn-tuf-client: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: &Arguments) -> anyhow::Result<()> {
    if let Action::Init { root } = &arguments.action {
        let root = std::fs::read(root).with_context(|| format!("failed to read {}", root.display()))?;
        Store::init(&arguments.metadata_dir, &root)?;
        return Ok(());
    }
    let url = arguments.metadata_url.clone().context("--metadata-url is missing")?;
    let http = reqwest::Client::builder().build().context("failed to set up HTTP")?;
    let metadata = HttpFetch::public(http.clone(), url);
    let clock = Clock::system_only();
    let store = Store::open(&arguments.metadata_dir)?;
    let mut client = Client::open(store, Limits::default(), Freshness::default())?;
    client.refresh(&metadata, clock).await?;
    if matches!(arguments.action, Action::Download) {
        let url = arguments.target_base_url.clone().context("--target-base-url is missing")?;
        let folder = arguments.target_dir.as_ref().context("--target-dir is missing")?;
        let targets = HttpFetch::public(http, url);
        for name in &arguments.target_name {
            let Some(target) = client.find(&metadata, name, clock).await? else {
                bail!("no role lists the target {name:?}");
            };
            // The whole name as one file name: no name can lead out of the folder.
            let file = folder.join(name.replace('%', "%25").replace('/', "%2F"));
            if std::fs::read(&file).is_ok_and(|bytes| target.matches(&bytes)) {
                continue;
            }
            let bytes = client.download(&targets, "", name, &target).await?;
            std::fs::write(&file, bytes).with_context(|| format!("failed to write {}", file.display()))?;
        }
    }
    Ok(())
}
