//! The least that a proxy made of hyper can do: no routes, no limits, no clocks, no headers of its own. What
//! it costs is the floor for anything that is built on hyper in the usual way.

use std::{
    convert::Infallible,
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
};

use anyhow::Result;
use bytes::Bytes;
use http::{Request, Response, StatusCode, Uri, Version, header};
use hyper::{
    body::{Body, Frame, Incoming, SizeHint},
    client::conn::http1,
    service::service_fn,
    upgrade,
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use tokio::net::{TcpListener, TcpStream};

type Sender = http1::SendRequest<Incoming>;

struct Relay {
    to: SocketAddr,
    idle: Mutex<Vec<Sender>>,
}

/// Relays until the process ends.
pub(crate) async fn relay(addr: SocketAddr, to: SocketAddr) -> Result<()> {
    let relay = Arc::new(Relay { to, idle: Mutex::default() });
    let listener = TcpListener::bind(addr).await?;
    let builder = auto::Builder::new(TokioExecutor::new());
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let relay = Arc::clone(&relay);
        let service = service_fn(move |request| {
            let relay = Arc::clone(&relay);
            async move { Ok::<_, Infallible>(relay.answer(request).await.unwrap_or_else(failed)) }
        });
        let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream), service).into_owned();
        tokio::spawn(connection);
    }
}

fn failed(_: anyhow::Error) -> Response<Relayed> {
    let mut response = Response::new(Relayed::default());
    *response.status_mut() = StatusCode::BAD_GATEWAY;
    response
}

impl Relay {
    async fn answer(self: Arc<Self>, mut request: Request<Incoming>) -> Result<Response<Relayed>> {
        let client = request.headers().contains_key(header::UPGRADE).then(|| upgrade::on(&mut request));
        let path = request.uri().path_and_query().cloned();
        if let Some(authority) = request.uri().authority() {
            let host = authority.as_str().parse()?;
            request.headers_mut().insert(header::HOST, host);
        }
        *request.uri_mut() = path.map(Uri::from).unwrap_or_default();
        *request.version_mut() = Version::HTTP_11;
        let mut sender = self.connection().await?;
        let mut response = sender.send_request(request).await?;
        if let Some(client) = client {
            tokio::spawn(join(client, upgrade::on(&mut response)));
            return Ok(response.map(|_| Relayed::default()));
        }
        Ok(response.map(|body| Relayed { body: Some(body), back: Some((self, sender)) }))
    }

    async fn connection(&self) -> Result<Sender> {
        loop {
            let idle = self.lock().pop();
            let Some(mut sender) = idle else { break };
            if sender.ready().await.is_ok() {
                return Ok(sender);
            }
        }
        let stream = TcpStream::connect(self.to).await?;
        stream.set_nodelay(true)?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection.with_upgrades());
        Ok(sender)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Sender>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn join(client: upgrade::OnUpgrade, backend: upgrade::OnUpgrade) -> Result<()> {
    let (client, backend) = tokio::try_join!(client, backend)?;
    tokio::io::copy_bidirectional(&mut TokioIo::new(client), &mut TokioIo::new(backend)).await?;
    Ok(())
}

/// A body on its way to the client; its end gives the connection back.
#[derive(Default)]
struct Relayed {
    body: Option<Incoming>,
    back: Option<(Arc<Relay>, Sender)>,
}

impl Body for Relayed {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        self.body.as_mut().map_or(Poll::Ready(None), |body| Pin::new(body).poll_frame(cx))
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or_else(|| SizeHint::with_exact(0), Body::size_hint)
    }
}

impl Drop for Relayed {
    fn drop(&mut self) {
        if let Some((relay, sender)) = self.back.take() {
            relay.lock().push(sender);
        }
    }
}
