//! Where log lines go: a bounded buffer that a thread of its own empties, so that a full pipe never stalls a connection.
//!
//! When the buffer is full a line is dropped and counted (F-53); a process that carries no traffic may wait instead.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

/// The writing end, for any thread. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Lines {
    shared: Arc<Shared>,
}

/// What happens to a line that does not fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhenFull {
    /// It is dropped and counted. For whoever carries traffic.
    Drop,
    /// Its writer waits for room.
    Wait,
}

#[derive(Debug)]
struct Shared {
    queue: Mutex<Queue>,
    /// There is something to write.
    news: Condvar,
    /// There is room, or all is written.
    written: Condvar,
    room_bytes: usize,
    when_full: WhenFull,
    dropped: AtomicU64,
}

#[derive(Debug, Default)]
struct Queue {
    pending: Vec<u8>,
    writing: bool,
}

/// One mebibyte is some 2,500 access lines: what a busy node writes while a reader hesitates for a tenth of a second.
/// As much again may be on its way into the sink.
pub const ROOM_BYTES: usize = 1 << 20;

impl Lines {
    /// Lines to this sink. Its thread ends when the process does.
    pub fn to(sink: impl Write + Send + 'static, room_bytes: usize, when_full: WhenFull) -> io::Result<Lines> {
        let shared = Arc::new(Shared {
            queue: Mutex::default(),
            news: Condvar::new(),
            written: Condvar::new(),
            room_bytes,
            when_full,
            dropped: AtomicU64::new(0),
        });
        let emptying = shared.clone();
        std::thread::Builder::new().name("log".to_owned()).spawn(move || emptying.empty_into(sink))?;
        Ok(Lines { shared })
    }

    /// Takes a whole line, with its end.
    pub fn write(&self, line: &[u8]) {
        let shared = &*self.shared;
        let mut queue = shared.queue.lock();
        // A line larger than the whole buffer goes when nothing else is there, so it cannot wait for ever.
        while !queue.pending.is_empty() && queue.pending.len() + line.len() > shared.room_bytes {
            if shared.when_full == WhenFull::Drop {
                shared.dropped.fetch_add(1, Ordering::Relaxed);
                return;
            }
            shared.written.wait(&mut queue);
        }
        queue.pending.extend_from_slice(line);
        drop(queue);
        shared.news.notify_one();
    }

    /// How many lines were dropped: they did not fit, or the sink refused them.
    pub fn dropped(&self) -> u64 {
        self.shared.dropped.load(Ordering::Relaxed)
    }

    /// Waits until all lines are written, at most `limit`: a stuck sink must not hold the end of the process. Whether it was done.
    pub fn flush(&self, limit: Duration) -> bool {
        let until = Instant::now() + limit;
        let mut queue = self.shared.queue.lock();
        while !queue.pending.is_empty() || queue.writing {
            if self.shared.written.wait_until(&mut queue, until).timed_out() {
                return queue.pending.is_empty() && !queue.writing;
            }
        }
        true
    }
}

impl Shared {
    fn empty_into(&self, mut sink: impl Write) {
        let mut batch = Vec::new();
        loop {
            let mut queue = self.queue.lock();
            queue.writing = false;
            self.written.notify_all();
            while queue.pending.is_empty() {
                self.news.wait(&mut queue);
            }
            std::mem::swap(&mut batch, &mut queue.pending);
            queue.writing = true;
            self.written.notify_all();
            drop(queue);
            if self.write_whole(&mut sink, &batch).is_err() {
                let lost = batch.iter().filter(|byte| **byte == b'\n').count();
                self.dropped.fetch_add(lost as u64, Ordering::Relaxed);
            }
            batch.clear();
            // A burst's buffer is not kept for the quiet that follows.
            batch.shrink_to(64 * 1024);
            self.gather();
        }
    }

    /// Lets lines come together: thousands a second would otherwise be a wake-up and a write each.
    fn gather(&self) {
        let mut queue = self.queue.lock();
        queue.writing = false;
        self.written.notify_all();
        drop(queue);
        self.pause();
    }

