//! The applications: a server that says who it is and echoes blocks, and a client that checks both.

use std::net::SocketAddr;
use std::time::Duration;

use mesh_net::memory::Memory;
use mesh_net::net::{Accept, Net, Source};
use mesh_sim::fabric::SimNet;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

/// Stands in every block that a client sends; it must never be on a wire between enrolled pods.
pub const MARKER: &[u8] = b"PLAIN-TEXT-MARKER";
pub const BLOCK: usize = 64;
/// Longer than any dial, handshake or wait for a description.
pub const PATIENCE: Duration = Duration::from_secs(40);

/// What the server says first: its name, padded.
fn greeting(name: &str) -> [u8; BLOCK] {
    let mut block = [b' '; BLOCK];
    block[..name.len()].copy_from_slice(name.as_bytes());
    block
}

/// Serves until the pod goes.
pub async fn serve(net: SimNet, name: String, port: u16) {
    let Ok(mut listener) = net.listen(SocketAddr::from(([0, 0, 0, 0], port))).await else { return };
    while let Ok(accepted) = listener.accept().await {
        tokio::spawn(echo(accepted.stream, greeting(&name)));
    }
}

async fn echo(mut stream: Memory, greeting: [u8; BLOCK]) {
    if stream.write_all(&greeting).await.is_err() {
        return;
    }
    let mut block = [0; BLOCK];
    while stream.read_exact(&mut block).await.is_ok() {
        if stream.write_all(&block).await.is_err() {
            return;
        }
    }
    let _ = stream.shutdown().await;
}

/// How a call ended.
#[derive(Debug, PartialEq, Eq)]
pub enum Call {
    /// By whom, and how many blocks came back right.
    Answered { by: String, blocks: usize },
    /// Refused or cut before all blocks came back; by whom it was answered, if it was.
    Cut { by: Option<String>, blocks: usize },
    /// Bytes came back that were never sent.
    Wrong(String),
    /// A clean end although blocks were missing: a cut that was told as an end.
    FalseEnd,
    /// Neither an answer nor an end.
    Hung,
}

/// Sends numbered blocks, one after the other with a pause between, and checks what comes back.
pub async fn call(net: SimNet, to: SocketAddr, id: u64, blocks: usize, pause: Duration, mut watch: impl FnMut(usize)) -> Call {
    let Ok(dialled) = timeout(PATIENCE, net.dial(to, Source::Any)).await else { return Call::Hung };
    let Ok(mut stream) = dialled else { return Call::Cut { by: None, blocks: 0 } };
    let mut buffer = [0; BLOCK];
    let by = match timeout(PATIENCE, stream.read_exact(&mut buffer)).await {
        Err(_) => return Call::Hung,
        Ok(Err(error)) if error.kind() == std::io::ErrorKind::UnexpectedEof => return Call::FalseEnd,
        Ok(Err(_)) => return Call::Cut { by: None, blocks: 0 },
        Ok(Ok(_)) => String::from_utf8_lossy(&buffer).trim().to_owned(),
    };
    for number in 0..blocks {
        let sent = block(id, number);
        if stream.write_all(&sent).await.is_err() {
            return Call::Cut { by: Some(by), blocks: number };
        }
        match timeout(PATIENCE, stream.read_exact(&mut buffer)).await {
            Err(_) => return Call::Hung,
            Ok(Err(error)) if error.kind() == std::io::ErrorKind::UnexpectedEof => return Call::FalseEnd,
            Ok(Err(_)) => return Call::Cut { by: Some(by), blocks: number },
            Ok(Ok(_)) if buffer != sent => return Call::Wrong(format!("block {number} of call {id} came back as another")),
            Ok(Ok(_)) => watch(number),
        }
        tokio::time::sleep(pause).await;
    }
    let _ = stream.shutdown().await;
    match timeout(PATIENCE, stream.read(&mut buffer)).await {
        Err(_) => Call::Hung,
        Ok(Ok(0)) => Call::Answered { by, blocks },
        Ok(Ok(_)) => Call::Wrong(format!("call {id} got more than it sent")),
        Ok(Err(_)) => Call::Cut { by: Some(by), blocks },
    }
}

fn block(id: u64, number: usize) -> [u8; BLOCK] {
    let mut block = [b'.'; BLOCK];
    let text = format!("{id}/{number}/");
    block[..MARKER.len()].copy_from_slice(MARKER);
    block[MARKER.len()..MARKER.len() + text.len()].copy_from_slice(text.as_bytes());
    block
}
