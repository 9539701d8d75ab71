//! An opaque TCP stream through the waypoint.
