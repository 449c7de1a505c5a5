//! What is measured, and how it is configured: one thread, connections to the backend kept, no log; routed by
//! host, with `X-Forwarded-For` and `X-Forwarded-Proto` set, as Pilotlight does.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::ValueEnum;

use super::free_address;
use super::pinned::Pinned;
use crate::run;
use crate::tools::Proxies;

/// The host that is called, by which the proxies route.
pub(super) const HOST: &str = "hello.demo";
/// How long a peer may take until it answers.
const START: Duration = Duration::from_secs(20);

/// A way from the load to the backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(super) enum Peer {
    /// No proxy
    Direct,
    Haproxy,
    Nginx,
    Envoy,
    /// The least proxy that hyper can make
    Relay,
    Pilotlight,
}

/// Where everything is.
#[derive(Debug)]
pub(super) struct Site {
    pub(super) proxies: Proxies,
    pub(super) activator: PathBuf,
    pub(super) driver: PathBuf,
    /// For configuration and logs.
    pub(super) folder: PathBuf,
    pub(super) backend: SocketAddr,
    /// Whether Pilotlight takes it that the backend speaks HTTP/2.
    pub(super) h2c: bool,
    pub(super) load_core: usize,
    pub(super) proxy_core: usize,
}

/// A peer that answers.
#[derive(Debug)]
pub(super) struct Running {
    pub(super) peer: Peer,
    /// Where it takes HTTP/1.1, and HTTP/2 with prior knowledge: often the same.
    pub(super) http1: SocketAddr,
    pub(super) http2: SocketAddr,
    process: Option<Pinned>,
}

impl Running {
    /// Its process; none for the way without proxy.
    pub(super) fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Pinned::id)
    }
}

impl Peer {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Direct => "no proxy",
            Self::Haproxy => "HAProxy",
            Self::Nginx => "nginx",
            Self::Envoy => "Envoy",
            Self::Relay => "hyper relay",
            Self::Pilotlight => "Pilotlight",
        }
    }

    /// Starts it, and waits until the backend can be reached through it.
    pub(super) fn start(self, site: &Site) -> Result<Running> {
        let at = if self == Self::Direct { site.backend } else { free_address()? };
        // nginx of that age wants to know which protocol to expect.
        let http2 = if self == Self::Nginx { free_address()? } else { at };
        let process = self.command(site, at, http2)?.map(|mut command| {
            let log = site.folder.join(format!("{}.log", self.file()));
            Pinned::start(&mut command, &log)
        });
        let running = Running { peer: self, http1: at, http2, process: process.transpose()? };
        run::wait_until(&format!("{} answers", self.name()), START, || Ok(answers(at)))
            .with_context(|| format!("its log is in {}", site.folder.display()))?;
        Ok(running)
    }

    fn file(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Haproxy => "haproxy",
            Self::Nginx => "nginx",
            Self::Envoy => "envoy",
            Self::Relay => "relay",
            Self::Pilotlight => "pilotlight",
        }
    }

    fn command(self, site: &Site, at: SocketAddr, http2: SocketAddr) -> Result<Option<Command>> {
        let (to, on_core) = (site.backend, |program: &Path| Pinned::command(site.proxy_core, program));
        let mut command = match self {
            Self::Direct => return Ok(None),
            Self::Haproxy => on_core(&site.proxies.haproxy),
            Self::Nginx => on_core(&site.proxies.nginx),
            Self::Envoy => on_core(&site.proxies.envoy),
            Self::Relay => on_core(&site.driver),
            Self::Pilotlight => on_core(&site.activator),
        };
        match self {
            Self::Direct => {}
            Self::Haproxy => {
                let file = site.config("haproxy.cfg", &haproxy(at, to))?;
                command.args(["-db", "-q", "-f"]).arg(file);
            }
            Self::Nginx => {
                let file = site.config("nginx.conf", &nginx(at, http2, to, &site.folder))?;
                command.arg("-p").arg(&site.folder).args(["-e", "stderr", "-c"]).arg(file);
            }
            Self::Envoy => {
                let file = site.config("envoy.yaml", &envoy(at, to))?;
                command.args(["--concurrency", "1", "--disable-hot-restart", "-l", "error", "-c"]).arg(file);
            }
            Self::Relay => {
                command.args(["relay", "--addr", &at.to_string(), "--to", &to.to_string()]);
            }
            Self::Pilotlight => {
                command.args(["--addr", &at.to_string(), &format!("demo/hello={to}")]);
                command.args(site.h2c.then_some("--h2c"));
            }
        }
        Ok(Some(command))
    }
}

impl Site {
    fn config(&self, name: &str, text: &str) -> Result<PathBuf> {
        let file = self.folder.join(name);
        fs::write(&file, text).with_context(|| format!("writing {}", file.display()))?;
        Ok(file)
    }

