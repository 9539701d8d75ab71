//! A network namespace, held open; and doing something inside it without ever leaving a thread there.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use nix::sched::{CloneFlags, setns};

/// An open network namespace. It exists as long as this does, so that its inode cannot be given to another.
#[derive(Clone, Debug)]
pub struct Netns(Arc<Opened>);

#[derive(Debug)]
struct Opened {
    fd: OwnedFd,
    identity: Identity,
}

/// What tells two namespaces apart (spec/dataplane.md 3.4: same device and inode is the same namespace).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Identity {
    pub device: u64,
    pub inode: u64,
}

impl Netns {
    /// The namespace of the calling thread.
    ///
    /// # Errors
    /// When `/proc` is not mounted.
    pub fn current() -> io::Result<Netns> {
        Netns::open(Path::new("/proc/thread-self/ns/net"))
    }

    /// The namespace that this path opens: a bind mount of one, or `/proc/PID/ns/net`.
    ///
    /// # Errors
    /// Those of `open`, with the path in the text.
    pub fn open(path: &Path) -> io::Result<Netns> {
        let file = File::open(path).map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", path.display())))?;
        Netns::from_fd(file.into())
    }

    /// A namespace received as a descriptor. Whether it is one shows when it is first entered.
    ///
    /// # Errors
    /// Those of `fstat`.
    pub fn from_fd(fd: OwnedFd) -> io::Result<Netns> {
        let stat = nix::sys::stat::fstat(&fd)?;
        Ok(Netns(Arc::new(Opened { fd, identity: Identity { device: stat.st_dev, inode: stat.st_ino } })))
    }

    pub fn identity(&self) -> Identity {
        self.0.identity
    }

    /// Calls `inside` with the calling thread in this namespace and returns the thread to `home`, also when `inside`
    /// panics. `inside` is synchronous on purpose: a task that awaited could go on upon another thread.
    ///
    /// # Errors
    /// `PermissionDenied` without CAP_SYS_ADMIN, `InvalidInput` when this is not a network namespace; else what `inside` returns.
    pub fn run<T>(&self, home: &Netns, inside: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        if self.identity() == home.identity() {
            return inside();
        }
        setns(self, CloneFlags::CLONE_NEWNET).map_err(|e| {
            io::Error::new(
                io::Error::from(e).kind(),
                format!("cannot enter the network namespace {}: {e}", self.identity().inode),
            )
        })?;
        let _way_back = WayBack(home);
        inside()
    }
}

impl AsFd for Netns {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.fd.as_fd()
    }
}

struct WayBack<'a>(&'a Netns);

impl Drop for WayBack<'_> {
    fn drop(&mut self) {
        if let Err(error) = setns(self.0, CloneFlags::CLONE_NEWNET) {
            // Going on would open other pods' connections in this pod's network: nothing is worse.
            tracing::error!(%error, "cannot leave a pod's network namespace, aborting");
            std::process::abort();
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
