//! Where one request of an HTTP/1 connection ends and the next begins, by the letter of RFC 9112.
//!
//! hyper repairs some of what is ambiguous in silence (a `Content-Length` beside `Transfer-Encoding`, a line
//! that ends without CR, a target with a fragment), and answers the rest of it without a body. So the bytes
//! of a connection are followed here before hyper sees them, and what breaks a rule is refused by name.
//! A value: bytes in, how far they may pass out. [`guard`](super::guard) does the reading.

mod chunked;
mod grammar;
mod head;
mod refusal;

pub(in crate::proxy) use self::refusal::{LONGEST_METHOD, Refusal};
pub(super) use self::refusal::{MAX_FIELDS, MAX_HEAD};
use self::{
    chunked::Chunked,
    head::{Body, Head},
};
use super::frames::PREFACE;

/// Follows the bytes that a client sends on one connection.
#[derive(Debug)]
pub(super) struct Framing {
    part: Part,
    /// Whether nothing has passed yet: only then the HTTP/2 preface may come.
    fresh: bool,
}

/// What the next byte belongs to.
#[derive(Debug)]
enum Part {
    Head(Head),
    /// A body, by the bytes that it still has.
    Sized(u64),
    Chunked(Chunked),
    /// Not HTTP/1, or no longer: nothing to follow.
    Opaque,
}

/// A rule is broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Broken {
    /// Bytes before the message, or the part of a body, that breaks it: they may pass.
    pub(super) passed: usize,
    /// The rule.
    pub(super) rule: Refusal,
    /// Whether it is a body that breaks it: its head has passed, so the request is under way.
    pub(super) in_body: bool,
}

impl Framing {
    /// A connection from its first byte.
    pub(super) fn new() -> Self {
        Self { part: Part::Head(Head::default()), fresh: true }
    }

    /// Nothing is followed from here on: the connection has been switched to another protocol.
    pub(super) fn switch(&mut self) {
        self.part = Part::Opaque;
    }

    /// Whether everything may pass from here on.
    pub(super) fn is_opaque(&self) -> bool {
        matches!(self.part, Part::Opaque)
    }

    /// Whether the last request is whole and no other has begun to pass.
    pub(super) fn is_between(&self) -> bool {
        matches!(self.part, Part::Head(_))
    }

    /// How many of `bytes` may pass. The rest is the beginning of a head: it must come again, from its
    /// start and with more behind it.
    ///
    /// # Errors
    /// The first rule that is broken. Nothing behind it is to be followed any further.
    pub(super) fn follow(&mut self, bytes: &[u8]) -> Result<usize, Broken> {
        let mut passed = 0;
        while passed < bytes.len() {
            let rest = &bytes[passed..];
            match &mut self.part {
                Part::Opaque => return Ok(bytes.len()),
                Part::Sized(left) => {
                    let now = (*left).min(rest.len() as u64);
                    *left -= now;
                    passed += now as usize;
                    if *left == 0 {
                        self.part = Part::Head(Head::default());
                    }
                }
                Part::Chunked(chunked) => {
                    let now = chunked.follow(rest).map_err(|(at, rule)| broken(passed + at, rule, true))?;
                    passed += now;
                    if chunked.has_ended() {
                        self.part = Part::Head(Head::default());
                    }
                }
                Part::Head(_)
                    if self.fresh && PREFACE.starts_with(&rest[..rest.len().min(PREFACE.len())]) =>
                {
                    if rest.len() < PREFACE.len() {
                        return Ok(passed);
                    }
                    self.part = Part::Opaque;
                }
                Part::Head(head) => {
                    let Some((length, body)) =
                        head.follow(rest).map_err(|rule| broken(passed, rule, false))?
                    else {
                        return Ok(passed);
                    };
                    passed += length;
                    (self.part, self.fresh) = (body.into(), false);
                }
            }
        }
        Ok(passed)
    }
}

const fn broken(passed: usize, rule: Refusal, in_body: bool) -> Broken {
    Broken { passed, rule, in_body }
}

impl From<Body> for Part {
    fn from(body: Body) -> Self {
        match body {
            Body::Sized(0) => Self::Head(Head::default()),
            Body::Sized(length) => Self::Sized(length),
            Body::Chunked => Self::Chunked(Chunked::default()),
        }
    }
}

#[cfg(test)]
mod tests;
