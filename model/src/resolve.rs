//! From a signed app and a desired state to the replicas that run: a pure function, the same on hub and node.