    /// Writes everything, also into a terminal or pipe that somebody made non-blocking.
    fn write_whole(&self, sink: &mut impl Write, mut rest: &[u8]) -> io::Result<()> {
        while !rest.is_empty() {
            match sink.write(rest) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => rest = &rest[count..],
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.pause(),
                Err(error) => return Err(error),
            }
        }
        sink.flush()
    }

    /// Lets some time pass on this thread, which has nothing else to do.
    fn pause(&self) {
        std::thread::park_timeout(Duration::from_millis(5));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    /// A sink that takes a few bytes at a time, and only when it is let.
    struct Slow {
        gate: Option<mpsc::Receiver<()>>,
        at_once: usize,
        hiccup: bool,
        got: Arc<Mutex<Vec<u8>>>,
    }

    impl Write for Slow {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if let Some(gate) = &self.gate
                && gate.recv().is_err()
            {
                self.gate = None;
            }
            self.hiccup = !self.hiccup;
            if self.hiccup && self.at_once < 10 {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            let count = bytes.len().min(self.at_once);
            self.got.lock().extend_from_slice(&bytes[..count]);
            Ok(count)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn slow(at_once: usize, room: usize, when_full: WhenFull) -> (Lines, mpsc::Sender<()>, Arc<Mutex<Vec<u8>>>) {
        let (open, gate) = mpsc::channel();
        let got = Arc::new(Mutex::new(Vec::new()));
        let sink = Slow { gate: Some(gate), at_once, hiccup: false, got: got.clone() };
        (Lines::to(sink, room, when_full).unwrap(), open, got)
    }

    const SOON: Duration = Duration::from_secs(20);

    // Z-176
    #[test]
    fn a_sink_that_takes_a_little_and_sometimes_nothing_gets_everything() {
        let (lines, open, got) = slow(3, ROOM_BYTES, WhenFull::Drop);
        drop(open);
        lines.write(b"the quick brown fox\n");
        lines.write(b"jumps\n");
        assert!(lines.flush(SOON));
        assert_eq!(*got.lock(), b"the quick brown fox\njumps\n");
        assert_eq!(lines.dropped(), 0);
    }

    // Z-174, F-53
    #[test]
    fn what_does_not_fit_is_dropped_and_counted() {
        let (lines, open, got) = slow(1000, 10, WhenFull::Drop);
        let written = 100;
        for _ in 0..written {
            lines.write(b"12345\n"); // never waits, although nothing is read
        }
        assert!(!lines.flush(Duration::ZERO));
        drop(open);
        assert!(lines.flush(SOON));
        let arrived = got.lock().len() as u64 / 6;
        assert_eq!(lines.dropped(), written - arrived);
        assert!(arrived <= 3, "{arrived} lines where at most two batches fit");
        lines.write(b"after\n");
        assert!(lines.flush(SOON) && got.lock().ends_with(b"after\n"));
    }

    // Z-173
    #[test]
    fn who_may_wait_waits_and_nothing_is_lost() {
        let (lines, open, got) = slow(1000, 10, WhenFull::Wait);
        let writer = std::thread::spawn({
            let lines = lines.clone();
            move || (0..100).for_each(|_| lines.write(b"12345\n"))
        });
        open.send(()).unwrap();
        assert!(!writer.is_finished(), "a full sink did not hold its writer");
        drop(open);
        writer.join().unwrap();
        assert!(lines.flush(SOON));
        assert_eq!((got.lock().len(), lines.dropped()), (600, 0));
    }

    // Z-175
    #[test]
    fn lines_of_many_threads_stay_whole() {
        let (lines, open, got) = slow(7919, ROOM_BYTES, WhenFull::Wait);
        drop(open);
        std::thread::scope(|scope| {
            for thread in 0..8 {
                let lines = lines.clone();
                scope.spawn(move || {
                    (0..500).for_each(|line| lines.write(format!("{thread}:{line}:{}\n", "x".repeat(line % 50)).as_bytes()))
                });
            }
        });
        assert!(lines.flush(SOON));
        let got = String::from_utf8(got.lock().clone()).unwrap();
        let mut next = [0; 8];
        for line in got.lines() {
            let [thread, number, rest] = line.split(':').collect::<Vec<_>>().try_into().unwrap();
            let (thread, number): (usize, usize) = (thread.parse().unwrap(), number.parse().unwrap());
            assert_eq!((number, rest.len()), (next[thread], number % 50));
            next[thread] += 1;
        }
        assert_eq!(next, [500; 8]);
    }

    #[test]
    fn a_sink_that_fails_loses_its_lines_and_nothing_else() {
        struct Broken;
        impl Write for Broken {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::BrokenPipe.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let lines = Lines::to(Broken, ROOM_BYTES, WhenFull::Wait).unwrap();
        lines.write(b"a\n");
        assert!(lines.flush(SOON));
        lines.write(b"b\nc\n");
        assert!(lines.flush(SOON));
        assert_eq!(lines.dropped(), 3);
    }
}
