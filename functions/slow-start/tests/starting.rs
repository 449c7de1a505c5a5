//! How slow-start starts: it refuses connections until its delay is over, and ends at once if told to.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, TcpListener, TcpStream},
    process::{Child, Command},
    time::{Duration, Instant},
};

fn start(delay: &str) -> (Child, u16) {
    let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
    let program = env!("CARGO_BIN_EXE_slow-start");
    let process =
        Command::new(program).env("PORT", port.to_string()).env("START_DELAY", delay).spawn().unwrap();
    (process, port)
}

#[test]
fn it_listens_after_its_delay_and_not_before() {
    let started = Instant::now();
    let (mut process, port) = start("500ms");
    let mut stream = loop {
        assert!(started.elapsed() < Duration::from_secs(10), "did not listen");
        match TcpStream::connect((Ipv4Addr::LOCALHOST, port)) {
            Ok(stream) => break stream,
            Err(_) => std::thread::sleep(Duration::from_millis(5)),
        }
    };
    let waited = started.elapsed();
    stream.write_all(b"GET / HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    process.kill().unwrap();
    process.wait().unwrap();
    assert!(waited >= Duration::from_millis(500), "{waited:?}");
    assert!(answer.contains("Hello from "), "{answer}");
}

#[test]
fn a_delay_that_is_none_ends_the_process_with_a_message() {
    let output = Command::new(env!("CARGO_BIN_EXE_slow-start")).env("START_DELAY", "soon").output().unwrap();
    assert!(!output.status.success());
    assert!(String::from_utf8(output.stderr).unwrap().contains("START_DELAY must be"));
}

#[test]
fn told_to_end_while_it_starts_it_ends_at_once() {
    let (mut process, _) = start("60s");
    let id = process.id().to_string();
    let deadline = Instant::now() + Duration::from_secs(10);
    while !catches_sigterm(&id) {
        assert!(Instant::now() < deadline, "no handler for SIGTERM");
        std::thread::sleep(Duration::from_millis(1));
    }
    assert!(Command::new("kill").args(["-TERM", &id]).status().unwrap().success());
    assert!(process.wait().unwrap().success());
    assert!(Instant::now() < deadline);
}

/// Whether the process has a handler for SIGTERM, signal 15: bit 14 of the mask that proc(5) shows.
fn catches_sigterm(id: &str) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{id}/status")).unwrap();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap();
    u64::from_str_radix(mask.trim(), 16).unwrap() & (1 << 14) != 0
}
