//! START HERE (TLS in front): certificates from Secrets, chosen by the name that a client asks for, replaced while
//! connections are open.
//!
//! Reading order: here (a handshake), `certificates.rs` (which certificate), `certificate.rs` (one of them),
//! `watch.rs` (where they come from).

mod certificate;
mod certificates;
pub(crate) mod watch;

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use rustls::{HandshakeKind, InvalidMessage, ServerConfig, crypto::aws_lc_rs::Ticketer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

pub use self::{
    certificate::{BadCertificate, Certificate},
    certificates::Certificates,
    watch::Served,
};
use crate::metrics::TlsMetrics;

/// How long a handshake may take: a client is 2 round trips away from its end.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

const HTTP2: &[u8] = b"h2";
const HTTP1: &[u8] = b"http/1.1";

/// Ends TLS for one port.
pub struct Tls {
    acceptor: TlsAcceptor,
    certificates: Arc<Certificates>,
    timeout: Duration,
    metrics: TlsMetrics,
}

/// What a handshake has agreed on.
#[derive(Debug)]
pub struct Handshake {
    /// The name that the client asked for, in lower case.
    server_name: Option<String>,
    /// Whether it is HTTP/2 that follows.
    http2: bool,
    certificates: Arc<Certificates>,
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tls").field("certificates", &self.certificates).finish_non_exhaustive()
    }
}

impl Tls {
    /// TLS 1.2 and 1.3, HTTP/2 and HTTP/1.1 by ALPN (RFC 7301), without early data, which can be replayed.
    /// Sessions are resumed by tickets whose keys change every few hours and stay in this process: with
    /// another activator the same client makes a full handshake.
    ///
    /// # Errors
    /// When there is no randomness for the tickets' keys.
    pub fn new(
        certificates: Arc<Certificates>,
        timeout: Duration,
        metrics: TlsMetrics,
    ) -> Result<Self, rustls::Error> {
        let provider = Arc::new(certificate::provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_cert_resolver(Arc::clone(&certificates) as _);
        config.alpn_protocols = vec![HTTP2.to_vec(), HTTP1.to_vec()];
        config.ticketer = Ticketer::new()?;
        Ok(Self { acceptor: TlsAcceptor::from(Arc::new(config)), certificates, timeout, metrics })
    }

    /// Makes the handshake; none if it failed, which is counted.
    pub(crate) async fn accept<IO>(&self, stream: IO, peer: SocketAddr) -> Option<(TlsStream<IO>, Handshake)>
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        let result = match tokio::time::timeout(self.timeout, self.acceptor.accept(stream)).await {
            Ok(Ok(stream)) => {
                let (_, tls) = stream.get_ref();
                let resumed = tls.handshake_kind() == Some(HandshakeKind::Resumed);
                self.metrics.handshake(if resumed { "resumed" } else { "full" });
                let handshake = Handshake {
                    server_name: tls.server_name().map(str::to_owned),
                    http2: tls.alpn_protocol() == Some(HTTP2),
                    certificates: Arc::clone(&self.certificates),
                };
                return Some((stream, handshake));
            }
            Ok(Err(error)) => {
                tracing::debug!(%peer, %error, "a TLS handshake failed");
                self.why(&error)
            }
            Err(_late) => "timeout",
        };
        self.metrics.handshake(result);
        None
    }

    /// Why a handshake failed, as a label.
    fn why(&self, error: &io::Error) -> &'static str {
        use rustls::Error;
        match error.get_ref().and_then(|error| error.downcast_ref::<Error>()) {
            Some(_) if self.certificates.is_empty() => "no-certificate",
            Some(Error::InvalidMessage(InvalidMessage::InvalidContentType)) => "not-tls",
            Some(Error::AlertReceived(_)) => "refused",
            Some(Error::PeerIncompatible(_) | Error::NoApplicationProtocol) => "incompatible",
            Some(_) => "broken",
            None => "left",
        }
    }
}

impl Handshake {
    /// Whether a request may come on this connection.
    ///
    /// # Errors
    /// HTTP/2 that was not negotiated (RFC 9113, section 3.2), and a host that another certificate is for.
    pub(crate) fn check(&self, http2: bool, host: &str) -> Result<(), Misuse> {
        if http2 != self.http2 {
            return Err(Misuse::Protocol);
        }
        match self.server_name.as_deref() {
            Some(name) if name != host && self.certificates.misdirected(name, host) => {
                Err(Misuse::Misdirected)
            }
            _ => Ok(()),
        }
    }
}

/// Where plain requests for hosts that have a certificate are sent.
#[derive(Clone, Debug)]
pub struct Redirect {
    /// The certificates.
    pub certificates: Arc<Certificates>,
    /// The port on which callers reach TLS.
    pub port: u16,
}

impl Redirect {
    /// Where a plain request ought to have gone; none if its host has no certificate, as the hosts inside
    /// the cluster mostly have none.
    pub(crate) fn location(&self, host: &str, target: &str) -> Option<String> {
        self.certificates.covers(host).then(|| match self.port {
            443 => format!("https://{host}{target}"),
            port => format!("https://{host}:{port}{target}"),
        })
    }
}

/// Why a request may not come on a TLS connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Misuse {
    /// HTTP/2 where HTTP/1.1 was agreed on, or the other way round.
    Protocol,
    /// The connection was made for another host.
    Misdirected,
}
