//! Create and get users, stored in a Redis of the project's own.
//!
//! `POST /users {"name","email"}` answers 201 with the user; `GET /users/{id}` answers 200 or 404.
//! Reading order: this file, `user` (what a valid user is), `store` (Redis), `failure` (every other answer).

mod failure;
mod store;
#[cfg(test)]
mod tests;
mod user;

use std::io;

use axum::{
    Json, Router,
    body::Bytes,
    extract::{DefaultBodyLimit, Path, State},
    http::{StatusCode, header::LOCATION},
    response::IntoResponse,
    routing::{get, post},
};

use crate::{
    failure::Failure,
    store::Store,
    user::{NewUser, User},
};

/// More than any valid body.
const BODY_LIMIT: usize = 16 * 1024;

#[tokio::main(flavor = "current_thread")]
async fn main() -> io::Result<()> {
    let url = std::env::var("REDIS_URL")
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "REDIS_URL is not set"))?;
    let store = Store::new(&url).map_err(io::Error::other)?;
    hello::serve(router(store)).await
}

fn router(store: Store) -> Router {
    Router::new()
        .route("/users", post(create))
        .route("/users/{id}", get(find))
        .fallback(async || Failure::NoSuchPath)
        .layer(DefaultBodyLimit::max(BODY_LIMIT))
        .with_state(store)
}

async fn create(State(store): State<Store>, body: Bytes) -> Result<impl IntoResponse, Failure> {
    let user = User::new(NewUser::parse(&body)?, user::random_id()?, jiff::Timestamp::now());
    store.insert(&user).await?;
    let location = format!("/users/{}", user.id);
    Ok((StatusCode::CREATED, [(LOCATION, location)], Json(user)))
}

async fn find(State(store): State<Store>, Path(id): Path<String>) -> Result<Json<User>, Failure> {
    // Only ids that we give can be in the store; anything else is not worth a question.
    let user = if user::is_id(&id) { store.get(&id).await? } else { None };
    user.map(Json).ok_or(Failure::NoSuchUser)
}
