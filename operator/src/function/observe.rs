//! Step 1: what there is of a Function, read from the stores that the watches fill.

use std::sync::Arc;

use k8s_openapi::{
    api::{apps::v1::Deployment, core::v1::Service},
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference},
};
use kube::{Resource, runtime::reflector::ObjectRef};
use pilotlight_crds::{Function, FunctionKey, FunctionStatus, names};

use crate::{
    context::Context,
    error::Error,
    function::{pod::PodView, revisions::Revision},
};

/// Which Function this is, down to its uid: a Function of the same name may have been deleted just now.
#[derive(Clone, Debug)]
pub(crate) struct Identity {
    pub key: FunctionKey,
    pub uid: String,
    /// What makes an object its child.
    pub owner: OwnerReference,
}

impl Identity {
    /// Reads it from what the API server gives to every object.
    pub(crate) fn of(function: &Function) -> Result<Self, Error> {
        let key = function.key().ok_or(Error::NoIdentity)?;
        let owner = function.controller_owner_ref(&()).ok_or(Error::NoIdentity)?;
        let owner = OwnerReference { block_owner_deletion: Some(true), ..owner };
        Ok(Self { key, uid: owner.uid.clone(), owner })
    }

    /// Whether an object is this Function's child.
    pub(crate) fn owns(&self, metadata: &ObjectMeta) -> bool {
        controller(metadata).is_some_and(|owner| owner.uid == self.uid)
    }

    /// Whether an object is the child of a deleted Function of the same name.
    pub(crate) fn succeeds(&self, metadata: &ObjectMeta) -> bool {
        controller(metadata).is_some_and(|owner| {
            owner.uid != self.uid && owner.kind == self.owner.kind && owner.name == self.owner.name
        })
    }
}

fn controller(metadata: &ObjectMeta) -> Option<&OwnerReference> {
    metadata.owner_references.iter().flatten().find(|owner| owner.controller == Some(true))
}

/// What there is of a Function.
#[derive(Clone, Debug, Default)]
pub(crate) struct Observed {
    /// `metadata.generation`: which spec this is about.
    pub generation: Option<i64>,
    /// The status as it stands.
    pub status: FunctionStatus,
    /// Its Deployments, one per revision.
    pub deployments: Vec<Arc<Deployment>>,
    /// Its Service.
    pub service: Option<Arc<Service>>,
    /// Its pods, but not those that end.
    pub pods: Vec<PodView>,
}

impl Observed {
    /// The revisions that exist.
    pub(crate) fn revisions(&self) -> impl Iterator<Item = Revision> {
        self.deployments.iter().filter_map(|deployment| Revision::read(deployment))
    }
}

/// Reads what there is, once the watches have listed everything.
pub(crate) async fn observe(
    function: &Function,
    identity: &Identity,
    context: &Context,
) -> Result<Observed, Error> {
    let stores = &context.stores;
    stores.wait_until_ready().await.map_err(Error::NotWatching)?;
    let FunctionKey { namespace, name } = &identity.key;
    let of_function = |metadata: &ObjectMeta| {
        metadata.namespace.as_ref() == Some(namespace)
            && metadata.labels.as_ref().and_then(|labels| labels.get(names::FUNCTION_LABEL)) == Some(name)
    };
    let service = stores.services.get(&ObjectRef::new(name).within(namespace));
    Ok(Observed {
        generation: function.metadata.generation,
        status: function.status.clone().unwrap_or_default(),
        deployments: stores.deployments.state_filter(|deployment| {
            of_function(&deployment.metadata) && identity.owns(&deployment.metadata)
        }),
        service: service.filter(|service| identity.owns(&service.metadata)),
        pods: stores
            .pods
            .state_filter(|pod| of_function(&pod.metadata))
            .iter()
            .filter_map(|pod| PodView::read(pod))
            .collect(),
    })
}
