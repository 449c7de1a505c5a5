//! A process of its own, with little memory to spend and clients that want all of it: however they go about it, it
//! stays below its budget, lives, and serves others, while they are there and when they have gone.
//!
//! The process is `examples/standalone.rs`, whose path of a request is the product's.

#![allow(clippy::unwrap_used, clippy::expect_used)] // a panic is how a test fails

mod attack;
#[allow(dead_code)] // its `main`
#[path = "../../examples/standalone.rs"]
mod standalone;

use std::{
    net::SocketAddr,
    process::Stdio,
    time::{Duration, Instant},
};

use bytes::Buf;
use clap::Parser as _;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    process::{Child, Command},
    runtime::Runtime,
    sync::Mutex,
};

use attack::Attack;

/// For everything, the program itself included.
const BUDGET: u64 = 96 << 20;
/// How long each attack goes on at least, and how many others are served meanwhile.
const DURATION: Duration = Duration::from_secs(5);
const OTHERS: usize = 3;
/// How long it takes at most until another one is served, while the attack goes on, and until half of them are. A program
/// that is not optimised needs most of that for what the attack gives it to do.
const SERVED: Duration = Duration::from_secs(if cfg!(debug_assertions) { 30 } else { 10 });
const HALF_SERVED: Duration = Duration::from_millis(if cfg!(debug_assertions) { 5_000 } else { 500 });
static ALONE: Mutex<()> = Mutex::const_new(());
/// No test waits longer than this for anything.
const PATIENCE: Duration = Duration::from_secs(120);
/// What the pod answers with, unless it is asked for something small.
const BIG: usize = 1 << 20;
/// The arguments of the process under attack.
const ARGUMENTS: &str = "PILOTLIGHT_TEST_STANDALONE";

/// Not a test but the process under attack, where the other tests start this program for it.
#[test]
fn under_attack() {
    let Ok(arguments) = std::env::var(ARGUMENTS) else { return };
    let arguments = ["standalone"].into_iter().chain(arguments.split(' '));
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(standalone::run(standalone::Args::parse_from(arguments))).unwrap();
}

/// A thread with a runtime of its own: attackers, pods and others do not wait for each other's turn. It ends when this
/// is dropped.
struct Apart {
    runtime: Option<Runtime>,
}

impl Apart {
    fn new() -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        Self { runtime: Some(runtime.unwrap()) }
    }

    fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        self.runtime.as_ref().unwrap().spawn(work);
    }
}

impl Drop for Apart {
    fn drop(&mut self) {
        self.runtime.take().unwrap().shutdown_background();
    }
}

/// A pod that answers `/small` with little, and everything else with [`BIG`] bytes, as soon as the head is there.
async fn pod(listener: TcpListener) {
    const BODY: &[u8] = &[b'x'; BIG];
    loop {
        let (mut stream, _) = listener.accept().await.unwrap();
        tokio::spawn(async move {
            let mut head = vec![0; 8192];
            while let Ok(read) = stream.read(&mut head).await
                && read > 0
            {
                let length = if head.starts_with(b"GET /small") { 5 } else { BIG };
                let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n");
                let mut answer = Buf::chain(head.as_bytes(), &BODY[..length]);
                if stream.write_all_buf(&mut answer).await.is_err() {
                    break;
                }
            }
        });
    }
}

/// The activator of a Function `hello` with a pod, and of one `zero` without.
struct Activator {
    process: Child,
    addr: SocketAddr,
    _pods: Apart,
}

impl Activator {
    async fn start() -> Self {
        let addr = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let (pods, listener) = (Apart::new(), std::net::TcpListener::bind("127.0.0.1:0").unwrap());
        // It is not the pod that others wait for.
        socket2::SockRef::from(&listener).listen(i32::MAX).unwrap();
        let pod_addr = listener.local_addr().unwrap();
        listener.set_nonblocking(true).unwrap();
        pods.spawn(async { pod(TcpListener::from_std(listener).unwrap()).await });
        let arguments =
            format!("--addr {addr} --memory-budget {BUDGET} --log error demo/hello={pod_addr} demo/zero=");
        let process = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "under_attack", "--nocapture"])
            .env(ARGUMENTS, arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let activator = Self { process, addr, _pods: pods };
        activator.until_it_serves().await;
        activator
    }

    /// Waits until somebody who wants little gets it, ten times in a row.
    async fn until_it_serves(&self) {
        let (began, mut served) = (Instant::now(), 0);
        while served < 10 {
            assert!(began.elapsed() < PATIENCE, "it serves: {} MiB", self.memory("VmRSS") >> 20);
            served = if small(self.addr).await { served + 1 } else { 0 };
        }
    }

    /// Bytes of it that are in memory, or were at most.
    fn memory(&self, name: &str) -> u64 {
        let process = self.process.id().unwrap();
        let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).unwrap();
        line.trim().strip_suffix(" kB").unwrap().parse::<u64>().unwrap() * 1024
    }
}

