//! The body of a request that may be sent more than once: to another endpoint after a failure, and to mirrors.
//!
//! What has come is kept as long as all of it fits into the buffer; then there is no other try any more, and the rest
//! streams through. Each try reads from the beginning. A mirror gets what comes as long as it keeps up; one that does not
//! is cut off, and the request itself never waits for it.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body as _, Frame, SizeHint};
use parking_lot::Mutex;
use tokio::sync::mpsc;

use crate::body::{Body, BodyError};

/// What a mirror may be behind.
const MIRROR_BYTES: usize = 64 << 10;
const MIRROR_FRAMES: usize = 256;

/// A request's body, for any number of readers one after the other.
pub struct Replay {
    source: Arc<Mutex<Source>>,
    hint: SizeHint,
}

struct Source {
    body: Body,
    kept: Vec<Bytes>,
    kept_bytes: usize,
    most: usize,
    keep: bool,
    /// Something went by that was not kept.
    gone: bool,
    trailers: Option<HeaderMap>,
    ended: bool,
    failed: bool,
    /// The try that may read; those before it are over.
    turn: u32,
    mirrors: Vec<Feed>,
}

/// Where a mirror's copy goes.
struct Feed {
    to: mpsc::Sender<Option<Frame<Bytes>>>,
    behind: Arc<AtomicUsize>,
}

impl Replay {
    /// `most` bytes are kept.
    pub fn new(body: Body, most: usize) -> Replay {
        let hint = body.size_hint();
        let ended = body.is_end_stream();
        // A body that says that it will not fit is not begun to be kept.
        let keep = hint.lower() <= most as u64;
        let source = Source {
            body,
            kept: Vec::new(),
            kept_bytes: 0,
            most,
            keep,
            gone: false,
            trailers: None,
            ended,
            failed: false,
            turn: 0,
            mirrors: Vec::new(),
        };
        Replay { source: Arc::new(Mutex::new(source)), hint }
    }

    /// The whole body, for the next try. Whatever an earlier one has not read, it never will.
    pub fn attempt(&self) -> Body {
        let mut source = self.source.lock();
        if source.ended && source.kept.is_empty() && source.trailers.is_none() {
            return Body::Empty;
        }
        source.turn += 1;
        let turn = source.turn;
        drop(source);
        Body::boxed(Attempt { source: self.source.clone(), at: 0, turn, trailed: false, hint: self.hint })
    }

    /// Another try can have all of it.
    pub fn is_whole(&self) -> bool {
        let source = self.source.lock();
        !source.gone && !source.failed
    }

    /// No other try will follow: nothing more is kept.
    pub fn seal(&self) {
        let mut source = self.source.lock();
        if source.keep && !source.ended {
            source.keep = false;
            source.gone = true;
        }
    }

    /// A copy for a mirror, of what comes from now on; asked for before the first try.
    pub fn mirror(&self) -> Body {
        let mut source = self.source.lock();
        if source.ended {
            return Body::Empty;
        }
        let (to, from) = mpsc::channel(MIRROR_FRAMES);
        let behind = Arc::<AtomicUsize>::default();
        source.mirrors.push(Feed { to, behind: behind.clone() });
        Body::boxed(Copy { from, behind, ended: false, hint: self.hint })
    }
}

impl Source {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        let frame = match frame {
            None => {
                self.end();
                return Poll::Ready(None);
            }
            Some(Err(error)) => {
                self.failed = true;
                self.mirrors.clear();
                return Poll::Ready(Some(Err(error)));
            }
            Some(Ok(frame)) => frame,
        };
        match frame.into_data() {
            Ok(data) => {
                self.keep(&data);
                self.mirrors.retain(|feed| feed.data(&data));
                Poll::Ready(Some(Ok(Frame::data(data))))
            }
            Err(frame) => {
                let trailers = frame.into_trailers().unwrap_or_default();
                self.mirrors.retain(|feed| feed.to.try_send(Some(Frame::trailers(trailers.clone()))).is_ok());
                self.trailers = Some(trailers.clone());
                self.end();
                Poll::Ready(Some(Ok(Frame::trailers(trailers))))
            }
        }
    }

    fn keep(&mut self, data: &Bytes) {
        if self.keep && self.kept_bytes + data.len() <= self.most {
            self.kept_bytes += data.len();
            self.kept.push(data.clone());
        } else {
            self.gone = true;
            if self.keep {
                self.keep = false;
                self.kept = Vec::new();
            }
        }
    }

    fn end(&mut self) {
        self.ended = true;
        for feed in self.mirrors.drain(..) {
            // A mirror that cannot take its end is as good as cut off.
            let _ = feed.to.try_send(None);
        }
    }
}

impl Feed {
    /// False: the mirror is too slow, or gone.
    fn data(&self, data: &Bytes) -> bool {
        let behind = self.behind.fetch_add(data.len(), Ordering::AcqRel);
        behind + data.len() <= MIRROR_BYTES && self.to.try_send(Some(Frame::data(data.clone()))).is_ok()
    }
}

/// One try's view of the body.
struct Attempt {
    source: Arc<Mutex<Source>>,
    at: usize,
    turn: u32,
    trailed: bool,
    hint: SizeHint,
}

