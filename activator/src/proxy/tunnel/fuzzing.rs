//! Fuzz target of WebSocket frames.

use super::frames::Frames;

/// Where frames end does not depend on how the network cuts a stream, and who passes no more than is said stops
/// there.
pub fn websocket(bytes: &[u8]) {
    let (mut whole, mut single, mut careful) = (Frames::default(), Frames::default(), Frames::default());
    whole.pass(bytes);
    let mut ends = Vec::new();
    for (at, byte) in bytes.iter().enumerate() {
        single.pass(&[*byte]);
        if single.between() {
            ends.push(at + 1);
        }
    }
    let state = |frames: &Frames| (frames.between(), frames.closed(), frames.until_between());
    assert_eq!(state(&whole), state(&single));
    let mut at = 0;
    while at < bytes.len() {
        let within = usize::try_from(careful.until_between()).unwrap_or(usize::MAX).max(1);
        let end = at.saturating_add(within).min(bytes.len());
        careful.pass(&bytes[at..end]);
        at = end;
        assert_eq!(careful.between(), ends.contains(&at), "at {at}");
    }
    assert_eq!(state(&careful), state(&single));
}
