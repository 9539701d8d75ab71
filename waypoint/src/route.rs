//! Pure: which rule a request falls under (spec/waypoint.md 2.2, 2.3).
