//! The installation's secrets, and what they sign: state tokens of functions, ids of sessions, what
//! activators tell each other.
//!
//! Everything signed is HMAC-SHA256 over a text that begins with its own purpose, so that a signature
//! made for one purpose is worth nothing for another. Several secrets may be given: the first signs, all
//! verify. That is how a secret is replaced: put the new one in front, wait until nothing old is in use,
//! take the old one away.

use std::{fmt, str::FromStr};

use aws_lc_rs::{constant_time, hmac};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};

use crate::FunctionKey;

/// A secret shorter than this could be guessed from a signature.
const MIN_SECRET_CHARACTERS: usize = 32;
/// Each verification may try every secret, so their number is bounded.
const MAX_SECRETS: usize = 8;
/// What each state token starts with: the version of its form.
const TOKEN_PREFIX: &str = "pl1.";
/// What a state token's signature is about.
const TOKEN_DOMAIN: &[u8] = b"state-token\0";
/// What a session id's signature is about.
const SESSION_DOMAIN: &[u8] = b"session-id\0";
/// What a connection between two activators is signed about.
const PEER_DOMAIN: &[u8] = b"peer-connection\0";
/// What a secret's fingerprint is about.
const FINGERPRINT_DOMAIN: &[u8] = b"peer-fingerprint\0";
/// Bytes of a signature (SHA-256).
pub const SIGNATURE: usize = 32;
/// Bytes of each half of a session id: 128 random bits, 128 bits of signature.
const HALF: usize = 16;
/// Characters of such a half in base64url.
const HALF_CHARACTERS: usize = 22;

/// A list of secrets that cannot be used. It says what is wrong, and never shows a secret.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum InvalidKeys {
    /// No secret was given at all.
    #[error("no secret is given: at least one of {MIN_SECRET_CHARACTERS} characters or more is needed")]
    Missing,
    /// Too many secrets were given.
    #[error("{0} secrets are given: at most {MAX_SECRETS} are allowed")]
    TooMany(usize),
    /// One of the secrets is too short.
    #[error(
        "secret {position} of {count} has {characters} characters: at least {MIN_SECRET_CHARACTERS} are needed"
    )]
    TooShort {
        /// Which of the secrets, counted from 1.
        position: usize,
        /// How many are given.
        count: usize,
        /// How long it is.
        characters: usize,
    },
}

/// The secrets of an installation. `Debug` shows how many there are, nothing else.
#[derive(Clone)]
pub struct Keys {
    signing: hmac::Key,
    /// The secrets that still verify what they signed when they were first.
    retired: Vec<hmac::Key>,
}

