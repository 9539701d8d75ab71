//! What a tunnel costs: memory of an idle one, processor time per gigabyte of a busy one. Both ends in one process, over
//! TCP on the loopback, without TLS. `cargo run -p mesh-hbone --example cost [idle tunnels] [gigabytes] [send buffer, KiB] [most window, KiB]`

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::time::Instant;

use bytes::Bytes;
use http::HeaderMap;
use mesh_hbone::{ConnectRequest, Limits, Pool, Stop, Tunnel, serve};
use mesh_net::duplex::Duplex;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

#[tokio::main]
async fn main() -> io::Result<()> {
    let mut arguments = std::env::args().skip(1).map(|text| text.parse::<usize>().expect("a number"));
    let (idle, gigabytes) = (arguments.next().unwrap_or(10_000), arguments.next().unwrap_or(2));
    let mut limits = Limits::default();
    limits.send_buffer_dialled = arguments.next().map_or(limits.send_buffer_dialled, |kib| kib << 10);
    limits.stream_window_max = arguments.next().map_or(limits.stream_window_max, |kib| (kib << 10) as u32);
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let to = listener.local_addr()?;
    let (send, mut tunnels) = mpsc::unbounded_channel();
    let far_limits = limits.clone();
    tokio::spawn(async move {
        while let Ok((io, _)) = listener.accept().await {
            let (send, limits) = (send.clone(), far_limits.clone());
            tokio::spawn(async move {
                let _ = io.set_nodelay(true);
                serve(io, &limits, &Stop::default(), |arrival| {
                    if let Ok(tunnel) = arrival.expect("only CONNECT").accept(HeaderMap::new()) {
                        let _ = send.send(tunnel);
                    }
                })
                .await
            });
        }
    });
    let pool = Pool::new(limits, move |_: usize| async move {
        let io = TcpStream::connect(to).await?;
        io.set_nodelay(true)?;
        Ok(io)
    });
    let request = ConnectRequest::new("10.0.0.1:80".parse::<SocketAddr>().expect("an address"));
    busy(&pool, &request, &mut tunnels, gigabytes).await;
    idle_memory(&pool, &request, &mut tunnels, idle).await;
    Ok(())
}

async fn pair(
    pool: &Pool<usize>,
    key: usize,
    request: &ConnectRequest,
    tunnels: &mut mpsc::UnboundedReceiver<Tunnel>,
) -> (Tunnel, Tunnel) {
    let (near, _) = pool.open(&key, request).await.expect("it opens");
    (near, tunnels.recv().await.expect("it arrives"))
}

async fn idle_memory(pool: &Pool<usize>, request: &ConnectRequest, tunnels: &mut mpsc::UnboundedReceiver<Tunnel>, count: usize) {
    let before = resident_kib();
    let mut held = Vec::with_capacity(count);
    for i in 0..count {
        held.push(pair(pool, i / 1000, request, tunnels).await);
    }
    let grown = resident_kib() - before;
    println!("{count} idle tunnels, both ends: {} bytes each end", grown * 1024 / count as u64 / 2);
}

async fn busy(pool: &Pool<usize>, request: &ConnectRequest, tunnels: &mut mpsc::UnboundedReceiver<Tunnel>, gigabytes: usize) {
    for piece in [16 << 10, 64 << 10, 256 << 10] {
        let (mut near, mut far) = pair(pool, 0, request, tunnels).await;
        let (cpu, start) = (cpu_seconds(), Instant::now());
        let total = gigabytes << 30;
        let writer = tokio::spawn(async move {
            let source = Bytes::from(vec![7; piece]);
            for _ in 0..total / piece {
                let mut chunk = source.clone();
                poll_fn(|cx| near.poll_write_chunk(cx, &mut chunk)).await.expect("it writes");
            }
            poll_fn(|cx| near.poll_finish(cx)).await.expect("it ends");
            near
        });
        let (mut read, mut chunks) = (0, 0);
        while let Some(chunk) = poll_fn(|cx| far.poll_read_chunk(cx, usize::MAX)).await.expect("it reads") {
            (read, chunks) = (read + chunk.len(), chunks + 1);
        }
        drop(writer.await.expect("no panic"));
        let (cpu, wall) = (cpu_seconds() - cpu, start.elapsed().as_secs_f64());
        println!(
            "pieces of {piece}: {:.2} GB/s, {:.2} s of processor per GB (both ends), {} bytes per chunk",
            read as f64 / 1e9 / wall,
            cpu / (read as f64 / 1e9),
            read / chunks
        );
    }
}

fn resident_kib() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").expect("Linux");
    statm.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok()).expect("a number") * 4
}

/// User and system time of this process, in seconds (clock ticks are 1/100 s).
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").expect("Linux");
    let after_name = stat.rsplit(')').next().expect("a name in brackets");
    let fields: Vec<&str> = after_name.split_whitespace().collect();
    (fields[11].parse::<f64>().expect("a number") + fields[12].parse::<f64>().expect("a number")) / 100.0
}
