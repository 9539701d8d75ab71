//! Who may talk to whom: the whole authorization logic.
