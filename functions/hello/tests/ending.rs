//! How the hello function ends: SIGTERM lets what is in flight finish, then the process exits with 0.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, TcpListener, TcpStream},
    process::{Child, Command},
    time::{Duration, Instant},
};

struct Hello {
    process: Child,
    port: u16,
}

impl Hello {
    fn start() -> Self {
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
        let program = env!("CARGO_BIN_EXE_hello");
        let process = Command::new(program).env("PORT", port.to_string()).spawn().unwrap();
        let hello = Self { process, port };
        let deadline = Instant::now() + Duration::from_secs(10);
        while hello.connect().is_err() {
            assert!(Instant::now() < deadline, "hello did not listen");
            std::thread::sleep(Duration::from_millis(1));
        }
        hello
    }

    fn connect(&self) -> std::io::Result<TcpStream> {
        TcpStream::connect((Ipv4Addr::LOCALHOST, self.port))
    }

    fn terminate(&self) {
        let id = self.process.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &id]).status().unwrap().success());
    }
}

impl Drop for Hello {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Sends a GET and reads a first part of what comes.
fn ask(stream: &mut TcpStream, path: &str) {
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nhost: hello\r\n\r\n").unwrap();
}

#[test]
fn sigterm_lets_requests_finish() {
    let mut hello = Hello::start();
    let mut slow = hello.connect().unwrap();
    ask(&mut slow, "/sleep?ms=900");
    let mut first = hello.connect().unwrap();
    // Answered: so the slow request, sent before on a connection of its own, is in flight too.
    ask(&mut first, "/");
    assert!(first.read(&mut [0; 512]).unwrap() > 0);

    hello.terminate();
    let mut answer = String::new();
    slow.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("slept 900 ms\n"), "{answer}");
    assert!(hello.process.wait().unwrap().success());
    assert!(hello.connect().is_err(), "ended");
}
