//! What one HTTP/2 connection may cost: a budget of frames that ask for work and bring none.
//!
//! A client can send PING, SETTINGS, PRIORITY, WINDOW_UPDATE, RST_STREAM and frames of unknown types as fast as
//! the network takes them (CVE-2019-9512, 9513, 9515, CVE-2023-44487). h2 bounds the memory that they take, and
//! some of their kinds; the work that they make is bounded here. Frames that are part of real traffic pay for
//! the control frames that come with it, so the budget needs no tuning for connections that are merely busy.

use std::time::Duration;

use super::fields::Fields;

/// What a client sends first (RFC 9113, section 3.4).
pub(super) const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Length of a frame's header (RFC 9113, section 4.1).
const HEADER: usize = 9;

/// A full budget: 1,000 control frames at once.
const FULL: i64 = 2_000;
/// What time alone brings back: 20 control frames a second.
const PER_SECOND: i64 = 40;
/// What most control frames cost.
const CONTROL: i64 = 2;
/// A request earns half of what most control frames cost, so that a client which resets every request that it
/// makes is slowed down to what time brings back.
const REQUEST: i64 = 1;
/// SETTINGS may change the windows of all streams.
const SETTINGS: i64 = 40;
/// Headers of a request from here on cost as much as a control frame each: a header that is one byte on the wire takes
/// us longer than a PING, and a hundred bytes of memory. HTTP/1's requests have no more than half as many.
const MANY_FIELDS: u32 = 256;
/// As many bytes of bodies, in either direction, earn 1: two window updates for each 2 KiB.
const BYTES: u64 = 512;

/// Frame types of RFC 9113, section 6.
mod kind {
    pub(super) const DATA: u8 = 0;
    pub(super) const HEADERS: u8 = 1;
    pub(super) const SETTINGS: u8 = 4;
    pub(super) const CONTINUATION: u8 = 9;
}

/// Flags of HEADERS (RFC 9113, section 6.2).
mod flag {
    pub(super) const PADDED: u8 = 0x8;
    pub(super) const PRIORITY: u8 = 0x20;
}

/// Follows the frames that a client sends, and says when they are too many.
#[derive(Debug)]
pub(super) struct FrameBudget {
    left: i64,
    /// When time last brought anything back, since the connection began.
    topped_up: Duration,
    /// Bytes of bodies that have not earned anything yet.
    bytes: u64,
    header: [u8; HEADER],
    /// Bytes of the next frame's header that have come.
    have: usize,
    /// Bytes of the current frame's payload that are still to come.
    payload: usize,
    block: Block,
}

/// The current header block, which may take several frames.
#[derive(Debug, Default)]
struct Block {
    fields: Fields,
    /// Bytes before it that are still to come in the current frame; one of these, if there is padding, is its length.
    before: usize,
    padded: bool,
    /// Bytes behind it in the current frame.
    padding: usize,
}

impl Block {
    /// HEADERS begins, with these flags.
    fn begin(&mut self, flags: u8) {
        let padded = flags & flag::PADDED != 0;
        let before = usize::from(padded) + if flags & flag::PRIORITY == 0 { 0 } else { 5 };
        *self = Self { fields: Fields::default(), before, padded, padding: 0 };
    }

    /// Part of the payload of a frame has come, of which so much is still to come. How many headers it has that are
    /// too many.
    fn received(&mut self, mut payload: &[u8], left: usize) -> u32 {
        if let (true, [length, ..]) = (self.padded, payload) {
            (self.padded, self.padding) = (false, usize::from(*length));
        }
        let before = self.before.min(payload.len());
        self.before -= before;
        payload = &payload[before..];
        // Of the padding, so much is in this part.
        let padding = self.padding.saturating_sub(left).min(payload.len());
        let known = self.fields.count().max(MANY_FIELDS);
        self.fields.received(&payload[..payload.len() - padding]);
        self.fields.count().saturating_sub(known)
    }
}

impl FrameBudget {
    /// A full budget, after the preface.
    pub(super) fn new() -> Self {
        let (header, block) = ([0; HEADER], Block::default());
        Self { left: FULL, topped_up: Duration::ZERO, bytes: 0, header, have: 0, payload: 0, block }
    }

