//! Fuzz target of what peers, and whoever reaches their port, send.

use std::{
    pin::pin,
    task::{Context, Poll, Waker},
};

use pilotlight_crds::Keys;

use super::{Frame, Hello, MAX_FRAME, MAX_HELLO, WireError, opened, read_text};

/// A stream as a peer's port gets it: texts have no more than the bytes that came, hellos and frames read back as
/// they are written, and nothing passes as a frame that was not signed.
pub fn peers(bytes: &[u8]) {
    let mut stream = bytes;
    while let Some(text) = next(&mut stream, MAX_HELLO) {
        assert!(text.len() <= MAX_HELLO);
        if let Ok(hello) = Hello::read(&text) {
            let again = serde_json::to_vec(&hello).ok().and_then(|text| Hello::read(&text).ok());
            assert!(again.is_some_and(|again| again.id == hello.id && again.nonce == hello.nonce));
        }
        if let Ok(frame) = serde_json::from_slice::<Frame>(&text) {
            let again = serde_json::to_vec(&frame).ok().and_then(|text| serde_json::from_slice(&text).ok());
            assert_eq!(again, Some(frame));
        }
    }
    let Ok(keys) = Keys::parse("a secret that has enough characters") else { return };
    let Some(key) = keys.connection(&keys.fingerprints(), b"handshake") else { return };
    assert!(matches!(opened(&key, b'd', 0, bytes), Err(WireError::BadSignature)), "forged");
    let sealed = [&key.sign(&[b"d", &7_u64.to_be_bytes(), bytes])[..], bytes].concat();
    assert_eq!(opened(&key, b'd', 7, &sealed).ok(), Some(bytes));
    for (from, number) in [(b'a', 7), (b'd', 8)] {
        assert!(opened(&key, from, number, &sealed).is_err(), "sent back, or out of turn");
    }
    assert!(next(&mut &(MAX_FRAME as u32 + 1).to_be_bytes()[..], MAX_FRAME).is_none());
}

/// The next text of a stream that is all there.
fn next(stream: &mut &[u8], longest: usize) -> Option<Vec<u8>> {
    let read = pin!(read_text(stream, longest));
    match read.poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(text) => text.ok(),
        Poll::Pending => None,
    }
}
