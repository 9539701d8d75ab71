//! Pure: again, or stop (spec/waypoint.md 5.2).
