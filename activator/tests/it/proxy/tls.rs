//! TLS in front: which certificate a client gets, what follows the handshake, and certificates that are
//! replaced while connections are open.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};

use http::{Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use k8s_openapi::{ByteString, api::core::v1::Secret};
use pilotlight_activator::{
    metrics::TlsMetrics,
    tls::{Certificates, Redirect, Served, Tls},
};
use pilotlight_crds::FunctionSpec;
use prometheus::{Registry, TextEncoder};
use rcgen::{CertificateParams, Issuer, KeyPair};
use rustls::{
    ClientConfig, DigitallySignedStruct, HandshakeKind, ProtocolVersion, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, ServerName, UnixTime},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::{
    Bed,
    bed::{Body, PATIENCE, Pod, full},
};

/// A host of the Function `demo/hello`, and a name for it by which no certificate is made.
const HELLO: &str = "hello.demo.example.org";
const UNKNOWN: &str = "hello.demo";
/// Nobody waits for it, except for the test of it.
const TIMEOUT: Duration = PATIENCE;

/// An activator with TLS, a pod, and the certificates of the Secrets `first` and `second`.
struct TlsBed {
    bed: Bed,
    served: Served,
    registry: Registry,
    _pod: Pod,
}

impl TlsBed {
    async fn new(timeout: Duration) -> Self {
        let registry = Registry::new();
        let metrics = TlsMetrics::register(&registry).unwrap();
        let certificates = Arc::new(Certificates::new(&["first".into(), "second".into()]));
        let served = Served { certificates: Arc::clone(&certificates), metrics: metrics.clone() };
        let tls = Tls::new(Arc::clone(&certificates), timeout, metrics).unwrap();
        let redirect = Redirect { certificates, port: 443 };
        let bed = Bed::with_tls(FunctionSpec::from_image("x"), Some(tls), Some(redirect)).await;
        let pod = Pod::serving("a", scheme).await;
        bed.see(&pod);
        bed.until("the pod answers", |report| report.ready == 1).await;
        Self { bed, served, registry, _pod: pod }
    }

    fn addr(&self) -> SocketAddr {
        self.bed.tls_addr.unwrap()
    }

    /// What the watch of a Secret would say; returns the certificate.
    fn put(&self, secret: &str, names: &[&str]) -> CertificateDer<'static> {
        let (certificate, object) = secret_for(names, 2020..2099);
        self.served.take(secret, Some(object), SystemTime::now());
        certificate
    }

    async fn connect(&self, name: &str) -> TlsStream<TcpStream> {
        connect(self.addr(), name, &client(&[])).await.unwrap()
    }

    /// The certificate that a client gets who asks for a name.
    async fn certificate_for(&self, name: &str) -> CertificateDer<'static> {
        let stream = self.connect(name).await;
        stream.get_ref().1.peer_certificates().unwrap()[0].clone().into_owned()
    }

    /// Waits for a line of the metrics.
    async fn counted(&self, line: &str) {
        let began = std::time::Instant::now();
        let text = || TextEncoder::new().encode_to_string(&self.registry.gather()).unwrap();
        while !text().lines().any(|one| one == line) {
            assert!(began.elapsed() < PATIENCE, "{line}:\n{}", text());
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
}

/// Answers with the scheme by which the client has come; says hello on an upgraded connection, and ends it.
async fn scheme(mut request: Request<Incoming>) -> Response<Body> {
    if request.headers().contains_key("upgrade") {
        let upgrade = hyper::upgrade::on(&mut request);
        tokio::spawn(async move {
            let mut stream = TokioIo::new(upgrade.await.unwrap());
            stream.write_all(b"hello").await.unwrap();
            stream.shutdown().await.unwrap();
        });
        let switch = Response::builder().status(101).header("connection", "upgrade").header("upgrade", "x");
        return switch.body(full("")).unwrap();
    }
    Response::new(full(request.headers()["x-forwarded-proto"].to_str().unwrap()))
}

/// A certificate that is valid in some years, and the Secret with it.
fn secret_for(names: &[&str], years: std::ops::Range<i32>) -> (CertificateDer<'static>, Secret) {
    let issuer = Issuer::new(CertificateParams::new([]).unwrap(), KeyPair::generate().unwrap());
    let names: Vec<_> = names.iter().map(|&name| name.to_owned()).collect();
    let mut params = CertificateParams::new(names).unwrap();
    params.not_before = rcgen::date_time_ymd(years.start, 1, 1);
    params.not_after = rcgen::date_time_ymd(years.end, 1, 1);
    let key = KeyPair::generate().unwrap();
    let certificate = params.signed_by(&key, &issuer).unwrap();
    let object = secret(&[("tls.crt", &certificate.pem()), ("tls.key", &key.serialize_pem())]);
    (certificate.der().clone(), object)
}

fn secret(data: &[(&str, &str)]) -> Secret {
    let entry = |(key, text): &(&str, &str)| (key.to_string(), ByteString(text.as_bytes().to_vec()));
    Secret { data: Some(data.iter().map(entry).collect::<BTreeMap<_, _>>()), ..Secret::default() }
}

/// A client that takes any certificate, and shows it.
#[derive(Debug)]
struct Curious;

impl ServerCertVerifier for Curious {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        aws_lc_rs::default_provider().signature_verification_algorithms.supported_schemes()
    }
}

