//! `cairn token`: with what blank nodes enrol.

use cairn_model::api::{CreatedToken, NewToken, Token};
use reqwest::Method;

use crate::{
    args::{TokenCreate, TokenVerb},
    client::Client,
    failure::Failure,
    render::text,
    screen,
};

pub(super) async fn run(client: &Client, verb: TokenVerb) -> Result<(), Failure> {
    match verb {
        TokenVerb::Create(args) => create(client, args).await,
        TokenVerb::Ls(output) => {
            let tokens: Vec<Token> = client.get(&["tokens"], &[]).await?;
            super::show_list(output.output, &tokens, "no enrolment token; make one with `cairn token create`")
        }
        TokenVerb::Rm { ids } => {
            for id in ids {
                client.delete(&["tokens", &id]).await?;
                screen::print(&format!("{id} is removed\n"))?;
            }
            Ok(())
        }
    }
}

async fn create(client: &Client, args: TokenCreate) -> Result<(), Failure> {
    let new = NewToken {
        description: args.description,
        expires_in_seconds: Some(args.expires.as_secs()),
        reusable: args.reusable,
        auto_approve: args.auto_approve,
        labels: args.labels.into_iter().collect(),
    };
    let made: CreatedToken = client.send(Method::POST, &["tokens"], &new).await?;
    let token = &made.token;
    let nodes = if token.reusable { "any number of nodes" } else { "one node" };
    let then = if token.auto_approve { "" } else { "; then `cairn node approve`" };
    let hint = format!(
        "for {nodes}, ends {}; shown this once. Give it to the node as credential cairn.enroll-token{then}",
        text::age(&token.expires_at, jiff::Timestamp::now()),
    );
    super::show_secret(args.output.output, &made, &made.secret, &hint)
}
