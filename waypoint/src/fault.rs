//! Pure: delays and aborts on purpose (spec/waypoint.md 5.9).
