//! Every answer that is not a user, with its status and message.

use axum::{
    Json,
    http::{StatusCode, header::RETRY_AFTER},
    response::{IntoResponse, Response},
};
use serde_json::json;

/// Why a request was not done.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// A field of the input breaks a rule.
    Invalid { field: &'static str, message: String },
    /// No user has this id.
    NoSuchUser,
    /// No such path.
    NoSuchPath,
    /// Redis cannot be reached, or cannot serve.
    StoreAway(String),
    /// A fault of ours.
    Internal(String),
}

impl Failure {
    pub(crate) fn invalid(field: &'static str, message: impl AsRef<str>) -> Self {
        Self::Invalid { field, message: format!("{field} {}", message.as_ref()) }
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        match self {
            Self::Invalid { field, message } => {
                (StatusCode::BAD_REQUEST, Json(json!({ "message": message, "field": field }))).into_response()
            }
            Self::NoSuchUser => message(StatusCode::NOT_FOUND, "no user has this id"),
            Self::NoSuchPath => {
                message(StatusCode::NOT_FOUND, "no such path: try POST /users, GET /users/{id}")
            }
            Self::StoreAway(why) => {
                // The cause is for whoever runs this, not for callers.
                eprintln!("users cannot be reached: {why}");
                let answer =
                    message(StatusCode::SERVICE_UNAVAILABLE, "users cannot be reached at the moment");
                ([(RETRY_AFTER, "1")], answer).into_response()
            }
            Self::Internal(why) => {
                eprintln!("internal error: {why}");
                message(StatusCode::INTERNAL_SERVER_ERROR, "internal error")
            }
        }
    }
}

fn message(status: StatusCode, message: &str) -> Response {
    (status, Json(json!({ "message": message }))).into_response()
}
