//! Carries TCP connections from this machine's own network into node 1's.
//!
//! The two networks are not connected, on purpose. But both sides see the same files, and a Unix
//! socket is a file: a process in the machine's network listens on a port of the loopback address
//! and passes each connection on to the socket; one in the node's network passes it on from there.

use std::io;
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use std::{fs, process, thread};

use anyhow::{Context, Result, bail};
use clap::ValueEnum;

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
    let here = format!("127.0.0.1:{port}");
    TcpListener::bind(&here).with_context(|| format!("{here} is needed to reach {address}"))?;
    let relay = Relay { layout, cgroups, name: format!("relay-{port}") };
    relay.start(End::Inside, address, || relay.socket().exists())?;
    relay.start(End::Outside, &here, || TcpStream::connect(&here).is_ok())
}

/// Which of the two networks a process of a relay is in.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum End {
    /// Node 1's: from the socket to an address.
    Inside,
    /// The machine's own: from an address to the socket.
    Outside,
}

struct Relay<'a> {
    layout: &'a Layout,
    cgroups: &'a Cgroups,
    name: String,
}

impl Relay<'_> {
    fn socket(&self) -> PathBuf {
        self.layout.root().join(format!("{}.sock", self.name))
    }

    /// Starts one end and waits until it takes connections.
    fn start(&self, end: End, address: &str, listens: impl Fn() -> bool) -> Result<()> {
        let mut command = machine::detached(&self.cgroups.outside_entrances());
        let word = match end {
            End::Inside => {
                command.args(["nsenter", &format!("--net={}", network::path(Node::FIRST)), "--"]);
                "inside"
            }
            End::Outside => "outside",
        };
        // Not by name: the file may be replaced by the next build at any time.
        command.arg(format!("/proc/{}/exe", process::id())).args(["relay", word]);
        command.arg(self.socket()).arg(address);
        let log = self.layout.root().join(format!("{}-{word}.log", self.name));
        let mut child = machine::start_detached(&mut command, &log)?;
        run::wait_until(&format!("the relay listens for {address}"), STARTS, || {
            if let Some(status) = child.try_wait()? {
                bail!("the relay of {address} ended: {status}\n{}", logs::tail(&log));
            }
            Ok(listens())
        })
    }
}

/// Is one end of a relay, for as long as the cluster lasts.
pub(crate) fn serve(end: End, socket: &Path, address: &str) -> Result<()> {
    match end {
        End::Inside => inside(socket, address),
        End::Outside => outside(socket, address),
    }
}

fn inside(socket: &Path, address: &str) -> Result<()> {
    // Listening under another name first: the socket must not be there before it answers.
    let unfinished = socket.with_extension("new");
    let listener = UnixListener::bind(&unfinished).with_context(|| unfinished.display().to_string())?;
    fs::rename(&unfinished, socket)?;
    let address = address.to_owned();
    each(listener.incoming(), move |from| both_ways(from, TcpStream::connect(&address)?));
    Ok(())
}

fn outside(socket: &Path, address: &str) -> Result<()> {
    let listener = TcpListener::bind(address).with_context(|| address.to_owned())?;
    let socket = socket.to_owned();
    each(listener.incoming(), move |from| both_ways(UnixStream::connect(&socket)?, from));
    Ok(())
}

/// Carries every connection, each in a thread of its own. One that breaks, or cannot be taken, is its
/// two ends' business; the log helps when there is a question.
fn each<C: Send + 'static>(
    connections: impl Iterator<Item = io::Result<C>>,
    carry: impl Fn(C) -> io::Result<()> + Send + Sync + 'static,
) {
    let carry = Arc::new(carry);
    for connection in connections {
        let carry = Arc::clone(&carry);
        thread::spawn(move || {
            if let Err(error) = connection.and_then(|connection| carry(connection)) {
                eprintln!("{error}");
            }
        });
    }
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
