//! From what was typed to what is done: one file a noun, or a verb where it is more than a question and an answer.

mod access_token;
mod app;
mod app_deploy;
mod app_logs;
mod artifact;
mod artifact_sign;
mod audit;
mod context;
mod event;
mod generated;
mod local;
mod node;
mod os;
mod os_push;
mod os_set;
mod token;
mod trust;
mod usb;
mod usb_export;
mod usb_import;
mod watch;

use jiff::Timestamp;
use serde::Serialize;

use crate::{
    args::{Cli, Format, Noun},
    client::Client,
    connection::Connection,
    failure::Failure,
    render::{self, Detail, Row},
    screen,
};

/// Carries out one command line.
pub(crate) async fn run(cli: Cli) -> Result<(), Failure> {
    let connect = || Client::new(Connection::resolve(cli.context.as_deref())?);
    match cli.noun {
        Noun::Context(verb) => context::run(verb),
        Noun::Node(verb) => node::run(&connect()?, verb).await,
        Noun::Token(verb) => token::run(&connect()?, verb).await,
        Noun::AccessToken(verb) => access_token::run(&connect()?, verb).await,
        Noun::App(verb) => app::run(&connect, verb).await,
        Noun::Os(verb) => os::run(&connect, verb).await,
        Noun::Artifact(verb) => artifact::run(&connect, verb).await,
        Noun::Usb(verb) => usb::run(&connect, verb).await,
        Noun::Trust(verb) => trust::run(&connect()?, verb).await,
        Noun::Event(verb) => event::run(&connect()?, verb).await,
        Noun::Audit(verb) => audit::run(&connect()?, verb).await,
        Noun::Local(verb) => local::run(verb).await,
        Noun::Completions { shell } => generated::completions(shell),
        Noun::Man { folder } => generated::man(&folder),
        Noun::Version => screen::print(concat!("cairn ", env!("CARGO_PKG_VERSION"), "\n")),
    }
}

/// Prints a list; where it is empty, says on stderr what to do about that.
fn show_list<T: Row>(format: Format, items: &[T], if_empty: &str) -> Result<(), Failure> {
    screen::print(&render::list(format, items, Timestamp::now())?)?;
    if items.is_empty() && matches!(format, Format::Table | Format::Wide) {
        screen::note(if_empty);
    }
    Ok(())
}

fn show_one<T: Detail>(format: Format, item: &T) -> Result<(), Failure> {
    screen::print(&render::one(format, item, Timestamp::now())?)
}

/// Prints what was made, or its secret alone: a script can read it, and a person sees what it is for on stderr.
fn show_secret<T: Serialize>(format: Format, made: &T, secret: &str, hint: &str) -> Result<(), Failure> {
    match format {
        Format::Json | Format::Yaml => screen::print(&render::document(format, made)?),
        Format::Table | Format::Wide => {
            screen::print(&format!("{secret}\n"))?;
            screen::note(hint);
            Ok(())
        }
        Format::Name => screen::print(&format!("{secret}\n")),
    }
}
