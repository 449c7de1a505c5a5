//! The Function: what a user writes.

use k8s_openapi::api::core::v1::{EnvFromSource, EnvVar, LocalObjectReference, ResourceRequirements};
use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

use crate::{Bytes, FunctionStatus, PodTemplate, Scaling, Session, Span};

/// A container image that answers HTTP, and how it should scale, be reached and be protected.
/// Only `image` (or `template`) is required.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[kube(
    group = "pilotlight.dev",
    version = "v1alpha1",
    kind = "Function",
    plural = "functions",
    shortname = "fn",
    category = "pilotlight",
    namespaced,
    status = "FunctionStatus",
    derive = "PartialEq",
    doc = "A Function runs a container image behind Pilotlight: it scales with its requests, to zero when there are none.",
    scale(
        spec_replicas_path = ".spec.scaling.warm",
        status_replicas_path = ".status.replicas.ready",
        label_selector_path = ".status.selector"
    ),
    printcolumn(name = "URL", type_ = "string", json_path = ".status.url"),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status"),
    printcolumn(name = "Replicas", type_ = "integer", json_path = ".status.replicas.ready"),
    printcolumn(name = "Desired", type_ = "integer", json_path = ".status.replicas.desired"),
    printcolumn(name = "Warm", type_ = "integer", json_path = ".spec.scaling.warm"),
    printcolumn(name = "Revision", type_ = "string", json_path = ".status.revision"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].reason", priority = 1),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    // Pod names are `<function>-<revision>-<replica set>-<pod>`; 52 keeps them inside 63 characters
    // up to the parts that Kubernetes may cut, and matches the limit that CronJob has.
    validation = Rule::new("self.metadata.name.size() <= 52")
        .message("metadata.name must be at most 52 characters: pods are named after it"),
    validation = Rule::new("!self.metadata.name.contains('.')")
        .message("metadata.name must not contain dots: it becomes a DNS label; use dashes")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.image) != has(self.template)")
        .message("spec needs exactly one of image and template: set image, or move it into template.spec.containers[0]"),
    validation = Rule::new("!has(self.template) || (!has(self.command) && !has(self.args) && !has(self.env) && !has(self.envFrom) && !has(self.resources) && !has(self.imagePullSecrets) && !has(self.serviceAccountName))")
        .message("command, args, env, envFrom, resources, imagePullSecrets and serviceAccountName belong to image: with template, put them into template.spec"),
    validation = Rule::new("!has(self.scaling.target) || !has(self.scaling.target.concurrency) || self.concurrency == 0 || self.scaling.target.concurrency <= self.concurrency")
        .message("scaling.target.concurrency must not exceed concurrency: no pod ever has more in flight")
)]
pub struct FunctionSpec {
    /// The image to run. For anything more than an image, use `template`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024))]
    pub image: Option<String>,
    /// A whole pod template, for anything that a pod can do. Its first container serves `port`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template: Option<PodTemplate>,
    /// The port that the container serves. The container finds it in the environment variable `PORT`.
    #[serde(default = "default_port")]
    #[schemars(range(min = 1, max = 65_535))]
    pub port: u16,
    /// How the container speaks on `port`. gRPC needs `h2c`.
    #[serde(default)]
    pub protocol: Protocol,
    /// Overrides the image's entry point.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub command: Vec<String>,
    /// Overrides the image's arguments.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256))]
    pub args: Vec<String>,
    /// Environment variables. `PORT` and names that begin with `PILOTLIGHT_` are set by Pilotlight.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256))]
    #[x_kube(validation = Rule::new("self.all(e, e.name != 'PORT' && !e.name.startsWith('PILOTLIGHT_'))")
        .message("env must not set PORT or names that begin with PILOTLIGHT_: set spec.port, or choose another name"))]
    pub env: Vec<EnvVar>,
    /// Environment variables from whole ConfigMaps and Secrets.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub env_from: Vec<EnvFromSource>,
    /// CPU and memory of the container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<ResourceRequirements>,
    /// How a new pod shows that it can serve. Default: it accepts a connection on `port`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub probe: Option<Probe>,
    /// Secrets with credentials of the image's registry.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub image_pull_secrets: Vec<LocalObjectReference>,
    /// Service account of the pod. Naming one mounts its token, which costs about 300 ms a cold start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub service_account_name: Option<String>,
    /// Hard limit of requests in flight per pod; 0 = no limit. Never exceeded.
    #[serde(default = "default_concurrency")]
    #[schemars(range(min = 0, max = 100_000))]
    pub concurrency: u32,
    /// How many replicas there may be, and what drives their number.
    #[serde(default)]
    pub scaling: Scaling,
    /// What may wait for a slot, and how long.
    #[serde(default)]
    pub hold: Hold,
    /// How long each part of a request may take once it is forwarded.
    #[serde(default)]
    pub timeouts: Timeouts,
    /// Hosts and paths that the Function answers on, besides its own
    /// (`<name>.<namespace>.<domain>` and `/fn/<namespace>/<name>/`).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub routes: Vec<Route>,
    /// Sessions by cookie, kept in Redis. Absent: none, and Redis is never asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<Session>,
}

