//! Pure: a CONNECT becomes an arrival or a refusal (spec/waypoint.md 1.2).