impl Keys {
    /// Reads comma separated secrets. White space around each is not part of it.
    pub fn parse(text: &str) -> Result<Self, InvalidKeys> {
        if text.trim().is_empty() {
            return Err(InvalidKeys::Missing);
        }
        let secrets: Vec<&str> = text.split(',').map(str::trim).collect();
        if secrets.len() > MAX_SECRETS {
            return Err(InvalidKeys::TooMany(secrets.len()));
        }
        for (index, secret) in secrets.iter().enumerate() {
            let characters = secret.chars().count();
            if characters < MIN_SECRET_CHARACTERS {
                return Err(InvalidKeys::TooShort { position: index + 1, count: secrets.len(), characters });
            }
        }
        let mut keys = secrets.iter().map(|secret| hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes()));
        let signing = keys.next().ok_or(InvalidKeys::Missing)?;
        Ok(Self { signing, retired: keys.collect() })
    }

    /// The token by which `function` proves itself to the state API.
    pub fn state_token(&self, function: &FunctionKey) -> String {
        let FunctionKey { namespace, name } = function;
        let mac = hmac::sign(&self.signing, &token_message(function));
        format!("{TOKEN_PREFIX}{namespace}.{name}.{}", URL_SAFE_NO_PAD.encode(mac))
    }

    /// The function that a state token was made for; nothing if this installation did not make it.
    pub fn verify_state_token(&self, token: &str) -> Option<FunctionKey> {
        // A namespace has no dots and neither has a signature, so a name may have them.
        let (namespace, rest) = token.strip_prefix(TOKEN_PREFIX)?.split_once('.')?;
        let (name, mac) = rest.rsplit_once('.')?;
        let function = FunctionKey::new(namespace, name);
        let mac = URL_SAFE_NO_PAD.decode(mac).ok()?;
        let message = token_message(&function);
        self.all().any(|key| hmac::verify(key, &message, &mac).is_ok()).then_some(function)
    }

    /// The id of a new session of `function`. The caller brings the randomness: this crate has none.
    pub fn session_id(&self, function: &FunctionKey, random: [u8; HALF]) -> SessionId {
        let mac = hmac::sign(&self.signing, &session_message(function, &random));
        let signature = URL_SAFE_NO_PAD.encode(&mac.as_ref()[..HALF]);
        SessionId(format!("{}.{signature}", URL_SAFE_NO_PAD.encode(random)))
    }

    /// The session id in `text`; nothing if this installation did not make it for `function`. What comes
    /// back is signed by the first secret: a session in use moves on before an old secret is taken away.
    pub fn verify_session_id(&self, function: &FunctionKey, text: &str) -> Option<SessionId> {
        let (random, signature) = text.split_once('.')?;
        let (random, signature) = (decode_half(random)?, decode_half(signature)?);
        let message = session_message(function, &random);
        let signed_by = |key: &hmac::Key| {
            let mac = hmac::sign(key, &message);
            constant_time::verify_slices_are_equal(&mac.as_ref()[..HALF], &signature).is_ok()
        };
        self.all().any(signed_by).then(|| self.session_id(function, random))
    }

    /// What names each secret without showing it: by these two activators find one that both have, also
    /// while secrets are being replaced.
    pub fn fingerprints(&self) -> Vec<String> {
        self.all().map(fingerprint).collect()
    }

    /// The key of one connection between two activators, made of the first secret that both have; none if
    /// there is no such secret. `handshake` is what both have said, with a random part from each, so that
    /// nothing that was signed for another connection is worth anything on this one.
    pub fn connection(&self, fingerprints: &[String], handshake: &[u8]) -> Option<ConnectionKey> {
        let mut shared: Vec<_> =
            self.all().filter(|secret| fingerprints.contains(&fingerprint(secret))).collect();
        // Both sides must choose the same one, and may have them in different orders.
        shared.sort_by_key(|secret| fingerprint(secret));
        let message = [PEER_DOMAIN, handshake].concat();
        let derived = hmac::sign(shared.first()?, &message);
        Some(ConnectionKey(hmac::Key::new(hmac::HMAC_SHA256, derived.as_ref())))
    }

    fn all(&self) -> impl Iterator<Item = &hmac::Key> {
        std::iter::once(&self.signing).chain(&self.retired)
    }
}

impl FromStr for Keys {
    type Err = InvalidKeys;

    fn from_str(text: &str) -> Result<Self, InvalidKeys> {
        Self::parse(text)
    }
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keys").field("count", &(1 + self.retired.len())).finish_non_exhaustive()
    }
}

/// The key of one connection. `Debug` does not show it.
pub struct ConnectionKey(hmac::Key);

impl ConnectionKey {
    /// The signature of a message that is given in parts.
    pub fn sign(&self, parts: &[&[u8]]) -> [u8; SIGNATURE] {
        let mut context = hmac::Context::with_key(&self.0);
        parts.iter().for_each(|part| context.update(part));
        let mut signature = [0; SIGNATURE];
        signature.copy_from_slice(context.sign().as_ref());
        signature
    }

    /// Whether the message was signed with this key.
    pub fn verify(&self, parts: &[&[u8]], claimed: &[u8; SIGNATURE]) -> bool {
        constant_time::verify_slices_are_equal(&self.sign(parts), claimed).is_ok()
    }
}

impl fmt::Debug for ConnectionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnectionKey").finish_non_exhaustive()
    }
}

fn fingerprint(secret: &hmac::Key) -> String {
    URL_SAFE_NO_PAD.encode(&hmac::sign(secret, FINGERPRINT_DOMAIN).as_ref()[..HALF])
}

/// The id of a session: proof that this installation began it, for one function. Whoever knows it is the
/// session's caller, so `Debug` shows only its beginning.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct SessionId(String);