fn client(alpn: &[&[u8]]) -> Arc<ClientConfig> {
    client_of(rustls::DEFAULT_VERSIONS, alpn)
}

fn client_of(versions: &[&'static rustls::SupportedProtocolVersion], alpn: &[&[u8]]) -> Arc<ClientConfig> {
    let mut config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(versions)
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Curious))
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|&name| name.to_owned()).collect();
    Arc::new(config)
}

/// A handshake; a name that is an address is not sent.
async fn connect(
    addr: SocketAddr,
    name: &str,
    client: &Arc<ClientConfig>,
) -> std::io::Result<TlsStream<TcpStream>> {
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let socket = TcpStream::connect(addr).await.unwrap();
    TlsConnector::from(Arc::clone(client)).connect(name, socket).await
}

fn request(uri: &str) -> Request<Body> {
    Request::get(uri).header("host", HELLO).body(full("")).unwrap()
}

/// GET by HTTP/1.1; status and body.
async fn get_http1(stream: TlsStream<TcpStream>) -> (StatusCode, String) {
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    read(sender.send_request(request("/")).await.unwrap()).await
}

type Http2 = hyper::client::conn::http2::SendRequest<Body>;

async fn http2(stream: TlsStream<TcpStream>) -> Http2 {
    let stream = TokioIo::new(stream);
    let (sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), stream).await.unwrap();
    tokio::spawn(connection);
    sender
}

async fn get_http2(sender: &mut Http2, host: &str) -> (StatusCode, String) {
    let request = Request::get(format!("https://{host}/")).body(full("")).unwrap();
    read(sender.send_request(request).await.unwrap()).await
}

async fn read(response: Response<Incoming>) -> (StatusCode, String) {
    let (parts, body) = response.into_parts();
    (parts.status, String::from_utf8(body.collect().await.unwrap().to_bytes().to_vec()).unwrap())
}

#[tokio::test]
async fn a_client_gets_the_certificate_for_the_name_that_it_asks_for() {
    let bed = TlsBed::new(TIMEOUT).await;
    let first = bed.put("first", &["a.example.org", "*.wild.example.org"]);
    let second = bed.put("second", &[HELLO, "B.example.org", "own.wild.example.org", "a.example.org"]);
    for (name, expected) in [
        ("a.example.org", &first),
        ("x.wild.example.org", &first),
        ("own.wild.example.org", &second),
        (HELLO, &second),
        ("b.example.org", &second),
        ("x.y.wild.example.org", &first),
        ("wild.example.org", &first),
        ("nobody.example.org", &first),
        ("127.0.0.1", &first),
    ] {
        assert!(bed.certificate_for(name).await == *expected, "{name}");
    }
}

