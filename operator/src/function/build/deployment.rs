//! The Deployment of a revision. Pure.
//!
//! It never sets `replicas`: the activator owns that field, and what the operator applies must not even
//! mention it (see `apply.rs` for how a new Deployment begins at zero).

use std::{collections::BTreeMap, fmt::Write};

use aws_lc_rs::digest;
use k8s_openapi::{
    api::{
        apps::v1::{Deployment, DeploymentSpec},
        core::v1::{
            Capabilities, Container, ContainerPort, EnvVar, EnvVarSource, Lifecycle, LifecycleHandler,
            PodSecurityContext, PodSpec, PodTemplateSpec, SeccompProfile, SecretKeySelector, SecurityContext,
            SleepAction,
        },
    },
    apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta},
};
use pilotlight_crds::{TemplateMetadata, TemplatePod, names};

use crate::{
    error::Error,
    function::{build::metadata, validate::Validated},
};

/// Hex digits of a revision. 40 bits: among the few revisions that a Function ever has at once, no two collide.
const REVISION_DIGITS: usize = 10;
/// Name of the serving port.
const PORT_NAME: &str = "http";
/// A pod waits so long between being told to end and SIGTERM. By then every activator's watch has shown
/// that it ends, and nobody sends it new requests.
const PRE_STOP_SECONDS: i64 = 2;

/// The Deployment of a Function's present spec, and the revision that it is.
pub(super) fn deployment(function: &Validated, state_url: &str) -> Result<(String, Deployment), Error> {
    let mut template = pod_template(function, state_url);
    let revision = revision(&template)?;
    let label = (names::REVISION_LABEL.to_owned(), revision.clone());
    // The label names the hash, so it cannot be part of what is hashed.
    template.metadata.get_or_insert_default().labels.get_or_insert_default().extend([label.clone()]);
    let name = &function.identity.key.name;
    let mut metadata = metadata(&function.identity, names::deployment(name, &revision));
    metadata.labels.get_or_insert_default().extend([label.clone()]);
    let deployment = Deployment {
        metadata,
        spec: Some(DeploymentSpec {
            selector: LabelSelector {
                match_labels: Some([(names::FUNCTION_LABEL.to_owned(), name.clone()), label].into()),
                ..Default::default()
            },
            template,
            // A revision never changes, so its Deployment has one ReplicaSet and nothing to roll back to.
            revision_history_limit: Some(0),
            ..Default::default()
        }),
        status: None,
    };
    Ok((revision, deployment))
}

/// Names a pod template by its content, so that only what changes the pod makes a new revision.
///
/// Whatever changes what [`pod_template`] makes of an unchanged spec starts a new revision of *every*
/// Function when the operator is upgraded. The tests pin a hash so that this does not happen unnoticed.
fn revision(template: &PodTemplateSpec) -> Result<String, Error> {
    // Through a `Value`, whose maps are sorted: the same content is the same text.
    let canonical = serde_json::to_string(&serde_json::to_value(template)?)?;
    let hash = digest::digest(&digest::SHA256, canonical.as_bytes());
    let mut digits = String::new();
    for byte in &hash.as_ref()[..REVISION_DIGITS / 2] {
        let _ = write!(digits, "{byte:02x}"); // to a String, which takes everything
    }
    Ok(digits)
}

/// The pod: what the user wrote, field by field, and lean and safe defaults where he wrote nothing.
///
/// Lean is what starts fast: no volume (the kubelet polls for the first one), no service account token (a
/// volume too), no readiness probe (the activator asks the port itself, sooner), no Service variables.
fn pod_template(function: &Validated, state_url: &str) -> PodTemplateSpec {
    let TemplateMetadata { mut labels, annotations } = function.template.metadata.clone().unwrap_or_default();
    labels.insert(names::MANAGED_BY_LABEL.to_owned(), names::MANAGER.to_owned());
    labels.insert(names::FUNCTION_LABEL.to_owned(), function.identity.key.name.clone());
    PodTemplateSpec {
        metadata: Some(ObjectMeta {
            labels: Some(labels),
            annotations: non_empty_map(annotations),
            ..Default::default()
        }),
        spec: Some(pod(function, state_url)),
    }
}

fn pod(function: &Validated, state_url: &str) -> PodSpec {
    // Without `..`: a field that users may set and that is not passed on does not compile.
    let TemplatePod {
        containers,
        init_containers,
        volumes,
        service_account_name,
        automount_service_account_token,
        enable_service_links,
        image_pull_secrets,
        node_selector,
        affinity,
        tolerations,
        topology_spread_constraints,
        scheduler_name,
        priority_class_name,
        runtime_class_name,
        security_context,
        termination_grace_period_seconds,
        dns_policy,
        dns_config,
        host_aliases,
        share_process_namespace,
    } = function.template.spec.clone();
    PodSpec {
        containers: serving(containers, function, state_url),
        init_containers: non_empty(init_containers.into_iter().map(secure).collect()),
        volumes: non_empty(volumes),
        service_account_name,
        automount_service_account_token: automount_service_account_token.or(Some(false)),
        enable_service_links: enable_service_links.or(Some(false)),
        image_pull_secrets: non_empty(image_pull_secrets),
        node_selector: non_empty_map(node_selector),
        affinity,
        tolerations: non_empty(tolerations),
        topology_spread_constraints: non_empty(topology_spread_constraints),
        scheduler_name,
        priority_class_name,
        runtime_class_name,
        security_context: Some(secure_pod(security_context.unwrap_or_default())),
        termination_grace_period_seconds: termination_grace_period_seconds.or(Some(function.grace)),
        dns_policy,
        dns_config,
        host_aliases: non_empty(host_aliases),
        share_process_namespace,
        ..Default::default()
    }
}