impl SessionId {
    /// The whole id, as the cookie and the header carry it.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The random part: names the session, and stays the same whichever secret signed it.
    pub fn random(&self) -> &str {
        &self.0[..HALF_CHARACTERS]
    }
}

impl fmt::Debug for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SessionId({}...)", &self.0[..6])
    }
}

fn token_message(function: &FunctionKey) -> Vec<u8> {
    [TOKEN_DOMAIN, function.namespace.as_bytes(), b"\0", function.name.as_bytes()].concat()
}

fn session_message(function: &FunctionKey, random: &[u8; HALF]) -> Vec<u8> {
    [SESSION_DOMAIN, function.namespace.as_bytes(), b"\0", function.name.as_bytes(), b"\0", random].concat()
}

/// Decoding is strict about length and unused bits: each id has exactly one text.
fn decode_half(text: &str) -> Option<[u8; HALF]> {
    if text.len() != HALF_CHARACTERS {
        return None;
    }
    URL_SAFE_NO_PAD.decode(text).ok()?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: &str = "an old secret that has enough characters";
    const NEW: &str = "a new secret that has enough characters";

    fn keys(text: &str) -> Keys {
        Keys::parse(text).unwrap()
    }

    fn hello() -> FunctionKey {
        FunctionKey::new("demo", "hello")
    }

    #[test]
    fn secrets_are_checked_and_never_shown() {
        assert_eq!(Keys::parse(" ").unwrap_err(), InvalidKeys::Missing);
        assert_eq!(Keys::parse(&[OLD; 9].join(",")).unwrap_err(), InvalidKeys::TooMany(9));
        for (text, position, count, characters) in [
            ("short", 1, 1, 5),
            ("exactly thirty-one characters..", 1, 1, 31),
            (&format!("{OLD},tiny"), 2, 2, 4),
            (&format!("{OLD},"), 2, 2, 0),
        ] {
            let error = Keys::parse(text).unwrap_err();
            assert_eq!(error, InvalidKeys::TooShort { position, count, characters }, "{text}");
            assert!(!error.to_string().contains("short") && !error.to_string().contains("tiny"));
        }
        assert!(Keys::parse("exactly thirty-two characters...").is_ok());
        let keys: Keys = format!(" {NEW} , {OLD} ").parse().unwrap();
        assert_eq!(format!("{keys:?}"), "Keys { count: 2, .. }");
    }

    #[test]
    fn a_state_token_names_its_function() {
        let keys = keys(OLD);
        let token = keys.state_token(&hello());
        assert!(token.starts_with("pl1.demo.hello."), "{token}");
        assert_eq!(keys.verify_state_token(&token), Some(hello()));

        let dotted = FunctionKey::new("demo", "hello.v2");
        assert_eq!(keys.verify_state_token(&keys.state_token(&dotted)), Some(dotted));
    }

    #[test]
    fn tokens_and_ids_keep_their_published_form() {
        // Operator and activator may be of different versions for a while, and callers keep their
        // cookies for months: these texts must never change.
        let keys = keys("0123456789abcdef0123456789abcdef");
        let id = keys.session_id(&hello(), [7; HALF]);
        assert_eq!(id.as_str(), "BwcHBwcHBwcHBwcHBwcHBw.mlhQh_37qN6FUt6-NeQ4Tw");
        let token = keys.state_token(&hello());
        assert_eq!(token, "pl1.demo.hello.58zPRhoqBev3hHLzxwAxZdVESuU5R060yC1ZN-S0Usc");
    }

    #[test]
    fn a_connection_has_a_key_of_its_own_from_a_secret_that_both_have() {
        let (old, new) = (keys(OLD), keys(&format!("{NEW},{OLD}")));
        let signed = old.connection(&new.fingerprints(), b"hello").unwrap().sign(&[b"a", b"bc"]);
        let theirs = |handshake| new.connection(&old.fingerprints(), handshake).unwrap();
        assert!(theirs(b"hello").verify(&[b"ab", b"c"], &signed), "parts are only parts");
        assert!(!theirs(b"hello").verify(&[b"abd"], &signed));
        assert!(!theirs(b"hi").verify(&[b"abc"], &signed), "another connection");
        assert!(keys(NEW).connection(&old.fingerprints(), b"hello").is_none(), "no secret in common");

        let reversed = keys(&format!("{OLD},{NEW}"));
        let signed = reversed.connection(&new.fingerprints(), b"hello").unwrap().sign(&[b"abc"]);
        assert!(new.connection(&reversed.fingerprints(), b"hello").unwrap().verify(&[b"abc"], &signed));
        assert!(!new.fingerprints().concat().contains("secret"));
    }

    #[test]
    fn forged_and_damaged_state_tokens_are_refused() {
        let keys = keys(OLD);
        let token = keys.state_token(&hello());
        let mac = token.rsplit_once('.').unwrap().1;
        for forged in [
            String::new(),
            "pl1.".to_owned(),
            "pl1.demo.hello".to_owned(),
            "pl1.demo.hello.".to_owned(),
            format!("pl1.demo.other.{mac}"),
            format!("pl1.other.hello.{mac}"),
            format!("pl2.demo.hello.{mac}"),
            format!("pl1.demo..hello.{mac}"),
            format!("pl1.demo.hello.{}", &mac[..mac.len() - 1]),
            format!("pl1.demo.hello.{}", &mac[..22]),
            format!("{token}="),
            format!("{token}A"),
            format!(" {token}"),
            token.replace("hello", "hello\0"),
        ] {
            assert_eq!(keys.verify_state_token(&forged), None, "{forged}");
        }
    }

    #[test]
    fn every_bit_of_a_session_id_counts() {
        let keys = keys(OLD);
        let id = keys.session_id(&hello(), [7; HALF]);
        assert_eq!(id.as_str().len(), 2 * HALF_CHARACTERS + 1);
        assert_eq!(keys.verify_session_id(&hello(), id.as_str()), Some(id.clone()));
        for position in 0..id.as_str().len() {
            for other in ["A", "B", "_", ".", "=", " "] {
                let mut forged = id.as_str().to_owned();
                forged.replace_range(position..=position, other);
                if forged != id.as_str() {
                    assert_eq!(keys.verify_session_id(&hello(), &forged), None, "{forged}");
                }
            }
            assert_eq!(keys.verify_session_id(&hello(), &id.as_str()[..position]), None);
        }
        for longer in [format!("{}A", id.as_str()), format!("{}.A", id.as_str()), format!("A{}", id.as_str())]
        {
            assert_eq!(keys.verify_session_id(&hello(), &longer), None, "{longer}");
        }
    }

    #[test]
    fn a_session_id_opens_nothing_of_another_function_or_installation() {
        let id = keys(OLD).session_id(&hello(), [7; HALF]);
        for function in [
            FunctionKey::new("demo", "cart"),
            FunctionKey::new("prod", "hello"),
            FunctionKey::new("demohello", ""),
        ] {
            assert_eq!(keys(OLD).verify_session_id(&function, id.as_str()), None, "{function}");
        }
        assert_eq!(keys(NEW).verify_session_id(&hello(), id.as_str()), None);
        assert_eq!(keys(NEW).verify_state_token(&keys(OLD).state_token(&hello())), None);
    }

    #[test]
    fn a_retired_secret_verifies_and_no_longer_signs() {
        let (before, during, after) = (keys(OLD), keys(&format!("{NEW},{OLD}")), keys(NEW));
        let (token, id) = (before.state_token(&hello()), before.session_id(&hello(), [1; HALF]));
        assert_eq!(during.verify_state_token(&token), Some(hello()));
        let renewed = during.verify_session_id(&hello(), id.as_str()).unwrap();
        assert_eq!(renewed.random(), id.random(), "the session keeps its name");
        assert_eq!(after.verify_session_id(&hello(), renewed.as_str()), Some(renewed.clone()));
        assert_eq!(before.verify_session_id(&hello(), renewed.as_str()), None);
        assert_eq!(after.verify_state_token(&token), None);

        assert_eq!(during.state_token(&hello()), after.state_token(&hello()));
        assert_eq!(during.session_id(&hello(), [1; HALF]), renewed);
    }

    #[test]
    fn a_session_id_is_not_logged_whole() {
        let id = keys(OLD).session_id(&hello(), [7; HALF]);
        assert!(!format!("{id:?}").contains(id.random()), "{id:?}");
    }
}
