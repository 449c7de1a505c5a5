//! Flags and environment variables, and the checked configuration made of them.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use clap::Parser;
use pilotlight_crds::{Bytes, Keys, Span, UrlScheme};

use crate::{
    index::Domains,
    peer::PeerConfig,
    proxy::{Cidr, Clocks, InvalidCidr, MinRate},
};

/// The activator: in the path of every request to a Function.
#[derive(Clone, Debug, Parser)]
#[command(name = "pilotlight-activator", version)]
pub struct Args {
    /// Where requests come in.
    #[arg(long, env = "PILOTLIGHT_ADDR", default_value = "0.0.0.0:8080")]
    addr: SocketAddr,
    /// Where functions reach the state API.
    #[arg(long, env = "PILOTLIGHT_STATE_ADDR", default_value = "0.0.0.0:8082")]
    state_addr: SocketAddr,
    /// Where other activators connect.
    #[arg(long, env = "PILOTLIGHT_PEER_ADDR", default_value = "0.0.0.0:8083")]
    peer_addr: SocketAddr,
    /// Uid of this pod; empty: this activator works alone.
    #[arg(long, env = "POD_UID", default_value = "")]
    pod_uid: String,
    /// Namespace of this pod.
    #[arg(long, env = "POD_NAMESPACE", default_value = "")]
    pod_namespace: String,
    /// Label selector for the pods of all activators of the installation.
    #[arg(long, env = "PILOTLIGHT_PEER_SELECTOR", default_value = "")]
    peer_selector: String,
    /// Where /livez, /readyz and /metrics are.
    #[arg(long, env = "PILOTLIGHT_ADMIN_ADDR", default_value = "0.0.0.0:9090")]
    admin_addr: SocketAddr,
    /// Functions answer at <name>.<namespace>.<domain>.
    #[arg(long, env = "PILOTLIGHT_DOMAIN", default_value = "pilotlight.local")]
    domain: String,
    /// Where TLS connections come in, if there are certificates.
    #[arg(long, env = "PILOTLIGHT_TLS_ADDR", default_value = "0.0.0.0:8443")]
    tls_addr: SocketAddr,
    /// Secrets with certificates in the activator's namespace, comma separated; empty: no TLS.
    #[arg(long, env = "PILOTLIGHT_TLS_SECRETS", default_value = "")]
    tls_secrets: String,
    /// The port by which callers reach TLS, to which plain requests for hosts with a certificate are
    /// redirected; without it they are served.
    #[arg(long, env = "PILOTLIGHT_TLS_REDIRECT_PORT")]
    tls_redirect_port: Option<u16>,
    /// How callers reach the plain port: https if something in front of it ends TLS.
    #[arg(long, env = "PILOTLIGHT_URL_SCHEME", default_value = "http")]
    url_scheme: UrlScheme,
    /// Address ranges of proxies in front, comma separated, whose X-Forwarded-* and Forwarded are kept.
    #[arg(long, env = "PILOTLIGHT_TRUSTED_PROXIES", default_value = "", value_delimiter = ',')]
    trusted_proxies: Vec<String>,
    /// Whether traces that begin at the activator are marked as sampled.
    #[arg(long, env = "PILOTLIGHT_SAMPLE_TRACES", default_value_t = false, action = clap::ArgAction::Set)]
    sample_traces: bool,
    /// DNS domain of the cluster.
    #[arg(long, env = "PILOTLIGHT_CLUSTER_DOMAIN", default_value = "cluster.local")]
    cluster_domain: String,
    /// Redis for sessions, such as redis://host:6379; empty: no state.
    #[arg(long, env = "PILOTLIGHT_REDIS_URL", default_value = "", hide_env_values = true)]
    redis_url: String,
    /// Secrets of the installation, comma separated; empty: no sessions.
    #[arg(long, env = "PILOTLIGHT_KEYS", default_value = "", hide_env_values = true)]
    keys: String,
    /// After SIGTERM: how long to go on accepting while endpoints propagate.
    #[arg(long, env = "PILOTLIGHT_DRAIN_DELAY", default_value = "5s")]
    drain_delay: Span,
    /// After that: how long requests may wait for a slot and be in flight.
    #[arg(long, env = "PILOTLIGHT_DRAIN_TIMEOUT", default_value = "60s")]
    drain_timeout: Span,
    /// The most client connections at once.
    #[arg(long, env = "PILOTLIGHT_MAX_CONNECTIONS", default_value_t = 20_000)]
    max_connections: usize,
    /// The most client connections from one address, or one /64 of IPv6; 0: no limit.
    #[arg(long, env = "PILOTLIGHT_MAX_CONNECTIONS_PER_ADDRESS", default_value_t = 0)]
    max_connections_per_address: usize,
    /// Memory that the process keeps below, by doing less while it is short; 0: no limit.
    #[arg(long, env = "PILOTLIGHT_MEMORY_BUDGET", default_value = "0")]
    memory_budget: Bytes,
    /// How long the head of a request may take, from its first byte or the beginning of the connection.
    #[arg(long, env = "PILOTLIGHT_HEAD_TIMEOUT", default_value = "30s")]
    head_timeout: Span,
    /// How long a connection may be without a request.
    #[arg(long, env = "PILOTLIGHT_IDLE_TIMEOUT", default_value = "130s")]
    idle_timeout: Span,
    /// Bytes a second that a client has to send or take of a body while it is waited for; 0: any rate will do.
    #[arg(long, env = "PILOTLIGHT_MIN_RATE", default_value = "240")]
    min_rate: Bytes,
    /// How long it may take before that rate counts.
    #[arg(long, env = "PILOTLIGHT_MIN_RATE_GRACE", default_value = "5s")]
    min_rate_grace: Span,
    /// How long a client may take nothing of a response at all.
    #[arg(long, env = "PILOTLIGHT_STALL_TIMEOUT", default_value = "60s")]
    stall_timeout: Span,
    /// The most requests that all functions together may hold.
    #[arg(long, env = "PILOTLIGHT_HOLD_REQUESTS", default_value_t = 10_000)]
    hold_requests: u64,
    /// The most bytes of requests that all functions together may hold.
    #[arg(long, env = "PILOTLIGHT_HOLD_BYTES", default_value = "256Mi")]
    hold_bytes: Bytes,
    /// What to log.
    #[arg(long, env = "PILOTLIGHT_LOG", default_value = "info")]
    log: String,
}

