//! `cairn app`: Compose files that run on the fleet.

use cairn_model::api::{AppStatus, AppSummary};

use crate::{args::AppVerb, client::Client, failure::Failure, render, screen};

pub(super) async fn run(
    connect: &impl Fn() -> Result<Client, Failure>,
    verb: AppVerb,
) -> Result<(), Failure> {
    match verb {
        // The file is read before anybody is asked: a typing mistake needs no hub.
        AppVerb::Deploy(args) => super::app_deploy::run(connect, args).await,
        AppVerb::Logs(args) => super::app_logs::run(&connect()?, args).await,
        AppVerb::Ls(output) => {
            let apps: Vec<AppSummary> = connect()?.get(&["apps"], &[]).await?;
            super::show_list(output.output, &apps, "no app; deploy one with `cairn app deploy compose.yaml`")
        }
        AppVerb::Status { app, watch, output } => {
            let client = connect()?;
            let ask = async || client.get::<AppStatus>(&["apps", app.as_str()], &[]).await;
            if !watch {
                return super::show_one(output.output, &ask().await?);
            }
            super::watch::redraw_on_change(ask, |status, now| render::one(output.output, status, now)).await
        }
        AppVerb::Rm { apps } => {
            let client = connect()?;
            for app in apps {
                client.delete(&["apps", app.as_str()]).await?;
                screen::print(&format!("{app} is removed\n"))?;
            }
            Ok(())
        }
    }
}
