//! How many requests are in flight: a guard counts each one until its response body ends or is dropped.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
    task::{Context, Poll},
};

use axum::{
    body::Body,
    extract::{Request, State},
    middleware::Next,
    response::Response,
};
use bytes::Bytes;
use http_body::{Frame, SizeHint};

/// Counts requests; clones share the counts.
#[derive(Clone, Debug, Default)]
pub(crate) struct Counter(Arc<Cells>);

#[derive(Debug, Default)]
struct Cells {
    in_flight: AtomicU64,
    max_in_flight: AtomicU64,
    requests: AtomicU64,
}

/// What a [`Counter`] shows at one moment.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) in_flight: u64,
    pub(crate) max_in_flight: u64,
    pub(crate) requests: u64,
}

/// One request in flight, until it is dropped.
#[derive(Debug)]
pub(crate) struct InFlight(Counter);

impl Counter {
    pub(crate) fn enter(&self) -> InFlight {
        let now = self.0.in_flight.fetch_add(1, SeqCst) + 1;
        self.0.max_in_flight.fetch_max(now, SeqCst);
        self.0.requests.fetch_add(1, SeqCst);
        InFlight(self.clone())
    }

    pub(crate) fn counts(&self) -> Counts {
        Counts {
            in_flight: self.0.in_flight.load(SeqCst),
            max_in_flight: self.0.max_in_flight.load(SeqCst),
            requests: self.0.requests.load(SeqCst),
        }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.0.in_flight.fetch_sub(1, SeqCst);
    }
}

/// Counts a request from its head to the end of its response body.
pub(crate) async fn in_flight(State(counter): State<Counter>, request: Request, next: Next) -> Response {
    let guard = counter.enter();
    next.run(request).await.map(|body| Body::new(Counted { body, _guard: guard }))
}

/// A body that holds its guard. The server drops a body before it flushes the body's last bytes: no
/// caller has a whole response while its request still counts.
struct Counted {
    body: Body,
    _guard: InFlight,
}

impl http_body::Body for Counted {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
