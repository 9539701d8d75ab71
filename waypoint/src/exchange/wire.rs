//! One HTTP/1.1 connection to an endpoint. It is driven by whoever waits for a response on it, in that one's own task: a
//! request costs no switch to another task and back, and a head and the body that came with it are forwarded together.
//!
//! In between nobody drives it. That the endpoint has closed it is found out when it is taken, or when idle connections
//! are looked through.

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use bytes::Bytes;
use futures_util::task::AtomicWaker;
use http::{Request, Response};
use http_body::{Body as _, Frame};
use hyper::body::Incoming;
use hyper::client::conn::TrySendError;
use hyper::client::conn::http1::{Builder, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::runtime::Handle;

use super::leased::Outgoing;
use super::{Fault, HEADERS_BYTES_MAX, Stream};

/// Rounds in which a connection wakes itself before the others of the worker have their turn.
const ROUNDS_MAX: usize = 4;

pub(super) struct Wire {
    sender: SendRequest<Outgoing>,
    /// None: it has ended, or runs alone.
    connection: Connection,
    gate: Arc<Gate>,
    /// The gate's, as the connection is shown it.
    waker: Waker,
}

/// Between what wakes the connection and the task that drives it. What the connection and its driver tell each other while
/// it is driven needs no wake-up: the driver looks anyway.
#[derive(Default)]
struct Gate {
    state: AtomicU8,
    task: AtomicWaker,
}

/// Nobody drives: a wake-up goes to the task.
const RESTING: u8 = 0;
const DRIVEN: u8 = 1;
/// It is driven, and there may be more to do than was seen.
const CALLED: u8 = 2;

impl Wake for Gate {
    fn wake(self: Arc<Gate>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Gate>) {
        if self.state.compare_exchange(DRIVEN, CALLED, Ordering::AcqRel, Ordering::Acquire) == Err(RESTING) {
            self.task.wake();
        }
    }
}

impl Gate {
    /// What wakes the connection from now on is seen by its driver, up to `rest` or `end`.
    fn begin(&self) {
        self.state.store(DRIVEN, Ordering::Release);
    }

    /// False: it was called meanwhile, and has to be driven again.
    fn rest(&self) -> bool {
        self.state.compare_exchange(DRIVEN, RESTING, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    fn end(&self) {
        self.state.store(RESTING, Ordering::Release);
    }
}

impl Wire {
    /// Speaks HTTP/1.1 on a stream that stands.
    pub async fn open(stream: Box<dyn Stream>) -> Result<Box<Wire>, Fault> {
        let (sender, connection) = Builder::new()
            .max_header_size(HEADERS_BYTES_MAX)
            // The head must fit, and what was read beside it.
            .max_buf_size(2 * HEADERS_BYTES_MAX)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|error| Fault::of_http1(&error, false))?;
        let gate = Arc::<Gate>::default();
        let waker = Waker::from(gate.clone());
        Ok(Box::new(Wire { sender, connection: Some(Box::pin(connection.with_upgrades())), gate, waker }))
    }

    /// Sends a request and gives its response as soon as its head is there.
    #[allow(clippy::result_large_err, reason = "the request comes back when it was not sent, to be sent on another connection")]
    pub async fn send(&mut self, request: Request<Outgoing>) -> Result<Response<Incoming>, TrySendError<Request<Outgoing>>> {
        // Whoever drove it before hears nothing of it.
        self.gate.begin();
        let mut response = pin!(self.sender.try_send_request(request));
        let (connection, gate, waker) = (&mut self.connection, &*self.gate, &self.waker);
        std::future::poll_fn(|cx| {
            driven(connection, gate, waker, cx, || response.as_mut().poll(&mut Context::from_waker(Waker::noop())))
        })
        .await
    }

    /// The next of the response's body.
    pub fn poll_frame(&mut self, body: &mut Incoming, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        self.gate.begin();
        let mut frame = || Pin::new(&mut *body).poll_frame(&mut Context::from_waker(Waker::noop()));
        // The first look says that there is somebody who wants it.
        let first = frame();
        if first.is_ready() {
            self.gate.end();
            return first;
        }
        driven(&mut self.connection, &self.gate, &self.waker, cx, frame)
    }

    /// Whether a request can be sent on it. Brings what was on it to its end before.
    pub fn is_idle(&mut self) -> bool {
        self.gate.begin();
        drive(&mut self.connection, &self.waker);
        self.gate.end();
        self.connection.is_some() && self.sender.is_ready()
    }

    /// Nobody waits for it any more.
    pub fn rests(&self) {
        self.gate.task.take();
    }

    /// A task of its own drives it from here on, until it has ended; it ends when this is dropped, at the latest.
    pub fn run_alone(&mut self) {
        if let Some(connection) = self.connection.take()
            && let Ok(runtime) = Handle::try_current()
        {
            runtime.spawn(async move {
                // How it ended is told to the request that was on it.
                let _ = connection.await;
            });
        }
    }
}

/// The endpoint is told in order, which takes longer than this.
impl Drop for Wire {
    fn drop(&mut self) {
        self.run_alone();
    }
}

/// With upgrades, of which hyper does not give the name.
type Connection = Option<Pin<Box<dyn Future<Output = hyper::Result<()>> + Send>>>;

/// Drives the connection until what is waited for is there, or until neither has anything to do.
fn driven<T>(connection: &mut Connection, gate: &Gate, waker: &Waker, cx: &mut Context<'_>, mut look: impl FnMut() -> Poll<T>) -> Poll<T> {
    gate.task.register(cx.waker());
    for _ in 0..ROUNDS_MAX {
        gate.begin();
        drive(connection, waker);
        let found = look();
        if found.is_ready() {
            gate.end();
            return found;
        }
        if gate.rest() {
            return Poll::Pending;
        }
    }
    gate.end();
    cx.waker().wake_by_ref();
    Poll::Pending
}

/// One step. How it ended is told to the request that was on it.
fn drive(connection: &mut Connection, waker: &Waker) {
    let Some(open) = connection else { return };
    if open.as_mut().poll(&mut Context::from_waker(waker)).is_ready() {
        *connection = None;
    }
}
