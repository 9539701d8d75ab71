//! The daemon's end: connects, says hello, receives requests and answers each.

use std::io;
use std::path::Path;

use mesh_net::seqpacket::SeqPacket;
use prost::Message;

use crate::messages::{Ack, Answer, Version, WorkloadResponse, ZdsHello};
use crate::request::{Request, Unreadable, parse};
use crate::{RECEIVED_BYTES_MAX, SENT_BYTES_MAX};

/// A connection to the agent. Strictly one request at a time: [`Daemon::next`], then [`Daemon::ack`].
#[derive(Debug)]
pub struct Daemon {
    socket: SeqPacket,
    buffer: Box<[u8]>,
}

/// Why no further request came. After each of them the connection is over: connect again, pods go on being served.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the agent closed the connection")]
    Closed,
    #[error("ZDS socket: {0}")]
    Io(#[from] io::Error),
    /// The agent sent something that is no request; it has been told so already.
    #[error("failure to read message : {0}")]
    Unreadable(#[from] Unreadable),
}

impl Daemon {
    /// Connects to the agent's socket and says that we take the mark that comes with each pod.
    ///
    /// # Errors
    /// [`Error::Io`]; try again after a while (10 ms, doubling to 15 s).
    pub async fn connect(path: &Path) -> Result<Daemon, Error> {
        Daemon::greet(SeqPacket::connect(path)?).await
    }

    /// [`Self::connect`] over a connection that exists.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub async fn greet(socket: SeqPacket) -> Result<Daemon, Error> {
        let hello = ZdsHello { version: Version::V1 as i32, random_mark: true };
        socket.send(&hello.encode_to_vec(), None).await?;
        Ok(Daemon { socket, buffer: vec![0; RECEIVED_BYTES_MAX].into() })
    }

    /// The next request. Cancel-safe.
    ///
    /// # Errors
    /// [`Error`]; a packet that is no request has been refused towards the agent before this returns.
    pub async fn next(&mut self) -> Result<Request, Error> {
        let packet = self.socket.recv(&mut self.buffer).await?;
        if packet.length == 0 {
            return Err(Error::Closed);
        }
        let parsed =
            if packet.truncated { Err(Unreadable::Truncated) } else { parse(&self.buffer[..packet.length], packet.descriptors) };
        match parsed {
            Ok(request) => Ok(request),
            Err(unreadable) => {
                self.ack(Err(&format!("failure to read message : {unreadable}"))).await?;
                Err(unreadable.into())
            }
        }
    }

    /// Answers the request that [`Self::next`] returned last: done, or why not. An answer later than 5 s finds the
    /// connection closed by the agent.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub async fn ack(&mut self, done: Result<(), &str>) -> Result<(), Error> {
        Ok(self.socket.send(&encode_ack(done), None).await?)
    }
}

fn encode_ack(done: Result<(), &str>) -> Vec<u8> {
    let error = done.err().unwrap_or_default();
    // A few bytes of framing are left for; an error is cut rather than lost.
    let cut = (0..=error.len().min(SENT_BYTES_MAX - 16)).rev().find(|at| error.is_char_boundary(*at)).unwrap_or(0);
    let ack = Ack { error: error[..cut].to_owned() };
    WorkloadResponse { payload: Some(Answer::Ack(ack)) }.encode_to_vec()
}

#[cfg(test)]
mod tests;