impl http_body::Body for Attempt {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = &mut *self;
        let mut source = this.source.lock();
        if source.turn != this.turn {
            return Poll::Ready(Some(Err("the request is being tried elsewhere".into())));
        }
        if let Some(data) = source.kept.get(this.at) {
            this.at += 1;
            return Poll::Ready(Some(Ok(Frame::data(data.clone()))));
        }
        if source.ended {
            let trailers = if std::mem::replace(&mut this.trailed, true) { None } else { source.trailers.clone() };
            return Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers))));
        }
        let frame = ready!(source.poll(cx));
        match &frame {
            Some(Ok(frame)) if frame.is_trailers() => this.trailed = true,
            _ => this.at = source.kept.len(),
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        let source = self.source.lock();
        // What the body knows before it is asked counts only for the one who reads it last.
        let ended = source.ended || (source.turn == self.turn && source.body.is_end_stream());
        ended && self.at >= source.kept.len() && (self.trailed || source.trailers.is_none())
    }

    fn size_hint(&self) -> SizeHint {
        self.hint
    }
}

/// A mirror's copy.
struct Copy {
    from: mpsc::Receiver<Option<Frame<Bytes>>>,
    behind: Arc<AtomicUsize>,
    ended: bool,
    hint: SizeHint,
}

impl http_body::Body for Copy {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        match ready!(self.from.poll_recv(cx)) {
            Some(Some(frame)) => {
                if let Some(data) = frame.data_ref() {
                    self.behind.fetch_sub(data.len(), Ordering::AcqRel);
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Some(None) => {
                self.ended = true;
                Poll::Ready(None)
            }
            None => Poll::Ready(Some(Err("the mirror was too slow, or the request ended".into()))),
        }
    }

    fn size_hint(&self) -> SizeHint {
        self.hint
    }
}

#[cfg(test)]
mod tests {
    use futures_util::stream;
    use http_body_util::{BodyExt, StreamBody};

    use super::*;

    fn body(pieces: &[&'static str], trailers: bool) -> Body {
        let mut frames: Vec<Result<Frame<Bytes>, BodyError>> = pieces.iter().map(|piece| Ok(Frame::data(Bytes::from_static(piece.as_bytes())))).collect();
        if trailers {
            let mut map = HeaderMap::new();
            map.insert("sum", http::HeaderValue::from_static("1"));
            frames.push(Ok(Frame::trailers(map)));
        }
        Body::boxed(StreamBody::new(stream::iter(frames)))
    }

    async fn read(body: Body) -> Result<(String, bool), String> {
        let collected = body.collect().await.map_err(|error| error.to_string())?;
        let trailers = collected.trailers().is_some();
        Ok((String::from_utf8(collected.to_bytes().to_vec()).unwrap(), trailers))
    }

    #[tokio::test]
    async fn every_try_has_the_whole_body_while_it_fits() {
        let replay = Replay::new(body(&["one ", "two"], true), 16);
        for _ in 0..3 {
            assert_eq!(read(replay.attempt()).await, Ok(("one two".into(), true)));
            assert!(replay.is_whole());
        }
        let replay = Replay::new(body(&["one ", "two ", "three"], false), 10);
        let mut first = replay.attempt();
        first.frame().await.unwrap().unwrap();
        assert!(replay.is_whole());
        assert_eq!(read(first).await, Ok(("two three".into(), false)));
        assert!(!replay.is_whole());
    }

    #[tokio::test]
    async fn a_try_that_was_given_up_reads_no_more_and_the_next_misses_nothing() {
        let replay = Replay::new(body(&["one ", "two"], false), 16);
        let mut first = replay.attempt();
        first.frame().await.unwrap().unwrap();
        let second = replay.attempt();
        assert!(read(first).await.is_err());
        assert_eq!(read(second).await, Ok(("one two".into(), false)));
    }

    #[tokio::test]
    async fn a_sealed_body_streams_on_and_cannot_be_had_again() {
        let replay = Replay::new(body(&["one ", "two"], false), 16);
        let mut first = replay.attempt();
        first.frame().await.unwrap().unwrap();
        replay.seal();
        assert_eq!(read(first).await, Ok(("two".into(), false)));
        assert!(!replay.is_whole());
    }

    #[tokio::test]
    async fn no_body_is_none_for_everybody() {
        let replay = Replay::new(Body::Empty, 16);
        assert!(matches!(replay.attempt(), Body::Empty) && matches!(replay.mirror(), Body::Empty) && replay.is_whole());
    }

    #[tokio::test]
    async fn a_mirror_gets_a_copy_and_a_slow_one_is_cut_off() {
        let replay = Replay::new(body(&["one ", "two"], true), 16);
        let mirror = replay.mirror();
        assert_eq!(read(replay.attempt()).await, Ok(("one two".into(), true)));
        assert_eq!(read(mirror).await, Ok(("one two".into(), true)));
        let big: &'static str = Box::leak("x".repeat(MIRROR_BYTES / 2).into_boxed_str());
        let replay = Replay::new(body(&[big, big, big, big], false), 16);
        let mirror = replay.mirror();
        assert_eq!(read(replay.attempt()).await.unwrap().0.len(), 2 * MIRROR_BYTES);
        assert!(read(mirror).await.is_err());
    }

    #[tokio::test]
    async fn a_mirror_of_a_request_that_breaks_breaks() {
        let frames: Vec<Result<Frame<Bytes>, BodyError>> = vec![Ok(Frame::data("a".into())), Err("gone".into())];
        let replay = Replay::new(Body::boxed(StreamBody::new(stream::iter(frames))), 16);
        let mirror = replay.mirror();
        assert!(read(replay.attempt()).await.is_err());
        assert!(read(mirror).await.is_err());
        assert!(!replay.is_whole());
    }
}