/// Whether somebody who wants little gets it, on a connection of its own.
async fn small(addr: SocketAddr) -> bool {
    let ask = async {
        let mut stream = TcpStream::connect(addr).await?;
        let head = b"GET /small HTTP/1.1\r\nHost: hello.demo\r\nConnection: close\r\n\r\n";
        stream.write_all(head).await?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await?;
        std::io::Result::Ok(answer.starts_with(b"HTTP/1.1 200"))
    };
    let served = tokio::time::timeout(Duration::from_secs(2), ask).await;
    if !matches!(served, Ok(Ok(true))) {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    matches!(served, Ok(Ok(true)))
}

/// While it is attacked it lives, stays below its budget, and serves others, who want little. Whoever of them is refused
/// comes again.
async fn withstands(attack: Attack) {
    // Each has the whole machine.
    let _alone = ALONE.lock().await;
    let mut activator = Activator::start().await;
    let idle = activator.memory("VmRSS");
    let (attackers, addr) = (Apart::new(), activator.addr);
    attackers.spawn(async move { drop(attack.begin(addr).join_all().await) });
    let (began, mut tries, mut waits) = (Instant::now(), 0, Vec::new());
    while began.elapsed() < DURATION || waits.len() < OTHERS {
        let came = Instant::now();
        tries += 1;
        while !small(activator.addr).await {
            tries += 1;
            assert!(came.elapsed() < SERVED, "another one is served, of {} before", waits.len());
        }
        waits.push(came.elapsed());
    }
    drop(attackers);
    let most = activator.memory("VmHWM");
    waits.sort_unstable();
    let (half, all) = (waits[waits.len() / 2], waits[waits.len() - 1]);
    println!(
        "{attack:?}: {} MiB idle, {} MiB at most; {} others served in {tries} tries, half of them within {half:?}, all \
         within {all:?}",
        idle >> 20,
        most >> 20,
        waits.len(),
    );
    assert!(half < HALF_SERVED, "half of the others are served within {half:?}");
    assert!(activator.process.try_wait().unwrap().is_none(), "it is alive");
    assert!(most < BUDGET, "{} MiB of {} MiB", most >> 20, BUDGET >> 20);
    activator.until_it_serves().await;
    activator.process.kill().await.unwrap();
}

#[tokio::test]
async fn streams_whose_windows_stay_shut() {
    withstands(Attack::ShutWindows).await;
}

#[tokio::test]
async fn streams_that_are_not_read() {
    withstands(Attack::UnreadStreams).await;
}

#[tokio::test]
async fn connections_that_are_not_read() {
    withstands(Attack::UnreadConnections).await;
}

#[tokio::test]
async fn bodies_for_a_function_at_zero() {
    withstands(Attack::HeldBodies).await;
}

#[tokio::test]
async fn bodies_of_streams_for_a_function_at_zero() {
    withstands(Attack::HeldStreams).await;
}

#[tokio::test]
async fn large_heads_for_a_function_at_zero() {
    withstands(Attack::HeldHeads).await;
}

#[tokio::test]
async fn header_lists_that_grow_as_they_are_read() {
    withstands(Attack::HeaderBombs).await;
}

#[tokio::test]
async fn connections_that_do_nothing() {
    withstands(Attack::Idle).await;
}

/// What fits into memory is served, all of it.
#[tokio::test]
async fn a_load_that_is_merely_heavy_is_served() {
    const CLIENTS: usize = 100;
    let _alone = ALONE.lock().await;
    let activator = Activator::start().await;
    let clients = (0..CLIENTS).map(|_| async {
        let mut stream = TcpStream::connect(activator.addr).await.unwrap();
        let mut piece = vec![0; 64 * 1024];
        for _ in 0..4 {
            stream.write_all(b"GET /big HTTP/1.1\r\nHost: hello.demo\r\n\r\n").await.unwrap();
            let first = stream.read(&mut piece).await.unwrap();
            let head = String::from_utf8_lossy(&piece[..first]).into_owned();
            assert!(head.starts_with("HTTP/1.1 200"), "{head:?}");
            let mut left = BIG + head.find("\r\n\r\n").unwrap() + 4 - first;
            while left > 0 {
                let read = stream.read(&mut piece).await.unwrap();
                assert!(read > 0, "{left} bytes are missing");
                left -= read;
            }
        }
    });
    futures_util::future::join_all(clients).await;
    let most = activator.memory("VmHWM");
    println!("{CLIENTS} clients that read: {} MiB at most", most >> 20);
    assert!(most < BUDGET);
}
