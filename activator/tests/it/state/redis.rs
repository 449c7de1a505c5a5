//! A real Redis server of a test's own, which can be killed, frozen and brought back.

use std::{
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use redis::{FromRedisValue, aio::MultiplexedConnection};

static NUMBER: AtomicU32 = AtomicU32::new(0);

/// A Redis server. It hands each write to the kernel before it answers, so that a crash of its process loses
/// nothing; it does not wait for the disk, which a crash of the machine would need. Ends with the test.
pub(crate) struct Redis {
    port: u16,
    folder: PathBuf,
    server: Option<Child>,
}

impl Redis {
    /// A server that answers.
    pub(crate) async fn start() -> Self {
        let mut redis = Self::absent();
        redis.restart().await;
        redis
    }

    /// An address where no server is yet.
    pub(crate) fn absent() -> Self {
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let folder = std::env::temp_dir().join(format!("pilotlight-redis-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        Self { port, folder, server: None }
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Starts the server on its data and waits until it answers.
    pub(crate) async fn restart(&mut self) {
        let server = Command::new("redis-server")
            .args(["--bind", "127.0.0.1", "--port", &self.port.to_string(), "--save", ""])
            .args(["--appendonly", "yes", "--appendfsync", "no", "--dir"])
            .arg(&self.folder)
            .stdout(Stdio::null())
            .spawn()
            .expect("these tests need a redis-server in PATH: `apt-get install redis-server`");
        self.server = Some(server);
        let deadline = Instant::now() + Duration::from_secs(20);
        while self.try_command::<String>(&["PING"]).await.is_err() {
            assert!(Instant::now() < deadline, "redis-server did not answer within 20 s");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Ends the server as a crash would.
    pub(crate) fn kill(&mut self) {
        if let Some(mut server) = self.server.take() {
            server.kill().unwrap();
            server.wait().unwrap();
        }
    }

    /// Freezes the server: its sockets accept, nothing answers.
    pub(crate) fn freeze(&self) {
        self.signal("-STOP");
    }

    /// Lets a frozen server go on.
    pub(crate) fn thaw(&self) {
        self.signal("-CONT");
    }

    fn signal(&self, signal: &str) {
        let pid = self.server.as_ref().expect("the server runs").id().to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().unwrap().success());
    }

    /// Runs a command on a connection of its own.
    pub(crate) async fn command<T: FromRedisValue>(&self, words: &[&str]) -> T {
        self.try_command(words).await.unwrap()
    }

    async fn try_command<T: FromRedisValue>(&self, words: &[&str]) -> redis::RedisResult<T> {
        let client = redis::Client::open(self.url())?;
        let mut connection: MultiplexedConnection = client.get_multiplexed_async_connection().await?;
        redis::cmd(words[0]).arg(&words[1..]).query_async(&mut connection).await
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.kill();
        drop(std::fs::remove_dir_all(&self.folder));
    }
}
