//! One-off requests to nodes, and what came back.

use cairn_model::{
    NodeId,
    desired::{Command, CommandKind},
};
use sqlx::Row;

use super::{Result, Store, Tx, parse_id, parse_json, to_json};

/// A command to add.
#[derive(Debug)]
pub(crate) struct NewCommand<'a> {
    /// Unique for ever.
    pub(crate) id: String,
    /// The operator's request that it belongs to.
    pub(crate) request: &'a str,
    /// For which node.
    pub(crate) node: &'a NodeId,
    /// What to do.
    pub(crate) kind: &'a CommandKind,
    /// Unix seconds.
    pub(crate) not_after: i64,
}

/// What one node answered to a request.
#[derive(Debug)]
pub(crate) struct OutputRow {
    /// Which node.
    pub(crate) node: NodeId,
    /// All pieces so far, in order.
    pub(crate) text: String,
    /// No more will come.
    pub(crate) complete: bool,
    /// Unix seconds after which no answer is to be expected.
    pub(crate) not_after: i64,
}

impl Tx {
    /// Adds a command.
    pub(crate) async fn insert_command(&mut self, command: &NewCommand<'_>) -> Result<()> {
        sqlx::query(
            "INSERT INTO command (id, request, node, kind, not_after, complete) VALUES ($1, $2, $3, $4, $5, FALSE)",
        )
        .bind(&command.id)
        .bind(command.request)
        .bind(command.node.as_str())
        .bind(to_json(command.kind))
        .bind(command.not_after)
        .execute(&mut *self.0)
        .await?;
        Ok(())
    }

    /// Forgets commands, and their output, that ended before `before` (Unix seconds).
    pub(crate) async fn delete_commands_before(&mut self, before: i64) -> Result<()> {
        sqlx::query(
            "DELETE FROM command_output WHERE command IN (SELECT id FROM command WHERE not_after < $1)",
        )
        .bind(before)
        .execute(&mut *self.0)
        .await?;
        sqlx::query("DELETE FROM command WHERE not_after < $1").bind(before).execute(&mut *self.0).await?;
        Ok(())
    }
}

impl Store {
    /// Commands that are neither complete nor over at `now` (Unix seconds), by node, oldest first.
    pub(crate) async fn open_commands(&self, now: i64) -> Result<Vec<(NodeId, Command)>> {
        let rows = sqlx::query(
            "SELECT id, node, kind, not_after FROM command WHERE complete = FALSE AND not_after > $1
             ORDER BY not_after, id",
        )
        .bind(now)
        .fetch_all(&self.readers)
        .await?;
        rows.iter()
            .map(|row| {
                let command = Command {
                    id: row.try_get("id")?,
                    not_after: row.try_get("not_after")?,
                    kind: parse_json("command", row.try_get("kind")?)?,
                };
                Ok((parse_id("node id", row.try_get("node")?)?, command))
            })
            .collect()
    }

    /// What the nodes answered to `request`; empty where there is no such request.
    pub(crate) async fn outputs(&self, request: &str) -> Result<Vec<OutputRow>> {
        let commands = sqlx::query(
            "SELECT id, node, complete, not_after FROM command WHERE request = $1 ORDER BY node, id",
        )
        .bind(request)
        .fetch_all(&self.readers)
        .await?;
        let mut outputs = Vec::with_capacity(commands.len());
        for row in &commands {
            let pieces = sqlx::query("SELECT text FROM command_output WHERE command = $1 ORDER BY chunk")
                .bind(row.try_get::<String, _>("id")?)
                .fetch_all(&self.readers)
                .await?;
            let text = pieces
                .iter()
                .map(|piece| piece.try_get::<String, _>("text"))
                .collect::<std::result::Result<String, _>>()?;
            outputs.push(OutputRow {
                node: parse_id("node id", row.try_get("node")?)?,
                text,
                complete: row.try_get("complete")?,
                not_after: row.try_get("not_after")?,
            });
        }
        Ok(outputs)
    }
}
