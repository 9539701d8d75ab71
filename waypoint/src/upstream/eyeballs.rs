//! One connection to whichever address of a name answers (RFC 8305): the families take turns, the next address is tried when
//! one fails or is slow, and the first that connects is the one.

use std::future::Future;
use std::io;
use std::net::IpAddr;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::time::{Instant, sleep_until};

/// How long one address is waited for before the next is tried as well (RFC 8305 5, Connection Attempt Delay).
pub const ATTEMPT_DELAY: Duration = Duration::from_millis(250);

/// The order in which addresses are tried: as they come within a family, the families in turn, beginning with IPv6 or not.
pub fn order(addresses: &[IpAddr], v6_first: bool) -> Vec<IpAddr> {
    let (mut first, mut second): (Vec<IpAddr>, Vec<IpAddr>) = addresses.iter().partition(|ip| ip.is_ipv6() == v6_first);
    if first.is_empty() {
        std::mem::swap(&mut first, &mut second);
    }
    let mut second = second.into_iter();
    let mut ordered = Vec::with_capacity(addresses.len());
    for ip in first {
        ordered.push(ip);
        ordered.extend(second.next());
    }
    ordered.extend(second);
    ordered
}

/// # Errors
/// The last address's, when none connects; `None` when there was none to try.
pub async fn first<T, Dialling>(addresses: &[IpAddr], dial: impl Fn(IpAddr) -> Dialling) -> Result<(IpAddr, T), Option<(IpAddr, io::Error)>>
where
    Dialling: Future<Output = io::Result<T>>,
{
    let mut left = addresses.iter().copied();
    let mut tries = FuturesUnordered::new();
    let mut failed = None;
    let mut next_at = Instant::now();
    loop {
        if next_at <= Instant::now()
            && let Some(ip) = left.next()
        {
            let dialling = dial(ip);
            tries.push(async move { (ip, dialling.await) });
            next_at = Instant::now() + ATTEMPT_DELAY;
        }
        if tries.is_empty() {
            return Err(failed);
        }
        tokio::select! {
            biased;
            Some((ip, outcome)) = tries.next() => match outcome {
                Ok(connected) => return Ok((ip, connected)),
                Err(why) => {
                    failed = Some((ip, why));
                    // This one is done with: no reason to wait for the next.
                    next_at = Instant::now();
                }
            },
            () = sleep_until(next_at), if left.len() > 0 => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use parking_lot::Mutex;
    use tokio::time::sleep;

    use super::*;

    fn ips(text: &str) -> Vec<IpAddr> {
        text.split_whitespace().map(|ip| ip.parse().unwrap()).collect()
    }

    #[test]
    fn families_take_turns() {
        for (given, v6_first, expected) in [
            ("10.0.0.1 10.0.0.2 fd00::1 fd00::2 fd00::3", false, "10.0.0.1 fd00::1 10.0.0.2 fd00::2 fd00::3"),
            ("10.0.0.1 10.0.0.2 fd00::1", true, "fd00::1 10.0.0.1 10.0.0.2"),
            ("10.0.0.2 10.0.0.1", true, "10.0.0.2 10.0.0.1"),
            ("fd00::1", false, "fd00::1"),
            ("", false, ""),
        ] {
            assert_eq!(order(&ips(given), v6_first), ips(expected), "{given}");
        }
    }

    /// What each address does: connects or fails, after so many milliseconds. Gives who connected, when, and when each was tried.
    async fn race(plan: &[(&str, bool, u64)]) -> (Option<String>, u128, Vec<u128>) {
        let begun = Instant::now();
        let (addresses, tried) = (ips(&plan.iter().map(|(ip, ..)| *ip).collect::<Vec<_>>().join(" ")), Mutex::new(Vec::new()));
        let outcome = first(&addresses, |ip| {
            tried.lock().push(begun.elapsed().as_millis());
            let (_, connects, after) = plan.iter().find(|(text, ..)| text.parse() == Ok(ip)).unwrap();
            async move {
                sleep(Duration::from_millis(*after)).await;
                if *connects { Ok(()) } else { Err(io::ErrorKind::ConnectionRefused.into()) }
            }
        })
        .await;
        let connected = outcome.ok().map(|(ip, ())| ip.to_string());
        (connected, begun.elapsed().as_millis(), tried.into_inner())
    }

    #[tokio::test(start_paused = true)]
    async fn the_next_is_tried_when_one_fails_or_is_slow() {
        let said = |ip: &str| Some(ip.to_owned());
        assert_eq!(race(&[("10.0.0.1", true, 10), ("10.0.0.2", true, 0)]).await, (said("10.0.0.1"), 10, vec![0]));
        assert_eq!(race(&[("10.0.0.1", false, 10), ("10.0.0.2", true, 5)]).await, (said("10.0.0.2"), 15, vec![0, 10]));
        assert_eq!(race(&[("10.0.0.1", true, 9000), ("10.0.0.2", true, 5)]).await, (said("10.0.0.2"), 255, vec![0, 250]));
        assert_eq!(race(&[("10.0.0.1", true, 300), ("10.0.0.2", true, 500)]).await, (said("10.0.0.1"), 300, vec![0, 250]), "the slow one wins all the same");
        let silent = [("10.0.0.1", false, 9000), ("10.0.0.2", false, 9000), ("10.0.0.3", true, 1)];
        assert_eq!(race(&silent).await, (said("10.0.0.3"), 501, vec![0, 250, 500]));
        assert_eq!(race(&[("10.0.0.1", false, 1), ("10.0.0.2", false, 1)]).await, (None, 2, vec![0, 1]));
        assert_eq!(race(&[]).await, (None, 0, vec![]));
    }
}
