//! Settings: raw [`Args`] from flags and environment, checked once into a [`Config`].

use std::net::SocketAddr;

use clap::Parser;
use pilotlight_crds::{InvalidKeys, Keys, UrlScheme};

/// Flags of the operator. Each has an environment variable, which is what the chart sets.
#[derive(Debug, Parser)]
#[command(
    name = "pilotlight-operator",
    version,
    about = "Turns Functions into Deployments, Services and a status."
)]
pub struct Args {
    /// Namespace that Pilotlight is installed in: the Lease and the activator's Service are there.
    #[arg(long, env = "PILOTLIGHT_NAMESPACE")]
    namespace: String,
    /// Domain under which Functions answer from outside: `<name>.<namespace>.<domain>`.
    #[arg(long, env = "PILOTLIGHT_DOMAIN", default_value = "pilotlight.local")]
    domain: String,
    /// Scheme of the URLs in the status.
    #[arg(long, env = "PILOTLIGHT_URL_SCHEME", default_value = "http")]
    url_scheme: UrlScheme,
    /// Domain of the cluster's own DNS names.
    #[arg(long, env = "PILOTLIGHT_CLUSTER_DOMAIN", default_value = "cluster.local")]
    cluster_domain: String,
    /// Name of the activator's Service.
    #[arg(long, env = "PILOTLIGHT_ACTIVATOR_SERVICE", default_value = "pilotlight-activator")]
    activator_service: String,
    /// Base URL of the state API, as functions reach it. Default: `http://pilotlight-state.<namespace>.svc:8082`.
    #[arg(long, env = "PILOTLIGHT_STATE_URL")]
    state_url: Option<String>,
    /// Comma separated secrets; the first signs the functions' state tokens.
    #[arg(long, env = "PILOTLIGHT_KEYS", hide_env_values = true)]
    keys: String,
    /// Where /livez, /readyz and /metrics answer.
    #[arg(long, env = "PILOTLIGHT_ADMIN_ADDR", default_value = "0.0.0.0:9090")]
    admin_addr: SocketAddr,
    /// Name of this process in the Lease and in Events. Default: the host name.
    #[arg(long, env = "POD_NAME")]
    pod_name: Option<String>,
    /// What a host is named where `POD_NAME` is not set.
    #[arg(long, env = "HOSTNAME", hide = true)]
    hostname: Option<String>,
}

/// Checked settings.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where the Lease is.
    pub namespace: String,
    /// Suffix of the URLs in the status.
    pub domain: String,
    /// Scheme of the URLs in the status.
    pub url_scheme: UrlScheme,
    /// DNS name of the activator inside the cluster: what every Function's Service points at.
    pub activator_host: String,
    /// Base URL of the state API.
    pub state_url: String,
    /// Sign the state tokens.
    pub keys: Keys,
    /// Where the admin server listens.
    pub admin_addr: SocketAddr,
    /// This process in the Lease and in Events.
    pub identity: String,
}

/// A setting that makes no sense.
#[derive(Debug, thiserror::Error)]
pub enum InvalidConfig {
    /// A name that ends up in DNS.
    #[error("{setting} must be a lower-case DNS name, not `{value}`")]
    DnsName {
        /// The environment variable.
        setting: &'static str,
        /// What it holds.
        value: String,
    },
    /// The state URL.
    #[error("PILOTLIGHT_STATE_URL must begin with http:// or https://, not `{0}`")]
    StateUrl(String),
    /// The secrets.
    #[error("PILOTLIGHT_KEYS: {0}")]
    Keys(InvalidKeys),
}

impl TryFrom<Args> for Config {
    type Error = InvalidConfig;

    fn try_from(args: Args) -> Result<Self, InvalidConfig> {
        // Without `..`: a flag that nothing uses does not compile.
        let Args {
            namespace,
            domain,
            url_scheme,
            cluster_domain,
            activator_service,
            state_url,
            keys,
            admin_addr,
            pod_name,
            hostname,
        } = args;
        dns_name("PILOTLIGHT_NAMESPACE", &namespace)?;
        dns_name("PILOTLIGHT_DOMAIN", &domain)?;
        dns_name("PILOTLIGHT_CLUSTER_DOMAIN", &cluster_domain)?;
        dns_name("PILOTLIGHT_ACTIVATOR_SERVICE", &activator_service)?;
        let state_url = state_url.unwrap_or_else(|| format!("http://pilotlight-state.{namespace}.svc:8082"));
        if !state_url.starts_with("http://") && !state_url.starts_with("https://") {
            return Err(InvalidConfig::StateUrl(state_url));
        }
        Ok(Self {
            activator_host: format!("{activator_service}.{namespace}.svc.{cluster_domain}"),
            domain,
            url_scheme,
            state_url,
            keys: Keys::parse(&keys).map_err(InvalidConfig::Keys)?,
            admin_addr,
            // Two processes with one identity would both lead, so the process id is part of the fallback.
            identity: pod_name
                .or(hostname)
                .unwrap_or_else(|| format!("pilotlight-operator-{}", std::process::id())),
            namespace,
        })
    }
}

fn dns_name(setting: &'static str, value: &str) -> Result<(), InvalidConfig> {
    let label = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
    };
    if value.len() <= 253 && value.split('.').all(label) {
        return Ok(());
    }
    Err(InvalidConfig::DnsName { setting, value: value.to_owned() })
}

#[cfg(test)]
impl Config {
    /// Settings as the chart's defaults give them, for tests.
    pub(crate) fn test() -> Self {
        let args = ["pilotlight-operator", "--namespace=pilotlight", "--pod-name=test"];
        let keys = "--keys=0123456789abcdef0123456789abcdef";
        Self::try_from(Args::parse_from(args.into_iter().chain([keys]))).unwrap()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(flags: &[&str]) -> Result<Config, String> {
        let args = ["pilotlight-operator", "--namespace=pilotlight"].iter().chain(flags);
        Config::try_from(Args::try_parse_from(args).map_err(|error| error.to_string())?)
            .map_err(|error| error.to_string())
    }

    #[test]
    fn settings_are_checked_before_anything_runs() {
        let keys = "--keys=0123456789abcdef0123456789abcdef";
        for (flags, expected) in [
            (vec!["--keys=short"], "PILOTLIGHT_KEYS: secret 1 of 1 has 5 characters"),
            (vec![keys, "--domain=Example.com"], "PILOTLIGHT_DOMAIN must be a lower-case DNS name"),
            (vec![keys, "--state-url=redis://x"], "PILOTLIGHT_STATE_URL must begin with"),
            (vec![keys, "--url-scheme=ftp"], "invalid value 'ftp'"),
        ] {
            let message = config(&flags).unwrap_err();
            assert!(message.contains(expected), "{flags:?}: {message}");
        }
        let config = config(&[keys]).unwrap();
        assert_eq!(config.activator_host, "pilotlight-activator.pilotlight.svc.cluster.local");
        assert_eq!(config.state_url, "http://pilotlight-state.pilotlight.svc:8082");
    }
}
