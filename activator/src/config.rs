//! Flags and environment variables, and the checked configuration made of them.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use clap::Parser;
use pilotlight_crds::{Bytes, Keys, Span, UrlScheme};

use crate::index::Domains;

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
    /// Where /livez, /readyz and /metrics are.
    #[arg(long, env = "PILOTLIGHT_ADMIN_ADDR", default_value = "0.0.0.0:9090")]
    admin_addr: SocketAddr,
    /// Functions answer at <name>.<namespace>.<domain>.
    #[arg(long, env = "PILOTLIGHT_DOMAIN", default_value = "pilotlight.local")]
    domain: String,
    /// How callers reach the activator: https if something in front of it ends TLS.
    #[arg(long, env = "PILOTLIGHT_URL_SCHEME", default_value = "http")]
    url_scheme: UrlScheme,
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
    /// After that: how long requests in flight may take.
    #[arg(long, env = "PILOTLIGHT_DRAIN_TIMEOUT", default_value = "30s")]
    drain_timeout: Span,
    /// The most client connections at once.
    #[arg(long, env = "PILOTLIGHT_MAX_CONNECTIONS", default_value_t = 20_000)]
    max_connections: usize,
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
    /// There is nothing to serve with.
    #[error("PILOTLIGHT_MAX_CONNECTIONS must be at least 1")]
    NoConnections,
}

/// The checked configuration.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where requests come in.
    pub addr: SocketAddr,
    /// Where functions reach the state API.
    pub state_addr: SocketAddr,
    /// Where the admin pages are.
    pub admin_addr: SocketAddr,
    /// Domains of Functions.
    pub domains: Domains,
    /// How callers reach the activator.
    pub scheme: UrlScheme,
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
            admin_addr,
            domain,
            url_scheme,
            cluster_domain,
            redis_url,
            keys,
            drain_delay,
            drain_timeout,
            max_connections,
            hold_requests,
            hold_bytes,
            log,
        } = args;
        if max_connections == 0 {
            return Err(ConfigError::NoConnections);
        }
        let keys = (!keys.is_empty()).then(|| Keys::parse(&keys)).transpose()?.map(Arc::new);
        Ok(Self {
            addr,
            state_addr,
            admin_addr,
            domains: Domains { outside: domain, cluster: cluster_domain },
            scheme: url_scheme,
            redis_url: (!redis_url.is_empty()).then_some(redis_url),
            keys,
            drain_delay: drain_delay.get(),
            drain_timeout: drain_timeout.get(),
            max_connections,
            hold_requests,
            hold_bytes: hold_bytes.get(),
            log,
        })
    }
}
