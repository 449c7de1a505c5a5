//! What gRPC needs of a proxy beyond HTTP/2: deadlines, and errors as its clients read them.
//!
//! Rules: <https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md> and `statuscodes.md` beside it.

use std::{
    fmt::Write as _,
    time::{Duration, Instant},
};

use http::{HeaderMap, HeaderName, HeaderValue, Request, StatusCode, Version, header};

const TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");
const STATUS: HeaderName = HeaderName::from_static("grpc-status");
const MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
/// gRFC A6: how long a client that may retry waits first.
const PUSHBACK_MS: HeaderName = HeaderName::from_static("grpc-retry-pushback-ms");

/// A timeout has at most eight digits.
const LARGEST: u128 = 99_999_999;

/// The codes that we give.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Code {
    DeadlineExceeded = 4,
    PermissionDenied = 7,
    ResourceExhausted = 8,
    Unimplemented = 12,
    Internal = 13,
    Unavailable = 14,
    Unauthenticated = 16,
    Unknown = 2,
}

impl Code {
    /// What a client makes of an HTTP status without a code (`http-grpc-status-mapping.md`): ours are the same
    /// unless there is a better one.
    pub(super) fn of(status: StatusCode) -> Self {
        match status.as_u16() {
            400 => Self::Internal,
            401 => Self::Unauthenticated,
            403 => Self::PermissionDenied,
            404 => Self::Unimplemented,
            429 | 502 | 503 | 504 => Self::Unavailable,
            _ => Self::Unknown,
        }
    }
}

/// A gRPC call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Call {
    /// When its client gives up, if it says so.
    pub(super) deadline: Option<Instant>,
}

impl Call {
    /// The call that a request is, if it is one. gRPC-Web is none: its errors are HTTP's.
    pub(super) fn of<B>(request: &Request<B>, now: Instant) -> Option<Self> {
        if request.version() != Version::HTTP_2 {
            return None;
        }
        let kind = request.headers().get(header::CONTENT_TYPE)?.as_bytes();
        let rest = kind.strip_prefix(b"application/grpc")?;
        if !matches!(rest.first(), None | Some(b'+' | b';')) {
            return None;
        }
        let timeout = request.headers().get(TIMEOUT).and_then(|text| timeout(text.as_bytes()));
        Some(Self { deadline: timeout.and_then(|timeout| now.checked_add(timeout)) })
    }

    /// Tells a pod how much of the time is left, after a hold has used some.
    pub(super) fn shorten(&self, headers: &mut HeaderMap, now: Instant) {
        if let Some(deadline) = self.deadline {
            headers.insert(TIMEOUT, timeout_value(deadline.saturating_duration_since(now)));
        }
    }
}

/// One to eight digits and a unit. What is not so is none of our business: the pod may object.
fn timeout(text: &[u8]) -> Option<Duration> {
    let (unit, digits) = text.split_last()?;
    if !(1..=8).contains(&digits.len()) || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number = digits.iter().fold(0, |number, digit| number * 10 + u64::from(digit - b'0'));
    Some(match unit {
        b'H' => Duration::from_secs(number * 3_600),
        b'M' => Duration::from_secs(number * 60),
        b'S' => Duration::from_secs(number),
        b'm' => Duration::from_millis(number),
        b'u' => Duration::from_micros(number),
        b'n' => Duration::from_nanos(number),
        _ => return None,
    })
}

/// In the finest unit of ours that has room for it.
fn timeout_value(left: Duration) -> HeaderValue {
    let (number, unit) = [(left.as_micros(), 'u'), (left.as_millis(), 'm')]
        .into_iter()
        .find(|(number, _)| *number <= LARGEST)
        .unwrap_or((u128::from(left.as_secs()).min(LARGEST), 'S'));
    // Digits and a letter.
    HeaderValue::try_from(format!("{number}{unit}")).unwrap_or(HeaderValue::from_static("0n"))
}

/// How a call ended: trailers, or the head of an answer that has nothing else.
pub(super) fn status(code: Code, message: &str, retry_after: Option<u32>) -> HeaderMap {
    let mut headers = HeaderMap::with_capacity(8);
    headers.insert(STATUS, HeaderValue::from(code as u16));
    // Printable ASCII.
    if let Ok(message) = HeaderValue::try_from(percent_encoded(message)) {
        headers.insert(MESSAGE, message);
    }
    if let Some(seconds) = retry_after {
        headers.insert(PUSHBACK_MS, HeaderValue::from(u64::from(seconds) * 1_000));
    }
    headers
}

/// `Status-Message`: printable ASCII without `%` stays as it is.
fn percent_encoded(message: &str) -> String {
    let mut encoded = String::with_capacity(message.len());
    for byte in message.bytes() {
        match byte {
            b'%' | ..b' ' | 0x7f.. => {
                // Writing to a String does not fail.
                let _ = write!(encoded, "%{byte:02X}");
            }
            _ => encoded.push(char::from(byte)),
        }
    }
    encoded
}

/// Fuzz target: a timeout reads back as it is written, and is never longer than it was.
#[cfg(feature = "fuzzing")]
pub fn grpc(bytes: &[u8]) {
    let Some(asked) = timeout(bytes) else { return };
    let told = timeout(timeout_value(asked).as_bytes()).unwrap_or_default();
    // Seconds are our coarsest unit; there may be fewer of them than of somebody's hours.
    let kept = asked - told < Duration::from_secs(1) || told == Duration::from_secs(LARGEST as u64);
    assert!(kept, "{asked:?} {told:?}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_a_call() {
        let rows = [
            (Version::HTTP_2, "application/grpc", true),
            (Version::HTTP_2, "application/grpc+proto", true),
            (Version::HTTP_2, "application/grpc;charset=x", true),
            (Version::HTTP_2, "application/grpc-web+proto", false),
            (Version::HTTP_2, "application/json", false),
            (Version::HTTP_11, "application/grpc", false),
        ];
        for (version, kind, expected) in rows {
            let request = Request::builder().version(version).header("content-type", kind).body(()).unwrap();
            assert_eq!(Call::of(&request, Instant::now()).is_some(), expected, "{version:?} {kind}");
        }
    }

    #[test]
    fn timeouts_are_read_and_written() {
        let rows = [
            ("1H", Some(3_600_000)),
            ("2M", Some(120_000)),
            ("3S", Some(3_000)),
            ("99999999m", Some(99_999_999)),
            ("5000u", Some(5)),
            ("7000000n", Some(7)),
            ("100000000m", None),
            ("m", None),
            ("-1m", None),
            ("1.5S", None),
            ("1s", None),
            ("", None),
        ];
        for (text, millis) in rows {
            assert_eq!(timeout(text.as_bytes()), millis.map(Duration::from_millis), "{text}");
        }
        let written = |duration| timeout_value(duration).to_str().unwrap().to_owned();
        assert_eq!(written(Duration::from_micros(1_500)), "1500u");
        assert_eq!(written(Duration::from_secs(100)), "100000m");
        assert_eq!(written(Duration::from_secs(360_000)), "360000S");
        assert_eq!(written(Duration::ZERO), "0u");
    }

    #[test]
    fn a_message_is_printable() {
        let told = status(Code::Unavailable, "100 % ü\n", Some(5));
        assert_eq!(told[STATUS], "14");
        assert_eq!(told[MESSAGE], "100 %25 %C3%BC%0A");
        assert_eq!(told[PUSHBACK_MS], "5000");
    }
}
