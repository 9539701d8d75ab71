//! Delta xDS: the messages, both conversions, both ends.
