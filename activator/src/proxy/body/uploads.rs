//! Uploads over HTTP/2 that nobody wants any longer.
//!
//! hyper sends a request's body in a task of its own. While the pod gives it no room, the task waits for that and asks
//! the body for nothing, so the body cannot end it; and for as long as it waits, the stream stays open, whoever has given
//! up the response. The task can: the first time that it asks the body, it learns whose it is.

use std::{cell::OnceCell, future::poll_fn, pin::pin, sync::Arc, task::Poll};

use hyper::rt::Executor;

use super::progress::Progress;

tokio::task_local! {
    /// The upload that this task sends.
    static UPLOAD: OnceCell<Arc<Progress>>;
}

/// A body is asked for its next piece.
pub(super) fn note_upload(progress: &Arc<Progress>) {
    // With HTTP/1 it is not such a task that asks.
    let _ = UPLOAD.try_with(|upload| {
        upload.get_or_init(|| Arc::clone(progress));
    });
}

/// Runs what belongs to connections of HTTP/2, and ends uploads that are given up.
#[derive(Clone, Debug)]
pub(in crate::proxy) struct Uploads;

impl<F> Executor<F> for Uploads
where
    F: Future<Output: Send> + Send + 'static,
{
    fn execute(&self, task: F) {
        tokio::spawn(UPLOAD.scope(OnceCell::new(), async move {
            let mut task = pin!(task);
            poll_fn(|cx| {
                if UPLOAD.with(|upload| upload.get().is_some_and(|upload| upload.is_abandoned(cx))) {
                    return Poll::Ready(());
                }
                task.as_mut().poll(cx).map(drop)
            })
            .await;
        }));
    }
}
