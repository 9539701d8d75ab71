//! The node's unix-socket protocol between agent and daemon, both ends.