/// What is wrong with the configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The keys cannot be used.
    #[error("PILOTLIGHT_KEYS")]
    Keys(#[from] pilotlight_crds::InvalidKeys),
    /// A trusted proxy is no range of addresses.
    #[error("PILOTLIGHT_TRUSTED_PROXIES")]
    TrustedProxies(#[from] InvalidCidr),
    /// The list of Secrets has a hole.
    #[error("PILOTLIGHT_TLS_SECRETS has an empty name: it is a list of Secrets such as `a,b`")]
    NoSecretName,
    /// There is nowhere to redirect to.
    #[error(
        "PILOTLIGHT_TLS_REDIRECT_PORT needs PILOTLIGHT_TLS_SECRETS: without certificates nothing is redirected"
    )]
    RedirectWithoutTls,
    /// The peers cannot be found.
    #[error(
        "POD_NAMESPACE and PILOTLIGHT_PEER_SELECTOR must be set where POD_UID is: they say which pods are peers"
    )]
    Peers,
    /// There is nothing to serve with.
    #[error("PILOTLIGHT_MAX_CONNECTIONS must be at least 1")]
    NoConnections,
    /// Every connection would be closed at once.
    #[error(
        "PILOTLIGHT_HEAD_TIMEOUT, PILOTLIGHT_IDLE_TIMEOUT and PILOTLIGHT_STALL_TIMEOUT must be at least 1s"
    )]
    NoTime,
}

/// How TLS is ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsConfig {
    /// Where connections come in.
    pub addr: SocketAddr,
    /// Names of Secrets with certificates; the first is for those who ask for no name that we have.
    pub secrets: Vec<String>,
    /// The port to which plain requests are redirected, if they are.
    pub redirect_port: Option<u16>,
}

/// The checked configuration.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where requests come in.
    pub addr: SocketAddr,
    /// Where functions reach the state API.
    pub state_addr: SocketAddr,
    /// Where other activators connect.
    pub peer_addr: SocketAddr,
    /// Which they are; `None`: there are none.
    pub peers: Option<PeerConfig>,
    /// Where the admin pages are.
    pub admin_addr: SocketAddr,
    /// Domains of Functions.
    pub domains: Domains,
    /// TLS, if it is ended here.
    pub tls: Option<TlsConfig>,
    /// How callers reach the plain port.
    pub scheme: UrlScheme,
    /// Proxies in front whose word on where a request comes from is taken.
    pub trusted_proxies: Vec<Cidr>,
    /// Whether traces that begin here are marked as sampled.
    pub sample_traces: bool,
    /// Redis, if there is one.
    pub redis_url: Option<String>,
    /// Keys, if there are any.
    pub keys: Option<Arc<Keys>>,
    /// How long to go on accepting after SIGTERM.
    pub drain_delay: Duration,
    /// How long requests in flight may take after that.
    pub drain_timeout: Duration,
    /// The most client connections at once.
    pub max_connections: usize,
    /// The most from one address, if that is limited.
    pub max_connections_per_address: usize,
    /// Memory to keep below, if that is limited.
    pub memory_budget: Option<u64>,
    /// How long client connections may do nothing.
    pub clocks: Clocks,
    /// How fast clients have to send and read.
    pub rate: MinRate,
    /// The most held requests of the process.
    pub hold_requests: u64,
    /// The most held bytes of the process.
    pub hold_bytes: u64,
    /// What to log.
    pub log: String,
}

