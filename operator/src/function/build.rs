//! Step 3: from a valid spec to the children that there should be. Pure.

mod deployment;
mod secret;
mod service;
mod warnings;

use k8s_openapi::{
    api::{
        apps::v1::Deployment,
        core::v1::{Secret, Service},
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use pilotlight_crds::{FunctionKey, names};

pub(crate) use self::{deployment::refers_to_secret, service::url, warnings::warnings};
use crate::{
    config::Config,
    error::Error,
    function::{observe::Identity, validate::Validated},
};

/// How far children have come: [`Desired`], or applied.
pub(crate) trait Stage {
    /// What is known of a child of type `T` at this stage.
    type Of<T>;
}

/// Children as they should be; nobody has seen them yet.
#[derive(Debug)]
pub(crate) struct Desired;

impl Stage for Desired {
    type Of<T> = T;
}

/// All that a Function consists of in Kubernetes.
pub(crate) struct Children<S: Stage> {
    /// The revision of the present spec.
    pub revision: String,
    pub secret: Option<S::Of<Secret>>,
    pub deployment: S::Of<Deployment>,
    pub service: S::Of<Service>,
}

/// Builds the children of a Function.
pub(crate) fn build(function: &Validated, config: &Config) -> Result<Children<Desired>, Error> {
    let (revision, deployment) = deployment::deployment(function, &config.state_url)?;
    Ok(Children {
        revision,
        secret: function.session.then(|| secret::secret(&function.identity, &config.keys)),
        deployment,
        service: service::service(&function.identity, &config.activator_host),
    })
}

/// Metadata that all children have: found by label, collected with their owner.
fn metadata(identity: &Identity, name: String) -> ObjectMeta {
    let FunctionKey { namespace, name: function } = &identity.key;
    ObjectMeta {
        name: Some(name),
        namespace: Some(namespace.clone()),
        labels: Some(
            [(names::MANAGED_BY_LABEL, names::MANAGER), (names::FUNCTION_LABEL, function.as_str())]
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .into(),
        ),
        owner_references: Some(vec![identity.owner.clone()]),
        ..Default::default()
    }
}

#[cfg(test)]
pub(crate) mod tests;
