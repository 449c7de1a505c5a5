//! Step 2: what the API server could not check. Pure.
//!
//! A spec that passes becomes [`Validated`], the only thing that builders accept: there an image is a
//! template with one container, and nothing is left to refuse.

use k8s_openapi::api::core::v1::Container;
use pilotlight_crds::{Function, FunctionSpec, PodTemplate, Route, TemplatePod, names};

use crate::function::observe::Identity;

/// The longest name: see the rule in the Function's definition.
const MAX_NAME: usize = 52;
/// Requests that run longer do not hold up a pod's end: a rollout would take forever.
const LONGEST_DRAIN: u64 = 300;
/// What a pod gets on top to end by itself, the pause before SIGTERM included.
const DRAIN_MARGIN: u64 = 5;

/// A spec that can be built.
#[derive(Clone, Debug)]
pub(crate) struct Validated {
    pub identity: Identity,
    pub template: PodTemplate,
    pub port: u16,
    /// Seconds between SIGTERM and SIGKILL, unless the template says otherwise.
    pub grace: i64,
    /// Whether the function reads and writes state.
    pub session: bool,
    pub routes: Vec<Route>,
}

/// What is wrong with a spec and how to put it right, for whoever wrote it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct InvalidSpec(pub String);

/// Checks a spec.
pub(crate) fn validate(function: &Function, identity: &Identity) -> Result<Validated, InvalidSpec> {
    let spec = &function.spec;
    service_name(&identity.key.name)?;
    let template = template(spec)?;
    reserved_environment(template.spec.containers.first())?;
    let total = spec.timeouts.total.get();
    let seconds = total.as_secs() + u64::from(total.subsec_nanos() > 0);
    Ok(Validated {
        identity: identity.clone(),
        template,
        port: spec.port,
        grace: i64::try_from(seconds.min(LONGEST_DRAIN) + DRAIN_MARGIN).unwrap_or(i64::MAX),
        session: spec.session.is_some(),
        routes: spec.routes.clone(),
    })
}

/// The Function's name is its Service's, and a Service's name must begin with a letter (RFC 1035).
fn service_name(name: &str) -> Result<(), InvalidSpec> {
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    let valid = name.len() <= MAX_NAME
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && !name.ends_with('-')
        && name.bytes().all(allowed);
    if valid {
        return Ok(());
    }
    Err(InvalidSpec(format!(
        "metadata.name `{name}` cannot be the name of a Service: it must begin with a letter, have only lower-case \
         letters, digits and dashes, and at most {MAX_NAME} characters; create the Function again under another name"
    )))
}

/// The pod that the user wants: his template, or his image in a template of ours.
fn template(spec: &FunctionSpec) -> Result<PodTemplate, InvalidSpec> {
    match (&spec.image, &spec.template) {
        (Some(image), None) => Ok(image_template(image, spec)),
        (None, Some(template)) if !template.spec.containers.is_empty() => Ok(template.clone()),
        (None, Some(_)) => Err(InvalidSpec("template.spec.containers is empty: the first one serves".to_owned())),
        (Some(_), Some(_)) | (None, None) => Err(InvalidSpec(
            "spec needs exactly one of image and template: set image, or move it into template.spec.containers[0]"
                .to_owned(),
        )),
    }
}

fn image_template(image: &str, spec: &FunctionSpec) -> PodTemplate {
    let container = Container {
        name: names::CONTAINER.to_owned(),
        image: Some(image.to_owned()),
        command: non_empty(&spec.command),
        args: non_empty(&spec.args),
        env: non_empty(&spec.env),
        env_from: non_empty(&spec.env_from),
        resources: spec.resources.clone(),
        ..Default::default()
    };
    PodTemplate {
        metadata: None,
        spec: TemplatePod {
            containers: vec![container],
            image_pull_secrets: spec.image_pull_secrets.clone(),
            service_account_name: spec.service_account_name.clone(),
            // Whoever names a service account means to use it.
            automount_service_account_token: spec.service_account_name.as_ref().map(|_| true),
            ..Default::default()
        },
    }
}

/// What the operator sets in the serving container cannot be set by the user as well.
fn reserved_environment(container: Option<&Container>) -> Result<(), InvalidSpec> {
    let variables = container.into_iter().flat_map(|container| container.env.iter().flatten());
    let reserved = |name: &str| name == names::PORT_ENV || name.starts_with("PILOTLIGHT_");
    match variables.into_iter().find(|variable| reserved(&variable.name)) {
        None => Ok(()),
        Some(variable) => Err(InvalidSpec(format!(
            "the environment variable {} of the first container is set by Pilotlight: set spec.port, or choose \
             another name",
            variable.name
        ))),
    }
}

fn non_empty<T: Clone>(list: &[T]) -> Option<Vec<T>> {
    (!list.is_empty()).then(|| list.to_vec())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::function::build::tests::{function, identity};

    #[track_caller]
    fn message(name: &str, spec: serde_json::Value) -> Option<String> {
        let function = function(name, spec);
        validate(&function, &identity(&function)).err().map(|invalid| invalid.0)
    }

    #[test]
    fn what_the_api_server_lets_pass_is_found_here() {
        for (name, spec, expected) in [
            ("hello", json!({"image": "x"}), None),
            ("2fa", json!({"image": "x"}), Some("must begin with a letter")),
            (&"a".repeat(53), json!({"image": "x"}), Some("at most 52 characters")),
            ("a.b", json!({"image": "x"}), Some("cannot be the name of a Service")),
            ("hello", json!({}), Some("exactly one of image and template")),
            ("hello", json!({"template": {"spec": {"containers": []}}}), Some("containers is empty")),
            (
                "hello",
                json!({"template": {"spec": {"containers": [{"name": "a", "env": [{"name": "PORT", "value": "1"}]}]}}}),
                Some("variable PORT of the first container"),
            ),
            (
                "hello",
                json!({"template": {"spec": {"containers": [{"name": "a"}, {"name": "b", "env": [{"name": "PORT"}]}]}}}),
                None,
            ),
        ] {
            let message = message(name, spec);
            match expected {
                None => assert_eq!(message, None, "{name}"),
                Some(part) => {
                    assert!(message.as_ref().is_some_and(|m| m.contains(part)), "{name}: {message:?}")
                }
            }
        }
    }

    #[test]
    fn a_pod_gets_the_time_that_its_requests_may_take() {
        for (total, expected) in [("100ms", 6), ("1500ms", 7), ("60s", 65), ("300s", 305), ("1h", 305)] {
            let timeouts = json!({"firstByte": "100ms", "total": total});
            let function = function("hello", json!({"image": "x", "timeouts": timeouts}));
            assert_eq!(validate(&function, &identity(&function)).unwrap().grace, expected, "{total}");
        }
    }
}
