//! `cairn access-token`: with what people and programs use the hub.

use cairn_model::api::{AccessToken, CreatedAccessToken, NewAccessToken, Role};
use reqwest::Method;

use crate::{
    args::{AccessTokenVerb, RoleArg},
    client::Client,
    failure::Failure,
    screen,
};

pub(super) async fn run(client: &Client, verb: AccessTokenVerb) -> Result<(), Failure> {
    match verb {
        AccessTokenVerb::Create { name, role, expires, output } => {
            let role = match role {
                RoleArg::Viewer => Role::Viewer,
                RoleArg::Operator => Role::Operator,
                RoleArg::Admin => Role::Admin,
            };
            let new = NewAccessToken { name, role, expires_in_seconds: Some(expires.as_secs()) };
            let made: CreatedAccessToken = client.send(Method::POST, &["access-tokens"], &new).await?;
            let hint = "shown this once. Where it is to be used: cairn context add NAME --hub … --ca … --token-stdin";
            super::show_secret(output.output, &made, &made.secret, hint)
        }
        AccessTokenVerb::Ls(output) => {
            let tokens: Vec<AccessToken> = client.get(&["access-tokens"], &[]).await?;
            super::show_list(output.output, &tokens, "no access token")
        }
        AccessTokenVerb::Rm { ids } => {
            for id in ids {
                client.delete(&["access-tokens", &id]).await?;
                screen::print(&format!("{id} is removed\n"))?;
            }
            Ok(())
        }
    }
}
