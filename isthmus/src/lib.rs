//! The operator's command: up, why, status, connections.
