//! Tests of `pool`: our pool against our server, and against raw peers that go away, refuse and fall silent.

use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use tokio::io::DuplexStream;
use tokio::sync::mpsc;

use super::*;
use crate::connect::ConnectHead;
use crate::serve::Stop;
use crate::testing::*;

mod goaway;

const BUFFER: usize = 64 << 10;
const S: Duration = Duration::from_secs(1);
const MS: Duration = Duration::from_millis(1);

/// A pool whose dials come to the test, which plays the far end; and how many there were.
fn dialled(limits: Limits) -> (Pool<u32>, mpsc::UnboundedReceiver<DuplexStream>) {
    let (send, dials) = mpsc::unbounded_channel();
    let pool = Pool::new(limits, move |_| {
        let (near, far) = tokio::io::duplex(BUFFER);
        send.send(far).expect("the test listens");
        async { Ok(near) }
    });
    (pool, dials)
}

/// A pool whose far ends echo, how many dials there were, and how to stop the far ends.
fn echoed(limits: Limits) -> (Pool<u32>, Arc<AtomicUsize>, Stop) {
    let (count, stop) = (Arc::new(AtomicUsize::new(0)), Stop::default());
    let (counted, told, far_limits) = (count.clone(), stop.clone(), limits.clone());
    let pool = Pool::new(limits, move |_| {
        counted.fetch_add(1, SeqCst);
        let (near, far) = tokio::io::duplex(BUFFER);
        tokio::spawn(serve_echo(far, far_limits.clone(), told.clone()));
        async { Ok(near) }
    });
    (pool, count, stop)
}

async fn open(pool: &Pool<u32>, key: u32) -> Tunnel {
    pool.open(&key, &request()).await.expect("the far end accepts").0
}

/// One exchange, and both ends.
async fn exchange(mut tunnel: Tunnel, text: &'static str) {
    write(&mut tunnel, text).await.unwrap();
    finish(&mut tunnel).await.unwrap();
    assert_eq!(read_to_end(&mut tunnel).await.unwrap(), text.as_bytes());
}

/// Plays the far end of a connection in the background.
fn play_echo(far: DuplexStream) {
    tokio::spawn(serve_echo(far, Limits::default(), Stop::default()));
}

async fn settle() {
    tokio::time::sleep(MS).await;
}

// Z-098, Z-103
#[tokio::test(start_paused = true)]
async fn connections_are_reused() {
    let (pool, dials, _) = echoed(Limits::default());
    for _ in 0..3 {
        exchange(open(&pool, 1).await, "hello").await;
    }
    let held = [open(&pool, 1).await, open(&pool, 1).await];
    assert_eq!(dials.load(SeqCst), 1);
    assert_eq!(pool.rows()[0].riders, held.len());
}

