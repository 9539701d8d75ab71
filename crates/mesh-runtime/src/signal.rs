//! The signals that end a process. Installed before anything starts, so that an early one is not lost.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// Listens for SIGTERM (an orchestrator) and SIGINT (a person).
#[derive(Debug)]
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    Terminate,
    Interrupt,
}

impl Signals {
    /// Must be called within a runtime. From now on the two signals no longer end the process by themselves.
    pub fn install() -> io::Result<Signals> {
        Ok(Signals { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    /// Waits for the next one. Call it again while draining: a second signal means "now".
    pub async fn next(&mut self) -> Asked {
        tokio::select! {
            _ = self.terminate.recv() => Asked::Terminate,
            _ = self.interrupt.recv() => Asked::Interrupt,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_signal_sent_before_the_wait_is_not_lost() {
        let mut signals = Signals::install().unwrap();
        let us = std::process::id().to_string();
        assert!(std::process::Command::new("kill").args(["-TERM", &us]).status().unwrap().success());
        assert_eq!(signals.next().await, Asked::Terminate);
    }
}
