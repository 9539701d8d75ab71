//! Tests of `keepalive`.
