//! One direction of a tunnel.
//!
//! What is read goes through a buffer that all tunnels of a thread share, and what the other side does not
//! take at once is kept: an idle tunnel has no buffer, and a busy one no more than one.

use std::{
    cell::RefCell,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::frames::Frames;

/// Bytes that are read at once, and the most that one direction keeps: an HTTP/2 frame's worth.
const BUFFER: usize = 16 * 1024;

thread_local! {
    static BUFFERS: RefCell<Box<[u8; BUFFER]>> = RefCell::new(Box::new([0; BUFFER]));
}

/// Who is told that the connection ends.
#[derive(Clone, Copy, Debug)]
pub(super) enum Farewell {
    ToClient,
    ToPod,
}

impl Farewell {
    /// A close frame with status 1001, Going Away (RFC 6455, section 7.4.1), masked if a client would send
    /// it (section 5.3).
    fn frame(self) -> Vec<u8> {
        let status = 1001_u16.to_be_bytes();
        match self {
            Self::ToClient => [&[0x88, 2][..], &status].concat(),
            Self::ToPod => {
                let mut key = [0; 4];
                // Without chance the key is zero, which is a key as well: this payload has no secret.
                let _ = aws_lc_rs::rand::fill(&mut key);
                let masked = [status[0] ^ key[0], status[1] ^ key[1]];
                [&[0x88, 0x82][..], &key, &masked].concat()
            }
        }
    }
}

/// Which side broke off.
#[derive(Debug)]
enum Broken {
    From(io::Error),
    To(io::Error),
}

#[derive(Debug)]
enum Stage {
    Open,
    /// The other side is being told that nothing more comes.
    Ending,
    /// It was told; what comes nevertheless is not passed on. A socket that is closed with bytes unread
    /// resets the connection, and our last frame with it.
    Draining,
    Ended,
}

/// One direction.
#[derive(Debug)]
pub(super) struct Flow {
    stage: Stage,
    /// Read, and not taken by the other side yet.
    kept: Vec<u8>,
    /// What of it was taken.
    taken: usize,
    passed: u64,
    unflushed: bool,
    frames: Option<Frames>,
    farewell: Option<Farewell>,
    refused: Option<io::Error>,
}

impl Flow {
    /// A direction whose frames are followed if it is one of a WebSocket connection.
    pub(super) fn new(websocket: bool) -> Self {
        Self {
            stage: Stage::Open,
            kept: Vec::new(),
            taken: 0,
            passed: 0,
            unflushed: false,
            frames: websocket.then(Frames::default),
            farewell: None,
            refused: None,
        }
    }

    /// Bytes that have passed.
    pub(super) fn passed(&self) -> u64 {
        self.passed
    }

    /// After the frame that is under way, a close frame is the last.
    pub(super) fn end_with(&mut self, farewell: Farewell) {
        self.farewell = Some(farewell);
    }

    /// Why the other side took no more, if it did not.
    pub(super) fn refused(&mut self) -> Option<io::Error> {
        self.refused.take()
    }

    /// Passes on what there is; ready when the direction has ended. If it is the other side that broke off,
    /// what that side has said before is still to be read, in the other direction: so this one has only ended.
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut (impl AsyncRead + Unpin),
        to: &mut (impl AsyncWrite + Unpin),
    ) -> Poll<io::Result<()>> {
        match ready!(self.pass(cx, from, to)) {
            Ok(()) => Poll::Ready(Ok(())),
            Err(Broken::From(error)) => Poll::Ready(Err(error)),
            Err(Broken::To(error)) => {
                self.refused = Some(error);
                self.stage = Stage::Ended;
                Poll::Ready(Ok(()))
            }
        }
    }

    fn pass(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut (impl AsyncRead + Unpin),
        to: &mut (impl AsyncWrite + Unpin),
    ) -> Poll<Result<(), Broken>> {
        loop {
            match self.stage {
                Stage::Open => {
                    ready!(self.write_kept(cx, to))?;
                    if self.say_farewell() {
                        continue;
                    }
                    if ready!(self.read_and_write(cx, from, to))? == 0 {
                        self.stage = Stage::Ending;
                    }
                }
                Stage::Ending => {
                    ready!(self.write_kept(cx, to))?;
                    ready!(Pin::new(&mut *to).poll_shutdown(cx)).map_err(Broken::To)?;
                    self.stage = if self.farewell.is_some() { Stage::Draining } else { Stage::Ended };
                }
                Stage::Draining => {
                    if ready!(discard(cx, from)).map_err(Broken::From)? == 0 {
                        self.stage = Stage::Ended;
                    }
                }
                Stage::Ended => return Poll::Ready(Ok(())),
            }
        }
    }

    /// Whether the last frame is on its way.
    fn say_farewell(&mut self) -> bool {
        let (Some(farewell), Some(frames)) = (self.farewell, &self.frames) else { return false };
        if !frames.between() {
            return false;
        }
        if !frames.closed() {
            self.kept = farewell.frame();
        }
        self.stage = Stage::Ending;
        true
    }

    fn write_kept(
        &mut self,
        cx: &mut Context<'_>,
        to: &mut (impl AsyncWrite + Unpin),
    ) -> Poll<Result<(), Broken>> {
        while self.taken < self.kept.len() {
            self.taken += ready!(write(cx, to, &self.kept[self.taken..]))?;
            self.unflushed = true;
        }
        (self.kept, self.taken) = (Vec::new(), 0);
        Poll::Ready(Ok(()))
    }

    /// Reads once and offers what came to the other side; how many bytes came.
    fn read_and_write(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut (impl AsyncRead + Unpin),
        to: &mut (impl AsyncWrite + Unpin),
    ) -> Poll<Result<usize, Broken>> {
        let room = match (&self.farewell, &self.frames) {
            (Some(_), Some(frames)) => frames.until_between().min(BUFFER as u64) as usize,
            _ => BUFFER,
        };
        BUFFERS.with_borrow_mut(|buffer| {
            let mut buffer = ReadBuf::new(&mut buffer[..room]);
            if Pin::new(from).poll_read(cx, &mut buffer).map_err(Broken::From)?.is_pending() {
                if self.unflushed {
                    ready!(Pin::new(to).poll_flush(cx)).map_err(Broken::To)?;
                    self.unflushed = false;
                }
                return Poll::Pending;
            }
            let came = buffer.filled();
            if let Some(frames) = &mut self.frames {
                frames.pass(came);
            }
            self.passed += came.len() as u64;
            let taken = match came {
                [] => 0,
                came => match write(cx, to, came) {
                    Poll::Ready(taken) => taken?,
                    Poll::Pending => 0,
                },
            };
            self.unflushed |= taken > 0;
            self.kept.extend_from_slice(&came[taken..]);
            Poll::Ready(Ok(came.len()))
        })
    }
}

fn write(
    cx: &mut Context<'_>,
    to: &mut (impl AsyncWrite + Unpin),
    bytes: &[u8],
) -> Poll<Result<usize, Broken>> {
    match ready!(Pin::new(to).poll_write(cx, bytes)).map_err(Broken::To)? {
        0 => Poll::Ready(Err(Broken::To(io::ErrorKind::WriteZero.into()))),
        taken => Poll::Ready(Ok(taken)),
    }
}

/// Reads what nobody wants; how much it was.
fn discard(cx: &mut Context<'_>, from: &mut (impl AsyncRead + Unpin)) -> Poll<io::Result<usize>> {
    BUFFERS.with_borrow_mut(|buffer| {
        let mut buffer = ReadBuf::new(&mut buffer[..]);
        ready!(Pin::new(from).poll_read(cx, &mut buffer))?;
        Poll::Ready(Ok(buffer.filled().len()))
    })
}
