//! `Server-Timing`: where a request's time went, for browsers' developer tools and for whoever runs curl
//! (<https://www.w3.org/TR/server-timing/>).

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};

const SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");

/// Room for all three parts with the longest numbers there are.
const LONGEST: usize = 112;

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
        let mut text = Vec::with_capacity(LONGEST);
        let parts = [("hold", self.hold), ("connect", self.connect), ("first-byte", Some(self.first_byte))];
        for (name, took) in parts {
            let Some(took) = took else { continue };
            if !text.is_empty() {
                text.extend_from_slice(b", ");
            }
            text.extend_from_slice(name.as_bytes());
            text.extend_from_slice(b";dur=");
            push_millis(&mut text, took);
        }
        let mut value = HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static(""));
        // It does not come again, so HTTP/2 need not remember it: h2 would compare each one with all that it remembers,
        // and forget for them what does come again.
        value.set_sensitive(true);
        value
    }
}

/// Milliseconds to three digits. By hand: each response has it, and `write!` takes several times as long.
fn push_millis(text: &mut Vec<u8>, took: Duration) {
    let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
    let (mut whole, part) = (micros / 1_000, micros % 1_000);
    let mut digits = [0; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = digit(whole);
        whole /= 10;
        if whole == 0 {
            break;
        }
    }
    text.extend_from_slice(&digits[at..]);
    text.extend_from_slice(&[b'.', digit(part / 100), digit(part / 10), digit(part)]);
}

/// The last digit of a number.
const fn digit(number: u64) -> u8 {
    b'0' + (number % 10) as u8
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
        let longest = longest.value();
        assert!(longest.as_bytes().ends_with(b".615") && longest.len() <= LONGEST, "it fits");
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
