//! HTTP on a stream: hyper's connection, both versions, its limits.