    /// Counts bytes that the client has sent. If the budget is spent: how many of them still belong to frames
    /// that were begun; nothing after them ought to be read. `clock` is the time since the connection began.
    pub(super) fn received(&mut self, bytes: &[u8], clock: impl Fn() -> Duration) -> Option<usize> {
        let mut at = 0;
        loop {
            let payload = self.payload.min(bytes.len() - at);
            self.payload -= payload;
            if let kind::HEADERS | kind::CONTINUATION = self.header[3] {
                let many = self.block.received(&bytes[at..at + payload], self.payload);
                self.left -= CONTROL * i64::from(many);
            }
            at += payload;
            if self.payload == 0 && self.have == 0 && self.spent(&clock) {
                return Some(at);
            }
            let header = (HEADER - self.have).min(bytes.len() - at);
            if header == 0 {
                return None;
            }
            self.header[self.have..self.have + header].copy_from_slice(&bytes[at..at + header]);
            (self.have, at) = (self.have + header, at + header);
            if self.have == HEADER {
                self.begin();
            }
        }
    }

    /// Counts bytes that were sent to the client: who downloads updates windows.
    pub(super) fn sent(&mut self, bytes: usize) {
        self.earn_bytes(bytes);
    }

    /// The header of a frame is complete.
    fn begin(&mut self) {
        let [a, b, c, kind, flags, ..] = self.header;
        self.payload = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
        self.have = 0;
        match kind {
            kind::DATA if self.payload > 0 => self.earn_bytes(self.payload),
            kind::HEADERS => {
                self.block.begin(flags);
                self.earn(REQUEST);
            }
            kind::SETTINGS => self.left -= SETTINGS,
            kind::CONTINUATION => {
                self.block.padding = 0;
                self.left -= CONTROL;
            }
            _ => self.left -= CONTROL,
        }
    }

    fn earn_bytes(&mut self, bytes: usize) {
        self.bytes += bytes as u64;
        self.earn((self.bytes / BYTES) as i64);
        self.bytes %= BYTES;
    }

    fn earn(&mut self, units: i64) {
        self.left = self.left.saturating_add(units).min(FULL);
    }

