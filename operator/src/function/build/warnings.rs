//! What in a spec costs more than it needs to, in milliseconds of each cold start. Pure.

use pilotlight_crds::TemplatePod;

use crate::function::validate::Validated;

/// The kubelet looks for mounted volumes every 300 ms: the first one costs that, further ones nothing.
const VOLUME_MS: usize = 300;
/// Making and starting one more container.
const CONTAINER_MS: usize = 110;

/// The warnings in a Function's status.
pub(crate) fn warnings(function: &Validated) -> Vec<String> {
    let TemplatePod { containers, init_containers, volumes, automount_service_account_token, .. } =
        &function.template.spec;
    let further = containers.len() - 1 + init_containers.len();
    let token = *automount_service_account_token == Some(true);
    let mut warnings = Vec::new();
    if !volumes.is_empty() {
        warnings.push(format!("volumes cost about {VOLUME_MS} ms a cold start: the kubelet polls for them"));
    }
    if token {
        warnings.push(format!(
            "the service account's token costs about {VOLUME_MS} ms a cold start: it is a volume; set \
             template.spec.automountServiceAccountToken to false if the function does not call Kubernetes"
        ));
    }
    if further > 0 {
        let milliseconds = further * CONTAINER_MS;
        warnings.push(format!("{further} further containers cost about {milliseconds} ms a cold start"));
    }
    warnings
}
