//! Where a Function answers: its Service inside the cluster, and the URL in its status. Pure.

use k8s_openapi::api::core::v1::{Service, ServiceSpec};

use crate::{
    config::Config,
    function::{build::metadata, observe::Identity, validate::Validated},
};

/// The Service: an alias of the activator, so that `http://<function>.<namespace>` passes it as well and
/// may wake the function. An alias lives in DNS alone: no cluster IP, no endpoints, and no kube-proxy
/// rules on every node for each of thousands of functions.
pub(super) fn service(identity: &Identity, activator_host: &str) -> Service {
    Service {
        metadata: metadata(identity, identity.key.name.clone()),
        spec: Some(ServiceSpec {
            type_: Some("ExternalName".to_owned()),
            external_name: Some(activator_host.to_owned()),
            ..Default::default()
        }),
        status: None,
    }
}

/// The URL to show: that of the first route with a host which is not a wildcard, else the Function's own.
pub(crate) fn url(function: &Validated, config: &Config) -> String {
    let scheme = config.url_scheme.as_str();
    let route = function.routes.iter().find_map(|route| {
        let host = route.hosts.iter().find(|host| !host.starts_with('*'))?;
        Some(format!("{scheme}://{host}{}", route.path.0.trim_end_matches('/')))
    });
    let key = &function.identity.key;
    route.unwrap_or_else(|| format!("{scheme}://{}.{}.{}", key.name, key.namespace, config.domain))
}
