//! Carries TCP connections from this machine's own network into node 1's.
//!
//! The two networks are not connected, on purpose. But both sides see the same files, and a Unix
//! socket is a file: a process in the machine's network listens on a port of the loopback address
//! and passes each connection on to the socket; one in the node's network passes it on from there.

use std::io;
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::Duration;
use std::{fs, process, thread};

use anyhow::{Context, Result, bail};

use super::address::{Node, api_port};
use super::cgroups::Cgroups;
use super::layout::Layout;
use super::{logs, machine, network};
use crate::run;

const STARTS: Duration = Duration::from_secs(10);

/// Makes the API server reachable at the port that it has in its own network.
pub(crate) fn start_api(layout: &Layout, cgroups: &Cgroups) -> Result<()> {
    start(layout, cgroups, api_port(), &format!("127.0.0.1:{}", api_port()))
}

/// Makes `address`, as node 1 sees it, reachable at 127.0.0.1:`port`. Ends with the cluster.
pub(crate) fn start(layout: &Layout, cgroups: &Cgroups, port: u16, address: &str) -> Result<()> {
    let socket = layout.root().join(format!("relay-{port}.sock"));
    let xtask = format!("/proc/{}/exe", process::id());
    let ends = [
        ("inside", vec!["nsenter".into(), format!("--net={}", network::path(Node::FIRST)), "--".into()]),
        ("outside", vec![]),
    ];
    for (end, mut words) in ends {
        let log = layout.root().join(format!("relay-{port}-{end}.log"));
        let at = if end == "inside" { address.to_owned() } else { format!("127.0.0.1:{port}") };
        words.extend([xtask.clone(), "relay".into(), end.into(), socket.display().to_string(), at]);
        let mut command = machine::detached(&cgroups.outside_entrances());
        let mut child = machine::start_detached(command.args(words), &log)?;
        let ready = || match end {
            "inside" => socket.exists(),
            _ => TcpStream::connect(("127.0.0.1", port)).is_ok(),
        };
        run::wait_until("the relay listens", STARTS, || {
            if let Some(status) = child.try_wait()? {
                bail!("the relay to {address} ended: {status}\n{}", logs::tail(&log));
            }
            Ok(ready())
        })?;
    }
    Ok(())
}

/// The end in the node's network: from the socket to an address.
pub(crate) fn inside(socket: &Path, address: &str) -> Result<()> {
    // Listening under another name first: the socket must not be there before it answers.
    let unfinished = socket.with_extension("new");
    let listener = UnixListener::bind(&unfinished).with_context(|| unfinished.display().to_string())?;
    fs::rename(&unfinished, socket)?;
    for from in listener.incoming() {
        let (from, address) = (from?, address.to_owned());
        thread::spawn(move || {
            let joined = TcpStream::connect(&address).and_then(|to| both_ways(from, to));
            report(&address, joined);
        });
    }
    Ok(())
}

/// The end in the machine's network: from an address to the socket.
pub(crate) fn outside(socket: &Path, address: &str) -> Result<()> {
    let listener = TcpListener::bind(address).with_context(|| address.to_owned())?;
    for from in listener.incoming() {
        let (from, socket) = (from?, socket.to_owned());
        thread::spawn(move || {
            let joined = UnixStream::connect(&socket).and_then(|to| both_ways(to, from));
            report(&socket.to_string_lossy(), joined);
        });
    }
    Ok(())
}

/// Copies until both sides have said all they had to.
fn both_ways(unix: UnixStream, tcp: TcpStream) -> io::Result<()> {
    tcp.set_nodelay(true)?;
    let (mut from_unix, mut to_tcp) = (unix.try_clone()?, tcp.try_clone()?);
    let there = thread::spawn(move || {
        let copied = io::copy(&mut from_unix, &mut to_tcp);
        // The other side may already be gone: then there is nothing to tell it.
        let _ = to_tcp.shutdown(Shutdown::Write);
        copied
    });
    let (mut from_tcp, mut to_unix) = (tcp, unix);
    let back = io::copy(&mut from_tcp, &mut to_unix);
    let _ = to_unix.shutdown(Shutdown::Write);
    let _ = there.join();
    back.map(drop)
}

/// A connection that breaks is its two ends' business; the log helps when there is a question.
fn report(to: &str, joined: io::Result<()>) {
    if let Err(error) = joined {
        eprintln!("connection to {to}: {error}");
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;

    #[test]
    fn what_goes_in_comes_out_and_an_end_is_passed_on() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (mut near, far) = UnixStream::pair().unwrap();
        let relay = thread::spawn(move || both_ways(far, TcpStream::connect(address).unwrap()));
        let (mut server, _) = listener.accept().unwrap();

        near.write_all(b"question").unwrap();
        near.shutdown(Shutdown::Write).unwrap();
        let mut text = String::new();
        server.read_to_string(&mut text).unwrap();
        assert_eq!(text, "question");

        server.write_all(b"answer").unwrap();
        drop(server);
        text.clear();
        near.read_to_string(&mut text).unwrap();
        assert_eq!(text, "answer");
        relay.join().unwrap().unwrap();
    }
}
