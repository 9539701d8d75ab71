use std::collections::VecDeque;
use std::net::SocketAddr;

use tokio::time::Instant;

use super::*;

#[test]
fn what_each_error_means() {
    let ms = |n| After::Pause(Duration::from_millis(n));
    for (errno, starved, expected) in [
        (Some(libc::EMFILE), 0, ms(10)),
        (Some(libc::EMFILE), 1, ms(20)),
        (Some(libc::ENFILE), 5, ms(320)),
        (Some(libc::ENOBUFS), 6, ms(500)),
        (Some(libc::ENOMEM), u32::MAX, ms(500)),
        (Some(libc::ECONNABORTED), 0, After::Again),
        (Some(libc::EPERM), 0, After::Again),
        (Some(libc::EHOSTUNREACH), 9, After::Again),
        (Some(libc::EBADF), 0, After::GiveUp),
        (None, 0, After::GiveUp),
    ] {
        assert_eq!(after(errno, starved), expected, "{errno:?} after {starved}");
    }
}

/// Answers with these errors first, then with a connection.
struct Scripted(VecDeque<i32>, u32);

impl Accept for Scripted {
    type Stream = ();

    async fn accept(&mut self) -> io::Result<Accepted<()>> {
        self.1 += 1;
        let nowhere = self.local_addr();
        match self.0.pop_front() {
            Some(errno) => Err(io::Error::from_raw_os_error(errno)),
            None => Ok(Accepted { from: nowhere, to: nowhere, local: nowhere, stream: () }),
        }
    }

    fn local_addr(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], 1))
    }
}

#[tokio::test(start_paused = true)]
async fn a_starved_listener_waits_and_resumes() {
    // F-17: no spin while descriptors are missing, and accepting again within a second after.
    let mut listener = Scripted([libc::EMFILE; 100].into(), 0);
    let started = Instant::now();
    accept(&mut listener).await.unwrap();
    let per_second = f64::from(listener.1) / started.elapsed().as_secs_f64();
    assert!(per_second < 3.0, "asked {per_second} times a second");
    assert!(PAUSE_MAX < Duration::from_secs(1));
}

#[tokio::test(start_paused = true)]
async fn a_closed_listener_is_given_up() {
    let mut listener = Scripted([libc::ECONNABORTED, libc::EBADF].into(), 0);
    assert_eq!(accept(&mut listener).await.unwrap_err().raw_os_error(), Some(libc::EBADF));
}
