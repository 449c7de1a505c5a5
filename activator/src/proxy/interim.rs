//! Interim responses (1xx) of pods, on their way to clients of HTTP/1.1.
//!
//! A proxy has to pass them on (RFC 9110, section 15.2). hyper's server sends `100 Continue` by itself and can
//! send no other; so they are written below it, while nothing of its own is on its way to the socket.

use std::{
    fmt::Write as _,
    mem,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use http::{HeaderMap, StatusCode};

use super::headers;

/// The most that waits to be written. Nobody is hurt when an interim response is lost.
const MOST: usize = 64 * 1024;

/// What waits to be written to one connection.
#[derive(Debug, Default)]
pub(super) struct Interim {
    any: AtomicBool,
    heads: Mutex<Vec<u8>>,
}

impl Interim {
    /// Passes on what a pod has sent.
    pub(super) fn add(&self, status: StatusCode, headers: &HeaderMap) {
        let head = head(status, headers);
        let mut heads = self.lock();
        if heads.len() + head.len() <= MOST {
            heads.extend_from_slice(&head);
            self.any.store(true, Ordering::Release);
        }
    }

    /// What is to be written now; most often nothing.
    pub(super) fn take(&self) -> Vec<u8> {
        if !self.any.load(Ordering::Acquire) {
            return Vec::new();
        }
        let mut heads = self.lock();
        self.any.store(false, Ordering::Release);
        mem::take(&mut *heads)
    }

    fn lock(&self) -> MutexGuard<'_, Vec<u8>> {
        self.heads.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a status is passed on: 100 is said when the body is asked for, and 101 is final.
pub(super) fn passes(status: StatusCode) -> bool {
    status.is_informational() && !matches!(status, StatusCode::CONTINUE | StatusCode::SWITCHING_PROTOCOLS)
}

/// An interim response as HTTP/1.1 has it (RFC 9112, section 4).
fn head(status: StatusCode, headers: &HeaderMap) -> Vec<u8> {
    let mut headers = headers.clone();
    headers::to_client(&mut headers);
    let mut line = String::new();
    // Writing to a String does not fail.
    let _ =
        write!(line, "HTTP/1.1 {} {}\r\n", status.as_str(), status.canonical_reason().unwrap_or_default());
    let mut head = line.into_bytes();
    for (name, value) in &headers {
        for part in [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
            head.extend_from_slice(part);
        }
    }
    head.extend_from_slice(b"\r\n");
    head
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
        assert_eq!(String::from_utf8(interim.take()).unwrap(), expected);
        assert!(interim.take().is_empty());
    }

    #[test]
    fn no_pod_makes_more_wait_than_there_is_room_for() {
        let interim = Interim::default();
        (0..MOST).for_each(|_| interim.add(StatusCode::PROCESSING, &HeaderMap::new()));
        let waits = interim.take().len();
        assert!((MOST - 100..=MOST).contains(&waits), "{waits}");
    }
}
