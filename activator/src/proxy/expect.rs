//! `Expect: 100-continue` (RFC 9110, section 10.1.1): the body waits until the pod asks for it.
//!
//! The expectation is the pod's to meet, so it is passed on. hyper sends the client its `100 Continue` when
//! the body is first read, and that is when the pod has sent one. A pod that answers at once is heard, and
//! the body is never asked for.

use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use http::{HeaderMap, HeaderValue, Version, header};
use tokio_util::sync::CancellationToken;

/// A pod that has said nothing for so long knows nothing of expectations. curl and Go wait as long.
const PATIENCE: Duration = Duration::from_secs(1);

/// Whether a request waits for `100 Continue`. Those of HTTP/1.0 do not, whatever they say.
pub(super) fn expects(headers: &HeaderMap, version: Version) -> bool {
    let expectation = headers.get(header::EXPECT).map(HeaderValue::as_bytes);
    version > Version::HTTP_10 && expectation.is_some_and(|it| it.eq_ignore_ascii_case(b"100-continue"))
}

/// What a body waits behind.
pub(super) struct Gate(Pin<Box<dyn Future<Output = ()> + Send>>);

impl Gate {
    /// A gate, and what opens it before patience does. Patience begins when the body is first wanted.
    pub(super) fn new() -> (Self, CancellationToken) {
        let asked = CancellationToken::new();
        let opened = asked.clone().cancelled_owned();
        let gate = async move {
            // Either way the body goes out.
            let _ = tokio::time::timeout(PATIENCE, opened).await;
        };
        (Self(Box::pin(gate)), asked)
    }

    /// Ready once it is open; not to be asked again then.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.0.as_mut().poll(cx)
    }
}

impl fmt::Debug for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Gate")
    }
}

/// Passes a client's expectation on to a pod; the gate for the body, and what opens it.
pub(super) fn pass_on(headers: &mut HeaderMap) -> (Gate, CancellationToken) {
    headers.insert(header::EXPECT, HeaderValue::from_static("100-continue"));
    Gate::new()
}
