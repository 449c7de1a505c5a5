//! The state API as this function uses it: plain HTTP, one entry for each session.

use std::{io, time::Duration};

use bytes::Bytes;
use http::{
    Method, Request, Response, StatusCode, Uri,
    header::{AUTHORIZATION, CONTENT_TYPE, ETAG, HOST, HeaderValue, IF_MATCH, IF_NONE_MATCH},
};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, time::timeout};

use crate::{cart::Cart, failure::Failure};

/// For one whole call: Pilotlight itself answers within a fraction of this when Redis is away.
const CALL_TIMEOUT: Duration = Duration::from_secs(2);

/// More than a session may hold.
const BODY_LIMIT: usize = 4 * 1024 * 1024;

/// The id of a session, safe as one segment of a path.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct SessionId(String);

impl SessionId {
    pub(crate) fn new(id: &str) -> Option<Self> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~:@!$&'()*+,;=".contains(&byte);
        let segment = !id.is_empty() && id.bytes().all(allowed) && id != "." && id != "..";
        segment.then(|| Self(id.to_owned()))
    }
}

/// Which state of a cart was read: what must still be there when it is saved.
#[derive(Debug)]
pub(crate) enum Version {
    New,
    Tagged(HeaderValue),
}

/// Whether a save was made.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Saved {
    Yes,
    /// Another request has changed the cart since it was read.
    Outrun,
}

/// The client of the state API.
#[derive(Debug)]
pub(crate) struct StateApi {
    /// Host and port.
    authority: String,
    /// This function's own token, given by Pilotlight.
    token: String,
}

impl StateApi {
    pub(crate) fn new(authority: impl Into<String>, token: impl Into<String>) -> Self {
        Self { authority: authority.into(), token: token.into() }
    }

    /// From the environment that Pilotlight gives to a Function with `spec.session`.
    pub(crate) fn from_env() -> io::Result<Self> {
        let var = |name| {
            std::env::var(name)
                .map_err(|_| invalid(format!("{name} is not set: this function needs spec.session")))
        };
        let url: Uri = var("PILOTLIGHT_STATE_URL")?
            .parse()
            .map_err(|error| invalid(format!("PILOTLIGHT_STATE_URL is not a URL: {error}")))?;
        let host = url.host().ok_or_else(|| invalid("PILOTLIGHT_STATE_URL has no host".to_owned()))?;
        let port = url.port_u16().unwrap_or(80);
        Ok(Self::new(format!("{host}:{port}"), var("PILOTLIGHT_STATE_TOKEN")?))
    }

    /// The session's cart, empty if there is none yet.
    pub(crate) async fn load(&self, session: &SessionId) -> Result<(Cart, Version), Failure> {
        let response = self.call(self.request(Method::GET, session), Bytes::new()).await?;
        match response.status() {
            StatusCode::NOT_FOUND => Ok((Cart::default(), Version::New)),
            StatusCode::OK => {
                let tag = response.headers().get(ETAG).cloned();
                let tag = tag.ok_or_else(|| Failure::StateRefused("an answer has no ETag".to_owned()))?;
                let cart = serde_json::from_slice(response.body())
                    .map_err(|error| Failure::StateRefused(format!("the session holds no cart: {error}")))?;
                Ok((cart, Version::Tagged(tag)))
            }
            _ => Err(refusal(&response)),
        }
    }

    /// Saves the cart, unless the session has changed since `version` was read.
    pub(crate) async fn save(
        &self,
        session: &SessionId,
        cart: &Cart,
        version: &Version,
    ) -> Result<Saved, Failure> {
        let body = serde_json::to_vec(cart).map_err(|error| Failure::StateRefused(error.to_string()))?;
        let request = self.request(Method::PUT, session).header(CONTENT_TYPE, "application/json");
        let request = match version {
            Version::New => request.header(IF_NONE_MATCH, "*"),
            Version::Tagged(tag) => request.header(IF_MATCH, tag),
        };
        let response = self.call(request, body.into()).await?;
        match response.status() {
            StatusCode::PRECONDITION_FAILED => Ok(Saved::Outrun),
            status if status.is_success() => Ok(Saved::Yes),
            _ => Err(refusal(&response)),
        }
    }

    fn request(&self, method: Method, session: &SessionId) -> http::request::Builder {
        Request::builder()
            .method(method)
            .uri(format!("/v1/session/{}", session.0))
            .header(HOST, &self.authority)
            .header(AUTHORIZATION, format!("Bearer {}", self.token))
    }

    /// One call on a connection of its own: a new connection inside a cluster costs a fraction of a
    /// millisecond, and none is ever found dead.
    async fn call(&self, request: http::request::Builder, body: Bytes) -> Result<Response<Bytes>, Failure> {
        let away = |why: String| Failure::StateAway(why);
        let request =
            request.body(Full::new(body)).map_err(|error| Failure::StateRefused(error.to_string()))?;
        let exchange = async {
            let stream =
                TcpStream::connect(&self.authority).await.map_err(|error| away(error.to_string()))?;
            let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
                .await
                .map_err(|error| away(error.to_string()))?;
            // Ends with the sender; its error also reaches the caller through the response.
            tokio::spawn(connection);
            let response = sender.send_request(request).await.map_err(|error| away(error.to_string()))?;
            let (head, body) = response.into_parts();
            let body =
                Limited::new(body, BODY_LIMIT).collect().await.map_err(|error| away(error.to_string()))?;
            Ok(Response::from_parts(head, body.to_bytes()))
        };
        timeout(CALL_TIMEOUT, exchange).await.unwrap_or_else(|_| Err(away("no answer in time".to_owned())))
    }
}

/// What a bad answer means. The state API says why in the `detail` of a problem document (RFC 9457).
fn refusal(response: &Response<Bytes>) -> Failure {
    let status = response.status();
    let problem: serde_json::Value = serde_json::from_slice(response.body()).unwrap_or_default();
    let why = format!("{status}: {}", problem["detail"].as_str().unwrap_or("no details"));
    if status == StatusCode::SERVICE_UNAVAILABLE {
        Failure::StateAway(why)
    } else {
        Failure::StateRefused(why)
    }
}

fn invalid(message: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, message)
}
