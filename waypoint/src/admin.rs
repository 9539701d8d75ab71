//! Readiness, metrics, dumps.