    /// Whether nothing is left. The clock is asked only when it matters.
    fn spent(&mut self, clock: impl Fn() -> Duration) -> bool {
        if self.left < 0 {
            let now = clock();
            let passed = now.saturating_sub(self.topped_up).as_millis() as i64;
            self.topped_up = now;
            self.earn(passed.saturating_mul(PER_SECOND) / 1_000);
        }
        self.left < 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PING: u8 = 6;
    const RST_STREAM: u8 = 3;
    const WINDOW_UPDATE: u8 = 8;

    fn frame(kind: u8, payload: usize) -> Vec<u8> {
        let mut frame = vec![0; HEADER + payload];
        frame[1..3].copy_from_slice(&(payload as u16).to_be_bytes());
        frame[3] = kind;
        frame
    }

    /// How many of the same round of frames pass, a round each `every`, of at most `most`.
    fn passing(round: &[Vec<u8>], every: Duration, most: u32) -> u32 {
        let mut budget = FrameBudget::new();
        let round = round.concat();
        let stopped = (0..most).find(|n| budget.received(&round, || every * *n).is_some());
        stopped.unwrap_or(most)
    }

    #[test]
    fn floods_end_and_work_does_not() {
        const FAST: Duration = Duration::from_micros(1);
        type Row<'a> = (&'a str, &'a [Vec<u8>], Duration, std::ops::RangeInclusive<u32>);
        let rows: [Row<'_>; 9] = [
            ("pings", &[frame(PING, 8)], FAST, 999..=1_001),
            ("settings", &[frame(kind::SETTINGS, 6)], FAST, 49..=51),
            ("rapid reset", &[frame(kind::HEADERS, 20), frame(RST_STREAM, 4)], FAST, 1_990..=2_010),
            ("empty data", &[frame(kind::DATA, 0)], FAST, 999..=1_001),
            ("unknown frames", &[frame(0x77, 100)], FAST, 999..=1_001),
            ("pings, ten a second", &[frame(PING, 8)], Duration::from_millis(100), 100_000..=100_000),
            ("requests", &[frame(kind::HEADERS, 20)], FAST, 100_000..=100_000),
            (
                "an upload with window updates for its answers",
                &[frame(kind::DATA, 16_384), frame(WINDOW_UPDATE, 4), frame(WINDOW_UPDATE, 4)],
                FAST,
                100_000..=100_000,
            ),
            (
                "one request of three is reset",
                &[
                    frame(kind::HEADERS, 20),
                    frame(kind::HEADERS, 20),
                    frame(kind::HEADERS, 20),
                    frame(RST_STREAM, 4),
                ],
                FAST,
                100_000..=100_000,
            ),
        ];
        for (what, round, every, expected) in rows {
            let passed = passing(round, every, 100_000);
            assert!(expected.contains(&passed), "{what}: {passed}");
        }
    }

    #[test]
    fn headers_that_are_one_byte_each_end_it_and_honest_ones_do_not() {
        let block = |flags: u8, payload: &[u8]| {
            let mut frame = frame(kind::HEADERS, payload.len());
            frame[4] = flags;
            frame[HEADER..].copy_from_slice(payload);
            frame
        };
        let padded = |flags: u8, before: &[u8], fields: &[u8]| {
            block(flags, &[&[200], before, fields, &[0x82; 200]].concat())
        };
        let mut more = frame(kind::CONTINUATION, 1_000);
        more[HEADER..].fill(0x93);
        let value = [[0x00, 1, b'a', 0x7f, 0x80, 0x7f].as_slice(), &[0x93; 16_000]].concat();
        let rows: [(&str, Vec<u8>, u32); 8] = [
            ("as many as may be", block(0, &[0x82; 256]), 1_000),
            ("ten more: 20 of 2,001, less what a request earns", block(0, &[0x82; 266]), 106),
            ("a bomb", block(0, &[0x93; 1_700]), 1),
            ("one in two frames", [block(0, &[0x93; 700]), more].concat(), 1),
            ("a long value of such bytes", block(0, &value), 1_000),
            ("padding of such bytes", padded(flag::PADDED, &[], &[0x82; 200]), 1_000),
            ("and a priority", padded(flag::PADDED | flag::PRIORITY, &[0x82; 5], &[0x82; 250]), 1_000),
            ("a bomb in padding", padded(flag::PADDED, &[], &[0x93; 1_500]), 1),
        ];
        for (what, round, expected) in rows {
            for cut in [1, 100, 100_000] {
                let mut budget = FrameBudget::new();
                let passes = |budget: &mut FrameBudget| {
                    round.chunks(cut).all(|chunk| budget.received(chunk, || Duration::ZERO).is_none())
                };
                let passed = (1..=1_000).find(|_| !passes(&mut budget)).unwrap_or(1_000);
                assert_eq!(passed, expected, "{what}, cut into {cut}");
            }
        }
    }

    #[test]
    fn a_download_pays_for_its_window_updates() {
        let mut budget = FrameBudget::new();
        for _ in 0..100_000 {
            budget.sent(2 * BYTES as usize * 2);
            assert_eq!(budget.received(&frame(WINDOW_UPDATE, 4), || Duration::ZERO), None);
            assert_eq!(budget.received(&frame(WINDOW_UPDATE, 4), || Duration::ZERO), None);
        }
    }

    #[test]
    fn frames_are_followed_however_they_are_cut_and_the_end_is_between_two_of_them() {
        let flood = frame(PING, 8).repeat(2_000);
        for cut in [1, 2, 7, 9, 10, 17, 1_000, flood.len()] {
            let mut budget = FrameBudget::new();
            let mut before = 0;
            let end = flood.chunks(cut).find_map(|chunk| {
                let end = budget.received(chunk, || Duration::ZERO).map(|kept| before + kept);
                before += chunk.len();
                end
            });
            assert_eq!(end, Some(1_001 * 17), "cut into {cut}");
        }
    }
}