/// How a container speaks on its port.
#[derive(Serialize, Deserialize, schemars::JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Default)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// HTTP/1.1.
    #[default]
    Http1,
    /// HTTP/2 without TLS, with prior knowledge (RFC 9113, section 3.3).
    H2c,
}

/// How a new pod shows that it can serve.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Probe {
    /// Path that must answer a GET with a status from 200 to 299.
    #[schemars(length(min = 1, max = 1024), regex(pattern = r"^/[!-~]*$"))]
    pub path: String,
}

/// What may wait for a slot, and how long. Both bounds hold per activator.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Hold {
    /// How long a request may wait for a slot before it is answered with 504.
    #[serde(default = "default_hold_timeout")]
    #[x_kube(validation = Rule::new("duration(self) >= duration('100ms') && duration(self) <= duration('1h')")
        .message("hold.timeout must be between 100ms and 1h"))]
    pub timeout: Span,
    /// How many requests may wait; the next one is answered with 503.
    #[serde(default = "default_hold_requests")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub requests: u32,
    /// How many bytes of waiting requests may be kept in memory; more is answered with 503.
    #[serde(default = "default_hold_bytes")]
    pub bytes: Bytes,
}

/// How long each part of a request may take once it is forwarded.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("duration(self.firstByte) <= duration(self.total)")
    .message("timeouts.firstByte must not exceed timeouts.total")
    .field_path(".firstByte"))]
pub struct Timeouts {
    /// From the forwarded request to the first byte of the response; then 504.
    #[serde(default = "default_first_byte")]
    #[x_kube(validation = Rule::new("duration(self) >= duration('100ms')")
        .message("timeouts.firstByte must be at least 100ms"))]
    pub first_byte: Span,
    /// Silence in either body; then the connection is reset.
    #[serde(default = "default_idle")]
    #[x_kube(validation = Rule::new("duration(self) >= duration('100ms')")
        .message("timeouts.idle must be at least 100ms"))]
    pub idle: Span,
    /// From the forwarded request to the last byte of the response; then the connection is reset.
    #[serde(default = "default_total")]
    #[x_kube(validation = Rule::new("duration(self) >= duration('100ms') && duration(self) <= duration('24h')")
        .message("timeouts.total must be between 100ms and 24h"))]
    pub total: Span,
}

/// Hosts and a path prefix that a Function answers on.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Route {
    /// Host names, exact or with one leading wildcard label (`*.example.com`). Empty: any host.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 32),
        inner(
            length(min = 1, max = 253),
            regex(pattern = r"^(\*\.)?[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*$")
        )
    )]
    pub hosts: Vec<String>,
    /// Path prefix, matched by whole segments: `/api` takes `/api` and `/api/x`, not `/apis`.
    #[serde(default)]
    pub path: PathPrefix,
}

/// A path prefix of a [`Route`].
#[derive(Serialize, Deserialize, schemars::JsonSchema, Clone, Debug, PartialEq, Eq)]
#[serde(transparent)]
#[schemars(inline)]
pub struct PathPrefix(
    #[schemars(
        length(min = 1, max = 1024),
        regex(pattern = r"^/([A-Za-z0-9._~!$&'()*+,;=:@/-]|%[0-9A-Fa-f]{2})*$")
    )]
    pub String,
);

impl Default for PathPrefix {
    fn default() -> Self {
        Self("/".to_owned())
    }
}

const fn default_port() -> u16 {
    8080
}
const fn default_concurrency() -> u32 {
    100
}
const fn default_hold_timeout() -> Span {
    Span::from_secs(30)
}
const fn default_hold_requests() -> u32 {
    1000
}
const fn default_hold_bytes() -> Bytes {
    Bytes::from_mebibytes(64)
}
const fn default_first_byte() -> Span {
    Span::from_secs(30)
}
const fn default_idle() -> Span {
    Span::from_secs(60)
}
const fn default_total() -> Span {
    Span::from_secs(300)
}

impl Default for Hold {
    fn default() -> Self {
        Self {
            timeout: default_hold_timeout(),
            requests: default_hold_requests(),
            bytes: default_hold_bytes(),
        }
    }
}

impl Default for Timeouts {
    fn default() -> Self {
        Self { first_byte: default_first_byte(), idle: default_idle(), total: default_total() }
    }
}

impl FunctionSpec {
    /// The spec of a Function that has nothing but an image: every default in one place, for tests.
    pub fn from_image(image: impl Into<String>) -> Self {
        Self {
            image: Some(image.into()),
            template: None,
            port: default_port(),
            protocol: Protocol::default(),
            command: Vec::new(),
            args: Vec::new(),
            env: Vec::new(),
            env_from: Vec::new(),
            resources: None,
            probe: None,
            image_pull_secrets: Vec::new(),
            service_account_name: None,
            concurrency: default_concurrency(),
            scaling: Scaling::default(),
            hold: Hold::default(),
            timeouts: Timeouts::default(),
            routes: Vec::new(),
            session: None,
        }
    }
}

impl Function {
    /// Namespace and name, once the API server has given them.
    pub fn key(&self) -> Option<crate::FunctionKey> {
        Some(crate::FunctionKey::new(self.metadata.namespace.as_deref()?, self.metadata.name.as_deref()?))
    }
}
