//! Sessions and their state: they outlive pods, and nobody gets at another's.

use std::{collections::BTreeSet, time::Duration};

use anyhow::{Context, Result, ensure};
use http::{Method, Request, header};
use http_body_util::Full;
use k8s_openapi::api::core::v1::Secret;
use pilotlight_crds::names;
use pilotlight_tests::{
    Caller, Reply, Scope, await_condition,
    objects::{example, hello},
    request, scoped, stays,
};
use serde_json::{Value, json};

use crate::support::{END, START, Whoami, at_one_activator, burst, expect_ok, expect_problem};

/// A call with a session's cookie.
pub(crate) async fn call(
    caller: &Caller,
    cookie: Option<&str>,
    mut request: Request<Full<bytes::Bytes>>,
) -> Result<Reply> {
    if let Some(cookie) = cookie {
        request.headers_mut().insert(header::COOKIE, cookie.parse()?);
    }
    Ok(caller.send(request).await?)
}

/// Puts articles into a cart; the cookie of its session.
pub(crate) async fn fill_cart(caller: &Caller, cookie: Option<&str>, sku: &str) -> Result<String> {
    let item = json!({ "sku": sku, "quantity": 2 }).to_string();
    let reply = call(caller, cookie, request(Method::POST, "/items", item)).await?;
    expect_ok(&reply)?;
    reply.cookie().context("no cookie was set")
}

/// What is in the cart.
pub(crate) async fn cart(caller: &Caller, cookie: &str) -> Result<Value> {
    let reply = call(caller, Some(cookie), request(Method::GET, "/cart", "")).await?;
    expect_ok(&reply)?;
    Ok(reply.json()?["items"].clone())
}

/// A spec of the cart.
pub(crate) fn cart_spec() -> Value {
    example("cart", json!({ "session": {}, "scaling": { "idleAfter": "3s" } }))
}

/// A function's own access to the state API, as its pods have it.
pub(crate) struct StateApi {
    caller: Caller,
    token: Option<String>,
}

impl StateApi {
    /// With the token of a function.
    pub(crate) async fn of(scope: &Scope, function: &str) -> Result<Self> {
        let secret = scope.api::<Secret>().get(&names::state_secret(function)).await?;
        let token =
            secret.data.and_then(|mut data| data.remove(names::STATE_TOKEN_KEY)).context("no token")?;
        let caller = Caller::new(&scope.cluster.state, "pilotlight-state")?;
        Ok(Self { caller, token: Some(String::from_utf8(token.0)?) })
    }

    fn with_token(&self, token: Option<&str>) -> Self {
        Self { caller: self.caller.clone(), token: token.map(str::to_owned) }
    }

    /// One operation on a session.
    pub(crate) async fn session(&self, method: Method, id: &str, body: &str) -> Result<Reply> {
        let mut request = request(method, &format!("/v1/session/{id}"), body.to_owned());
        if let Some(token) = &self.token {
            request.headers_mut().insert(header::AUTHORIZATION, format!("Bearer {token}").parse()?);
        }
        request.headers_mut().insert(header::CONTENT_TYPE, "application/json".parse()?);
        Ok(self.caller.send(request).await?)
    }
}

