//! A mesh in one thread, for tests only, and the laws checked after every run.
