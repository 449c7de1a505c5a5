//! The request id: W3C Trace Context, kept where a client sends a valid one and made where it does not.
//!
//! A client's `traceparent` crosses unchanged, since the activator is no span of its trace. One that breaks
//! the rules is replaced, and its `tracestate` goes with it (<https://www.w3.org/TR/trace-context/>,
//! sections 2.3 and 3.2.2).

use std::{
    hash::{BuildHasher, RandomState},
    str,
    sync::atomic::{AtomicU64, Ordering},
};

use http::{HeaderMap, HeaderName, HeaderValue};

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// `version "-" trace-id "-" parent-id "-" trace-flags`.
const LENGTH: usize = 55;
const TRACE_ID: std::ops::Range<usize> = 3..35;
const PARENT_ID: std::ops::Range<usize> = 36..52;

/// Makes ids. They need to be distinct and spread evenly, not secret: a count does, mixed well (splitmix64).
#[derive(Debug)]
pub struct TraceIds {
    /// Where this process begins to count.
    seed: u64,
    made: AtomicU64,
    /// Whether traces that begin here are to be recorded.
    sampled: bool,
}

impl Default for TraceIds {
    fn default() -> Self {
        Self::new(false)
    }
}

impl TraceIds {
    /// Ids for traces that are to be recorded, or not unless somebody further on decides so.
    pub fn new(sampled: bool) -> Self {
        // What the standard library draws its hash keys from is random.
        let seed = RandomState::new().hash_one(0);
        Self { seed, made: AtomicU64::new(0), sampled }
    }

    fn make(&self) -> [u8; LENGTH] {
        let count = self.seed.wrapping_add(self.made.fetch_add(3, Ordering::Relaxed));
        let mut text = [b'0'; LENGTH];
        for (piece, at) in [(0, 3), (1, 19), (2, 36)] {
            // All zeros would be invalid; one chance in 2^64, and still it is looked after.
            let bits = mixed(count.wrapping_add(piece)).max(1);
            hex(bits, &mut text[at..at + 16]);
        }
        for dash in [2, 35, 52] {
            text[dash] = b'-';
        }
        text[LENGTH - 1] = if self.sampled { b'1' } else { b'0' };
        text
    }
}

