//! Pure: header edits, redirects, rewrites, CORS (spec/waypoint.md 2.4).
