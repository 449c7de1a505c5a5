//! A client's connection as h2 reads it, with the [budget](super::frames) of HTTP/2 frames kept.
//!
//! When the budget is spent nothing more is read, and the connection's [activity](Activity) says why: whoever drives it
//! ends it.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::{Buf as _, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{
    activity::{Activity, Limit},
    frames::{FrameBudget, PREFACE},
};

/// A connection whose frames are counted.
#[derive(Debug)]
pub(super) struct FloodGuard<T> {
    inner: T,
    activity: Arc<Activity>,
    budget: FrameBudget,
    /// Bytes of the preface that h2 has not read yet.
    preface: usize,
    /// Read before it was known what they are.
    early: Bytes,
}

impl<T> FloodGuard<T> {
    /// A connection of which this has been read, which h2 reads first.
    pub(super) fn new(inner: T, early: Bytes, activity: Arc<Activity>) -> Self {
        Self { inner, activity, budget: FrameBudget::new(), preface: PREFACE.len(), early }
    }

    /// Looks at what was read; how much of it h2 gets.
    fn look(&mut self, read: &[u8]) -> usize {
        let preface = self.preface.min(read.len());
        self.preface -= preface;
        match self.budget.received(&read[preface..], || self.activity.age()) {
            None => read.len(),
            Some(kept) => {
                self.activity.end_for(Limit::Flood);
                preface + kept
            }
        }
    }
}

impl<T: AsyncRead + Unpin> FloodGuard<T> {
    /// What has come, as it came.
    fn poll_any(&mut self, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.early.is_empty() {
            return Pin::new(&mut self.inner).poll_read(cx, buffer);
        }
        let now = self.early.len().min(buffer.remaining());
        buffer.put_slice(&self.early[..now]);
        self.early.advance(now);
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for FloodGuard<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        // Not the end, either: h2 has something to say before that.
        if self.activity.ended_for() == Some(Limit::Flood) {
            return Poll::Pending;
        }
        let before = buffer.filled().len();
        ready!(self.poll_any(cx, buffer))?;
        let kept = self.look(&buffer.filled()[before..]);
        buffer.set_filled(before + kept);
        if kept == 0 && self.activity.ended_for() == Some(Limit::Flood) {
            Poll::Pending
        } else {
            Poll::Ready(Ok(()))
        }
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for FloodGuard<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let sent = ready!(Pin::new(&mut self.inner).poll_write(cx, bytes))?;
        self.budget.sent(sent);
        Poll::Ready(Ok(sent))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}