/// The output of splitmix64 for a state: each number has another.
const fn mixed(count: u64) -> u64 {
    let state = count.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let state = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let state = (state ^ (state >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    state ^ (state >> 31)
}

fn hex(bits: u64, into: &mut [u8]) {
    for (digit, to) in into.iter_mut().enumerate() {
        let nibble = (bits >> (60 - 4 * digit)) & 0xf;
        *to = b"0123456789abcdef"[nibble as usize];
    }
}

/// The trace that a request belongs to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Trace {
    /// The first 55 characters of its `traceparent`; later versions may have more.
    parent: [u8; LENGTH],
    made: bool,
}

impl Trace {
    /// The client's, if it sent a valid one; otherwise a new one.
    pub(super) fn of(headers: &HeaderMap, ids: &TraceIds) -> Self {
        let mut sent = headers.get_all(TRACEPARENT).iter();
        let kept = match (sent.next(), sent.next()) {
            (Some(only), None) => valid(only.as_bytes()),
            _ => None,
        };
        match kept {
            Some(parent) => Self { parent, made: false },
            None => Self { parent: ids.make(), made: true },
        }
    }

    /// The id that all parts of the trace share: 32 hexadecimal digits.
    pub(super) fn id(&self) -> &str {
        // Digits, whether kept or made.
        str::from_utf8(&self.parent[TRACE_ID]).unwrap_or_default()
    }

    /// Gives a pod the trace, if the client's own headers do not.
    pub(super) fn pass_on(&self, headers: &mut HeaderMap) {
        if !self.made {
            return;
        }
        headers.remove(TRACESTATE);
        // Digits and dashes: always a valid value.
        if let Ok(mut value) = HeaderValue::from_bytes(&self.parent) {
            // As with `Server-Timing`: it does not come again.
            value.set_sensitive(true);
            headers.insert(TRACEPARENT, value);
        }
    }
}

/// The part of a `traceparent` that every version has, if it keeps the rules (section 3.2.2).
fn valid(text: &[u8]) -> Option<[u8; LENGTH]> {
    let known: [u8; LENGTH] = text.get(..LENGTH)?.try_into().ok()?;
    let is_hex = |c: &u8| matches!(c, b'0'..=b'9' | b'a'..=b'f');
    let well_formed = known.iter().enumerate().all(|(at, c)| match at {
        2 | 35 | 52 => *c == b'-',
        _ => is_hex(c),
    });
    // Version 00 ends here; a later one may go on after another dash; ff is none.
    let fits = match &known[..2] {
        b"00" => text.len() == LENGTH,
        b"ff" => false,
        _ => text.get(LENGTH).is_none_or(|next| *next == b'-'),
    };
    let set = |range: std::ops::Range<usize>| known[range].iter().any(|c| *c != b'0');
    (well_formed && fits && set(TRACE_ID) && set(PARENT_ID)).then_some(known)
}

#[cfg(test)]
mod tests {
    use super::*;

    const VALID: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn what_is_valid() {
        let later = VALID.replacen("00", "cc", 1);
        let rows = [
            (VALID.to_owned(), true),
            (later.clone(), true),
            (format!("{later}-what-the-future-brings"), true),
            (format!("{later}.what"), false),
            (format!("{VALID}-more"), false),
            (VALID.replacen("00", "ff", 1), false),
            (VALID.to_uppercase(), false),
            (VALID.replace("4bf92f3577b34da6a3ce929d0e0e4736", &"0".repeat(32)), false),
            (VALID.replace("00f067aa0ba902b7", &"0".repeat(16)), false),
            (VALID[..54].to_owned(), false),
            (VALID.replace('-', "_"), false),
            (String::new(), false),
        ];
        for (text, expected) in rows {
            assert_eq!(valid(text.as_bytes()).is_some(), expected, "{text}");
        }
    }

    #[test]
    fn a_valid_trace_is_kept_with_its_state() {
        let mut headers = HeaderMap::new();
        headers.insert(TRACEPARENT, HeaderValue::from_static(VALID));
        headers.insert(TRACESTATE, HeaderValue::from_static("a=1"));
        let before = headers.clone();
        let trace = Trace::of(&headers, &TraceIds::default());
        trace.pass_on(&mut headers);
        assert_eq!((trace.id(), headers), ("4bf92f3577b34da6a3ce929d0e0e4736", before));
    }

    #[test]
    fn anything_else_is_replaced_and_loses_its_state() {
        let ids = TraceIds::default();
        for sent in [vec![], vec!["nonsense"], vec![VALID, VALID]] {
            let mut headers = HeaderMap::new();
            for value in sent {
                headers.append(TRACEPARENT, HeaderValue::from_static(value));
            }
            headers.insert(TRACESTATE, HeaderValue::from_static("a=1"));
            let trace = Trace::of(&headers, &ids);
            trace.pass_on(&mut headers);
            assert_eq!(headers.len(), 1, "{headers:?}");
            let made = headers[TRACEPARENT].to_str().unwrap();
            assert!(valid(made.as_bytes()).is_some() && made.ends_with("-00"), "{made}");
            assert!(made.contains(trace.id()) && trace.id() != &VALID[TRACE_ID]);
        }
    }

    #[test]
    fn no_two_are_alike() {
        let ids = TraceIds::new(true);
        let made: std::collections::BTreeSet<_> = (0..1_000).map(|_| ids.make()).collect();
        assert_eq!(made.len(), 1_000);
        assert!(made.iter().all(|text| text.ends_with(b"-01")));
    }
}
