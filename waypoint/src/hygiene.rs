//! Pure: what a request may look like, and what of it is forwarded (spec/waypoint.md 1.6, 9).
