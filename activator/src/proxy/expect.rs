//! `Expect: 100-continue` (RFC 9110, section 10.1.1): the body waits until the pod asks for it.
//!
//! The expectation is the pod's to meet, so it is passed on. The client gets its `100 Continue` when the body is first
//! read, and that is when the pod has sent one: over HTTP/1 hyper says it, over HTTP/2 the gate does. A pod that answers
//! at once is heard, and the body is never asked for.

use std::{
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use http::{HeaderMap, HeaderValue, StatusCode, Version, header};
use tokio_util::sync::CancellationToken;

use super::interim::Interim;

/// A pod that has said nothing for so long knows nothing of expectations. curl and Go wait as long.
const PATIENCE: Duration = Duration::from_secs(1);

/// Whether a request waits for `100 Continue`. Those of HTTP/1.0 do not, whatever they say.
pub(super) fn expects(headers: &HeaderMap, version: Version) -> bool {
    let expectation = headers.get(header::EXPECT).map(HeaderValue::as_bytes);
    version > Version::HTTP_10 && expectation.is_some_and(|it| it.eq_ignore_ascii_case(b"100-continue"))
}

/// What a body waits behind.
pub(super) struct Gate {
    opens: Pin<Box<dyn Future<Output = ()> + Send>>,
    /// Where `100 Continue` is said when it opens; `None`: hyper says it.
    interim: Option<Arc<Interim>>,
}

impl Gate {
    /// A gate, and what opens it before patience does. Patience begins when the body is first wanted.
    fn new(interim: Option<Arc<Interim>>) -> (Self, CancellationToken) {
        let asked = CancellationToken::new();
        let opened = asked.clone().cancelled_owned();
        let opens = async move {
            // Either way the body goes out.
            let _ = tokio::time::timeout(PATIENCE, opened).await;
        };
        (Self { opens: Box::pin(opens), interim }, asked)
    }

    /// Ready once it is open; not to be asked again then.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        ready!(self.opens.as_mut().poll(cx));
        if let Some(interim) = &self.interim {
            interim.add(StatusCode::CONTINUE, &HeaderMap::new());
        }
        Poll::Ready(())
    }
}

impl fmt::Debug for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Gate")
    }
}

/// Passes a client's expectation on to a pod; the gate for the body, and what opens it. When it opens, `interim` says so.
pub(super) fn pass_on(headers: &mut HeaderMap, interim: Option<Arc<Interim>>) -> (Gate, CancellationToken) {
    headers.insert(header::EXPECT, HeaderValue::from_static("100-continue"));
    Gate::new(interim)
}