impl TryFrom<Args> for Config {
    type Error = ConfigError;

    fn try_from(args: Args) -> Result<Self, ConfigError> {
        let Args {
            addr,
            state_addr,
            peer_addr,
            pod_uid,
            pod_namespace,
            peer_selector,
            admin_addr,
            domain,
            tls_addr,
            tls_secrets,
            tls_redirect_port,
            url_scheme,
            trusted_proxies,
            sample_traces,
            cluster_domain,
            redis_url,
            keys,
            drain_delay,
            drain_timeout,
            max_connections,
            max_connections_per_address,
            memory_budget,
            head_timeout,
            idle_timeout,
            min_rate,
            min_rate_grace,
            stall_timeout,
            hold_requests,
            hold_bytes,
            log,
        } = args;
        if max_connections == 0 {
            return Err(ConfigError::NoConnections);
        }
        if [head_timeout, idle_timeout, stall_timeout].iter().any(|time| time.get() < Duration::from_secs(1))
        {
            return Err(ConfigError::NoTime);
        }
        let ranges = trusted_proxies.iter().map(|range| range.trim()).filter(|range| !range.is_empty());
        let peers = peers(pod_uid, pod_namespace, peer_selector, peer_addr.port())?;
        let keys = (!keys.is_empty()).then(|| Keys::parse(&keys)).transpose()?.map(Arc::new);
        Ok(Self {
            addr,
            state_addr,
            peer_addr,
            peers,
            admin_addr,
            domains: Domains { outside: domain, cluster: cluster_domain },
            tls: tls(tls_addr, &tls_secrets, tls_redirect_port)?,
            scheme: url_scheme,
            trusted_proxies: ranges.map(str::parse).collect::<Result<_, _>>()?,
            sample_traces,
            redis_url: (!redis_url.is_empty()).then_some(redis_url),
            keys,
            drain_delay: drain_delay.get(),
            drain_timeout: drain_timeout.get(),
            max_connections,
            max_connections_per_address,
            memory_budget: Some(memory_budget.get()).filter(|budget| *budget > 0),
            clocks: Clocks { head: head_timeout.get(), idle: idle_timeout.get() },
            rate: MinRate {
                bytes_per_second: min_rate.get(),
                grace: min_rate_grace.get(),
                stall: stall_timeout.get(),
            },
            hold_requests,
            hold_bytes: hold_bytes.get(),
            log,
        })
    }
}

fn tls(
    addr: SocketAddr,
    secrets: &str,
    redirect_port: Option<u16>,
) -> Result<Option<TlsConfig>, ConfigError> {
    if secrets.is_empty() {
        return if redirect_port.is_some() { Err(ConfigError::RedirectWithoutTls) } else { Ok(None) };
    }
    let secrets: Vec<_> = secrets.split(',').map(|name| name.trim().to_owned()).collect();
    if secrets.iter().any(String::is_empty) {
        return Err(ConfigError::NoSecretName);
    }
    Ok(Some(TlsConfig { addr, secrets, redirect_port }))
}

fn peers(
    uid: String,
    namespace: String,
    selector: String,
    port: u16,
) -> Result<Option<PeerConfig>, ConfigError> {
    match (uid.is_empty(), namespace.is_empty() || selector.is_empty()) {
        (true, _) => Ok(None),
        (false, true) => Err(ConfigError::Peers),
        (false, false) => Ok(Some(PeerConfig { uid, namespace, selector, port })),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(args: &[&str]) -> Result<Config, ConfigError> {
        let args = ["pilotlight-activator"].iter().chain(args);
        Config::try_from(Args::try_parse_from(args).unwrap())
    }

    #[test]
    fn trusted_proxies_are_ranges_between_commas() {
        let ranges = |text| config(&["--trusted-proxies", text]).map(|config| config.trusted_proxies);
        assert_eq!(ranges("10.0.0.0/8, ::1").unwrap().len(), 2);
        assert!(config(&[]).unwrap().trusted_proxies.is_empty());
        assert!(matches!(ranges("10.0.0.0/8,ingress"), Err(ConfigError::TrustedProxies(_))));
    }

    #[test]
    fn tls_needs_names_of_secrets() {
        let read = |flags: &[&str]| {
            let tls = config(flags).map(|config| config.tls);
            tls.map(|tls| tls.map(|tls| tls.secrets)).map_err(|error| error.to_string())
        };
        assert_eq!(read(&[]), Ok(None));
        assert_eq!(read(&["--tls-secrets=a, b"]), Ok(Some(vec!["a".into(), "b".into()])));
        for (flag, names) in
            [("--tls-secrets=a,,b", "TLS_SECRETS"), ("--tls-redirect-port=443", "REDIRECT_PORT needs")]
        {
            let error = read(&[flag]).unwrap_err();
            assert!(error.contains(names), "{error}");
        }
    }
}
