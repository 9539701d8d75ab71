//! The table of knobs.
