//! Step 4: makes the cluster match, in a fixed order, and in the end removes what has done its time.

use std::{fmt::Debug, sync::Arc, time::Instant};

use k8s_openapi::{
    NamespaceResourceScope,
    api::{apps::v1::Deployment, core::v1::Secret},
};
use kube::{
    Api, Resource, ResourceExt,
    api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions},
    core::Status,
};
use pilotlight_crds::{FunctionStatus, names};
use serde::{Serialize, de::DeserializeOwned};

use crate::{
    context::Context,
    error::Error,
    function::{
        build::{Children, Desired, Stage, refers_to_secret},
        drift::covers,
        observe::{Identity, Observed},
        revisions::{Revision, is_spent},
    },
};

/// A kind of object that a Function has as a child.
trait Child:
    Resource<Scope = NamespaceResourceScope, DynamicType = ()> + Clone + Debug + DeserializeOwned + Serialize
{
}

impl<K> Child for K where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>
        + Clone
        + Debug
        + DeserializeOwned
        + Serialize
{
}

/// Children as the API server has them, or why it has not.
#[derive(Debug)]
pub(crate) struct Applied;

impl Stage for Applied {
    type Of<T> = Result<T, Refusal>;
}

/// A child that could not be applied, and how to put that right, for whoever owns the Function.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal(pub String);

impl Children<Applied> {
    /// What was refused.
    pub(crate) fn refusals(&self) -> Vec<Refusal> {
        let secret = self.secret.as_ref().and_then(|secret| secret.as_ref().err());
        let others = [self.deployment.as_ref().err(), self.service.as_ref().err()];
        secret.into_iter().chain(others.into_iter().flatten()).cloned().collect()
    }
}

/// Applies the children. What is still as it should be costs no call.
pub(crate) async fn apply(
    desired: Children<Desired>,
    seen: &Observed,
    identity: &Identity,
    context: &Context,
) -> Result<Children<Applied>, Error> {
    // Without `..`: a child that is built and not applied does not compile.
    let Children { revision, secret, deployment, service } = desired;
    // The Secret first: pods of the Deployment refer to it.
    let secret = match secret {
        Some(secret) => Some(apply_secret(secret, seen, identity, context).await?),
        None => None,
    };
    let deployment = apply_deployment(deployment, seen, identity, context).await?;
    let live = seen.service.as_deref().cloned();
    let service = put(live, service, identity, context).await?;
    Ok(Children { revision, secret, deployment, service })
}

/// Nothing watches Secrets, so one is applied when there is a reason to: a new spec, a pod in trouble
/// (which may be that its Secret is missing), or that the last time was long ago.
async fn apply_secret(
    secret: Secret,
    seen: &Observed,
    identity: &Identity,
    context: &Context,
) -> Result<Result<Secret, Refusal>, Error> {
    let now = Instant::now();
    let due = seen.status.observed_generation != seen.generation
        || seen.pods.iter().any(|pod| pod.trouble.is_some())
        || context.secrets.is_due(&identity.key, now);
    if !due {
        return Ok(Ok(secret));
    }
    let applied = put(None, secret, identity, context).await?;
    if applied.is_ok() {
        context.secrets.done(&identity.key, now);
    }
    Ok(applied)
}

/// A new Deployment must begin at zero, and the field `replicas` must belong to the activator. Neither can
/// be had by applying it: the API server makes an absent `replicas` 1, and a `replicas: 0` that the operator
/// applied would be the operator's, to be put back on each apply. So it is created in the activator's name with
/// `replicas: 0`, and then applied without `replicas`, like every time after.
async fn apply_deployment(
    deployment: Deployment,
    seen: &Observed,
    identity: &Identity,
    context: &Context,
) -> Result<Result<Deployment, Refusal>, Error> {
    let live = seen.deployments.iter().find(|live| live.metadata.name == deployment.metadata.name);
    if live.is_none() {
        let mut first = deployment.clone();
        first.spec.get_or_insert_default().replicas = Some(0);
        let params = PostParams { field_manager: Some(names::ACTIVATOR.to_owned()), ..Default::default() };
        match api::<Deployment>(identity, context).create(&params, &first).await {
            Ok(_) => {
                return send(deployment, PatchParams::apply(names::OPERATOR).force(), identity, context)
                    .await;
            }
            // It exists, and the watch has not shown it yet.
            Err(kube::Error::Api(status)) if status.is_already_exists() => {}
            Err(source) => return refused::<Deployment>(&deployment.name_any(), source).map(Err),
        }
    }
    put(live.map(|live| live.as_ref().clone()), deployment, identity, context).await
}

/// Applies a child, unless `live` is already as it should be or belongs to somebody else. Without a `live`
/// that is known to be ours, the API server is asked.
async fn put<K: Child>(
    live: Option<K>,
    desired: K,
    identity: &Identity,
    context: &Context,
) -> Result<Result<K, Refusal>, Error> {
    let (api, name) = (api::<K>(identity, context), desired.name_any());
    let live = match live {
        Some(live) => Some(live),
        None => api.get_opt(&name).await.map_err(|source| Error::Api { action: "read a child", source })?,
    };
    let mut params = PatchParams::apply(names::OPERATOR);
    if let Some(live) = live {
        if !identity.owns(live.meta()) {
            return foreign(&live, identity).map(Err);
        }
        if covers(&serde_json::to_value(&live)?, &serde_json::to_value(&desired)?) {
            return Ok(Ok(live));
        }
        // Of what is ours, what we apply holds, whoever changed it.
        params = params.force();
    }
    send(desired, params, identity, context).await
}

