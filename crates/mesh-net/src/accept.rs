//! Accepting without spinning: which errors of `accept` pass by themselves, and how long to wait for that
//! (spec/reliability.md F-17).

use std::io;
use std::time::Duration;

use crate::net::{Accept, Accepted};

/// The first wait for a descriptor: another connection's end may be milliseconds away.
const PAUSE_FIRST: Duration = Duration::from_millis(10);
/// The longest wait: once descriptors are free again, connections are accepted within a second.
const PAUSE_MAX: Duration = Duration::from_millis(500);

/// What to do after an error of `accept`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum After {
    /// It concerned one connection that is gone.
    Again,
    /// The machine is out of something; asking again at once would only burn the CPU.
    Pause(Duration),
    /// The socket will never accept again.
    GiveUp,
}

/// The next connection. Waits through a lack of descriptors or memory, with one warning for each such time.
///
/// # Errors
/// Only when this listener can never accept again.
pub async fn accept<L: Accept>(listener: &mut L) -> io::Result<Accepted<L::Stream>> {
    let mut starved = 0;
    loop {
        let error = match listener.accept().await {
            Ok(accepted) => return Ok(accepted),
            Err(error) => error,
        };
        match after(error.raw_os_error(), starved) {
            After::Again => tracing::debug!(%error, at = %listener.local_addr(), "a connection was gone before it was accepted"),
            After::GiveUp => return Err(error),
            After::Pause(pause) => {
                if starved == 0 {
                    tracing::warn!(%error, at = %listener.local_addr(), "cannot accept connections now, waiting; raise the limit of open files if this lasts");
                }
                starved += 1;
                tokio::time::sleep(pause).await;
            }
        }
    }
}

/// `starved`: how many times in a row the machine was out of something.
fn after(errno: Option<i32>, starved: u32) -> After {
    match errno {
        Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM) => {
            After::Pause(PAUSE_FIRST.saturating_mul(1 << starved.min(10)).min(PAUSE_MAX))
        }
        Some(libc::EBADF | libc::EINVAL | libc::ENOTSOCK | libc::EOPNOTSUPP | libc::EFAULT) => After::GiveUp,
        // accept(2): network errors of the new connection are reported by accept itself, to be treated like "again".
        Some(_) => After::Again,
        // An error of our own, of a listener that is no kernel socket.
        None => After::GiveUp,
    }
}

#[cfg(test)]
mod tests;
