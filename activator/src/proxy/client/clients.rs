//! The client connections of a process: asked to close together, and waited for.

use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Open client connections. Clones are the same ones.
#[derive(Clone, Debug, Default)]
pub struct Clients {
    open: TaskTracker,
    leave: CancellationToken,
}

impl Clients {
    /// How many there are.
    pub fn count(&self) -> usize {
        self.open.len()
    }

    /// Asks all of them to close, and waits until they have.
    pub async fn shutdown(self) {
        self.leave.cancel();
        self.open.close();
        self.open.wait().await;
    }

    /// Drives one more connection, which is told when it is to close.
    pub(super) fn spawn<F>(&self, connection: impl FnOnce(CancellationToken) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        // Of its own, so that connections do not meet at one lock each time that they are polled.
        self.open.spawn(connection(self.leave.child_token()));
    }
}
