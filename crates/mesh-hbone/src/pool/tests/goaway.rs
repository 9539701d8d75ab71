//! Far ends that leave in order, at any moment of a busy pool.

use super::*;

// F-35, G13: a thousand times, after a random number of steps of four callers
#[tokio::test(start_paused = true)]
async fn goaway_at_a_thousand_moments_breaks_nothing() {
    const GOAWAYS: usize = 1_000;
    let stops: Arc<Mutex<Vec<Stop>>> = Arc::default();
    let dialled = stops.clone();
    let pool: Pool<u32> = Pool::new(Limits::default(), move |_| {
        let (near, far) = tokio::io::duplex(BUFFER);
        let stop = Stop::default();
        dialled.lock().push(stop.clone());
        tokio::spawn(serve_echo(far, Limits::default(), stop));
        async { Ok(near) }
    });
    let over = CancellationToken::new();
    let callers: Vec<_> = (0..4)
        .map(|words| {
            let (pool, over) = (pool.clone(), over.clone());
            tokio::spawn(async move {
                let mut calls = 0;
                while !over.is_cancelled() {
                    let mut tunnel = open(&pool, 1).await;
                    for _ in 0..words {
                        write(&mut tunnel, "word").await.unwrap();
                        assert_eq!(read(&mut tunnel).await.unwrap().unwrap(), "word");
                    }
                    exchange(tunnel, "last").await;
                    calls += 1;
                }
                calls
            })
        })
        .collect();
    let (mut dice, mut left) = (7_u64, 0);
    while left < GOAWAYS {
        dice = dice.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        for _ in 0..dice >> 60 {
            tokio::task::yield_now().await;
        }
        // The newest is the one in use; it leaves once.
        let newest = stops.lock().last().filter(|stop| !stop.soft.is_cancelled()).cloned();
        if let Some(newest) = newest {
            newest.soft.cancel();
            left += 1;
        }
    }
    over.cancel();
    let mut calls = 0;
    for caller in callers {
        calls += caller.await.expect("no call failed");
    }
    assert!(calls > GOAWAYS / 10, "{calls} calls saw {GOAWAYS} far ends leave");
}
