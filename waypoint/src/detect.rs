//! What is spoken: by declaration, else by the first bytes (spec/waypoint.md 1.3).
