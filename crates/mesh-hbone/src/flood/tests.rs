//! Tests of `flood`.
