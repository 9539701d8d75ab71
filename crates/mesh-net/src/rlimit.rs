//! File descriptors: a daemon holds two per connection, so the soft limit of 1,024 that most shells give is raised at start.

use std::io;

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Raises the limit of open files as far as this process may, and returns it.
///
/// # Errors
/// Those of `getrlimit` and `setrlimit`.
pub fn raise_nofile() -> io::Result<u64> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if soft < hard {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    }
    Ok(hard)
}