#[tokio::test]
async fn http2_and_http1_are_agreed_on_in_the_handshake() {
    let bed = TlsBed::new(TIMEOUT).await;
    bed.put("first", &[HELLO]);
    let alpn = [&b"h2"[..], b"http/1.1"];
    let stream = connect(bed.addr(), HELLO, &client(&alpn)).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    assert_eq!(get_http2(&mut http2(stream).await, HELLO).await, (StatusCode::OK, "https".into()));
    for alpn in [&alpn[1..], &[]] {
        let stream = connect(bed.addr(), HELLO, &client(alpn)).await.unwrap();
        assert_eq!(get_http1(stream).await, (StatusCode::OK, "https".into()), "{alpn:?}");
        // HTTP/2 without having agreed on it.
        let stream = connect(bed.addr(), HELLO, &client(alpn)).await.unwrap();
        let (status, problem) = get_http2(&mut http2(stream).await, HELLO).await;
        assert_eq!(status, StatusCode::BAD_REQUEST);
        assert!(problem.contains("ALPN"), "{problem}");
    }
    connect(bed.addr(), HELLO, &client(&[b"spdy/3"])).await.unwrap_err();
    bed.counted(r#"pilotlight_tls_handshakes_total{result="incompatible"} 1"#).await;
}

#[tokio::test]
async fn tls_1_2_and_1_3_are_spoken_and_sessions_resumed() {
    let bed = TlsBed::new(TIMEOUT).await;
    bed.put("first", &[HELLO]);
    for (version, name) in [
        (&rustls::version::TLS12, ProtocolVersion::TLSv1_2),
        (&rustls::version::TLS13, ProtocolVersion::TLSv1_3),
    ] {
        let client = client_of(&[version], &[]);
        for kind in [HandshakeKind::Full, HandshakeKind::Resumed] {
            let mut stream = connect(bed.addr(), HELLO, &client).await.unwrap();
            let (_, tls) = stream.get_ref();
            assert_eq!((tls.protocol_version(), tls.handshake_kind()), (Some(name), Some(kind)));
            // A ticket of TLS 1.3 comes with what the server says after the handshake.
            stream
                .write_all(b"GET / HTTP/1.1\r\nhost: hello.demo.example.org\r\nconnection: close\r\n\r\n")
                .await
                .unwrap();
            let mut response = String::new();
            stream.read_to_string(&mut response).await.unwrap();
            assert!(response.ends_with("https"), "{response}");
        }
    }
    bed.counted(r#"pilotlight_tls_handshakes_total{result="resumed"} 2"#).await;
}

#[tokio::test]
async fn a_replaced_certificate_is_for_new_connections_and_open_ones_go_on() {
    let bed = TlsBed::new(TIMEOUT).await;
    let old = bed.put("first", &[HELLO]);
    let stream = connect(bed.addr(), HELLO, &client(&[b"h2"])).await.unwrap();
    let mut open = http2(stream).await;
    assert_eq!(get_http2(&mut open, HELLO).await.0, StatusCode::OK);
    let handshake = TcpStream::connect(bed.addr()).await.unwrap();
    let new = bed.put("first", &[HELLO]);
    assert!(old != new);
    assert!(bed.certificate_for(HELLO).await == new);
    assert_eq!(get_http2(&mut open, HELLO).await.0, StatusCode::OK);
    let name = ServerName::try_from(HELLO).unwrap();
    TlsConnector::from(client(&[])).connect(name, handshake).await.unwrap();
}

#[tokio::test]
async fn what_is_wrong_with_a_secret_keeps_the_certificate_before() {
    let bed = TlsBed::new(TIMEOUT).await;
    connect(bed.addr(), HELLO, &client(&[])).await.unwrap_err();
    bed.counted(r#"pilotlight_tls_handshakes_total{result="no-certificate"} 1"#).await;
    let good = bed.put("first", &[HELLO]);
    let pem = |object: Secret, key: &str| String::from_utf8(object.data.unwrap()[key].0.clone()).unwrap();
    let (_, other) = secret_for(&[HELLO], 2020..2099);
    let chain = pem(other.clone(), "tls.crt");
    let key = pem(secret_for(&[HELLO], 2020..2099).1, "tls.key");
    let bad = [
        None,
        Some(Secret::default()),
        Some(secret(&[("tls.crt", &chain)])),
        Some(secret(&[("tls.crt", "no PEM"), ("tls.key", &key)])),
        Some(secret(&[("tls.crt", &chain), ("tls.key", "no PEM")])),
        Some(secret(&[
            ("tls.crt", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----"),
            ("tls.key", &key),
        ])),
        // The key of another certificate.
        Some(secret(&[("tls.crt", &chain), ("tls.key", &key)])),
        Some(secret_for(&[HELLO], 2020..2021).1),
        Some(secret_for(&[HELLO], 2098..2099).1),
    ];
    let count = bad.len();
    for object in bad {
        bed.served.take("first", object, SystemTime::now());
        assert!(bed.certificate_for(HELLO).await == good);
    }
    bed.counted(&format!(
        r#"pilotlight_certificate_reloads_total{{result="refused",secret="first"}} {count}"#
    ))
    .await;
    bed.counted(r#"pilotlight_certificate_reloads_total{result="taken",secret="first"} 1"#).await;
    bed.counted(r#"pilotlight_certificate_expiry_seconds{secret="first"} 4070908800"#).await;
}

#[tokio::test]
async fn a_certificate_that_is_out_of_date_is_better_than_none() {
    let bed = TlsBed::new(TIMEOUT).await;
    let (expired, object) = secret_for(&[HELLO], 2020..2021);
    bed.served.take("first", Some(object), SystemTime::now());
    assert!(bed.certificate_for(HELLO).await == expired);
    bed.counted(r#"pilotlight_certificate_reloads_total{result="refused",secret="first"} 1"#).await;
    let good = bed.put("first", &[HELLO]);
    assert!(bed.certificate_for(HELLO).await == good);
}

#[tokio::test]
async fn a_slow_handshake_keeps_nobody_waiting_and_ends() {
    let bed = TlsBed::new(Duration::from_millis(300)).await;
    bed.put("first", &[HELLO]);
    let mut silent = TcpStream::connect(bed.addr()).await.unwrap();
    let mut halting = TcpStream::connect(bed.addr()).await.unwrap();
    // The head of a record with a ClientHello, and no more.
    halting.write_all(&[22, 3, 1, 2, 0]).await.unwrap();
    assert_eq!(get_http1(bed.connect(HELLO).await).await.0, StatusCode::OK);
    for slow in [&mut silent, &mut halting] {
        let ended = tokio::time::timeout(PATIENCE, slow.read(&mut [0; 16])).await.unwrap();
        assert!(!matches!(ended, Ok(1..)), "{ended:?}");
    }
    bed.counted(r#"pilotlight_tls_handshakes_total{result="timeout"} 2"#).await;
}

#[tokio::test]
async fn handshakes_that_fail_are_told_apart() {
    let bed = TlsBed::new(TIMEOUT).await;
    bed.put("first", &[HELLO]);
    let mut plain = TcpStream::connect(bed.addr()).await.unwrap();
    plain.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    bed.counted(r#"pilotlight_tls_handshakes_total{result="not-tls"} 1"#).await;
    drop(TcpStream::connect(bed.addr()).await.unwrap());
    bed.counted(r#"pilotlight_tls_handshakes_total{result="left"} 1"#).await;
    let wary = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    connect(bed.addr(), HELLO, &Arc::new(wary)).await.unwrap_err();
    bed.counted(r#"pilotlight_tls_handshakes_total{result="refused"} 1"#).await;
}

#[tokio::test]
async fn a_connection_is_not_for_hosts_that_have_another_certificate() {
    let bed = TlsBed::new(TIMEOUT).await;
    bed.put("first", &[HELLO]);
    bed.put("second", &["hello.demo.svc.cluster.local"]);
    let mut sender = http2(connect(bed.addr(), HELLO, &client(&[b"h2"])).await.unwrap()).await;
    for (host, expected) in [
        (HELLO, StatusCode::OK),
        (UNKNOWN, StatusCode::OK),
        ("hello.demo.svc.cluster.local", StatusCode::MISDIRECTED_REQUEST),
    ] {
        assert_eq!(get_http2(&mut sender, host).await.0, expected, "{host}");
    }
}

#[tokio::test]
async fn plain_requests_for_hosts_with_a_certificate_are_redirected() {
    let bed = TlsBed::new(TIMEOUT).await;
    bed.put("first", &[HELLO]);
    let response = bed.bed.get("/a?b=c").await;
    assert_eq!(response.status(), StatusCode::PERMANENT_REDIRECT);
    assert_eq!(response.headers()["location"], "https://hello.demo.example.org/a?b=c");
    assert_eq!(response.headers()["pilotlight-reason"], "https-only");
    let mut plain = bed.bed.connect().await;
    let inside = Request::get("/").header("host", UNKNOWN).body(full("")).unwrap();
    assert_eq!(read(plain.send_request(inside).await.unwrap()).await, (StatusCode::OK, "http".into()));
}

#[tokio::test]
async fn an_upgraded_connection_passes_bytes_and_its_end() {
    let bed = TlsBed::new(TIMEOUT).await;
    bed.put("first", &[HELLO]);
    let mut stream = bed.connect(HELLO).await;
    let head = "GET / HTTP/1.1\r\nhost: hello.demo.example.org\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut whole = String::new();
    tokio::time::timeout(PATIENCE, stream.read_to_string(&mut whole)).await.unwrap().unwrap();
    assert!(whole.starts_with("HTTP/1.1 101") && whole.ends_with("\r\n\r\nhello"), "{whole}");
}

#[tokio::test]
async fn a_drained_connection_ends_with_a_close_notify() {
    let bed = TlsBed::new(TIMEOUT).await;
    bed.put("first", &[HELLO]);
    let mut stream = bed.connect(HELLO).await;
    stream.write_all(b"GET / HTTP/1.1\r\nhost: hello.demo.example.org\r\n\r\n").await.unwrap();
    let mut response = [0; 1024];
    let read = stream.read(&mut response).await.unwrap();
    assert!(response[..read].starts_with(b"HTTP/1.1 200"));
    // Without a close_notify, rustls would call this an unexpected end.
    let mut rest = Vec::new();
    let (ended, rest) = tokio::join!(bed.bed.end(PATIENCE), stream.read_to_end(&mut rest));
    assert!(ended && rest.is_ok(), "{rest:?}");
}