/// The id in a cookie.
pub(crate) fn id_of(cookie: &str) -> Result<&str> {
    Ok(cookie.split_once('=').context("not a cookie")?.1)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cart_survives_scale_to_zero() -> Result<()> {
    scoped(async |scope| {
        let caller = scope.deploy("cart", cart_spec()).await?;
        let cookie = fill_cart(&caller, None, "tea").await?;
        let pods = scope.pod_names("cart").await?;
        scope.await_pods("cart", 0, END).await?;
        ensure!(cart(&caller, &cookie).await? == json!({ "tea": 2 }), "the cart is another");
        ensure!(scope.pod_names("cart").await? != pods, "the pod is the same");
        let same = fill_cart(&caller, Some(&cookie), "milk").await?;
        ensure!(same == cookie, "the session got another id");
        ensure!(cart(&caller, &cookie).await? == json!({ "milk": 2, "tea": 2 }), "an article is missing");
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn two_callers_have_two_carts() -> Result<()> {
    scoped(async |scope| {
        let caller = scope.deploy("cart", cart_spec()).await?;
        let (one, other) = (fill_cart(&caller, None, "tea").await?, fill_cart(&caller, None, "milk").await?);
        ensure!(one != other, "one session for two callers");
        ensure!(cart(&caller, &one).await? == json!({ "tea": 2 }), "the carts are mixed up");
        ensure!(cart(&caller, &other).await? == json!({ "milk": 2 }), "the carts are mixed up");
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn forged_and_foreign_session_ids_get_a_new_session() -> Result<()> {
    scoped(async |scope| {
        let caller = scope.deploy("cart", cart_spec()).await?;
        let other = scope.deploy("other", example("cart", json!({ "session": {} }))).await?;
        let cookie = fill_cart(&caller, None, "tea").await?;
        let (name, id) = cookie.split_once('=').context("not a cookie")?;
        let (random, signature) = id.split_once('.').context("not an id")?;
        let forged = [
            format!("{name}={random}"),
            format!("{name}={random}.{}", "A".repeat(signature.len())),
            format!("{name}={}.{signature}", "A".repeat(random.len())),
            format!("{name}={id}x"),
        ];
        for forged in &forged {
            let reply = call(&caller, Some(forged), request(Method::GET, "/cart", "")).await?;
            expect_ok(&reply)?;
            ensure!(reply.json()?["items"] == json!({}), "{forged}: {}", reply.describe());
            let new = reply.cookie().context("no new session")?;
            ensure!(new != cookie && &new != forged, "{forged} got {new}");
        }
        // Another function's session is as good as none.
        ensure!(cart(&other, &cookie).await? == json!({}), "a foreign session was taken");
        ensure!(cart(&caller, &cookie).await? == json!({ "tea": 2 }), "the session is gone");
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn no_function_reaches_the_sessions_of_another() -> Result<()> {
    scoped(async |scope| {
        let caller = scope.deploy("cart", cart_spec()).await?;
        scope.deploy("other", example("cart", json!({ "session": {} }))).await?;
        let cookie = fill_cart(&caller, None, "tea").await?;
        let id = id_of(&cookie)?;
        let (own, other) = (StateApi::of(scope, "cart").await?, StateApi::of(scope, "other").await?);
        expect_ok(&own.session(Method::GET, id, "").await?)?;
        for method in [Method::GET, Method::PUT, Method::DELETE] {
            let reply = other.session(method.clone(), id, "{}").await?;
            expect_problem(&reply, 403, "state-forbidden").with_context(|| method.to_string())?;
            for token in [None, Some("nonsense"), Some("pl1.demo.cart.AAAA")] {
                let reply = own.with_token(token).session(method.clone(), id, "{}").await?;
                expect_problem(&reply, 401, "state-unauthenticated").with_context(|| method.to_string())?;
            }
        }
        ensure!(cart(&caller, &cookie).await? == json!({ "tea": 2 }), "the cart was changed");
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_returns_to_its_pod_as_long_as_it_can() -> Result<()> {
    scoped(async |scope| {
        let spec = hello(json!({ "session": {}, "scaling": { "warm": 3 } }));
        let caller = scope.deploy("hello", spec).await?;
        scope.await_pods("hello", 3, START).await?;
        let first = call(&caller, None, request(Method::GET, "/whoami", "")).await?;
        let cookie = first.cookie().context("no cookie")?;
        let seen = Whoami::read(&first.text())?;
        ensure!(seen.session.as_deref() == Some(id_of(&cookie)?), "the function got {:?}", seen.session);
        let mut with = BTreeSet::new();
        for _ in 0..20 {
            let mine = call(&caller, Some(&cookie), request(Method::GET, "/whoami", "")).await?;
            with.insert(Whoami::read(&mine.text())?.pod);
        }
        ensure!(with == BTreeSet::from([seen.pod]), "the session was served by {with:?}");
        // Requests without it keep their pods busy for a moment, so that the others have a reason to be chosen. An
        // activator knows that of its own requests.
        let anybody = at_one_activator(scope, &caller).await?;
        await_condition(START, "others are served by several pods", async || {
            let mut without = BTreeSet::new();
            for reply in burst(&anybody, "/sleep?ms=200", 6).await {
                without.insert(reply?.text().split(' ').next().unwrap_or_default().to_owned());
            }
            ensure!(without.len() > 1, "everybody was served by {without:?}");
            Ok(())
        })
        .await
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_cookie_is_closed_to_scripts_and_to_functions() -> Result<()> {
    scoped(async |scope| {
        let session = json!({ "cookie": { "name": "sid", "ttl": "90s" }, "affinity": "off" });
        let caller = scope.deploy("hello", hello(json!({ "session": session }))).await?;
        let first = call(&caller, Some("a=b"), request(Method::GET, "/whoami", "")).await?;
        let set = first.header("set-cookie");
        ensure!(set.starts_with("sid=") && set.contains("HttpOnly") && set.contains("SameSite=Lax"), "{set}");
        ensure!(set.contains("Max-Age=90"), "{set}");
        let cookie = first.cookie().context("no cookie")?;
        let again = call(&caller, Some(&cookie), request(Method::GET, "/whoami", "")).await?;
        ensure!(
            !Whoami::read(&again.text())?.headers.contains(&"cookie".to_owned()),
            "the function got the cookie"
        );
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_lives_while_it_is_used_and_ends_after_it() -> Result<()> {
    // Longer than a machine with two cores ever stops this test between two uses.
    const TTL: Duration = Duration::from_secs(5);
    scoped(async |scope| {
        let session = json!({ "cookie": { "ttl": "5s" } });
        let caller = scope.deploy("cart", example("cart", json!({ "session": session }))).await?;
        let cookie = fill_cart(&caller, None, "tea").await?;
        stays(TTL + TTL / 2, "a cart in use", async || {
            ensure!(cart(&caller, &cookie).await? == json!({ "tea": 2 }), "the cart is empty");
            Ok(())
        })
        .await?;
        // To look would be to use it, so there is nothing to wait for but the time.
        tokio::time::sleep(TTL + Duration::from_millis(500)).await;
        ensure!(cart(&caller, &cookie).await? == json!({}), "the cart outlives its session");
        Ok(())
    })
    .await
}
