//! An HTTP request, top to bottom.
