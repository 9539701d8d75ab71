//! Pure: answers of our own (spec/waypoint.md 1.7).
