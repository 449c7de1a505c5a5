//! Uploads over HTTP/2 that nobody wants any longer.
//!
//! hyper sends a request's body in a task of its own. While the pod gives it no room, the task waits for that and asks
//! the body for nothing, so the body cannot end it; and for as long as it waits, the stream stays open, whoever has given
//! up the response. The task can: it knows whose body it has asked.

use std::{cell::RefCell, future::poll_fn, pin::pin, sync::Arc, task::Poll};

use hyper::rt::Executor;

use super::progress::Progress;

thread_local! {
    /// Whose body the task that runs has asked for more; `None`: no task of [`Uploads`] runs.
    static ASKED: RefCell<Option<Option<Arc<Progress>>>> = const { RefCell::new(None) };
}

/// A body is asked for its next piece.
pub(super) fn note_upload(progress: &Arc<Progress>) {
    ASKED.with_borrow_mut(|asked| {
        if let Some(whose @ None) = asked {
            *whose = Some(Arc::clone(progress));
        }
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
        tokio::spawn(async move {
            let (mut task, mut upload) = (pin!(task), None::<Arc<Progress>>);
            poll_fn(|cx| {
                if upload.as_ref().is_some_and(|upload| upload.is_abandoned(cx)) {
                    return Poll::Ready(());
                }
                ASKED.set(Some(upload.take()));
                let done = task.as_mut().poll(cx).map(drop);
                upload = ASKED.take().flatten();
                done
            })
            .await;
        });
    }
}
