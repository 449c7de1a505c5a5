//! `Server-Timing`: where a request's time went, for browsers' developer tools and for whoever runs curl
//! (<https://www.w3.org/TR/server-timing/>).

use std::{io::Write as _, time::Duration};

use http::{HeaderMap, HeaderName, HeaderValue};

const SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");

/// Room for all three parts with the longest numbers there are.
const LONGEST: usize = 128;

/// Where the time went between a request's head and its response's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Timing {
    /// Waiting for a slot; `None`: there was one.
    pub(super) hold: Option<Duration>,
    /// Connecting to the pod; `None`: there was a connection.
    pub(super) connect: Option<Duration>,
    /// From the request's way to the pod to the head of its response.
    pub(super) first_byte: Duration,
}

impl Timing {
    /// Adds the header, after what the pod itself may have said.
    pub(super) fn tell(&self, headers: &mut HeaderMap) {
        headers.append(SERVER_TIMING, self.value());
    }

    fn value(&self) -> HeaderValue {
        let mut buffer = [0; LONGEST];
        let mut rest = buffer.as_mut_slice();
        let parts = [("hold", self.hold), ("connect", self.connect), ("first-byte", Some(self.first_byte))];
        let mut separator = "";
        for (name, took) in parts {
            let Some(took) = took else { continue };
            let micros = took.as_micros();
            // It fits: three names and three numbers of at most 23 digits.
            let _ = write!(rest, "{separator}{name};dur={}.{:03}", micros / 1_000, micros % 1_000);
            separator = ", ";
        }
        let written = LONGEST - rest.len();
        HeaderValue::from_bytes(&buffer[..written]).unwrap_or(HeaderValue::from_static(""))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn milliseconds_of_what_there_was() {
        let first_byte = Duration::from_micros(5_042);
        let warm = Timing { hold: None, connect: None, first_byte };
        assert_eq!(warm.value(), "first-byte;dur=5.042");
        let cold = Timing {
            hold: Some(Duration::from_secs(3)),
            connect: Some(Duration::from_micros(400)),
            first_byte,
        };
        assert_eq!(cold.value(), "hold;dur=3000.000, connect;dur=0.400, first-byte;dur=5.042");
        let longest =
            Timing { hold: Some(Duration::MAX), connect: Some(Duration::MAX), first_byte: Duration::MAX };
        assert!(longest.value().as_bytes().ends_with(b".999"), "it fits");
    }

    #[test]
    fn the_pods_own_stays() {
        let mut headers = HeaderMap::new();
        headers.insert(SERVER_TIMING, HeaderValue::from_static("db;dur=53"));
        Timing { hold: None, connect: None, first_byte: Duration::ZERO }.tell(&mut headers);
        let all: Vec<_> = headers.get_all(SERVER_TIMING).iter().collect();
        assert_eq!(all, ["db;dur=53", "first-byte;dur=0.000"]);
    }
}
