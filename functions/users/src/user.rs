//! What a user is, and which input makes a valid one.

use std::{fmt::Write, fs::File, io::Read};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::failure::Failure;

const MAX_NAME: usize = 100;
/// RFC 5321, 4.5.3.1: what can be between the angle brackets of a mail's path, and before the `@`.
const MAX_EMAIL: usize = 254;
const MAX_LOCAL_PART: usize = 64;
const ID_BYTES: usize = 16;

/// A user as it is stored and answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct User {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) email: String,
    /// RFC 3339, in UTC.
    pub(crate) created_at: String,
}

/// What a caller sends.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct NewUser {
    name: String,
    email: String,
}

impl NewUser {
    /// Reads `{"name": "Ada", "email": "ada@example.com"}`. By hand, so that each message names the field
    /// at fault.
    pub(crate) fn parse(body: &[u8]) -> Result<Self, Failure> {
        let value: Value = serde_json::from_slice(body)
            .map_err(|error| Failure::invalid("body", format!("is not JSON: {error}")))?;
        let Value::Object(fields) = value else {
            return Err(Failure::invalid("body", "must be a JSON object"));
        };
        let text = |name: &'static str| match fields.get(name) {
            Some(Value::String(text)) => Ok(text.trim().to_owned()),
            Some(_) => Err(Failure::invalid(name, "must be a string")),
            None => Err(Failure::invalid(name, "is required")),
        };
        let (name, email) = (text("name")?, text("email")?);
        if !is_name(&name) {
            return Err(Failure::invalid("name", format!("must have 1 to {MAX_NAME} printable characters")));
        }
        if !is_email(&email) {
            return Err(Failure::invalid("email", "must be an address such as ada@example.com"));
        }
        Ok(Self { name, email })
    }
}

impl User {
    pub(crate) fn new(new: NewUser, id: String, now: Timestamp) -> Self {
        Self { id, name: new.name, email: new.email, created_at: format!("{now:.3}") }
    }
}

fn is_name(name: &str) -> bool {
    (1..=MAX_NAME).contains(&name.chars().count()) && !name.contains(char::is_control)
}

/// Reasonable, not complete: whether an address exists, only a mail to it can tell.
fn is_email(email: &str) -> bool {
    let Some((local, domain)) = email.split_once('@') else { return false };
    let local_ok = (1..=MAX_LOCAL_PART).contains(&local.len())
        && !local.contains(|c: char| c.is_whitespace() || c.is_control() || "\"(),:;<>[\\]".contains(c))
        && local.split('.').all(|atom| !atom.is_empty());
    let label_ok = |label: &str| {
        (1..=63).contains(&label.len())
            && label.chars().all(|c| c.is_alphanumeric() || c == '-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    email.len() <= MAX_EMAIL && local_ok && domain.contains('.') && domain.split('.').all(label_ok)
}

/// 128 random bits, in hexadecimal.
pub(crate) fn random_id() -> Result<String, Failure> {
    let mut bytes = [0; ID_BYTES];
    File::open("/dev/urandom")
        .and_then(|mut source| source.read_exact(&mut bytes))
        .map_err(|error| Failure::Internal(format!("no random numbers: {error}")))?;
    Ok(bytes.iter().fold(String::new(), |mut id, byte| {
        // Writing into a string does not fail.
        let _ = write!(id, "{byte:02x}");
        id
    }))
}

pub(crate) fn is_id(text: &str) -> bool {
    text.len() == 2 * ID_BYTES && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}
