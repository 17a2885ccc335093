//! What a layer may and may not do to the node.