    /// The versions of those who were measured beside Pilotlight.
    pub(super) fn versions(&self) -> Result<String> {
        let said = |program: &Path, argument: &str| {
            // nginx says its version on standard error.
            let said = Command::new(program).arg(argument).output()?;
            let text = [said.stdout, said.stderr].concat();
            let text = String::from_utf8_lossy(&text).into_owned();
            let digits = |word: &&str| word.starts_with(|c: char| c.is_ascii_digit()) && word.contains('.');
            let version = text.split(|c: char| c.is_whitespace() || "/-~+".contains(c)).find(digits);
            anyhow::Ok(version.unwrap_or("?").to_owned())
        };
        let Proxies { haproxy, nginx, envoy } = &self.proxies;
        let (haproxy, nginx) = (said(haproxy, "-v")?, said(nginx, "-v")?);
        Ok(format!("HAProxy {haproxy}, nginx {nginx} and Envoy {}", said(envoy, "--version")?))
    }
}

/// Whether a request is answered well.
fn answers(at: SocketAddr) -> bool {
    let ask = || {
        let mut stream = TcpStream::connect(at)?;
        stream.set_read_timeout(Some(Duration::from_secs(1)))?;
        write!(stream, "GET /0 HTTP/1.1\r\nhost: {HOST}\r\nconnection: close\r\n\r\n")?;
        let mut start = [0; 12];
        stream.read_exact(&mut start)?;
        std::io::Result::Ok(&start == b"HTTP/1.1 200")
    };
    ask().unwrap_or(false)
}

fn haproxy(at: SocketAddr, to: SocketAddr) -> String {
    format!(
        "global
    nbthread 1
    maxconn 5000
defaults
    mode http
    timeout connect 5s
    timeout client 60s
    timeout server 60s
    timeout tunnel 60s
    http-reuse always
frontend front
    bind {at}
    option forwardfor
    http-request set-header X-Forwarded-Proto http
    use_backend hello if {{ hdr(host) -i {HOST} }}
backend hello
    server pod {to}
"
    )
}

fn nginx(at: SocketAddr, http2: SocketAddr, to: SocketAddr, folder: &Path) -> String {
    format!(
        "daemon off;
worker_processes 1;
pid {folder}/nginx.pid;
events {{ worker_connections 5000; }}
http {{
    access_log off;
    client_body_temp_path {folder}/nginx-body;
    proxy_temp_path {folder}/nginx-proxy;
    fastcgi_temp_path {folder}/nginx-fastcgi;
    uwsgi_temp_path {folder}/nginx-uwsgi;
    scgi_temp_path {folder}/nginx-scgi;
    client_max_body_size 0;
    keepalive_requests 1000000000;
    upstream hello {{ server {to}; keepalive 2000; keepalive_requests 1000000000; }}
    map $http_upgrade $connection_upgrade {{ default upgrade; '' ''; }}
    server {{
        listen {at};
        listen {http2} http2;
        server_name {HOST};
        location / {{
            proxy_pass http://hello;
            proxy_http_version 1.1;
            proxy_request_buffering off;
            proxy_max_temp_file_size 0;
            proxy_set_header Host $host;
            proxy_set_header Upgrade $http_upgrade;
            proxy_set_header Connection $connection_upgrade;
            proxy_set_header X-Forwarded-For $remote_addr;
            proxy_set_header X-Forwarded-Proto $scheme;
        }}
    }}
}}
",
        folder = folder.display()
    )
}

fn envoy(at: SocketAddr, to: SocketAddr) -> String {
    let address = |address: SocketAddr| {
        format!("{{ socket_address: {{ address: {}, port_value: {} }} }}", address.ip(), address.port())
    };
    format!(
        r#"static_resources:
  listeners:
  - address: {at}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: front
          use_remote_address: true
          upgrade_configs: [{{ upgrade_type: websocket }}]
          route_config:
            virtual_hosts:
            - name: hello
              domains: ["{HOST}"]
              routes: [{{ match: {{ prefix: "/" }}, route: {{ cluster: hello, timeout: 0s }} }}]
          http_filters:
          - name: envoy.filters.http.router
            typed_config: {{ "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router }}
  clusters:
  - name: hello
    type: STATIC
    connect_timeout: 5s
    circuit_breakers:
      thresholds: [{{ max_connections: 5000, max_pending_requests: 5000, max_requests: 5000 }}]
    load_assignment:
      cluster_name: hello
      endpoints: [{{ lb_endpoints: [{{ endpoint: {{ address: {to} }} }}] }}]
"#,
        at = address(at),
        to = address(to)
    )
}
