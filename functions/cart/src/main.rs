//! A shopping cart kept in the caller's session, through Pilotlight's state API.
//!
//! `POST /items {"sku","quantity"}`, `GET /cart`, `DELETE /items/{sku}`; each answers with the cart.
//! Pods keep nothing: any pod serves any request, and a cart outlives them all. Two requests that change
//! one cart at once both count: see `change`. Reading order: this file, `cart` (the rules), `state` (the
//! HTTP client of the state API), `failure` (every answer that is not a cart).

mod cart;
mod failure;
mod state;
#[cfg(test)]
mod tests;

use std::{io, sync::Arc, time::Duration};

use axum::{
    Json, Router,
    body::Bytes,
    extract::{DefaultBodyLimit, Path, State},
    http::HeaderMap,
    routing::{delete, get, post},
};
use tokio::time::timeout;

use crate::{
    cart::{Cart, Item},
    failure::Failure,
    state::{Saved, SessionId, StateApi},
};

/// The header in which Pilotlight passes the id of the caller's session.
const SESSION_HEADER: &str = "pilotlight-session-id";

/// More than any valid body.
const BODY_LIMIT: usize = 16 * 1024;

/// How long a change is tried again while other requests change the same cart.
const CHANGE_TIMEOUT: Duration = Duration::from_secs(5);

#[tokio::main(flavor = "current_thread")]
async fn main() -> io::Result<()> {
    hello::serve(router(StateApi::from_env()?)).await
}

fn router(state: StateApi) -> Router {
    Router::new()
        .route("/items", post(add))
        .route("/items/{sku}", delete(remove))
        .route("/cart", get(show))
        .fallback(async || Failure::NoSuchPath)
        .layer(DefaultBodyLimit::max(BODY_LIMIT))
        .with_state(Arc::new(state))
}

async fn show(State(api): State<Arc<StateApi>>, headers: HeaderMap) -> Result<Json<Cart>, Failure> {
    let (cart, _) = api.load(&session(&headers)?).await?;
    Ok(Json(cart))
}

async fn add(
    State(api): State<Arc<StateApi>>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Json<Cart>, Failure> {
    let session = session(&headers)?;
    let item = Item::parse(&body)?;
    change(&api, &session, |cart| cart.add(&item)).await
}

async fn remove(
    State(api): State<Arc<StateApi>>,
    headers: HeaderMap,
    Path(sku): Path<String>,
) -> Result<Json<Cart>, Failure> {
    change(&api, &session(&headers)?, |cart| cart.remove(&sku)).await
}

/// Compare and set: reads the cart, edits it, and saves it only if it is still the one that was read;
/// else begins again. Each round that fails is one that another request has won.
async fn change(
    api: &StateApi,
    session: &SessionId,
    edit: impl Fn(&mut Cart) -> Result<(), Failure>,
) -> Result<Json<Cart>, Failure> {
    let rounds = async {
        loop {
            let (mut cart, version) = api.load(session).await?;
            edit(&mut cart)?;
            if api.save(session, &cart, &version).await? == Saved::Yes {
                return Ok(Json(cart));
            }
        }
    };
    timeout(CHANGE_TIMEOUT, rounds).await.unwrap_or(Err(Failure::Contended))
}

fn session(headers: &HeaderMap) -> Result<SessionId, Failure> {
    let id = headers.get(SESSION_HEADER).and_then(|id| id.to_str().ok()).ok_or(Failure::NoSession)?;
    SessionId::new(id).ok_or(Failure::NoSession)
}
