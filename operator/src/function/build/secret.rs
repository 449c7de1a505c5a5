//! The Secret with a Function's own token for the state API. Pure.

use k8s_openapi::{ByteString, api::core::v1::Secret};
use pilotlight_crds::{Keys, names};

use crate::function::{build::metadata, observe::Identity};

/// The Secret: only a Function with sessions has one.
pub(super) fn secret(identity: &Identity, keys: &Keys) -> Secret {
    let token = ByteString(keys.state_token(&identity.key).into_bytes());
    Secret {
        metadata: metadata(identity, names::state_secret(&identity.key.name)),
        data: Some([(names::STATE_TOKEN_KEY.to_owned(), token)].into()),
        type_: Some("Opaque".to_owned()),
        ..Default::default()
    }
}
