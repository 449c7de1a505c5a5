//! Where WebSocket frames begin and end (RFC 6455, section 5.2), so that a frame of ours can go between two
//! of them. Only heads are looked at; payloads pass unseen.

/// Bytes of the longest head before the masking key: flags, short length, long length.
const HEAD: usize = 10;
const MASK_KEY: u64 = 4;
const CLOSE: u8 = 0x8;

/// One direction of a WebSocket connection.
#[derive(Debug, Default)]
pub(super) struct Frames {
    head: [u8; HEAD],
    /// Bytes of the head that have passed.
    have: usize,
    /// Bytes of the frame that are still to come after its head, the masking key among them.
    rest: u64,
    closed: bool,
}

impl Frames {
    /// Bytes have passed.
    pub(super) fn pass(&mut self, mut bytes: &[u8]) {
        while let Some(&first) = bytes.first() {
            if self.rest > 0 {
                let passed = self.rest.min(bytes.len() as u64);
                self.rest -= passed;
                bytes = &bytes[passed as usize..];
                continue;
            }
            self.head[self.have] = first;
            self.have += 1;
            bytes = &bytes[1..];
            if self.have == self.head_length() {
                self.rest = self.body_length();
                self.closed |= self.head[0] & 0xf == CLOSE;
                self.have = 0;
            }
        }
    }

    /// Whether the last frame has passed as a whole.
    pub(super) fn between(&self) -> bool {
        self.have == 0 && self.rest == 0
    }

    /// Whether a close frame has passed: its sender sends nothing more.
    pub(super) fn closed(&self) -> bool {
        self.closed
    }

    /// How many bytes can pass without going beyond the end of the frame that is under way.
    pub(super) fn until_between(&self) -> u64 {
        match self.have {
            0 => self.rest,
            // How long the rest of the head is, its first two bytes say.
            have => (self.head_length() - have) as u64,
        }
    }

    fn head_length(&self) -> usize {
        match (self.have, self.head[1] & 0x7f) {
            (0 | 1, _) => 2,
            (_, 126) => 4,
            (_, 127) => 10,
            _ => 2,
        }
    }

    fn body_length(&self) -> u64 {
        let number = |bytes: &[u8]| bytes.iter().fold(0_u64, |sum, byte| sum << 8 | u64::from(*byte));
        let payload = match self.head[1] & 0x7f {
            126 => number(&self.head[2..4]),
            127 => number(&self.head[2..10]),
            short => u64::from(short),
        };
        let masked = self.head[1] & 0x80 != 0;
        payload.saturating_add(if masked { MASK_KEY } else { 0 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A frame's head, and as many bytes of payload as it says.
    fn frame(first: u8, second: u8, extended: &[u8], payload: usize) -> Vec<u8> {
        let key = if second & 0x80 != 0 { vec![7; 4] } else { vec![] };
        [&[first, second][..], extended, &key, &vec![0x88; payload]].concat()
    }

    fn samples() -> [Vec<u8>; 7] {
        [
            frame(0x81, 0, &[], 0),
            frame(0x81, 0x80, &[], 0),
            frame(0x01, 5, &[], 5),
            frame(0x82, 0x80 | 125, &[], 125),
            frame(0x82, 126, &[0x01, 0x00], 256),
            frame(0x80, 0x80 | 126, &[0, 126], 126),
            frame(0x82, 127, &[0, 0, 0, 0, 0, 1, 0, 0], 65536),
        ]
    }

    #[test]
    fn the_end_of_a_frame_is_found_however_it_is_cut() {
        for sample in samples() {
            for piece in [1, 2, 3, 7, 100, sample.len()] {
                let mut frames = Frames::default();
                let mut passed = 0;
                for piece in sample.chunks(piece) {
                    assert_eq!(frames.between(), passed == 0, "{passed} of {}", sample.len());
                    frames.pass(piece);
                    passed += piece.len();
                }
                assert!(frames.between() && !frames.closed());
            }
        }
    }

    #[test]
    fn who_passes_no_more_than_is_said_stops_at_the_end_of_the_frame() {
        for sample in samples() {
            let followed = [&sample[..], &[0x81, 1, 65]].concat();
            let mut frames = Frames::default();
            frames.pass(&followed[..1]);
            let mut at = 1;
            while !frames.between() {
                let end = at + usize::try_from(frames.until_between()).unwrap();
                assert!(end > at && end <= sample.len());
                frames.pass(&followed[at..end]);
                at = end;
            }
            assert_eq!(at, sample.len());
        }
    }

    #[test]
    fn many_frames_in_one_piece() {
        let mut all = samples().concat();
        let mut frames = Frames::default();
        frames.pass(&all);
        assert!(frames.between() && !frames.closed());
        all.extend([0x88, 2, 3]);
        frames.pass(&all);
        assert!(!frames.between() && frames.closed());
        assert_eq!(frames.until_between(), 1);
    }

    #[test]
    fn an_impossible_length_is_only_never_reached() {
        let mut frames = Frames::default();
        frames.pass(&frame(0x82, 0xff, &[0xff; 8], 1000));
        assert!(!frames.between());
    }
}
