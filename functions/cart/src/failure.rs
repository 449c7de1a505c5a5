//! Every answer that is not a cart, with its status and message.

use axum::{
    Json,
    http::{StatusCode, header::RETRY_AFTER},
    response::{IntoResponse, Response},
};
use serde_json::json;

/// Why a request was not done.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// The caller's input breaks a rule; the message says which.
    Invalid(String),
    /// The request did not come through Pilotlight, or the Function has no `spec.session`.
    NoSession,
    /// The article to remove is not in the cart.
    NotInCart,
    /// No such path.
    NoSuchPath,
    /// Others changed the cart at the same time, for too long.
    Contended,
    /// The state API cannot be reached, or says that it cannot serve now.
    StateAway(String),
    /// The state API answers, but refuses us: a fault of ours or of the installation.
    StateRefused(String),
}

impl Failure {
    fn status_and_message(&self) -> (StatusCode, String) {
        match self {
            Self::Invalid(message) => (StatusCode::BAD_REQUEST, message.clone()),
            Self::NoSession => (
                StatusCode::BAD_REQUEST,
                "the request names no session: call this function through Pilotlight, with spec.session set"
                    .to_owned(),
            ),
            Self::NotInCart => (StatusCode::NOT_FOUND, "this article is not in the cart".to_owned()),
            Self::NoSuchPath => (
                StatusCode::NOT_FOUND,
                "no such path: try POST /items, GET /cart, DELETE /items/{sku}".to_owned(),
            ),
            Self::Contended => (
                StatusCode::SERVICE_UNAVAILABLE,
                "too many requests change this cart at the same time; try again".to_owned(),
            ),
            Self::StateAway(why) => {
                (StatusCode::SERVICE_UNAVAILABLE, format!("carts cannot be reached at the moment: {why}"))
            }
            Self::StateRefused(why) => {
                (StatusCode::BAD_GATEWAY, format!("the state API refused a call: {why}"))
            }
        }
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let (status, message) = self.status_and_message();
        let mut response = (status, Json(json!({ "message": message }))).into_response();
        if status == StatusCode::SERVICE_UNAVAILABLE {
            response.headers_mut().insert(RETRY_AFTER, 1.into());
        }
        response
    }
}
