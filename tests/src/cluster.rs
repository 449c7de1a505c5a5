//! The cluster under test, and where Pilotlight answers in it.

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::{Pod, Service};
use kube::{Api, Client, ResourceExt, api::ListParams};
use serde_json::Value;

/// Where Pilotlight is installed.
pub const NAMESPACE: &str = "pilotlight";

/// Name of an example function's image.
pub fn image(name: &str) -> String {
    let repository = variable("PILOTLIGHT_IMAGES").unwrap_or_else(|| "pilotlight.local".to_owned());
    let tag = variable("PILOTLIGHT_TAG").unwrap_or_else(|| "dev".to_owned());
    format!("{repository}/{name}:{tag}")
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// A cluster with Pilotlight.
#[derive(Clone)]
pub struct Cluster {
    /// A client of the API server, with the rights of whoever runs the tests.
    pub client: Client,
    /// `host:port` of the activator.
    pub activator: String,
    /// `host:port` of the state API.
    pub state: String,
}

impl std::fmt::Debug for Cluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cluster").field("activator", &self.activator).finish_non_exhaustive()
    }
}

impl Cluster {
    /// Connects to the cluster that `KUBECONFIG` names.
    ///
    /// # Errors
    /// When there is none, or Pilotlight is not installed.
    pub async fn connect() -> Result<Self> {
        let client = Client::try_default().await.context("no cluster: set KUBECONFIG")?;
        let activator = address(&client, "PILOTLIGHT_URL", "pilotlight-activator", 80).await?;
        let state = address(&client, "PILOTLIGHT_STATE_URL", "pilotlight-state", 8082).await?;
        Ok(Self { client, activator, state })
    }

    /// The namespaced API of a kind.
    pub fn api<K>(&self, namespace: &str) -> Api<K>
    where
        K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(self.client.clone(), namespace)
    }

    /// GET of a path of a pod, through the API server: reaches one certain pod, from anywhere.
    ///
    /// # Errors
    /// When the API server or the pod does not answer with success.
    pub async fn get_from_pod(&self, namespace: &str, pod: &str, port: u16, path: &str) -> Result<String> {
        let uri = format!("/api/v1/namespaces/{namespace}/pods/{pod}:{port}/proxy{path}");
        let request = http::Request::get(&uri).body(Vec::new())?;
        self.client.request_text(request).await.with_context(|| format!("GET {uri}"))
    }

    /// The page `path` of the admin port of each running pod of `component`.
    ///
    /// # Errors
    /// When one of them does not answer.
    pub async fn admin(&self, component: &str, path: &str) -> Result<Vec<String>> {
        const ADMIN_PORT: u16 = 9090;
        let mut pages = Vec::new();
        for pod in self.component_pods(component).await? {
            pages.push(self.get_from_pod(NAMESPACE, &pod.name_any(), ADMIN_PORT, path).await?);
        }
        Ok(pages)
    }

    /// Pods of a component of Pilotlight that are not about to end.
    ///
    /// # Errors
    /// When the API server does not answer.
    pub async fn component_pods(&self, component: &str) -> Result<Vec<Pod>> {
        let labels = format!("app.kubernetes.io/component={component}");
        let pods = self.api::<Pod>(NAMESPACE).list(&ListParams::default().labels(&labels)).await?;
        Ok(pods.items.into_iter().filter(|pod| pod.metadata.deletion_timestamp.is_none()).collect())
    }

    /// What the activators know of all functions.
    ///
    /// # Errors
    /// When an activator does not answer.
    pub async fn debug_functions(&self) -> Result<Vec<Value>> {
        let mut functions = Vec::new();
        for page in self.admin("activator", "/debug/functions").await? {
            functions.extend(serde_json::from_str::<Vec<Value>>(&page)?);
        }
        Ok(functions)
    }
}

async fn address(client: &Client, setting: &str, service: &str, port: u16) -> Result<String> {
    if let Some(url) = variable(setting) {
        let uri: http::Uri = url.parse().with_context(|| format!("{setting} is not a URL: {url}"))?;
        let host = uri.host().with_context(|| format!("{setting} has no host: {url}"))?;
        return Ok(format!("{host}:{}", uri.port_u16().unwrap_or(80)));
    }
    let services: Api<Service> = Api::namespaced(client.clone(), NAMESPACE);
    let service = services.get(service).await.context("Pilotlight is not installed")?;
    let ip = service.spec.and_then(|spec| spec.cluster_ip).context("the Service has no cluster IP")?;
    Ok(format!("{ip}:{port}"))
}