// Z-103: those who come while a connection is being dialled wait for that one
#[tokio::test(start_paused = true)]
async fn one_dial_serves_all_who_come_meanwhile() {
    let (pool, dials, _) = echoed(Limits::default());
    let tasks: Vec<_> = (0..50)
        .map(|_| {
            let pool = pool.clone();
            tokio::spawn(async move { exchange(open(&pool, 1).await, "x").await })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(dials.load(SeqCst), 1);
}

// Z-099
#[tokio::test(start_paused = true)]
async fn a_slow_reader_does_not_stop_the_other_streams() {
    let (pool, dials, _) = echoed(Limits::default());
    let mut slow = open(&pool, 1).await;
    let taken = write_until_full(&mut slow, vec![7; 4 << 20]).await;
    for _ in 0..100 {
        exchange(open(&pool, 1).await, "quick").await;
    }
    assert_eq!(dials.load(SeqCst), 1);
    let mut received = 0;
    while received < taken {
        received += read(&mut slow).await.unwrap().unwrap().len();
    }
}

// Z-100
#[tokio::test(start_paused = true)]
async fn keys_have_connections_of_their_own() {
    let (pool, dials, _) = echoed(Limits::default());
    for key in [1, 2, 1, 3, 2] {
        exchange(open(&pool, key).await, "x").await;
    }
    assert_eq!(dials.load(SeqCst), 3);
}

// Z-101, interop 13.10
#[tokio::test(start_paused = true)]
async fn full_connections_make_a_second_and_come_back_into_use() {
    for limits in [
        Limits { streams_per_connection: 2, ..Limits::default() },
        // The same when it is the peer that says two.
        Limits { streams_served: 2, ..Limits::default() },
    ] {
        let (pool, dials, _) = echoed(limits);
        let first = [open(&pool, 1).await, open(&pool, 1).await];
        let third = open(&pool, 1).await;
        assert_eq!(dials.load(SeqCst), 2);
        for tunnel in first {
            exchange(tunnel, "x").await;
        }
        settle().await;
        let _again = [open(&pool, 1).await, open(&pool, 1).await];
        assert_eq!(dials.load(SeqCst), 2, "the first connection serves again");
        exchange(third, "x").await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_spread_key_uses_several_connections() {
    let limits = Limits { connections_per_key: 2, streams_before_spread: 1, ..Limits::default() };
    let (pool, dials, _) = echoed(limits);
    let mut held = Vec::new();
    for _ in 0..10 {
        held.push(open(&pool, 1).await);
        settle().await;
    }
    assert_eq!(dials.load(SeqCst), 2);
    let riders: Vec<_> = pool.rows().iter().map(|row| row.riders).collect();
    assert_eq!(riders, [5, 5]);
}

// Z-102
#[tokio::test(start_paused = true)]
async fn after_goaway_new_tunnels_go_elsewhere_and_old_ones_live() {
    let (pool, mut dials) = dialled(Limits::default());
    let stop = Stop::default();
    let (far, told) = (dials.recv(), stop.clone());
    let (mut old, _) = tokio::join!(open(&pool, 1), async {
        tokio::spawn(serve_echo(far.await.unwrap(), Limits::default(), told));
    });
    stop.soft.cancel();
    settle().await;
    assert!(pool.rows()[0].shut);
    let (new, _) = tokio::join!(open(&pool, 1), async { play_echo(dials.recv().await.unwrap()) });
    exchange(new, "new").await;
    write(&mut old, "old").await.unwrap();
    assert_eq!(read(&mut old).await.unwrap().unwrap(), "old");
    finish(&mut old).await.unwrap();
    assert_eq!(read(&mut old).await.unwrap(), None);
    drop(old);
    settle().await;
    assert_eq!(pool.rows().len(), 1);
}

// Z-104, Z-105, Z-106
#[tokio::test(start_paused = true)]
async fn many_tunnels_of_many_keys_all_arrive() {
    for (keys, tunnels, streams) in [(1, 1000, 100), (100, 1000, 100), (3, 300, 1), (7, 700, 3)] {
        let (pool, dials, _) = echoed(Limits { streams_per_connection: streams, ..Limits::default() });
        let tasks: Vec<_> = (0..tunnels)
            .map(|i| {
                let pool = pool.clone();
                tokio::spawn(async move { exchange(open(&pool, i % keys).await, "abcdefgh").await })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
        assert!(dials.load(SeqCst) >= keys as usize);
        settle().await;
        assert!(pool.rows().iter().all(|row| row.riders == 0));
        assert!(pool.inner.state.lock().waiting.is_empty());
    }
}

// Z-104..Z-106 on real threads, with callers that go away at any moment
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn callers_on_many_threads_that_come_and_go_leave_nothing_behind() {
    let (pool, _, _) = echoed(Limits { streams_per_connection: 5, ..Limits::default() });
    let tasks: Vec<_> = (0..2000u32)
        .map(|i| {
            let pool = pool.clone();
            tokio::spawn(async move { exchange(open(&pool, i % 5).await, "abcdefgh").await })
        })
        .collect();
    for (i, task) in tasks.into_iter().enumerate() {
        if i % 3 == 0 {
            task.abort();
        }
        assert!(task.await.is_ok() || i % 3 == 0, "only those that were aborted may fail");
    }
    let settled = async {
        while pool.rows().iter().any(|row| row.riders > 0) || !pool.inner.state.lock().waiting.is_empty() {
            tokio::task::yield_now().await;
        }
    };
    timeout(30 * S, settled).await.expect("every seat is given back");
    pool.drain();
    timeout(30 * S, pool.closed()).await.expect("every connection ends");
}

// Z-107
#[tokio::test(start_paused = true)]
async fn unused_connections_are_released() {
    let (pool, dials, _) = echoed(Limits::default());
    exchange(open(&pool, 1).await, "x").await;
    tokio::time::sleep(299 * S).await;
    exchange(open(&pool, 1).await, "x").await;
    assert_eq!(dials.load(SeqCst), 1);
    tokio::time::sleep(299 * S).await;
    assert_eq!(pool.rows().len(), 1);
    tokio::time::sleep(15 * S).await;
    assert!(pool.rows().is_empty());
    assert!(pool.inner.state.lock().links.is_empty());
    exchange(open(&pool, 1).await, "x").await;
    assert_eq!(dials.load(SeqCst), 2);
}

// Z-108
#[tokio::test(start_paused = true)]
async fn a_connection_with_a_tunnel_is_kept() {
    let (pool, dials, _) = echoed(Limits::default());
    let held = open(&pool, 1).await;
    tokio::time::sleep(3600 * S).await;
    exchange(open(&pool, 1).await, "x").await;
    exchange(held, "still").await;
    assert_eq!(dials.load(SeqCst), 1);
}

#[tokio::test(start_paused = true)]
async fn above_the_limit_of_unused_connections_the_oldest_goes() {
    let (pool, _, _) = echoed(Limits { idle_connections: 2, ..Limits::default() });
    for key in 1..=4 {
        exchange(open(&pool, key).await, "x").await;
        settle().await;
    }
    let keys: Vec<_> = pool.rows().iter().map(|row| row.key).collect();
    assert_eq!(keys, [3, 4]);
}

#[tokio::test(start_paused = true)]
async fn a_failed_dial_fails_all_who_wait_for_it_with_its_cause() {
    let dials = Arc::new(AtomicUsize::new(0));
    let counted = dials.clone();
    let pool: Pool<u32> = Pool::new(Limits::default(), move |_| {
        counted.fetch_add(1, SeqCst);
        async {
            tokio::time::sleep(S).await;
            Err::<DuplexStream, _>(io::Error::new(io::ErrorKind::ConnectionRefused, "refused"))
        }
    });
    let request = request();
    let (a, b) = tokio::join!(pool.open(&1, &request), pool.open(&1, &request));
    for error in [a.map(|_| ()).unwrap_err(), b.map(|_| ()).unwrap_err()] {
        assert!(matches!(&error, OpenError::Dial(source) if source.kind() == io::ErrorKind::ConnectionRefused), "{error:?}");
        assert_eq!(error.to_string(), "io error: refused");
    }
    assert_eq!(dials.load(SeqCst), 1);
    pool.open(&1, &request).await.map(|_| ()).unwrap_err();
    assert_eq!(dials.load(SeqCst), 2, "the next one dials again");
    assert!(pool.inner.state.lock().waiting.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_dial_that_hangs_or_times_out_is_a_connect_timeout() {
    for hangs in [true, false] {
        let pool: Pool<u32> = Pool::new(Limits::default(), move |_| async move {
            if hangs {
                std::future::pending::<()>().await;
            }
            tokio::time::sleep(3 * S).await;
            Err::<DuplexStream, _>(io::ErrorKind::TimedOut.into())
        });
        let error = pool.open(&1, &request()).await.map(|_| ()).unwrap_err();
        let expected = if hangs { 10 * S } else { 3 * S };
        assert!(matches!(error, OpenError::ConnectTimeout { after } if after == expected), "{error:?}");
        assert!(error.to_string().starts_with("connection timed out, maybe a NetworkPolicy is blocking HBONE port 15008"));
    }
}

#[tokio::test(start_paused = true)]
async fn a_dial_that_panics_fails_and_blocks_nobody() {
    let dials = Arc::new(AtomicUsize::new(0));
    let counted = dials.clone();
    let pool: Pool<u32> = Pool::new(Limits::default(), move |_| {
        let first = counted.fetch_add(1, SeqCst) == 0;
        async move {
            assert!(!first, "the first dial panics");
            let (near, far) = tokio::io::duplex(BUFFER);
            tokio::spawn(serve_echo(far, Limits::default(), Stop::default()));
            Ok(near)
        }
    });
    let error = pool.open(&1, &request()).await.map(|_| ()).unwrap_err();
    assert_eq!(error.to_string(), "io error: the dial ended without a result");
    exchange(open(&pool, 1).await, "x").await;
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_goes_away_leaves_its_dial_to_the_others() {
    let (pool, mut dials) = dialled(Limits::default());
    let first = tokio::spawn({
        let pool = pool.clone();
        async move { open(&pool, 1).await }
    });
    let far = dials.recv().await.unwrap();
    let second = tokio::spawn({
        let pool = pool.clone();
        async move { exchange(open(&pool, 1).await, "x").await }
    });
    settle().await;
    first.abort();
    settle().await;
    play_echo(far);
    second.await.unwrap();
    assert!(dials.try_recv().is_err(), "one dial");
}

// Interop 13.4, 13.5: the status is told, the connection stays good, the seat is free again
#[tokio::test(start_paused = true)]
async fn a_refusal_is_told_and_the_connection_stays() {
    let (pool, mut dials) = dialled(Limits::default());
    let statuses = async {
        let far = dials.recv().await.unwrap();
        let mut code = 400;
        crate::serve(far, &Limits::default(), &Stop::default(), |arrival| {
            arrival.unwrap().refuse(http::StatusCode::from_u16(code).unwrap());
            code += 1;
        })
        .await
    };
    let asking = async {
        for code in 400..450 {
            let error = pool.open(&1, &request()).await.map(|_| ()).unwrap_err();
            assert_eq!(error.to_string(), format!("http status: {code}"));
            assert_eq!(pool.rows()[0].riders, 0);
        }
        pool.drain();
    };
    let (served, ()) = tokio::join!(statuses, asking);
    served.unwrap();
}

#[tokio::test(start_paused = true)]
async fn headers_and_authority_arrive_and_the_answers_headers_come_back() {
    let (pool, mut dials) = dialled(Limits::default());
    let mut request = ConnectRequest::new(ConnectHead::host("web.shop", 80).unwrap());
    request.headers.insert("baggage", http::HeaderValue::from_static(""));
    request.headers.insert("forwarded", crate::forwarded::emit("10.0.0.1:1".parse().unwrap(), Some("web.shop")));
    request.headers.insert("traceparent", crate::TraceParent::new(1, 2).emit());
    let (opened, _) = tokio::join!(pool.open(&1, &request), async {
        let mut raw = Raw::server(dials.recv().await.unwrap(), &[]).await;
        raw.until(HEADERS).await;
        let response = [vec![0x88], header("baggage", "service.name=web")].concat();
        raw.send(HEADERS, END_HEADERS, 1, &response).await.unwrap();
        raw
    });
    let (_tunnel, parts) = opened.unwrap();
    assert_eq!(crate::Baggage::parse(&parts.headers).service.as_deref(), Some("web"));
}

#[tokio::test(start_paused = true)]
async fn the_request_of_the_family_has_three_headers_in_their_order() {
    let (near, far) = tokio::io::duplex(BUFFER);
    let mut request = request();
    for name in ["baggage", "forwarded", "traceparent", "x-forwarded-network"] {
        request.headers.insert(name, http::HeaderValue::from_static("v"));
    }
    let limits = Limits::default();
    let (_, seen) = tokio::join!(dial::open_alone(near, &limits, &request), async {
        let mut connection = h2::server::handshake(far).await.unwrap();
        let (request, mut respond) = connection.accept().await.unwrap().unwrap();
        respond.send_response(http::Response::new(()), true).unwrap();
        tokio::spawn(async move { while connection.accept().await.is_some() {} });
        request
    });
    let names: Vec<_> = seen.headers().keys().map(|name| name.as_str()).collect();
    assert_eq!(names, ["baggage", "forwarded", "traceparent", "x-forwarded-network"]);
    assert_eq!((seen.method(), seen.uri().to_string().as_str()), (&http::Method::CONNECT, "10.0.0.1:80"));
}

#[tokio::test(start_paused = true)]
async fn a_draining_pool_seats_nobody_and_ends_with_its_last_tunnel() {
    let (pool, _, _) = echoed(Limits::default());
    let tunnel = open(&pool, 1).await;
    let hanging: Pool<u32> = Pool::new(Limits::default(), |_| std::future::pending::<io::Result<DuplexStream>>());
    for pool in [&pool, &hanging] {
        let waiting = tokio::spawn({
            let pool = pool.clone();
            async move { pool.open(&2, &request()).await.map(|_| ()) }
        });
        if std::ptr::eq(pool, &hanging) {
            settle().await;
        }
        pool.drain();
        assert!(matches!(waiting.await.unwrap(), Err(OpenError::Draining)));
        assert!(matches!(pool.open(&1, &request()).await, Err(OpenError::Draining)));
    }
    assert!(tokio::time::timeout(60 * S, pool.closed()).await.is_err(), "a tunnel lives");
    exchange(tunnel, "x").await;
    tokio::time::timeout(S, pool.closed()).await.unwrap();
    assert!(pool.rows().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_forced_pool_cuts_its_tunnels() {
    let (pool, _, _) = echoed(Limits::default());
    let mut tunnel = open(&pool, 1).await;
    pool.force();
    assert!(read(&mut tunnel).await.is_err());
    pool.closed().await;
    drop(tunnel);
    assert!(pool.rows().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_dropped_pool_lets_its_unused_connections_close() {
    let (pool, mut dials) = dialled(Limits::default());
    let opening = tokio::spawn({
        let pool = pool.clone();
        async move { open(&pool, 1).await }
    });
    let served = tokio::spawn(serve_echo(dials.recv().await.unwrap(), Limits::default(), Stop::default()));
    let tunnel = opening.await.unwrap();
    exchange(tunnel, "x").await;
    drop(pool);
    let start = Instant::now();
    served.await.unwrap().unwrap();
    assert!(start.elapsed() < S);
}

#[tokio::test(start_paused = true)]
async fn retired_connections_keep_their_tunnels_and_severed_ones_do_not() {
    let (pool, dials, _) = echoed(Limits::default());
    let mut kept = open(&pool, 1).await;
    let mut cut = open(&pool, 2).await;
    let mut other = open(&pool, 3).await;
    pool.retire(|key| *key == 1);
    pool.sever(|key| *key == 2);
    assert!(read(&mut cut).await.is_err());
    for tunnel in [&mut kept, &mut other] {
        write(tunnel, "x").await.unwrap();
        assert_eq!(read(tunnel).await.unwrap().unwrap(), "x");
    }
    for key in 1..=3 {
        exchange(open(&pool, key).await, "x").await;
    }
    assert_eq!(dials.load(SeqCst), 5, "only the third key's was kept for new ones");
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_a_retired_dial_gets_a_new_one() {
    let dials = Arc::new(AtomicUsize::new(0));
    let counted = dials.clone();
    let pool: Pool<u32> = Pool::new(Limits::default(), move |_| {
        let first = counted.fetch_add(1, SeqCst) == 0;
        async move {
            if first {
                tokio::time::sleep(5 * S).await;
            }
            let (near, far) = tokio::io::duplex(BUFFER);
            tokio::spawn(serve_echo(far, Limits::default(), Stop::default()));
            Ok(near)
        }
    });
    let start = Instant::now();
    tokio::join!(async { exchange(open(&pool, 1).await, "x").await }, async {
        settle().await;
        pool.retire(|_| true);
    });
    assert!(start.elapsed() < S);
    tokio::time::sleep(10 * S).await;
    assert_eq!((dials.load(SeqCst), pool.rows().len()), (2, 1), "the first dial's connection is not taken in");
}

// A peer that hangs up on everyone is dialled once for all who wait, and not again and again
#[tokio::test(start_paused = true)]
async fn a_peer_that_hangs_up_at_once_fails_all_who_wait() {
    let (pool, mut dials) = dialled(Limits::default());
    let asking: Vec<_> = (0..50)
        .map(|_| {
            let pool = pool.clone();
            tokio::spawn(async move { pool.open(&1, &request()).await.map(|_| ()) })
        })
        .collect();
    drop(dials.recv().await.unwrap());
    for asked in asking {
        asked.await.unwrap().unwrap_err();
    }
    assert!(dials.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_greets_and_hangs_up_makes_no_one_dial_for_ever() {
    let (pool, mut dials) = dialled(Limits::default());
    let hanging_up = tokio::spawn(async move {
        let mut count = 0;
        while let Some(far) = dials.recv().await {
            let mut raw = Raw::server(far, &[]).await;
            let _ = raw.send(GOAWAY, 0, 0, &go_away(0, NO_ERROR)).await;
            count += 1;
        }
        count
    });
    let asking: Vec<_> = (0..10)
        .map(|_| {
            let pool = pool.clone();
            tokio::spawn(async move { pool.open(&1, &request()).await.map(|_| ()) })
        })
        .collect();
    for asked in asking {
        asked.await.unwrap().unwrap_err();
    }
    pool.force();
    pool.closed().await;
    drop(pool);
    assert!(hanging_up.await.unwrap() <= 10 * 4);
}

fn go_away(last: u32, code: u32) -> Vec<u8> {
    [last.to_be_bytes(), code.to_be_bytes()].concat()
}

/// Opens while the test plays the far end of each connection in turn.
async fn with_far_ends<R>(
    limits: Limits,
    far: impl AsyncFnOnce(mpsc::UnboundedReceiver<DuplexStream>) -> R,
) -> (Result<Tunnel, OpenError>, R) {
    let (pool, dials) = dialled(limits);
    let request = request();
    let (opened, played) = tokio::join!(pool.open(&1, &request), far(dials));
    (opened.map(|(tunnel, _)| tunnel), played)
}

// F-35: above the last stream id nothing was processed, so it is asked again elsewhere
#[tokio::test(start_paused = true)]
async fn a_request_above_goaways_last_stream_is_asked_once_more() {
    for code in [NO_ERROR, ENHANCE_YOUR_CALM] {
        let (opened, _) = with_far_ends(Limits::default(), async |mut dials| {
            let mut first = Raw::server(dials.recv().await.unwrap(), &[]).await;
            first.until(HEADERS).await;
            first.send(GOAWAY, 0, 0, &go_away(0, code)).await.unwrap();
            let mut second = Raw::server(dials.recv().await.unwrap(), &[]).await;
            second.until(HEADERS).await;
            second.accept(1).await.unwrap();
            (first, second)
        })
        .await;
        opened.unwrap();
    }
}

// F-35
#[tokio::test(start_paused = true)]
async fn it_is_not_asked_a_third_time() {
    let (opened, dials) = with_far_ends(Limits::default(), async |mut dials| {
        for _ in 0..2 {
            let mut raw = Raw::server(dials.recv().await.unwrap(), &[]).await;
            raw.until(HEADERS).await;
            raw.send(GOAWAY, 0, 0, &go_away(0, NO_ERROR)).await.unwrap();
        }
        dials
    })
    .await;
    assert!(matches!(opened.map(|_| ()), Err(OpenError::Http2(_))));
    assert!(dials.is_empty());
}

// F-35: at or below the last stream id the answer still comes
#[tokio::test(start_paused = true)]
async fn a_request_below_goaways_last_stream_is_answered_there() {
    let (opened, _) = with_far_ends(Limits::default(), async |mut dials| {
        let mut raw = Raw::server(dials.recv().await.unwrap(), &[]).await;
        raw.until(HEADERS).await;
        raw.send(GOAWAY, 0, 0, &go_away(1, NO_ERROR)).await.unwrap();
        settle().await;
        raw.accept(1).await.unwrap();
        raw.send(DATA, END_STREAM, 1, b"done").await.unwrap();
        (raw, dials)
    })
    .await;
    assert_eq!(read_to_end(&mut opened.unwrap()).await.unwrap(), b"done");
}

// F-36
#[tokio::test(start_paused = true)]
async fn a_refused_stream_is_asked_once_more_on_another_connection() {
    let (opened, _) = with_far_ends(Limits::default(), async |mut dials| {
        let mut first = Raw::server(dials.recv().await.unwrap(), &[]).await;
        first.until(HEADERS).await;
        first.send(RST_STREAM, 0, 1, &REFUSED_STREAM.to_be_bytes()).await.unwrap();
        let mut second = Raw::server(dials.recv().await.unwrap(), &[]).await;
        second.until(HEADERS).await;
        second.accept(1).await.unwrap();
        (first, second)
    })
    .await;
    opened.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_stream_reset_for_another_reason_is_final() {
    let (opened, (_, dials)) = with_far_ends(Limits::default(), async |mut dials| {
        let mut raw = Raw::server(dials.recv().await.unwrap(), &[]).await;
        raw.until(HEADERS).await;
        raw.send(RST_STREAM, 0, 1, &CANCEL.to_be_bytes()).await.unwrap();
        (raw, dials)
    })
    .await;
    assert!(matches!(opened.map(|_| ()), Err(OpenError::Http2(_))));
    assert!(dials.is_empty());
}

// F-36: waits, and no second connection is dialled to a peer that takes nothing
#[tokio::test(start_paused = true)]
async fn a_peer_that_takes_no_streams_yet_is_waited_for() {
    let (opened, _) = with_far_ends(Limits::default(), async |mut dials| {
        let mut raw = Raw::server(dials.recv().await.unwrap(), &[(MAX_CONCURRENT_STREAMS, 0)]).await;
        assert!(tokio::time::timeout(S, raw.until(HEADERS)).await.is_err(), "nothing is sent");
        raw.io_write(&settings(&[(MAX_CONCURRENT_STREAMS, 100)])).await;
        raw.until(HEADERS).await;
        raw.accept(1).await.unwrap();
        assert!(dials.is_empty());
        (raw, dials)
    })
    .await;
    opened.unwrap();
}

// F-36: fifty at once to a peer that takes three per connection
#[tokio::test(start_paused = true)]
async fn a_burst_to_a_peer_with_a_low_limit_does_not_lock_up() {
    let (pool, dials, _) = echoed(Limits { streams_served: 3, ..Limits::default() });
    let start = Instant::now();
    let tasks: Vec<_> = (0..50)
        .map(|_| {
            let pool = pool.clone();
            tokio::spawn(async move { exchange(open(&pool, 1).await, "x").await })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    assert!(start.elapsed() < S, "{:?}", start.elapsed());
    assert!(dials.load(SeqCst) <= 50);
}

// Weakness 6: a pooled connection that died unnoticed costs no failure
#[tokio::test(start_paused = true)]
async fn a_request_that_dies_with_a_stale_connection_is_asked_once_more() {
    let (pool, mut dials) = dialled(Limits::default());
    let (tunnel, mut raw) = tokio::join!(open(&pool, 1), async {
        let mut raw = Raw::server(dials.recv().await.unwrap(), &[]).await;
        raw.until(HEADERS).await;
        raw.accept(1).await.unwrap();
        raw.send(DATA, END_STREAM, 1, &[]).await.unwrap();
        raw
    });
    drop(tunnel);
    let (new, _) = tokio::join!(open(&pool, 1), async {
        raw.until(HEADERS).await;
        drop(raw);
        play_echo(dials.recv().await.unwrap());
    });
    exchange(new, "x").await;
}

#[tokio::test(start_paused = true)]
async fn a_fresh_connection_that_breaks_is_not_tried_again() {
    let (opened, dials) = with_far_ends(Limits::default(), async |mut dials| {
        let mut raw = Raw::server(dials.recv().await.unwrap(), &[]).await;
        raw.until(HEADERS).await;
        drop(raw);
        dials
    })
    .await;
    assert!(matches!(opened.map(|_| ()), Err(OpenError::Http2(_))));
    assert!(dials.is_empty());
}

// F-29, weakness 6: a peer that vanished is found out in less than five seconds by whoever needs it
#[tokio::test(start_paused = true)]
async fn a_request_on_a_connection_that_fell_silent_moves_on_within_five_seconds() {
    let (pool, mut dials) = dialled(Limits::default());
    let (mut old, mut raw) = tokio::join!(open(&pool, 1), async {
        let mut raw = Raw::server(dials.recv().await.unwrap(), &[]).await;
        raw.until(HEADERS).await;
        raw.accept(1).await.unwrap();
        raw
    });
    let start = Instant::now();
    let (new, _) = tokio::join!(open(&pool, 1), async { play_echo(dials.recv().await.unwrap()) });
    assert!(start.elapsed() < 5 * S, "{:?}", start.elapsed());
    exchange(new, "x").await;
    // F-30: what is open there is not given up so soon; the peer may be back.
    raw.send(DATA, 0, 1, b"back").await.unwrap();
    assert_eq!(read(&mut old).await.unwrap().unwrap(), "back");
    raw.until(PING).await;
}

// F-05: there is nowhere else to ask, and a daemon that stood still for three seconds answers then
#[tokio::test(start_paused = true)]
async fn a_fresh_connection_to_a_peer_that_stands_still_is_waited_for() {
    for (stands_still, answers) in [(3 * S, true), (60 * S, false)] {
        let start = Instant::now();
        let (opened, _) = with_far_ends(Limits::default(), async |mut dials| {
            let mut raw = Raw::server(dials.recv().await.unwrap(), &[]).await;
            raw.until(HEADERS).await;
            tokio::time::sleep(stands_still).await;
            let _ = raw.accept(1).await; // whoever waited too long has gone
            raw
        })
        .await;
        assert_eq!(opened.is_ok(), answers, "{:?}", opened.err());
        // The call waits for the far end too, whatever became of the question.
        assert!(answers || start.elapsed() >= 5 * S);
    }
}

// F-29: a PING every 0.75 s while somebody waits there, and no more than one in four seconds while nobody does
#[tokio::test(start_paused = true)]
async fn a_connection_is_pinged_often_only_while_it_carries_tunnels() {
    let (pool, mut dials) = dialled(Limits::default());
    let (tunnel, mut raw) = tokio::join!(open(&pool, 1), async {
        let mut raw = Raw::server(dials.recv().await.unwrap(), &[]).await;
        raw.until(HEADERS).await;
        raw.accept(1).await.unwrap();
        raw
    });
    let pings = async |raw: &mut Raw| {
        let mut pings = 0;
        let counting = async {
            loop {
                raw.until(PING).await;
                pings += 1;
            }
        };
        let _: Result<(), _> = tokio::time::timeout(12 * S, counting).await;
        pings
    };
    let used = pings(&mut raw).await;
    assert!((12..=16).contains(&used), "{used} in 12 s with a tunnel");
    drop(tunnel);
    let unused = pings(&mut raw).await;
    assert!((2..=4).contains(&unused), "{unused} in 12 s without");
}

// F-29: the silent connection is left at once, so that a dial of four seconds still ends within five
#[tokio::test(start_paused = true)]
async fn a_silent_connection_is_left_before_a_second_has_passed() {
    let (pool, mut dials) = dialled(Limits::default());
    let (_old, _raw) = tokio::join!(open(&pool, 1), async {
        let mut raw = Raw::server(dials.recv().await.unwrap(), &[]).await;
        raw.until(HEADERS).await;
        raw.accept(1).await.unwrap();
        raw
    });
    let start = Instant::now();
    let asking = tokio::spawn(async move { pool.open(&1, &request()).await.map(drop) });
    let _far = dials.recv().await.unwrap();
    assert!(start.elapsed() < S, "{:?}", start.elapsed());
    asking.abort();
}

// Interop 13.11: dropped after the PING and its limit, and what is on it fails
#[tokio::test(start_paused = true)]
async fn a_dead_peers_tunnels_fail_after_the_ping_limit() {
    let (pool, mut dials) = dialled(Limits::default());
    let (mut tunnel, _raw) = tokio::join!(open(&pool, 1), async {
        let mut raw = Raw::server(dials.recv().await.unwrap(), &[]).await;
        raw.until(HEADERS).await;
        raw.accept(1).await.unwrap();
        raw
    });
    let start = Instant::now();
    assert!(read(&mut tunnel).await.is_err());
    assert_eq!(start.elapsed().as_secs(), 5);
    drop(tunnel);
    assert!(pool.rows().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_slow_answer_is_waited_for_while_the_peer_is_alive_and_not_for_ever() {
    for answers in [true, false] {
        let start = Instant::now();
        let (opened, _) = with_far_ends(Limits::default(), async |mut dials| {
            let mut raw = Raw::server(dials.recv().await.unwrap(), &[]).await;
            raw.until(HEADERS).await;
            let serving = async {
                loop {
                    raw.until(PING).await;
                }
            };
            let _: Result<(), _> = tokio::time::timeout(15 * S, serving).await;
            if answers {
                raw.accept(1).await.unwrap();
            }
            let serving = async {
                loop {
                    raw.until(PING).await;
                }
            };
            let _: Result<(), _> = tokio::time::timeout(30 * S, serving).await;
        })
        .await;
        match opened {
            Ok(_) => assert!(answers),
            Err(error) => {
                assert!(!answers && matches!(error, OpenError::ResponseTimeout { .. }), "{error:?}");
                assert!(start.elapsed() >= 35 * S);
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_peer_without_settings_fails_the_handshake() {
    let start = Instant::now();
    let (opened, _) = with_far_ends(Limits { suspect: 60 * S, ..Limits::default() }, async |mut dials| {
        let far = dials.recv().await.unwrap();
        tokio::time::sleep(20 * S).await;
        far
    })
    .await;
    opened.map(|_| ()).unwrap_err();
    assert!(start.elapsed() >= 5 * S);
}

// V-07 from the other side
#[tokio::test(start_paused = true)]
async fn a_server_that_floods_us_is_dropped() {
    let (pool, mut dials) = dialled(Limits::default());
    let (mut tunnel, mut raw) = tokio::join!(open(&pool, 1), async {
        let mut raw = Raw::server(dials.recv().await.unwrap(), &[]).await;
        raw.until(HEADERS).await;
        raw.accept(1).await.unwrap();
        raw
    });
    let mut sent = 0;
    while sent < 1_000_000 && raw.send(SETTINGS, ACK | 2, 0, &[]).await.is_ok() {
        sent += 1;
    }
    assert!(sent < 30_000, "{sent} frames went through");
    assert!(read(&mut tunnel).await.is_err());
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(64))]
    // 7.5 fuzz target 4: whatever a server sends, opening ends, and nothing panics
    #[test]
    fn any_bytes_from_a_server_are_survived(
        bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..400),
        settled: bool,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        let rows = runtime.block_on(async {
            let (pool, mut dials) = dialled(Limits::default());
            let far = tokio::spawn(async move {
                let mut kept = Vec::new();
                while let Some(far) = dials.recv().await {
                    let mut raw = if settled { Raw::server(far, &[]).await } else { Raw { io: far } };
                    for piece in bytes.chunks(17) {
                        let (kind, flags, id) = (piece[0] % 11, *piece.get(1).unwrap_or(&0), u32::from(*piece.get(2).unwrap_or(&0)) % 4);
                        let _ = raw.send(kind, flags, id, piece.get(3..).unwrap_or_default()).await;
                    }
                    kept.push(raw);
                }
            });
            let _ = pool.open(&1, &request()).await;
            pool.force();
            pool.closed().await;
            far.abort();
            pool.rows().len()
        });
        proptest::prop_assert_eq!(rows, 0);
    }
}