/// Applies a child.
async fn send<K: Child>(
    desired: K,
    params: PatchParams,
    identity: &Identity,
    context: &Context,
) -> Result<Result<K, Refusal>, Error> {
    let name = desired.name_any();
    match api::<K>(identity, context).patch(&name, &params, &Patch::Apply(&desired)).await {
        Ok(applied) => Ok(Ok(applied)),
        Err(source) => refused::<K>(&name, source).map(Err),
    }
}

/// What to do about an object that has the name of a child and is none.
fn foreign<K: Resource<DynamicType = ()>>(live: &K, identity: &Identity) -> Result<Refusal, Error> {
    let (kind, name) = (K::kind(&()).into_owned(), live.name_any());
    if identity.succeeds(live.meta()) {
        return Err(Error::Predecessor { kind, name });
    }
    Ok(Refusal(format!(
        "{kind} {name} exists and is not Pilotlight's, so it is left alone: delete or rename it, or create the \
         Function under another name"
    )))
}

/// Tells an answer that only the user can change (a quota, a policy, an impossible template) from one that
/// will change by itself.
fn refused<K: Resource<DynamicType = ()>>(name: &str, source: kube::Error) -> Result<Refusal, Error> {
    match source {
        kube::Error::Api(status) if is_namespace_ending(&status) => Err(Error::NamespaceEnding),
        kube::Error::Api(status) if matches!(status.code, 400 | 403 | 422) => {
            Ok(Refusal(format!("{} {name} was refused: {}", K::kind(&()), status.message)))
        }
        source => Err(Error::Api { action: "apply a child", source }),
    }
}

/// Kubernetes deletes the children of a namespace one by one, which looks like drift and cannot be repaired.
fn is_namespace_ending(status: &Status) -> bool {
    let causes = status.details.iter().flat_map(|details| &details.causes);
    causes.into_iter().any(|cause| cause.reason == "NamespaceTerminating")
}

/// Removes the revisions that have done their time, and the Secret with the last one that refers to it.
pub(crate) async fn retire(
    seen: &Observed,
    status: &FunctionStatus,
    identity: &Identity,
    context: &Context,
) -> Result<(), Error> {
    let (serving, latest) = (status.revision.as_deref(), status.latest_revision.as_deref());
    let spent = |deployment: &Deployment| {
        Revision::read(deployment).is_some_and(|revision| is_spent(&revision, serving, latest))
    };
    let secret = names::state_secret(&identity.key.name);
    let (going, staying): (Vec<_>, Vec<_>) = seen.deployments.iter().partition(|d| spent(d));
    let refers = |deployments: &[&Arc<Deployment>]| deployments.iter().any(|d| refers_to_secret(d, &secret));
    // Before the Deployments: if this fails half-way, the next reconciliation still finds the reference.
    if refers(&going) && !refers(&staying) {
        delete_secret(&secret, identity, context).await?;
    }
    for deployment in going {
        tracing::info!(function = %identity.key, deployment = deployment.name_any(), "removing a drained revision");
        delete::<Deployment>(&deployment.metadata, identity, context).await?;
    }
    Ok(())
}

async fn delete_secret(name: &str, identity: &Identity, context: &Context) -> Result<(), Error> {
    let live = api::<Secret>(identity, context).get_opt(name).await;
    let live = live.map_err(|source| Error::Api { action: "read a child", source })?;
    match live.filter(|secret| identity.owns(&secret.metadata)) {
        Some(secret) => delete::<Secret>(&secret.metadata, identity, context).await,
        None => Ok(()),
    }
}

/// Deletes exactly the object that was seen: if it has changed since (the activator may just have given
/// the revision replicas), it stays, and the change leads to a new reconciliation.
async fn delete<K: Child>(
    metadata: &kube::api::ObjectMeta,
    identity: &Identity,
    context: &Context,
) -> Result<(), Error> {
    let seen =
        Preconditions { resource_version: metadata.resource_version.clone(), uid: metadata.uid.clone() };
    let params = DeleteParams { preconditions: Some(seen), ..DeleteParams::background() };
    let name = metadata.name.as_deref().unwrap_or_default();
    match api::<K>(identity, context).delete(name, &params).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(()),
        Err(source) => Err(Error::Api { action: "delete a child", source }),
    }
}

fn api<K: Child>(identity: &Identity, context: &Context) -> Api<K> {
    Api::namespaced(context.client.clone(), &identity.key.namespace)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_what_a_user_can_change_is_a_refusal() {
        let answer = |code: u16, cause: &str| {
            let status = json!({"code": code, "message": "no", "details": {"causes": [{"reason": cause}]}});
            refused::<Secret>("hello-state", kube::Error::Api(serde_json::from_value(status).unwrap()))
        };
        let refusal = Refusal("Secret hello-state was refused: no".into());
        assert_eq!(answer(403, "").unwrap(), refusal);
        assert_eq!(answer(422, "FieldValueInvalid").unwrap(), refusal);
        assert!(matches!(answer(403, "NamespaceTerminating"), Err(Error::NamespaceEnding)));
        for code in [404, 409, 429, 500, 503] {
            assert!(matches!(answer(code, ""), Err(Error::Api { .. })), "{code}");
        }
    }
}
