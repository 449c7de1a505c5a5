//! TLS in front: certificates from Secrets, taken as they are put in place.

use std::{sync::Arc, time::Instant};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Patch, PatchParams};
use pilotlight_tests::{Cluster, NAMESPACE, Scope, await_condition, disruptive, get, objects::hello};
use rcgen::{CertificateParams, CertifiedKey, KeyPair};
use rustls::{ClientConfig, RootCertStore, crypto::aws_lc_rs, pki_types::ServerName};
use serde_json::json;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::{
    helm::with_settings,
    support::{SECONDS, START, pod_of},
};

const SECRET: &str = "e2e-certificate";

/// Puts a Secret in place, as cert-manager does.
async fn put(cluster: &Cluster, chain: &str, key: &str) -> Result<()> {
    let manifest = json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "type": "kubernetes.io/tls",
        "metadata": { "name": SECRET },
        "stringData": { "tls.crt": chain, "tls.key": key },
    });
    let params = PatchParams::apply("pilotlight-tests").force();
    cluster.api::<Secret>(NAMESPACE).patch(SECRET, &params, &Patch::Apply(&manifest)).await?;
    Ok(())
}

/// A certificate that is its own authority.
fn certificate(host: &str) -> Result<CertifiedKey<KeyPair>> {
    let signing_key = KeyPair::generate()?;
    let cert = CertificateParams::new([host.to_owned()])?.self_signed(&signing_key)?;
    Ok(CertifiedKey { cert, signing_key })
}

/// A connection to a host, made only if it shows the certificate that is trusted.
async fn connect(
    cluster: &Cluster,
    host: &str,
    trusted: &CertifiedKey<KeyPair>,
) -> Result<SendRequest<Full<Bytes>>> {
    let mut roots = RootCertStore::empty();
    roots.add(trusted.cert.der().clone())?;
    let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let (ip, _) = cluster.activator.rsplit_once(':').context("the activator's address has no port")?;
    let socket = TcpStream::connect(format!("{ip}:443")).await?;
    let name = ServerName::try_from(host.to_owned())?;
    let stream = TlsConnector::from(Arc::new(config)).connect(name, socket).await?;
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    Ok(sender)
}

/// GET of `/` of `hello`.
async fn call(connection: &mut SendRequest<Full<Bytes>>, host: &str) -> Result<()> {
    let mut request = get("/");
    request.headers_mut().insert("host", host.parse()?);
    let response = connection.send_request(request).await?;
    let status = response.status();
    let body = response.into_body().collect().await?.to_bytes();
    ensure!(status == 200 && body.starts_with(b"Hello from "), "{status} {body:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_are_taken_from_secrets_as_they_change() -> Result<()> {
    disruptive(async |scope| {
        let cluster = &scope.cluster;
        let host = format!("hello.{}.pilotlight.local", scope.namespace);
        let first = certificate(&host)?;
        put(cluster, &first.cert.pem(), &first.signing_key.serialize_pem()).await?;
        let settings = [&*format!("tls.secrets={{{SECRET}}}"), "tls.redirect=true"];
        let tested = with_settings(cluster, &settings, async || with_tls(scope, &host, &first).await).await;
        cluster.api::<Secret>(NAMESPACE).delete(SECRET, &Default::default()).await?;
        tested
    })
    .await
}

async fn with_tls(scope: &Scope, host: &str, first: &CertifiedKey<KeyPair>) -> Result<()> {
    let cluster = &scope.cluster;
    // From zero, by the URL in the status.
    let plain = scope.deploy("hello", hello(json!({}))).await?;
    let url = scope.function("hello").await?.status.and_then(|status| status.url);
    ensure!(url == Some(format!("https://{host}")), "{url:?}");
    let mut open = connect(cluster, host, first).await?;
    call(&mut open, host).await?;

    // Plain requests are redirected for this host, and served for one that has no certificate.
    let redirected = plain.get("/a?b").await?;
    ensure!(redirected.status == 308 && redirected.reason() == "https-only", "{}", redirected.describe());
    ensure!(redirected.header("location") == format!("https://{host}/a?b"), "{:?}", redirected.headers);
    let inside = pilotlight_tests::Caller::new(&cluster.activator, &format!("hello.{}", scope.namespace))?;
    pod_of(&inside.get("/").await?)?;

    let second = certificate(host)?;
    put(cluster, &second.cert.pem(), &second.signing_key.serialize_pem()).await?;
    let began = Instant::now();
    await_condition(SECONDS, "the new certificate is served", async || {
        connect(cluster, host, &second).await.map(drop)
    })
    .await?;
    println!("a new certificate was served {:?} after it was put in place", began.elapsed());
    // The connection that was made with the old one goes on.
    call(&mut open, host).await?;

    // Not a certificate: the one before is served on, and the metrics say so.
    put(cluster, "nonsense", "nonsense").await?;
    let refused = format!("pilotlight_certificate_reloads_total{{result=\"refused\",secret=\"{SECRET}\"}} ");
    let counted = |line: &str| line.strip_prefix(&refused).is_some_and(|count| count != "0");
    await_condition(START, "the malformed Secret is refused", async || {
        let pages = cluster.admin("activator", "/metrics").await?;
        ensure!(pages.iter().all(|page| page.lines().any(counted)), "{refused} is missing");
        Ok(())
    })
    .await?;
    call(&mut connect(cluster, host, &second).await?, host).await?;
    call(&mut open, host).await
}