/// The containers, the first of which serves.
fn serving(containers: Vec<Container>, function: &Validated, state_url: &str) -> Vec<Container> {
    let mut containers: Vec<_> = containers.into_iter().map(secure).collect();
    if let Some(first) = containers.first_mut() {
        serve(first, function, state_url);
    }
    containers
}

/// Makes a container the one that serves: port, environment, and a pause before SIGTERM.
fn serve(container: &mut Container, function: &Validated, state_url: &str) {
    let port = i32::from(function.port);
    let mut env = vec![value(names::PORT_ENV, &port.to_string())];
    if function.session {
        let secret = names::state_secret(&function.identity.key.name);
        env.push(value(names::STATE_URL_ENV, state_url));
        env.push(secret_value(names::STATE_TOKEN_ENV, secret, names::STATE_TOKEN_KEY));
    }
    // Ours first, so that the user's may refer to them as `$(PORT)`.
    env.extend(container.env.take().unwrap_or_default());
    container.env = Some(env);

    let ports = container.ports.get_or_insert_default();
    if !ports.iter().any(|p| p.container_port == port) {
        let name_is_free = ports.iter().all(|p| p.name.as_deref() != Some(PORT_NAME));
        let name = name_is_free.then(|| PORT_NAME.to_owned());
        ports.insert(0, ContainerPort { container_port: port, name, ..Default::default() });
    }
    if container.lifecycle.is_none() {
        container.lifecycle = Some(Lifecycle {
            pre_stop: Some(LifecycleHandler {
                sleep: Some(SleepAction { seconds: PRE_STOP_SECONDS }),
                ..Default::default()
            }),
            ..Default::default()
        });
    }
}

/// The Pod Security Standard `restricted`, as far as it is set on the pod. Whoever asks for user 0 has
/// said that the pod runs as root.
fn secure_pod(context: PodSecurityContext) -> PodSecurityContext {
    PodSecurityContext {
        run_as_non_root: context.run_as_non_root.or(Some(context.run_as_user != Some(0))),
        seccomp_profile: context
            .seccomp_profile
            .or_else(|| Some(SeccompProfile { type_: "RuntimeDefault".to_owned(), ..Default::default() })),
        ..context
    }
}

/// The Pod Security Standard `restricted`, as far as it is set on a container. The root file system stays
/// writable: `restricted` does not ask for it, much software writes to /tmp, and an emptyDir there would
/// cost the 300 ms of the first volume.
fn secure(container: Container) -> Container {
    let context = container.security_context.unwrap_or_default();
    let capabilities = context.capabilities.unwrap_or_default();
    let added = capabilities.add.iter().flatten();
    // The API server refuses these together with `allowPrivilegeEscalation: false`.
    let privileged = context.privileged == Some(true)
        || added.into_iter().any(|name| matches!(name.as_str(), "SYS_ADMIN" | "CAP_SYS_ADMIN"));
    Container {
        security_context: Some(SecurityContext {
            allow_privilege_escalation: context.allow_privilege_escalation.or(Some(privileged)),
            run_as_non_root: context.run_as_non_root.or((context.run_as_user == Some(0)).then_some(false)),
            capabilities: Some(Capabilities {
                drop: capabilities.drop.or_else(|| Some(vec!["ALL".to_owned()])),
                add: capabilities.add,
            }),
            ..context
        }),
        ..container
    }
}

/// Whether a Deployment's pods take a variable from this Secret.
pub(crate) fn refers_to_secret(deployment: &Deployment, secret: &str) -> bool {
    let pod = deployment.spec.as_ref().and_then(|spec| spec.template.spec.as_ref());
    let variables = pod.iter().flat_map(|pod| &pod.containers).flat_map(|c| c.env.iter().flatten());
    let mut sources = variables.filter_map(|variable| variable.value_from.as_ref()?.secret_key_ref.as_ref());
    sources.any(|source| source.name == secret)
}

fn value(name: &str, value: &str) -> EnvVar {
    EnvVar { name: name.to_owned(), value: Some(value.to_owned()), ..Default::default() }
}

fn secret_value(name: &str, secret: String, key: &str) -> EnvVar {
    let secret_key_ref = Some(SecretKeySelector { name: secret, key: key.to_owned(), optional: None });
    EnvVar {
        name: name.to_owned(),
        value_from: Some(EnvVarSource { secret_key_ref, ..Default::default() }),
        ..Default::default()
    }
}

fn non_empty<T>(list: Vec<T>) -> Option<Vec<T>> {
    (!list.is_empty()).then_some(list)
}

fn non_empty_map(map: BTreeMap<String, String>) -> Option<BTreeMap<String, String>> {
    (!map.is_empty()).then_some(map)
}
