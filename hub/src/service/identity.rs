//! Who asks: operators by token, nodes by a short-lived JWT of their own key.

use cairn_model::{NodeId, error::chain};
use cairn_trust::{envelope, keys::PublicKey};
use jiff::Timestamp;

use super::{Caller, Hub, Operator};
use crate::{
    clock,
    error::{Error, Kind, Result},
    secret,
    store::{NodeRow, NodeState},
};

fn unknown_token() -> Error {
    Error::new(
        Kind::Unauthenticated,
        "the access token is unknown or expired; make one with `cairn-hub admin-token` on the hub, or ask an admin",
    )
}

impl Hub {
    /// The operator whose token is `token`.
    pub(crate) async fn operator(&self, token: &str, origin: String) -> Result<Operator> {
        let row = self.store.access_token_by_hash(&secret::hash(token)).await?.ok_or_else(unknown_token)?;
        if row.expires_at.is_some_and(|end| end <= clock::now_ms()) {
            return Err(unknown_token());
        }
        Ok(Operator { name: row.name, role: row.role, origin })
    }

    /// The node that signed `jwt`, whatever its state.
    async fn node_of_token(&self, jwt: &str) -> Result<NodeRow> {
        let refused = |cause: String| {
            Error::new(Kind::Unauthenticated, format!("the node's token is refused: {cause}"))
        };
        let claimed = envelope::claimed_node(jwt).map_err(|e| refused(chain(&e)))?;
        let row = self.store.node(&claimed).await?;
        let row = row.ok_or_else(|| refused(format!("node {claimed} is not known to this hub; enrol it")))?;
        let key = public_key(&row)?;
        envelope::verify_node_token(jwt, &key, Timestamp::now()).map_err(|e| refused(chain(&e)))?;
        self.presence.seen(&row.id, clock::now_ms());
        Ok(row)
    }

    /// The node that signed `jwt`: a member, or one that waits to be.
    pub(crate) async fn node_or_pending(&self, jwt: &str) -> Result<NodeRow> {
        let row = self.node_of_token(jwt).await?;
        match row.state {
            NodeState::Pending | NodeState::Approved => Ok(row),
            NodeState::Removed => Err(Error::new(
                Kind::NodeRemoved,
                format!("node {} was removed by an operator; enrol it again with a new token", row.id),
            )),
        }
    }

    /// The member that signed `jwt`.
    pub(crate) async fn member(&self, jwt: &str) -> Result<NodeRow> {
        let row = self.node_or_pending(jwt).await?;
        if row.state == NodeState::Pending {
            return Err(Error::new(
                Kind::NodePending,
                format!("node {0} waits for approval; run `cairn node approve {0}`", row.id),
            ));
        }
        Ok(row)
    }

    /// An operator or a member: whoever `token` speaks for. JWTs have dots, our tokens have none.
    pub(crate) async fn caller(&self, token: &str, origin: String) -> Result<Caller> {
        if token.contains('.') {
            return Ok(Caller::Node(self.member(token).await?.id));
        }
        Ok(Caller::Operator(self.operator(token, origin).await?))
    }
}

/// The key of a node.
pub(crate) fn public_key(row: &NodeRow) -> Result<PublicKey> {
    PublicKey::from_base64url(&row.public_key)
        .map_err(|e| Error::internal("the hub could not read a node's key", e))
}

impl Caller {
    /// Refuses a node that asks for what is another's.
    pub(crate) fn ensure_may_see(&self, node: &NodeId) -> Result<()> {
        match self {
            Self::Operator(_) => Ok(()),
            Self::Node(own) if own == node => Ok(()),
            Self::Node(own) => Err(Error::new(
                Kind::Forbidden,
                format!("node {own} may not see what is signed for {node}; ask for its own"),
            )),
        }
    }
}
