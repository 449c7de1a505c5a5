//! A process of its own, with little memory to spend and clients that want all of it: `examples/standalone.rs`,
//! whose path of a request is the product's. `cargo test` builds it.

#![allow(clippy::unwrap_used, clippy::expect_used)] // a panic is how a test fails

use std::{
    net::SocketAddr,
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    process::{Child, Command},
    task::JoinSet,
};

const BUDGET: u64 = 96 << 20;
/// No test waits longer than this for anything.
const PATIENCE: Duration = Duration::from_secs(60);
/// Connections that take nothing, and streams of each. Unbounded, they would keep some 2 GiB in memory.
const CONNECTIONS: usize = 100;
const STREAMS: u32 = 200;

/// A pod that answers `/small` with little, and everything else with 1 MiB.
async fn pod() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let mut head = vec![0; 8192];
                while let Ok(read) = stream.read(&mut head).await
                    && read > 0
                {
                    let length = if head.starts_with(b"GET /small") { 5 } else { 1 << 20 };
                    let mut answer =
                        format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n").into_bytes();
                    answer.resize(answer.len() + length, b'x');
                    if stream.write_all(&answer).await.is_err() {
                        break;
                    }
                }
            });
        }
    });
    addr
}

/// The activator, and where it listens.
async fn activator(pod: SocketAddr) -> (Child, SocketAddr) {
    let this = std::env::current_exe().unwrap();
    let program = this.ancestors().nth(2).unwrap().join("examples/standalone");
    let addr = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let child = Command::new(&program)
        .args(["--addr", &addr.to_string(), "--memory-budget", &BUDGET.to_string(), "--log", "error"])
        .arg(format!("demo/hello={pod}"))
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap_or_else(|error| panic!("{}: {error}; `cargo test` builds it", program.display()));
    let began = Instant::now();
    while !small(addr).await {
        assert!(began.elapsed() < PATIENCE, "the activator serves");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    (child, addr)
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
    matches!(tokio::time::timeout(Duration::from_secs(5), ask).await, Ok(Ok(true)))
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut frame = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// A connection with as many streams as there may be, all of whose windows stay shut (SETTINGS_INITIAL_WINDOW_SIZE 0).
async fn hoard(addr: SocketAddr) -> std::io::Result<()> {
    let mut stream = TcpStream::connect(addr).await?;
    let mut opening = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    opening.extend(frame(4, 0, 0, &[0, 4, 0, 0, 0, 0]));
    // GET / over http, with the authority as a literal (RFC 7541).
    let head = [&[0x82, 0x86, 0x84, 0x01, 10][..], b"hello.demo"].concat();
    opening.extend((0..STREAMS).flat_map(|n| frame(1, 5, 2 * n + 1, &head)));
    stream.write_all(&opening).await?;
    let mut heard = vec![0; 64 * 1024];
    while stream.read(&mut heard).await? > 0 {}
    Ok(())
}

/// Bytes of a process that are in memory.
fn resident(process: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse::<u64>().unwrap() * 1024
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_hoards_memory_the_budget_is_kept_and_others_are_served_again() {
    let (mut child, addr) = activator(pod().await).await;
    let process = child.id().unwrap();
    let idle = resident(process);
    let most = Arc::new(AtomicU64::new(0));
    let watch = {
        let most = Arc::clone(&most);
        tokio::spawn(async move {
            loop {
                most.fetch_max(resident(process), Ordering::Relaxed);
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
    };
    let mut hoards = JoinSet::new();
    for _ in 0..CONNECTIONS {
        hoards.spawn(hoard(addr));
    }
    let began = Instant::now();
    while most.load(Ordering::Relaxed) < BUDGET * 8 / 10 {
        assert!(began.elapsed() < PATIENCE, "the hoards take what there is: {most:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let mut served = 0;
    while served < 10 {
        let now = resident(process) >> 20;
        assert!(began.elapsed() < PATIENCE, "others are served while the hoards are there: {now} MiB");
        served += u32::from(small(addr).await);
    }
    let took = began.elapsed();
    watch.abort();
    let most = most.load(Ordering::Relaxed);
    println!("{} MiB idle, {} MiB at most, others served after {took:?}", idle >> 20, most >> 20);
    assert!(most <= BUDGET, "{} MiB of {} MiB", most >> 20, BUDGET >> 20);
    assert!(child.try_wait().unwrap().is_none(), "it is alive");
    child.kill().await.unwrap();
}
