//! Interim responses (1xx) of pods, on their way to clients.
//!
//! A proxy has to pass them on (RFC 9110, section 15.2). Over HTTP/1 hyper's server sends `100 Continue` by itself and can
//! send no other; so they are written below it, while nothing of its own is on its way to the socket.

use std::{
    mem,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use http::{HeaderMap, StatusCode};
use tokio_util::sync::CancellationToken;

use super::headers;

/// The most bytes that wait to be written. Nobody is hurt when an interim response is lost.
const MOST: usize = 64 * 1024;

/// What waits to be written to one connection of HTTP/1, or on one stream of HTTP/2.
#[derive(Debug, Default)]
pub(super) struct Interim {
    any: AtomicBool,
    waiting: Mutex<Waiting>,
}

#[derive(Debug, Default)]
struct Waiting {
    heads: Vec<(StatusCode, HeaderMap)>,
    bytes: usize,
}

impl Interim {
    /// Passes on what a pod has sent.
    pub(super) fn add(&self, status: StatusCode, headers: &HeaderMap) {
        let mut headers = headers.clone();
        headers::to_client(&mut headers);
        let bytes = length(&headers);
        let mut waiting = self.lock();
        if waiting.bytes + bytes <= MOST {
            waiting.bytes += bytes;
            waiting.heads.push((status, headers));
            self.any.store(true, Ordering::Release);
        }
    }

    /// What is to be written now, in order; most often nothing.
    pub(super) fn take(&self) -> Vec<(StatusCode, HeaderMap)> {
        if !self.any.load(Ordering::Acquire) {
            return Vec::new();
        }
        let mut waiting = self.lock();
        self.any.store(false, Ordering::Release);
        mem::take(&mut *waiting).heads
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Who hears what a pod says before its response.
#[derive(Clone, Debug)]
pub(super) struct Ear {
    /// Where interim responses go; `None`: the client knows none.
    pub(super) interim: Option<Arc<Interim>>,
    /// What a request for the body opens.
    pub(super) asked: Option<CancellationToken>,
}

impl Ear {
    /// The pod has said this.
    pub(super) fn hears(&self, status: StatusCode, headers: &HeaderMap) {
        if let (StatusCode::CONTINUE, Some(asked)) = (status, &self.asked) {
            asked.cancel();
        }
        if let Some(interim) = self.interim.as_ref().filter(|_| passes(status)) {
            interim.add(status, headers);
        }
    }
}

/// Whether a status is passed on: 100 is said when the body is asked for, and 101 is final.
fn passes(status: StatusCode) -> bool {
    status.is_informational() && !matches!(status, StatusCode::CONTINUE | StatusCode::SWITCHING_PROTOCOLS)
}

/// About the bytes of a head.
fn length(headers: &HeaderMap) -> usize {
    const LINE: usize = 32;
    LINE + headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum::<usize>()
}

/// Interim responses as HTTP/1.1 has them (RFC 9112, section 4).
pub(super) fn http1(responses: &[(StatusCode, HeaderMap)]) -> Vec<u8> {
    let mut heads = Vec::new();
    for (status, headers) in responses {
        let reason = status.canonical_reason().unwrap_or_default();
        heads.extend_from_slice(format!("HTTP/1.1 {} {reason}\r\n", status.as_str()).as_bytes());
        for (name, value) in headers {
            for part in [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
                heads.extend_from_slice(part);
            }
        }
        heads.extend_from_slice(b"\r\n");
    }
    heads
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn heads_are_written_in_order_and_without_what_ends_at_this_hop() {
        let interim = Interim::default();
        assert!(interim.take().is_empty());
        let mut hints = HeaderMap::new();
        hints.append("link", HeaderValue::from_static("</a.css>; rel=preload"));
        hints.append("link", HeaderValue::from_static("</b.js>; rel=preload"));
        hints.append("keep-alive", HeaderValue::from_static("5"));
        interim.add(StatusCode::PROCESSING, &HeaderMap::new());
        interim.add(StatusCode::from_u16(103).unwrap(), &hints);
        let expected = "HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 103 Early Hints\r\n\
                        link: </a.css>; rel=preload\r\nlink: </b.js>; rel=preload\r\n\r\n";
        assert_eq!(String::from_utf8(http1(&interim.take())).unwrap(), expected);
        assert!(interim.take().is_empty());
    }

    #[test]
    fn no_pod_makes_more_wait_than_there_is_room_for() {
        let interim = Interim::default();
        (0..MOST).for_each(|_| interim.add(StatusCode::PROCESSING, &HeaderMap::new()));
        let waits = http1(&interim.take()).len();
        assert!((MOST / 2..=MOST).contains(&waits), "{waits}");
    }
}
