//! Tests of `baggage`.
